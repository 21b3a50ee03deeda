"""Figure of docs/view.md: a recording in the Rerun viewer, at its last frame.

    python -m mtl_perception process synthetic:40:6 --start 2.2 --duration 0.6 --out build/drive.mcap --rerun build/drive.rrd
    python tools/figures/make_rerun_figure.py build/drive.rrd docs/images/rerun.jpg

The viewer runs without a display. It needs Vulkan, for which a CPU suffices (Debian: mesa-vulkan-drivers).
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import cv2
from rerun.experimental import ViewerClient

from mtl_perception.view.viewer import HOST, find_executable, viewer_environment

PORT = 9911
SIZE, MENU = "1600x900", 36
"""Size of the viewer, and the height of its menu, which is cut off; pixels."""


def main() -> None:
    """Start the viewer, wait until it shows the recording, and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recording", type=Path, help="recording (.rrd) to show")
    parser.add_argument("out", type=Path, help="image file to write")
    parser.add_argument("--wait", type=float, default=20.0, help="seconds until images are decoded (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder, "viewer.png")
        command = [
            find_executable(),
            str(args.recording),
            "--headless",
            "--window-size",
            SIZE,
            "--bind",
            HOST,
            "--port",
            str(PORT),
        ]
        viewer = subprocess.Popen(command, env=viewer_environment(Path(folder)))
        try:
            time.sleep(args.wait)
            ViewerClient(f"rerun+http://{HOST}:{PORT}/proxy").save_screenshot(str(shot))
        finally:
            viewer.terminate()
            viewer.wait()
        image = cv2.imread(str(shot))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out), image[MENU:], [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main()
