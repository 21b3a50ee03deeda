"""Fixtures of all tests, markers, and the environment: ROS tests run in a domain of their own, local to this machine."""

from __future__ import annotations

import faulthandler
import gc
import math
import os
import signal
import sys
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.images import noise_image

# rclpy reads these when it is imported.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
# Keep the compiled networks of tests out of the user's cache.
os.environ["MTL_PERCEPTION_CACHE"] = str(Path(__file__).parents[1] / "build" / "test_cache")
# Idle threads of PyTorch spin by default and take the cores from other test processes. Passive waiting saves two thirds of the
# processor time. PyTorch reads this when it is imported, also in child processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("ROS_LOG_DIR", str(Path(__file__).parents[1] / "build" / "ros_log"))

if Path("/dev/nvidia0").exists():
    import torch

    # A GPU that PyTorch cannot use would be noted in diagnostics, which tests expect to be empty.
    if not torch.cuda.is_available():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""

SHARED = Path(__file__).parents[2] / "shared"
STDERR = pytest.StashKey[int]()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real KITTI and CamVid images; tests that need it are skipped without."""
    path = SHARED / "data"
    if not path.is_dir():
        pytest.skip("needs the shared data folder with KITTI and CamVid images")
    return path


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the `street` architecture with seeded random values.

    Labels vary, and depths reach from below 10 m to beyond 80 m, so that every depth rule applies somewhere.
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
        # Scale the heads so that an image with contrast yields several classes and the whole depth range.
        image = torch.from_numpy(noise_image(96, 160)).permute(2, 0, 1)[None].float() / 127.5 - 1
        logits, raw = network(image)[:2]
        network.get_parameter("segm.weight").mul_(3 / logits.std())
        network.get_parameter("segm.bias").sub_(logits.mean(dim=(0, 2, 3)) * 3 / logits.std())
        network.get_parameter("depth.weight").mul_(1.2 / raw.std())
        network.get_parameter("depth.bias").fill_(math.log(25.0) - float(raw.mean() * 1.2 / raw.std()))
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_weights(path, network.state_dict(), description, half=False)
    return path


def pytest_configure(config: pytest.Config) -> None:
    """Let SIGINT end this process and the ones that it starts: a shell ignores it in what it runs in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[STDERR] = os.dup(2)  # Tests are captured.


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End the process with the traceback of all threads if a test hangs in native code, where pytest-timeout has no effect."""
    limit = float(item.config.getoption("timeout") or item.config.getini("timeout"))
    faulthandler.dump_traceback_later(limit + 60, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option by which `make test` divides the tests, and which leaves `-m` to its user."""
    parser.addoption("--ros", choices=("only", "none"), help="run only the tests that need ROS, or none of them")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the files of which no test is selected, because importing them takes seconds."""
    return True if collection_path.match("test_*.py") and not is_selected(collection_path, config) else None


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Set the markers `ros` and `fuzz` by file, and group the tests for the processes of pytest-xdist.

    Tests of one file share their expensive fixtures. All ROS tests run in one process, because two nodes at
    the same time would delay each other. Files with slow tests come first: at the end, all processes have work.
    """
    if others := [item for item in items if not is_selected(item.path, config)]:  # of files that were named
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    for item in items:
        ros = needs_ros(item.path)
        if ros:
            item.add_marker(pytest.mark.ros)
        if item.path.parent.name == "fuzz":
            item.add_marker(pytest.mark.fuzz)
        item.add_marker(pytest.mark.xdist_group("ros" if ros else item.path.name))


def pytest_collection_finish() -> None:
    """Exclude the imported modules from garbage collections, each of which would take 0.4 s."""
    gc.freeze()


def is_selected(path: Path, config: pytest.Config) -> bool:
    """Return whether the option `--ros` selects the tests of a file."""
    wanted = config.getoption("--ros")
    return wanted is None or needs_ros(path) == (wanted == "only")


@cache
def needs_ros(path: Path) -> bool:
    """Return whether the tests of a file are skipped without rclpy."""
    return 'importorskip("rclpy"' in path.read_text(encoding="utf-8")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the fuzzing counts of a pytest-xdist process to the main process."""
    fuzzing = sys.modules.get("support.fuzzing")
    if fuzzing and hasattr(session.config, "workeroutput"):
        session.config.workeroutput["fuzzing"] = fuzzing.counts()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add the fuzzing counts of a finished pytest-xdist process."""
    counts = getattr(node, "workeroutput", {}).get("fuzzing")
    if counts:
        from support import fuzzing

        fuzzing.add(counts)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of malformed inputs by kind."""
    fuzzing = sys.modules.get("support.fuzzing")
    for line in fuzzing.summary() if fuzzing else []:
        terminalreporter.write_line(line)
