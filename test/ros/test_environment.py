"""Environment variables: the shared-memory profile of Fast DDS, and the Qt plugins of OpenCV."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import warnings
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from support.node_process import PATIENCE, Process

from mtl_perception.errors import ConfigError, PerceptionError
from mtl_perception.ros import environment
from mtl_perception.ros.environment import configure_middleware
from mtl_perception.ros.parameters import creation_errors
from mtl_perception.ros.rviz import without_opencv_plugins

OLD, NEW = "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"
OTHERS = ("FASTDDS_BUILTIN_TRANSPORTS", "SKIP_DEFAULT_XML_FILE", "ROS_DISTRO")
ROOT = Path(__file__).resolve().parents[2]
PROFILE = str(ROOT / "config/fastdds_shm.xml")


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A function that calls `configure_middleware` for a version of rclpy and an environment, and returns both variables."""
    monkeypatch.chdir(tmp_path)

    def run(rclpy: str | None, **given: str) -> tuple[str | None, str | None]:
        # Set first, so that monkeypatch restores the variables that the call sets.
        for name in (OLD, NEW, *OTHERS):
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        for name, value in given.items():
            monkeypatch.setenv(name, value)

        def version(package: str) -> str:
            if rclpy is None:
                raise PackageNotFoundError(package)
            return rclpy

        monkeypatch.setattr(environment, "version", version)
        configure_middleware()
        return os.environ.get(OLD), os.environ.get(NEW)

    return run


@pytest.mark.parametrize(
    ("distribution", "rclpy", "expected"),
    [
        ("humble", "3.3.16", (PROFILE, None)),
        ("jazzy", "7.1.5", (PROFILE, None)),
        ("kilted", "9.1.2", (None, PROFILE)),
        ("lyrical", "10.0.1", (None, PROFILE)),
        ("humble", None, (PROFILE, None)),
        ("lyrical", None, (None, PROFILE)),
        ("jazzy", "9.1.2", (None, PROFILE)),  # Wheels of another distribution than the one that is sourced.
    ],
)
def test_variable_of_the_distribution_is_set(prepared, distribution, rclpy, expected) -> None:
    assert prepared(rclpy, ROS_DISTRO=distribution) == expected


