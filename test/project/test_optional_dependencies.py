"""Without the packages of the extras, the robot's part works and every other command names the extra that it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import Done, run_commands
from support.small_install import OPTIONAL_MODULES, small_install

ROBOT_MODULES = [
    "mtl_perception",
    "mtl_perception.pipeline",
    "mtl_perception.ros.main",
    "mtl_perception.ros.node",
    "mtl_perception.ros.play",
    "mtl_perception.cli.infer",
    "mtl_perception.cli.parameters",
    "mtl_perception.cli.weights",
    "mtl_perception.sources.open",
]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **small_install(folder)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_robot_modules_import_without_optional_packages(tmp_path: Path) -> None:
    if not _has("rclpy"):
        pytest.skip("needs rclpy")
    code = f"import importlib, sys\nfor name in {ROBOT_MODULES}: importlib.import_module(name)\n"
    code += f"assert not {set(OPTIONAL_MODULES)} & {{name.partition('.')[0] for name in sys.modules}}"
    done = run(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr


def test_infer_works_without_optional_packages(tmp_path: Path, weights_file: Path) -> None:
    import cv2
    from support.images import noise_image

    cv2.imwrite(str(tmp_path / "image.png"), noise_image(48, 64))
    done = run(tmp_path, "-m", "mtl_perception", "infer", "image.png", "--out", "out", "--weights", str(weights_file))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/image.labels.png").exists()


COMMANDS = [
    (["process", "drive.bag", "--out", "out.mcap"], "rosbags", "bags"),
    (["process", "synthetic:2", "--out", "out"], "open3d", "synthetic"),
    (["process", "video.mp4", "--out", "out.mcap"], "av", "video"),
    (["process", "drive.bag", "--out", "out", "--ray"], "ray", "cluster"),
    (["infer", "video.mp4", "--out", "out"], "av", "video"),
    (["record", "--out", "out.mcap"], "rosbags", "bags"),
    (["demo", "--out", "demo"], "", "demo"),
    (["bench", "--scaling", "plot.png"], "matplotlib", "plot"),
    (["eval", "--data", "data.yaml"], "torchmetrics", "train"),
    (["export", "street", "--out", "out.onnx"], "onnx", "export"),
    (["infer", "image.png", "--out", "out", "--backend", "openvino"], "openvino", "openvino"),
    (["infer", "image.png", "--out", "out", "--rerun", "out.rrd"], "rerun", "rerun"),
    (["view", "image.png", "--web"], "rerun", "rerun"),
]
"""Arguments, the package that is missing, and the extra with it."""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """How each of COMMANDS ends without optional packages, by its arguments."""
    import cv2
    from support.images import noise_image

    folder = tmp_path_factory.mktemp("commands")
    (folder / "drive.bag").write_bytes(b"#ROSBAG V2.0\n")
    (folder / "video.mp4").write_bytes(b"")
    (folder / "data.yaml").write_text("format: kitti\nroot: .\n")
    cv2.imwrite(str(folder / "image.png"), noise_image(48, 64))
    commands = [arguments for arguments, _, _ in COMMANDS if arguments[0] != "record" or _has("rclpy")]
    results = run_commands(commands, folder, small_install(folder))
    return {" ".join(arguments): done for arguments, done in zip(commands, results, strict=True)}


@pytest.mark.parametrize(
    ("arguments", "package", "extra"), COMMANDS, ids=lambda value: value[0] if isinstance(value, list) else str(value)
)
def test_command_names_the_extra_that_it_needs(ended: dict[str, Done], arguments: list[str], package: str, extra: str) -> None:
    if " ".join(arguments) not in ended:
        pytest.skip("needs rclpy")
    done = ended[" ".join(arguments)]
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert package in done.stderr and f"pip install 'mtl_perception[{extra}]'" in done.stderr


def _has(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True
