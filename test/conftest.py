"""What the tests share. Tests of ROS run in a domain of their own, so that nothing on the network disturbs them."""

from __future__ import annotations

import math
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Before anything imports rclpy.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
# Compiled networks of tests do not go into the user's cache.
os.environ["MTL_PERCEPTION_CACHE"] = str(Path(__file__).parents[1] / "build" / "test_cache")
os.environ.setdefault("ROS_LOG_DIR", str(Path(__file__).parents[1] / "build" / "ros_log"))

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real pictures; tests that need them skip without."""
    path = SHARED / "data"
    if not path.is_dir():
        pytest.skip("needs the shared data folder (real KITTI and CamVid pictures), which is not there")
    return path


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of the `street` form with random, seeded values: it predicts nothing, but varied labels and depths.

    Depths reach from below 10 m to beyond 80 m, so that all rules on depth are met.
    """
    import torch

    from mtl_perception.labels import STREET
    from mtl_perception.network.description import KITTI_CAMERA, Description
    from mtl_perception.network.model import MultiTaskRefineNet
    from mtl_perception.weights.files import save_weights

    description = Description(
        "random",
        STREET.names,
        STREET.colors,
        depth_transform="exp",
        depth_range=(1.0, 80.0),
        grid="exact",
        camera=KITTI_CAMERA,
        license="none",
    )
    generator = torch.Generator().manual_seed(7)
    network = MultiTaskRefineNet(description).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.ndim == 4:
                fan_in = value.shape[1] * value.shape[2] * value.shape[3]
                scale = 0.3 if name.startswith("crp") else 1.0
                value.copy_(torch.randn(value.shape, generator=generator) * scale * math.sqrt(2 / fan_in))
        # Scale the heads so that a picture with contrast meets all depth rules and several classes.
        picture = torch.from_numpy(noise_picture(96, 160)).permute(2, 0, 1)[None].float() / 127.5 - 1
        logits, raw = network(picture)[:2]
        network.get_parameter("segm.weight").mul_(3 / logits.std())
        network.get_parameter("segm.bias").sub_(logits.mean(dim=(0, 2, 3)) * 3 / logits.std())
        network.get_parameter("depth.weight").mul_(1.2 / raw.std())
        network.get_parameter("depth.bias").fill_(math.log(25.0) - float(raw.mean() * 1.2 / raw.std()))
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_weights(path, network.state_dict(), description, half=False)
    return path


def noise_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random colors: H x W x 3 uint8, RGB."""
    import cv2

    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(height // 12, 2), max(width // 12, 2), 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """How processes of `-n` share the tests: files whole, whose fixtures are dear, and those with ROS in one process.

    Two nodes at work beside one another would each be late.
    """
    for item in items:
        group = "ros" if needs_ros(item.path) else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))


@cache
def needs_ros(path: Path) -> bool:
    """Whether the tests of a file skip themselves without rclpy."""
    return 'importorskip("rclpy"' in path.read_text(encoding="utf-8")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of `-n` hands on what it tried of bad input."""
    # Not by an import: only if tests did.
    fuzzing = sys.modules.get("fuzzing")
    if fuzzing and hasattr(session.config, "workeroutput"):
        session.config.workeroutput["fuzzing"] = fuzzing.counts()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take it from such a process, which ends."""
    counts = getattr(node, "workeroutput", {}).get("fuzzing")
    if counts:
        from support import fuzzing

        fuzzing.add(counts)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was tried of bad input, by kind."""
    fuzzing = sys.modules.get("fuzzing")
    for line in fuzzing.summary() if fuzzing else []:
        terminalreporter.write_line(line)
