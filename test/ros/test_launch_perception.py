"""The launch files, run where ROS's launch is installed."""

from __future__ import annotations

import importlib.util
import os
import stat
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from support.bags import drive, write_bag

ROOT = Path(__file__).resolve().parents[2]
# Tested in this process: a folder named `launch` in the path would make the import of `launch` succeed elsewhere.
MISSING = [name for name in ("rclpy", "launch_ros", "launch_testing") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed (part of a ROS installation): {' '.join(MISSING)}")


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A ROS prefix with the checkout, as by colcon's symlink install, and an rviz2 that prints its arguments."""
    prefix = tmp_path / "install"
    links = {
        "share/ament_index/resource_index/packages/mtl_perception": "resource/mtl_perception",
        "share/mtl_perception": "",
        "lib/mtl_perception/perception_node": "scripts/perception_node",
        "lib/mtl_perception/python": "scripts/python",
    }
    for link, target in links.items():
        (prefix / link).parent.mkdir(parents=True, exist_ok=True)
        (prefix / link).symlink_to(ROOT / target)
    (prefix / "share/ament_index/resource_index/packages/rviz2").write_text("")
    executable(prefix / "lib/rviz2/rviz2", '#!/bin/sh\necho "arguments: $*; $QT_QPA_PLATFORM_PLUGIN_PATH"\n')
    return prefix


@pytest.fixture
def environment(prefix: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    prefixes = f"{prefix}{os.pathsep}{os.environ.get('AMENT_PREFIX_PATH') or sys.prefix}"
    # The import of OpenCV in this process sets variables for Qt.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("QT_")}
    return {
        **variables,
        "PATH": path,
        "AMENT_PREFIX_PATH": prefixes,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def run(arguments: list[str], environment: dict[str, str], code: int = 0) -> str:
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=250)
    text = done.stdout + done.stderr
    assert done.returncode == code, text[-4000:]
    return text


def test_launched_node_publishes_the_results_of_the_pipeline(environment: dict[str, str]) -> None:
    text = run(["-m", "launch_testing.launch_test", str(ROOT / "test/ros/launch_tests/perception.py")], environment)
    assert "test_outputs_equal_those_of_the_pipeline" in text
    assert "test_node_exits_with_code_0" in text


@pytest.mark.parametrize("name", ["perception", "demo"])
def test_every_argument_is_documented(environment: dict[str, str], name: str) -> None:
    code = (
        "import runpy, sys; description = runpy.run_path(sys.argv[1])['generate_launch_description']()\n"
        "for a in description.get_launch_arguments(): print(a.name, '|', a.description)"
    )
    lines = run(["-c", code, str(ROOT / f"launch/{name}.launch.py")], environment).splitlines()
    documented = dict(line.split(" | ") for line in lines if " | " in line)
    assert {"weights", "device", "rviz", "fixed_frame"} <= set(documented)
    assert "no description given" not in " ".join(documented.values())


# `ros2 launch` runs with the system's Python, which has ROS and Ubuntu's packages, but not those of the virtual environment.
START = """
import runpy, sys
from launch import LaunchContext, LaunchDescription, LaunchService
blocked = dict.fromkeys(("av", "cv2", "open3d", "rosbags", "safetensors", "torch"))
sys.modules.update(blocked)
launched = runpy.run_path(sys.argv[1])
for name in blocked:
    del sys.modules[name]
context = LaunchContext()
context.launch_configurations.update({name: value for name, (value, *_) in launched["ARGUMENTS"].items()})
context.launch_configurations.update(argument.split(":=") for argument in sys.argv[2:])
given = dict(context.launch_configurations)

def run(*actions):
    service = LaunchService()
    service.include_launch_description(LaunchDescription(actions))
    service.run()
"""
LAUNCH_FILE = str(ROOT / "launch/perception.launch.py")


def start_rviz(environment: dict[str, str], *arguments: str) -> tuple[list[str], str]:
    """Return the arguments of the RViz that the launch file starts, without those of launch, and the whole output."""
    code = START + 'run(launched["rviz"](given))'
    text = run(["-c", code, LAUNCH_FILE, *arguments], {**environment, "OVERRIDE_LAUNCH_PROCESS_OUTPUT": "screen"})
    (line,) = [line for line in text.splitlines() if "arguments: " in line]
    words, _, plugins = line.partition("arguments: ")[2].partition("; ")
    assert plugins == ""
    return words.split(), text


@pytest.mark.parametrize(
    ("arguments", "frame", "config"),
    [
        (["bag:=drive"], "camera_02_optical_frame", "perception.rviz"),
        (["bag:=bag"], "front_optical", "perception.rviz"),
        (["bag:=synthetic:3"], "camera_optical_frame", "perception.rviz"),
        (["bag:=nowhere"], "camera_optical_frame", "perception.rviz"),
        (["bag:=bag", "fixed_frame:=map"], "map", "perception_z_up.rviz"),
        (["bag:=bag", "fixed_frame:=front_optical"], "front_optical", "perception.rviz"),
        (["fixed_frame:=base_link"], "base_link", "perception_z_up.rviz"),
        (["fixed_frame:=left_optical_frame"], "left_optical_frame", "perception.rviz"),
        (["fixed_frame:=base_link", "rviz_config:=own.rviz"], "base_link", "own.rviz"),
        ([], "camera_optical_frame", "perception.rviz"),
    ],
)
def test_rviz_has_the_frame_of_the_source_and_a_view_for_it(
    environment: dict[str, str], tmp_path: Path, arguments: list[str], frame: str, config: str
) -> None:
    write_bag(tmp_path / "bag", "mcap", drive("ros2"))
    (tmp_path / "drive/image_02/data").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "drive/image_02/data/0000000000.png"), np.zeros((24, 32, 3), np.uint8))
    placed = [word.replace(":=drive", f":={tmp_path}/drive").replace(":=bag", f":={tmp_path}/bag") for word in arguments]
    words, text = start_rviz(environment, *placed)
    assert (words[0], words[2:4]) == ("-d", ["-f", frame])
    assert Path(words[1]).name == config
    assert config == "own.rviz" or Path(words[1]).is_file()
    assert ("if it shows nothing, set fixed_frame" in text) == (not arguments)


