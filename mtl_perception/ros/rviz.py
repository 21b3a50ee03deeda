"""Start of RViz, for the launch file: `python -m mtl_perception.ros.rviz SOURCE FRAME CONFIG NODE RVIZ ARGUMENTS…`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping

DEFAULT_FRAME = "camera_optical_frame"
OPTICAL_CONFIG, Z_UP_CONFIG = "config/perception.rviz", "config/perception_z_up.rviz"


def main(source: str, frame: str, config: str, node: str, command: list[str]) -> None:
    """Replace this process by RViz.

    Args:
        source: A drive, image folder, video, bag, or synthetic[:FRAMES[:SEED]], whose first image has the fixed frame; empty:
            none. The player reports a source that cannot be read.
        frame: Fixed frame; empty: that of the source, else DEFAULT_FRAME.
        config: Configuration file; empty: by `config_of`.
        node: Full name of the node whose outputs are shown, with the camera's name if it has several.
        command: Command line of RViz, starting with the program.
    """
    # Importing OpenCV changes the environment.
    environment = without_opencv_plugins(os.environ)
    from mtl_perception.messages.topics import NODE_NAME, OUTPUT_TOPICS
    from mtl_perception.resources import share_file

    if not (frame or source):
        hint = "if it shows nothing, set fixed_frame to the frame_id of the images or a frame that TF connects with it"
        print(f"RViz uses the fixed frame {DEFAULT_FRAME}; {hint}", file=sys.stderr, flush=True)
    image_frame = frame_of(source)
    config = config or str(share_file(config_of(frame or image_frame, image_frame)))
    remappings = [
        word
        for row in OUTPUT_TOPICS
        if node != f"/{NODE_NAME}"
        for word in ("-r", f"/{NODE_NAME}/{row.name}:={node}/{row.name}")
    ]
    program, *arguments = command
    arguments = [program, "-d", config, "-f", frame or image_frame, *arguments]
    os.execvpe(program, [*arguments, "--ros-args", *remappings] if remappings else arguments, environment)


def without_opencv_plugins(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the Qt plugins of pip's OpenCV, with which RViz cannot start.

    `import cv2` sets them, also in a launch file that starts this process.
    """
    return {name: value for name, value in environment.items() if not (name.startswith("QT_QPA_") and "cv2" in value)}


def config_of(frame: str, image_frame: str) -> str:
    """Return the configuration whose view suits a fixed frame: z forward in that of the images and optical ones, else z up."""
    return OPTICAL_CONFIG if frame == image_frame or "optical" in frame else Z_UP_CONFIG


def frame_of(source: str) -> str:
    """Return the frame_id of the first image of a source; DEFAULT_FRAME if there is none."""
    # Rendering a synthetic image takes seconds, and its frame is known.
    if source and source.partition(":")[0] != "synthetic":
        with contextlib.suppress(Exception):
            from mtl_perception.sources.open import open_source

            return next(iter(open_source(source))).frame_id
    return DEFAULT_FRAME


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:])
