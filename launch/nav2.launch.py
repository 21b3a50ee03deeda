"""The perception node with the preset for Nav2, and a costmap that reads it. `--show-args` lists the arguments."""

import os
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = Path(get_package_share_directory("mtl_perception"))
COSTMAP_NAME = "local_costmap"
NEEDED = ("nav2_costmap_2d", "nav2_lifecycle_manager", "semantic_segmentation_layer", "vision_msgs")
FORWARDED = {
    "image": ("", "Image topic (default: image)"),
    "camera_info": ("", "CameraInfo topic (default: camera_info beside the image topic)"),
    "image_transport": ("", "raw or compressed (default: as in params_file)"),
    "input_rectified": ("", "Whether images are rectified; false for raw ones (default: as in params_file)"),
    "weights": ("", "Network weights: a shipped or downloaded name, or a file (default: as in params_file)"),
    "device": ("", "auto, cpu, cuda or cuda:N (default: as in params_file)"),
    "use_sim_time": ("", "Use the time of /clock (default: with `bag` true, else as in params_file)"),
    "params_file": (str(SHARE / "config/nav2.yaml"), "Parameter file of the node"),
    "bag": ("", "Source to play: a bag, KITTI raw drive, image folder, video, or synthetic[:FRAMES[:SEED]]"),
    "rviz": ("false", "Whether to start RViz"),
    "fixed_frame": ("", "Fixed frame of RViz (default: as in perception.launch.py)"),
}
OWN = {
    "costmap": ("true", "Whether to start a costmap without planners; false: your Nav2 has the layers"),
    "costmap_params_file": (str(SHARE / "config/nav2_costmap.yaml"), "Parameter file of the costmap"),
}
ARGUMENTS = {**FORWARDED, **OWN}
CHOICES = {"costmap": ["true", "false", "True", "False"]}


def generate_launch_description() -> LaunchDescription:
    """Include perception.launch.py; `start_costmap` creates the processes of Nav2."""
    declared = [
        DeclareLaunchArgument(name, default_value=value, description=text, choices=CHOICES.get(name))
        for name, (value, text) in ARGUMENTS.items()
    ]
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch/perception.launch.py")),
        launch_arguments={name: LaunchConfiguration(name) for name in FORWARDED}.items(),
    )
    # The costmap first: if Nav2 is not installed, nothing is started.
    return LaunchDescription([*declared, OpaqueFunction(function=start_costmap), perception])


def start_costmap(context: LaunchContext) -> list:
    """Return the costmap and its lifecycle manager, if requested."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    if given["costmap"].lower() == "false":
        return []
    # No shell expands ~ after :=.
    given["costmap_params_file"] = os.path.expanduser(given["costmap_params_file"])
    if not Path(given["costmap_params_file"]).is_file():
        raise FileNotFoundError(f"costmap_params_file {given['costmap_params_file']} does not exist")
    if missing := [package for package in NEEDED if not is_installed(package)]:
        distribution = os.environ.get("ROS_DISTRO", "<distro>")
        hints = [f"ros-{distribution}-{package.replace('_', '-')}" for package in missing if package != NEEDED[2]]
        steps = [f"sudo apt install {' '.join(hints)}"] if hints else []
        steps += ["build semantic_segmentation_layer from source, see docs/nav2.md"] if NEEDED[2] in missing else []
        raise RuntimeError(f"the costmap needs {', '.join(missing)}; {'; '.join(steps)}; or set costmap:=false")
    simulated = given["use_sim_time"].lower() or ("true" if given["bag"] else "")
    time = [{"use_sim_time": simulated == "true"}] if simulated else []
    costmap = Node(
        package="nav2_costmap_2d",
        executable="nav2_costmap_2d",
        # The name in the parameter file, as in Nav2's controller server. Humble's executable keeps its own, /costmap/costmap.
        name=COSTMAP_NAME,
        namespace=COSTMAP_NAME,
        parameters=[given["costmap_params_file"], *time],
        output="screen",
    )
    manager = Node(
        package="nav2_lifecycle_manager",
        executable="lifecycle_manager",
        name="lifecycle_manager_costmap",
        # A costmap outside of a server has no bond.
        parameters=[{"autostart": True, "node_names": ["local_costmap/local_costmap"], "bond_timeout": 0.0}, *time],
        output="screen",
    )
    return [costmap, manager]


def is_installed(package: str) -> bool:
    """Return whether the ament index has a package."""
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        return False
    return True
