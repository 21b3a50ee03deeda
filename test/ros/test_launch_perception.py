"""The launch files, run for real where ROS's launch is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.bags import drive, write_bag

ROOT = Path(__file__).resolve().parents[2]
# Asked of this process: a folder `launch` in the way would make the plain import of `launch` succeed.
MISSING = [name for name in ("rclpy", "launch_ros", "launch_testing") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed (they come with a ROS installation): {' '.join(MISSING)}")


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A ROS prefix in which the checkout is installed, as colcon's symlink install would."""
    links = {
        "share/ament_index/resource_index/packages/mtl_perception": "resource/mtl_perception",
        "share/mtl_perception": "",
        "lib/mtl_perception": "scripts",
    }
    for link, target in links.items():
        (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / link).symlink_to(ROOT / target)
    return tmp_path


@pytest.fixture
def environment(prefix: Path) -> dict[str, str]:
    # The node is run by PATH's python3: that of the tests.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    prefixes = f"{prefix}{os.pathsep}{os.environ.get('AMENT_PREFIX_PATH') or sys.prefix}"
    return {
        **os.environ,
        "PATH": path,
        "AMENT_PREFIX_PATH": prefixes,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }


def run(arguments: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=250)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-4000:]
    return text


def test_launched_node_says_what_the_pipeline_says(environment: dict[str, str]) -> None:
    text = run(["-m", "launch_testing.launch_test", str(ROOT / "test/launch_tests/perception.py")], environment)
    assert "test_outputs_are_the_pipelines" in text
    assert "test_the_node_ended_well" in text


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


# `ros2 launch` is run by the system's Python, which has ROS and Ubuntu's packages, but not those of the virtual environment.
START = """
import runpy, sys
sys.modules.update(dict.fromkeys(("av", "open3d", "rosbags", "safetensors", "torch")))
from launch import LaunchContext
launched = runpy.run_path(sys.argv[1])
context = LaunchContext()
context.launch_configurations.update({name: value for name, (value, _) in launched["ARGUMENTS"].items()})
context.launch_configurations.update(argument.split(":=") for argument in sys.argv[2:])
"""
LAUNCH_FILE = str(ROOT / "launch/perception.launch.py")


@pytest.mark.parametrize(
    ("arguments", "frame"),
    [
        (["bag:=drive"], "camera_02_optical_frame"),
        (["bag:=bag"], "front_optical"),
        (["bag:=synthetic:3"], "camera_optical_frame"),
        (["bag:=nowhere"], "camera_optical_frame"),
        (["bag:=bag", "fixed_frame:=map"], "map"),
        ([], "camera_optical_frame"),
    ],
)
def test_rviz_shows_the_frame_of_what_is_played(
    environment: dict[str, str], tmp_path: Path, arguments: list[str], frame: str
) -> None:
    write_bag(tmp_path / "bag", "mcap", drive("ros2"))
    (tmp_path / "drive/image_02/data").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "drive/image_02/data/0000000000.png"), np.zeros((24, 32, 3), np.uint8))
    show = """
node, *hints = launched["rviz"]({**context.launch_configurations, "rviz": "true"})
words = [word[0].text for word in node.cmd[1:5]]
print("frame", words[words.index("-f") + 1], len(hints))
"""
    placed = [word.replace(":=drive", f":={tmp_path}/drive").replace(":=bag", f":={tmp_path}/bag") for word in arguments]
    words = run(["-c", START + show, LAUNCH_FILE, *placed], environment).split()
    # With a hint where the frame is only assumed.
    assert words[-3:] == ["frame", frame, str(int(arguments in ([], ["bag:=nowhere"])))]


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
def test_camera_info_is_taken_where_it_was_said_to_be(
    environment: dict[str, str], namespace: str, image: str, info: str, expected: str
) -> None:
    ask = """
import rclpy
from mtl_perception.ros.camera_input import topics
remappings = launched["camera_remappings"](context.launch_configurations)
rclpy.init(args=["x", "--ros-args", *[word for pair in remappings for word in ("-r", ":=".join(pair))]])
print("topics", *topics(rclpy.create_node("n", namespace=context.launch_configurations["namespace"]), False))
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
def test_each_of_several_cameras_is_heard_and_played_on_its_topics(
    environment: dict[str, str], image: str, info: str, expected: str
) -> None:
    ask = """
import rclpy
from mtl_perception.ros.camera_input import topics
given = {"namespace": "", "bag": "", **context.launch_configurations}
remappings = [pair for name in launched["cameras"](given) for pair in launched["camera_remappings"](given, name)]
rclpy.init(args=["x", "--ros-args", *[word for pair in remappings for word in ("-r", ":=".join(pair))]])
print("heard", *topics(rclpy.create_node("n", namespace=given["namespace"]), False, "front"))
words = [word[0].text for word in launched["player"](given, "front").cmd]
rclpy.shutdown()
rclpy.init(args=["x", *words[words.index("--ros-args"):]])
player = rclpy.create_node("player")
print("played", *(player.resolve_topic_name(name) for name in ("image", "camera_info")), player.get_name())
"""
    arguments = ["cameras:=left, front", "namespace:=veh", "bag:=drive", f"image:={image}", f"camera_info:={info}"]
    found = run(["-c", START + ask, LAUNCH_FILE, *arguments], environment)
    assert found.split()[-7:] == ["heard", *expected.split(), "played", *expected.split(), "play_front"]
