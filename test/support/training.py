"""Images of a simple road, data sets of them, configurations, and training runs."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import pytest
import yaml

from mtl_perception.__main__ import main
from mtl_perception.camera.model import CameraModel
from mtl_perception.labels import STREET
from mtl_perception.training.augmentation.paste import CAMERA_HEIGHT
from mtl_perception.types import UNLABELED, Frame, Sample
from support.images import noise_image

WIDTH, HEIGHT = 160, 96
FOCAL_LENGTH = 100.0
ROAD, SKY, PERSON, VEHICLE = (STREET.names.index(name) for name in ("road", "sky", "person", "vehicle"))


def road_sample(seed: int) -> Sample:
    """Return an image of sky and road with a vehicle and a person, with labels and the depth of a flat ground."""
    rng = np.random.default_rng(seed)
    image = noise_image(HEIGHT, WIDTH, seed)
    labels = np.full((HEIGHT, WIDTH), SKY, np.uint8)
    depth = np.full((HEIGHT, WIDTH), np.inf, np.float32)
    horizon = HEIGHT // 2
    rows = np.arange(horizon + 2, HEIGHT)
    labels[horizon + 2 :] = ROAD
    depth[horizon + 2 :] = (FOCAL_LENGTH * CAMERA_HEIGHT / (rows - horizon))[:, None]
    labels[horizon : horizon + 2] = UNLABELED
    depth[horizon : horizon + 2] = np.nan
    for label, width, height in ((VEHICLE, 40, 30), (PERSON, 12, 44)):
        x, bottom = int(rng.integers(5, WIDTH - width - 5)), int(rng.integers(horizon + 12, HEIGHT - 4))
        part = np.s_[max(bottom - height, 1) : bottom, x : x + width]
        labels[part] = label
        depth[part] = FOCAL_LENGTH * CAMERA_HEIGHT / (bottom - horizon)
    tint = np.array([(i * 83 % 256, i * 151 % 256, i * 197 % 256) for i in range(256)], np.float32)
    image = (0.4 * image + 0.6 * tint[labels]).astype(np.uint8)
    camera = CameraModel(WIDTH, HEIGHT, FOCAL_LENGTH, FOCAL_LENGTH, WIDTH / 2, horizon)
    return Sample(Frame(image, camera), labels, depth, f"{seed:03d}")


def write_road_dataset(folder: Path, count: int, labels: bool = True, depth: bool = True, camera: bool = True) -> Path:
    """Write samples of `road_sample` in the plain folder format."""
    for i in range(count):
        sample = road_sample(i)
        for name, values, wanted in (
            ("image", cv2.cvtColor(sample.frame.image, cv2.COLOR_RGB2BGR), True),
            ("label", sample.labels, labels),
            ("depth", np.nan_to_num(sample.depth * 256, posinf=65535).astype(np.uint16), depth),
        ):
            if wanted:
                (folder / name).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / name / f"{sample.name}.png"), values)
    description: dict[str, object] = {"format": "folder", "name": folder.name, "license": "none", "classes": "street"}
    if labels:
        description["labels"] = "label"
    if depth:
        description |= {"depth": "depth", "depth_scale": 256}
    if camera:
        intrinsics = {"fx": FOCAL_LENGTH, "fy": FOCAL_LENGTH, "cx": WIDTH / 2, "cy": HEIGHT // 2}
        description["camera"] = {"width": WIDTH, "height": HEIGHT, **intrinsics}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(description))
    return folder


def config_values(**changes: object) -> dict[str, object]:
    """Return a training configuration of a few steps, with changes."""
    values: dict[str, object] = {
        "name": "tiny",
        "encoder": "",
        "sets": [{"path": "both", "format": "folder"}],
        "steps": 6,
        "batch": 2,
        "crop": [128, 64],
        "epoch": 3,
        "precision": "fp32",
        "workers": 0,
        "augmentation": {"focal_length": [80, 130], "late_focal_length": []},
        "depth": {"focal_length": FOCAL_LENGTH},
        "optimizer": {"warm_up": 2},
    }
    return {**values, **changes}


def datasets_fixture() -> Any:
    """Create the module fixture `data`: a folder with data sets of both tasks and of each task alone."""

    @pytest.fixture(scope="module")
    def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("data")
        write_road_dataset(folder / "both", 4)
        write_road_dataset(folder / "unseen", 4)
        write_road_dataset(folder / "labels", 2, depth=False, camera=False)
        write_road_dataset(folder / "depth", 2, labels=False)
        return folder

    return data


def write_config(data: Path, name: str, **changes: object) -> Path:
    """Write a training configuration that is valid next to the data sets."""
    path = data / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config_values(**changes)))
    return path


# torchrun with forks of one process, so that PyTorch is imported once.
LAUNCH = """
import sys
import torch._dynamo
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
import mtl_perception.training.run
from mtl_perception.__main__ import main

options = dict(rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", start_method="fork", max_restarts=0)
config = LaunchConfig(1, 1, int(sys.argv[1]), **options)
codes = elastic_launch(config, main)(sys.argv[2:])
sys.exit(max(codes.values()))
"""


def train(config: Path, out: Path, *arguments: str, code: int = 0, processes: int = 0) -> str:
    """Run the command in this process, or in `processes` others of one thread each as torchrun does, and return its output."""
    command = ["train", str(config), "--out", str(out), "--device", "cpu", *arguments]
    if processes == 0:
        argv = patch.object(sys, "argv", ["mtl_perception", *command])  # which the card states
        with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.redirect_stderr(text), argv:
            exit_code = main(command)
        assert exit_code == code, text.getvalue()
        return text.getvalue()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, str(processes), *command], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def read_log(out: Path) -> list[dict[str, str]]:
    """Return the rows of a run's log.csv."""
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))
