"""Figure of the edge filter: the cloud of a synthetic drive without and with it.

python tools/figures/make_points_figure.py docs/images/points-edge-filter.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from mtl_perception import Pipeline
from mtl_perception.config import Config
from mtl_perception.synthetic.drive import SyntheticDrive
from mtl_perception.visualization.cloud import render_cloud

SIZE = (900, 430)
VIEWS = (((0.0, -3.0, -2.0), (0.0, 1.5, 18.0)), ((6.0, -14.0, 4.0), (0.0, 1.0, 18.0)))
"""Eye and target, meters in the camera's optical frame: behind the camera, and from above."""
WIDTH = 1400


def main() -> None:
    """Compose and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="image file to write")
    parser.add_argument("--seed", type=int, default=5, help="seed of the drive (default: %(default)s)")
    parser.add_argument("--frame", type=int, default=20, help="index of the frame (default: %(default)s)")
    parser.add_argument("--weights", default="street")
    args = parser.parse_args()
    frame = SyntheticDrive(seed=args.seed).sample(args.frame).frame
    columns = []
    for limit in (0.0, Config().points_edge_filter):
        pipe = Pipeline(args.weights, "cpu", precision="fp32", warm_up=False, points_edge_filter=limit)
        cloud = pipe(frame, {"cloud"}).cloud
        assert cloud is not None
        views = [render_cloud(cloud, SIZE, eye, target) for eye, target in VIEWS]
        cv2.putText(views[0], f"points_edge_filter: {limit:g}", (12, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2)
        columns.append(np.vstack(views))
    figure = np.hstack(columns)
    figure = cv2.resize(figure, (WIDTH, round(figure.shape[0] * WIDTH / figure.shape[1])), interpolation=cv2.INTER_AREA)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out), cv2.cvtColor(figure, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])


if __name__ == "__main__":
    main()