def test_rviz_has_no_qt_plugins_of_opencv(environment: dict[str, str], tmp_path: Path) -> None:
    """The launching Python may have imported cv2 for another launch file; a path that the user set is kept."""
    plugins = "QT_QPA_PLATFORM_PLUGIN_PATH"
    start_rviz({**environment, plugins: "/venv/lib/python3.12/site-packages/cv2/qt/plugins"})
    with pytest.raises(AssertionError, match="/opt/qt/plugins"):
        start_rviz({**environment, plugins: "/opt/qt/plugins"})


@pytest.mark.parametrize(
    ("arguments", "player", "sim_time"),
    [
        ([], "--clock", True),
        (["use_sim_time:=true"], "--clock", True),
        (["use_sim_time:=False", "params_file:=~/my.yaml", "input_rectified:=False"], "--stamps now", False),
        (["cameras:=left,right"], "--clock", True),
    ],
)
def test_clock_of_a_bag_is_that_of_its_stamps(
    environment: dict[str, str], prefix: Path, arguments: list[str], player: str, sim_time: bool
) -> None:
    (prefix / "my.yaml").write_text("/**: {ros__parameters: {max_depth: 40.0}}\n")
    for name in ("python", "perception_node"):
        (prefix / "lib/mtl_perception" / name).unlink()
        # Launch passes parameters in files.
        script = f'#!/bin/sh\necho "{name}: $*"\ncat /dev/null $(echo "$*" | grep -o "[^ ]*launch_params[^ ]*")\n'
        executable(prefix / "lib/mtl_perception" / name, script)
    code = START + 'run(*launched["start"](context))'
    text = run(["-c", code, LAUNCH_FILE, "bag:=drive", *arguments], {**environment, "HOME": str(prefix)})
    assert ("params_file:=~/my.yaml" in arguments) == (f"--params-file {prefix}/my.yaml" in text)
    lines = [line for line in text.splitlines() if "python: -m" in line]
    assert len(lines) == 1 + ("cameras:=left,right" in arguments)
    (first,) = [line for line in lines if player in line]
    assert len(lines) == 1 or "__node:=play_left" in first
    assert not [line for line in lines if line != first and ("--clock" in line or "--stamps" in line)]
    assert f"use_sim_time: {str(sim_time).lower()}" in text
    assert ("input_rectified: false" in text) == ("input_rectified:=False" in arguments)


def test_missing_rviz_is_reported_with_the_package_to_install(environment: dict[str, str], prefix: Path) -> None:
    (prefix / "share/ament_index/resource_index/packages/rviz2").unlink()
    text = run(["-c", START + "launched['start'](context)", LAUNCH_FILE, "rviz:=true"], environment, code=1)
    assert "RViz, which is not installed; run: sudo apt install ros-" in text


@pytest.mark.parametrize("name", ["params_file", "rviz_config"])
def test_missing_file_is_refused(environment: dict[str, str], name: str) -> None:
    text = run(["-c", START + "launched['start'](context)", LAUNCH_FILE, f"{name}:=/nowhere.yaml"], environment, code=1)
    assert f"{name} /nowhere.yaml does not exist" in text


def test_rviz_topics_follow_namespace_and_camera(environment: dict[str, str]) -> None:
    words, _ = start_rviz(environment, "namespace:=/veh", "cameras:=left,front", "fixed_frame:=map")
    topics = dict(word.split(":=") for word in words if word.startswith("/mtl_perception/"))
    assert topics["/mtl_perception/points"] == "/veh/mtl_perception/left/points"
    config = yaml.safe_load((ROOT / "config/perception.rviz").read_text())["Visualization Manager"]
    assert {display["Topic"]["Value"] for display in config["Displays"] if "Topic" in display} <= set(topics)
    words, _ = start_rviz(environment, "fixed_frame:=map")
    assert not [word for word in words if word.startswith("/mtl_perception/")]