@pytest.mark.parametrize(
    ("rclpy", "given", "expected"),
    [
        ("7.1.5", {OLD: "/mine.xml"}, ("/mine.xml", None)),
        ("9.1.2", {NEW: "/mine.xml"}, (None, "/mine.xml")),
        ("9.1.2", {OLD: "/mine.xml"}, ("/mine.xml", None)),
        ("7.1.5", {NEW: "/unread.xml"}, (PROFILE, "/unread.xml")),
        ("7.1.5", {"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}, (None, None)),
    ],
)
def test_setting_of_the_user_is_kept(prepared, rclpy, given, expected) -> None:
    assert prepared(rclpy, **given) == expected


@pytest.mark.parametrize(
    ("rclpy", "name"), [("7.1.5", "DEFAULT_FASTRTPS_PROFILES.xml"), ("9.1.2", "DEFAULT_FASTDDS_PROFILES.xml")]
)
def test_profile_in_the_working_directory_is_kept(prepared, tmp_path: Path, rclpy: str, name: str) -> None:
    (tmp_path / name).write_text("<dds/>")
    assert prepared(rclpy) == (None, None)
    assert PROFILE in prepared(rclpy, SKIP_DEFAULT_XML_FILE="1")


@pytest.mark.parametrize(
    ("files", "variables", "hint"),
    [
        ({"fastrtps_port7411": 0, "fastrtps_0bf9f8b7fcb19b72": 10001}, {}, ""),
        ({"fastrtps_port7411": 10001, "fastdds_port7413": 1000, "fastdds_port7415": 0}, {}, "uid 1000, 10001"),
        ({"fastrtps_port7411": 10001}, {"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}, ""),
        ({}, {}, ""),
    ],
)
def test_shared_memory_of_other_users_is_a_hint(tmp_path: Path, monkeypatch, files, variables, hint) -> None:
    """Between two users Fast DDS delivers nothing, in either direction, and root is no exception."""
    monkeypatch.delenv("FASTDDS_BUILTIN_TRANSPORTS", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name in files:
        (tmp_path / name).touch()
    stat = Path.stat
    monkeypatch.setattr(environment, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(environment.rclpy, "get_rmw_implementation_identifier", lambda: "rmw_fastrtps_cpp")
    owned = {name: SimpleNamespace(st_uid=user) for name, user in files.items()}
    monkeypatch.setattr(Path, "stat", lambda path, **options: owned.get(path.name) or stat(path, **options))
    text = environment.describe_other_users()
    assert text == "" if not hint else (hint in text and "FASTDDS_BUILTIN_TRANSPORTS=UDPv4" in text)


READ = """
import re, rclpy
from mtl_perception.ros.environment import initialize
initialize(["test"])
node = rclpy.create_node("test")
sizes = [0]
for line in open("/proc/self/maps"):
    if re.search(r"/dev/shm/fast(rtps|dds)_", line):
        begin, end = (int(word, 16) for word in line.split()[0].split("-"))
        sizes.append(end - begin)
print("largest", max(sizes))
"""


def test_shared_memory_segment_has_the_size_of_the_profile(tmp_path: Path) -> None:
    """Fast DDS reads the file."""
    if os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp") != "rmw_fastrtps_cpp" or not Path("/dev/shm").is_dir():
        pytest.skip("needs Fast DDS and /dev/shm")
    env = {name: value for name, value in os.environ.items() if name not in (OLD, NEW, *OTHERS)}
    done = subprocess.run([sys.executable, "-c", READ], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 64 * 2**20


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.py")), ids=lambda path: path.name)
def test_launch_files_import_neither_opencv_nor_torch(path: Path) -> None:
    """OpenCV sets a path for Qt's plugins, with which RViz cannot start; the system's Python has neither."""
    statements = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    own = [ast.unparse(node) for node in statements if "mtl_perception" in ast.unparse(node)]
    code = ["import os, sys", *own, "print(sorted({'cv2', 'torch'} & set(sys.modules)), sorted(os.environ.keys() - before))"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QT_")}
    code.insert(1, "before = set(os.environ)")
    done = subprocess.run([sys.executable, "-c", "\n".join(code)], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-2] == "[] []"
    assert own or path.name != "perception.launch.py"


def test_opencv_plugins_are_removed_from_the_environment() -> None:
    plugins = {
        "QT_QPA_PLATFORM_PLUGIN_PATH": "/usr/lib/python3/dist-packages/cv2/qt/plugins",
        "QT_QPA_FONTDIR": "/x/cv2/qt/fonts",
    }
    kept = {"QT_QPA_PLATFORM": "xcb", "PATH": "/opt/cv2/bin"}
    assert without_opencv_plugins({**plugins, **kept}) == kept
    assert without_opencv_plugins({"QT_QPA_PLATFORM_PLUGIN_PATH": "/opt/qt"}) == {"QT_QPA_PLATFORM_PLUGIN_PATH": "/opt/qt"}


COMMANDS = {"node": [], "play": ["a.png"], "record": ["--out", "out.mcap"]}
LOG_FOLDERS = {
    "no-home": ({}, "HOME is not set; set HOME, or ROS_LOG_DIR to a folder that can be written"),
    "home": (
        {"HOME": "/proc/none"},
        "/proc/none/.ros/log cannot be created; set ROS_LOG_DIR to a folder that can be written",
    ),
    "ros-home": (
        {"HOME": "/proc", "ROS_HOME": "/proc/none"},
        "/proc/none/log cannot be created; set ROS_LOG_DIR to a folder that",
    ),
    "ros-log-dir": (
        {"HOME": "/root", "ROS_LOG_DIR": "/proc/none"},
        "/proc/none cannot be created; set ROS_LOG_DIR to a folder that can be",
    ),
    "file": ({"ROS_LOG_DIR": "/proc"}, "/proc: No such file or directory; set ROS_LOG_DIR to a folder that can be written"),
}
"""Environment variables, and the reason for which no folder for log files can be created."""


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("variables", LOG_FOLDERS)
def test_log_folder_that_cannot_be_created_is_named(tmp_path: Path, command: str, variables: str) -> None:
    """A container without HOME, or with a file system that is read-only."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    environment, reason = LOG_FOLDERS[variables]
    unset = dict.fromkeys(("HOME", "ROS_HOME", "ROS_LOG_DIR"))
    process = Process([command, *COMMANDS[command]], tmp_path / "log", {**unset, **environment}, tmp_path)
    assert process.wait() == 1
    line = f"mtl_perception {command}: ROS cannot write its log files: {reason}"
    assert process.output.splitlines()[-1].startswith(line)
    assert not (tmp_path / "out.mcap").exists()


@pytest.mark.parametrize(
    ("variable", "value", "fault"),
    [
        (
            "ROS_DOMAIN_ID",
            "233",
            "'233' is not an integer from 0 to 232, the highest with port numbers in DDS; set another one",
        ),
        ("ROS_DOMAIN_ID", "-1", "'-1' is not an integer from 0 to 232, the highest with port numbers in DDS; set another one"),
        (
            "ROS_DOMAIN_ID",
            "robot",
            "'robot' is not an integer from 0 to 232, the highest with port numbers in DDS; set another one",
        ),
        (
            "ROS_STATIC_PEERS",
            "10.0.0.5 10.0.0.6",
            "'10.0.0.5 10.0.0.6' has a comma or a space; separate addresses by semicolons",
        ),
        ("ROS_STATIC_PEERS", "nuc,pc", "'nuc,pc' has a comma or a space; separate addresses by semicolons"),
    ],
)
def test_invalid_setting_of_discovery_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, fault: str
) -> None:
    """Fast DDS would end the process with an error about ports, or refuse to create a node."""
    monkeypatch.setattr(environment.rclpy, "init", lambda args: pytest.fail("rclpy is initialized"))
    monkeypatch.delenv("RMW_IMPLEMENTATION", raising=False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as caught:
        environment.initialize(["node"])
    assert str(caught.value) == f"{variable} {fault}"


def test_error_of_rcl_while_a_node_is_created_is_stated_on_one_line() -> None:
    with pytest.raises(PerceptionError) as caught, creation_errors():
        warnings.warn("Failed to fini rosout publisher: rcl node implementation is invalid", RuntimeWarning, stacklevel=1)
        raise RuntimeError(
            "error creating node: Unable to resolve peer nuc , at /src/participant.cpp:234, at /src/rcl/node.c:252"
        )
    assert str(caught.value) == "ROS cannot create the node: Unable to resolve peer nuc"
