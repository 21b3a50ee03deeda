"""Start of RViz with the frame of a source, for the launch file: `python -m mtl_perception.ros.rviz SOURCE RVIZ ARGUMENTS…`."""

from __future__ import annotations

import contextlib
import os
import sys

DEFAULT_FRAME = "camera_optical_frame"


def main(source: str, command: list[str]) -> None:
    """Replace this process by RViz, with the frame_id of the first image of a source as fixed frame.

    Args:
        source: A drive, image folder, bag, or synthetic[:FRAMES[:SEED]]. The player reports a source that cannot be read.
        command: Command line of RViz, starting with the program.
    """
    # Importing OpenCV sets QT_QPA_PLATFORM_PLUGIN_PATH, with which RViz cannot start.
    environment = dict(os.environ)
    frame = DEFAULT_FRAME
    # Rendering a synthetic image takes seconds, and its frame is known.
    if source.partition(":")[0] != "synthetic":
        with contextlib.suppress(Exception):
            from mtl_perception.sources.open import open_source

            frame = next(iter(open_source(source))).frame_id
    program, *arguments = command
    os.execvpe(program, [program, "-f", frame, *arguments], environment)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