@pytest.mark.parametrize(("own", "node"), [("", "/robot"), ("arm", "/robot/arm"), ("/arm", "/arm")])
def test_rviz_topics_follow_the_namespace_of_an_including_launch_file(
    environment: dict[str, str], prefix: Path, own: str, node: str
) -> None:
    (prefix / "lib/mtl_perception/perception_node").unlink()
    executable(prefix / "lib/mtl_perception/perception_node", '#!/bin/sh\necho "node: $*"\n')
    code = (
        START
        + """
from launch.actions import GroupAction, SetLaunchConfiguration
from launch_ros.actions import PushRosNamespace
settings = [SetLaunchConfiguration(name, given[name]) for name in ("rviz", "fixed_frame", "namespace")]
run(GroupAction([PushRosNamespace("robot"), *settings, *launched["generate_launch_description"]().entities]))
"""
    )
    arguments = ["rviz:=true", "fixed_frame:=map", f"namespace:={own}"]
    text = run(["-c", code, LAUNCH_FILE, *arguments], {**environment, "OVERRIDE_LAUNCH_PROCESS_OUTPUT": "screen"})
    assert f"-r /mtl_perception/points:={node}/mtl_perception/points" in text
    (line,) = [line for line in text.splitlines() if "node: " in line]
    assert f"-r __ns:={node} " in f"{line} "


@pytest.mark.parametrize(
    ("namespace", "image", "info", "expected"),
    [
        ("", "/cam/image_raw", "", "/cam/image_raw /cam/camera_info"),
        ("", "/cam/image_raw", "/camera_info", "/cam/image_raw /camera_info"),
        ("left", "/cam/image_raw", "camera_info", "/cam/image_raw /left/camera_info"),
        ("left", "cam/image_raw", "/other/info", "/left/cam/image_raw /other/info"),
        ("left", "", "info", "/left/image /left/info"),
    ],
)
def test_camera_info_topic_can_be_remapped(
    environment: dict[str, str], namespace: str, image: str, info: str, expected: str
) -> None:
    ask = """
import rclpy
from mtl_perception.ros.subscriptions import resolve_topics
remappings = launched["camera_remappings"](given)
rclpy.init(args=["x", "--ros-args", *[word for pair in remappings for word in ("-r", ":=".join(pair))]])
print("topics", *resolve_topics(rclpy.create_node("n", namespace=given["namespace"]), False))
"""
    arguments = [f"image:={image}", f"camera_info:={info}", f"namespace:={namespace}"]
    found = run(["-c", START + ask, LAUNCH_FILE, *arguments], environment)
    assert found.split()[-3:] == ["topics", *expected.split()]


@pytest.mark.parametrize(
    ("image", "info", "expected"),
    [
        ("", "", "/veh/front/image /veh/front/camera_info"),
        ("image_raw", "", "/veh/front/image_raw /veh/front/camera_info"),
        ("/rig/{}/color", "", "/rig/front/color /rig/front/camera_info"),
        ("color", "/calibration/{}", "/veh/front/color /calibration/front"),
    ],
)
def test_each_of_several_cameras_has_its_topics(
    environment: dict[str, str], prefix: Path, image: str, info: str, expected: str
) -> None:
    """Both in the node and in the player, whose command line is printed instead of running it."""
    ask = """
import rclpy
from mtl_perception.ros.subscriptions import resolve_topics
remappings = [pair for name in launched["cameras"](given) for pair in launched["camera_remappings"](given, name)]
rclpy.init(args=["x", "--ros-args", *[word for pair in remappings for word in ("-r", ":=".join(pair))]])
print("node", *resolve_topics(rclpy.create_node("n", namespace=given["namespace"]), False, "front"))
rclpy.shutdown()
run(launched["player"](given, "front", 0))
"""
    (prefix / "lib/mtl_perception/python").unlink()
    executable(prefix / "lib/mtl_perception/python", '#!/bin/sh\necho "words: $*"\n')
    arguments = ["cameras:=left, front", "namespace:=veh", "bag:=drive", f"image:={image}", f"camera_info:={info}"]
    text = run(["-c", START + ask, LAUNCH_FILE, *arguments], environment)
    assert f"node {expected}" in text
    (line,) = [line for line in text.splitlines() if "words: " in line]
    words = line.partition("words: ")[2].split()
    assert words[:4] == ["-m", "mtl_perception", "play", "drive"]
    resolve = """
import rclpy, sys
rclpy.init(args=["x", *sys.argv[1:]])
player = rclpy.create_node("player")
print("player", *(player.resolve_topic_name(name) for name in ("image", "camera_info")), player.get_name())
"""
    found = run(["-c", resolve, *words[words.index("--ros-args") :]], environment)
    assert f"player {expected} play_front" in found
