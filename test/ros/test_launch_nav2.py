"""launch/nav2.launch.py with fakes of Nav2's executables, run where ROS's launch is installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ros.test_launch_perception import environment, executable, prefix, pytestmark, run  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILE = str(ROOT / "launch/nav2.launch.py")
START = """
import runpy, sys
from launch import LaunchContext, LaunchDescription, LaunchService
launched = runpy.run_path(sys.argv[1])
context = LaunchContext()
context.launch_configurations.update({name: value for name, (value, _) in launched["ARGUMENTS"].items()})
context.launch_configurations.update(argument.split(":=") for argument in sys.argv[2:])
actions = launched["start_costmap"](context)
print("processes", len(actions))
service = LaunchService()
service.include_launch_description(LaunchDescription(actions))
service.run()
"""
# launch_ros writes lists as Python tuples, which rcl's parser reads as lists.
FAKE = f"""#!{sys.executable}
import json, sys, yaml
files = [yaml.full_load(open(value)) for option, value in zip(sys.argv, sys.argv[1:]) if option == "--params-file"]
print("given", json.dumps([sys.argv[1:], files]))
"""
PACKAGES = ("nav2_costmap_2d", "nav2_lifecycle_manager", "semantic_segmentation_layer", "vision_msgs")


@pytest.fixture
def nav2(prefix: Path) -> Path:  # noqa: F811
    """The prefix, with fakes that print their command line and parameter files."""
    for package in PACKAGES:
        (prefix / "share/ament_index/resource_index/packages" / package).write_text("")
    executable(prefix / "lib/nav2_costmap_2d/nav2_costmap_2d", FAKE)
    executable(prefix / "lib/nav2_lifecycle_manager/lifecycle_manager", FAKE)
    return prefix


def given(text: str, name: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the command line of a fake process, and the parameters of the files in it."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"[{name}-") and "] given " in line]
    words, files = json.loads(line.partition("] given ")[2])
    return words, files


@pytest.mark.parametrize("argument", ["use_sim_time:=true", "bag:=drive"])
def test_costmap_and_its_manager_have_their_parameters(
    nav2: Path,
    environment: dict[str, str],  # noqa: F811
    argument: str,
) -> None:
    """The time of a bag is that of the node: simulated time."""
    screen = {**environment, "OVERRIDE_LAUNCH_PROCESS_OUTPUT": "screen"}
    text = run(["-c", START, LAUNCH_FILE, argument], screen)
    assert "processes 2" in text
    words, files = given(text, "nav2_costmap_2d")
    assert {"__node:=local_costmap", "__ns:=/local_costmap"} <= set(words)
    costmap, time = files
    assert costmap == yaml.safe_load((ROOT / "config/nav2_costmap.yaml").read_text())
    assert list(time.values()) == [{"ros__parameters": {"use_sim_time": True}}]
    _, (settings, time) = given(text, "lifecycle_manager")
    expected = {"autostart": True, "node_names": ["local_costmap/local_costmap"], "bond_timeout": 0.0}
    assert list(settings.values()) == [{"ros__parameters": expected}]
    assert list(time.values()) == [{"ros__parameters": {"use_sim_time": True}}]


def test_missing_packages_are_reported_together(nav2: Path, environment: dict[str, str]) -> None:  # noqa: F811
    for package in PACKAGES[1:]:
        (nav2 / "share/ament_index/resource_index/packages" / package).unlink()
    text = run(["-c", START, LAUNCH_FILE], environment, code=1)
    assert "the costmap needs nav2_lifecycle_manager, semantic_segmentation_layer, vision_msgs; sudo apt install ros-" in text
    assert "-nav2-lifecycle-manager ros-" in text
    assert "build semantic_segmentation_layer from source, see docs/nav2.md; or set costmap:=false" in text


def test_node_alone_needs_no_nav2(prefix: Path, environment: dict[str, str]) -> None:  # noqa: F811
    assert "processes 0" in run(["-c", START, LAUNCH_FILE, "costmap:=false"], environment)


def test_missing_costmap_parameters_are_refused(nav2: Path, environment: dict[str, str]) -> None:  # noqa: F811
    text = run(["-c", START, LAUNCH_FILE, "costmap_params_file:=/nowhere.yaml"], environment, code=1)
    assert "costmap_params_file /nowhere.yaml does not exist" in text


def test_node_is_started_with_the_preset_and_the_topics(prefix: Path, environment: dict[str, str]) -> None:  # noqa: F811
    (prefix / "lib/mtl_perception/perception_node").unlink()
    executable(prefix / "lib/mtl_perception/perception_node", FAKE)
    whole = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
arguments = [argument.split(":=") for argument in sys.argv[2:]]
included = IncludeLaunchDescription(PythonLaunchDescriptionSource(sys.argv[1]), launch_arguments=arguments)
service = LaunchService()
service.include_launch_description(LaunchDescription([included]))
sys.exit(service.run())
"""
    screen = {**environment, "OVERRIDE_LAUNCH_PROCESS_OUTPUT": "screen"}
    text = run(
        ["-c", whole, LAUNCH_FILE, "costmap:=False", "image:=/cam", "device:=cpu", "image_transport:=compressed"], screen
    )
    words, (preset, overrides) = given(text, "perception_node")
    assert "image:=/cam" in words
    assert preset == yaml.safe_load((ROOT / "config/nav2.yaml").read_text())
    assert list(overrides.values()) == [{"ros__parameters": {"device": "cpu", "image_transport": "compressed"}}]
