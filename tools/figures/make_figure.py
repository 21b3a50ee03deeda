"""Figures of the documentation, from the recording of a demo.

    python -m mtl_perception demo --out demo
    python tools/figures/make_figure.py demo docs/images/street.jpg --frame 27

For a drive whose images may not be published, without the images:

    python tools/figures/make_figure.py demo docs/images/street-kitti.jpg --without-image --frame 3 --frame 17 --frame 29
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from mtl_perception.demo.recording import RecordedFrame, Recording
from mtl_perception.labels import STREET
from mtl_perception.visualization.cloud import render_cloud
from mtl_perception.visualization.colors import colorize_depth, colorize_labels, legend

WIDTH = 1242


def rows(frame: RecordedFrame, cloud: np.ndarray, max_depth: float, with_image: bool) -> list[np.ndarray]:
    """Return image and overlay above depth and point cloud; without the image, class colors next to depth."""
    depth = colorize_depth(frame.depth, max_depth)
    if not with_image:
        labels = np.ascontiguousarray(cloud["label"], np.uint8)
        return [np.hstack([colorize_labels(labels, STREET), depth])]
    height, width = frame.depth.shape
    points = render_cloud(cloud, (width, height), class_set=STREET)
    return [np.hstack([frame.image, frame.overlay]), np.hstack([depth, points])]


def main() -> None:
    """Compose and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="folder of the demo")
    parser.add_argument("out", type=Path, help="image file to write")
    parser.add_argument("--frame", type=int, action="append", required=True, help="index of a recorded frame; may be repeated")
    parser.add_argument("--without-image", action="store_true", help="omit the images: class colors and depth only")
    parser.add_argument("--max-depth", type=float, default=80.0, help="upper end of the depth colors, m (default: %(default)s)")
    args = parser.parse_args()
    recording = Recording(args.demo / "recording.mcap")
    parts = []
    for index, frame in enumerate(recording.frames()):
        if index in args.frame:
            cloud = recording.cloud(frame.stamp_ns)
            if cloud is None:
                raise SystemExit(f"{args.demo}: no cloud was recorded for frame {index}")
            parts += rows(frame, cloud, args.max_depth, not args.without_image)
    if not parts:
        raise SystemExit(f"{args.demo}: none of the frames was recorded")
    grid = np.vstack(parts)
    grid = cv2.resize(grid, (WIDTH, round(grid.shape[0] * WIDTH / grid.shape[1])), interpolation=cv2.INTER_AREA)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure = np.vstack([grid, legend(STREET, WIDTH)])
    cv2.imwrite(str(args.out), figure[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
