"""The perception node with a player instead of a camera. `--show-args` lists the arguments."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

PERCEPTION = Path(get_package_share_directory("mtl_perception")) / "launch/perception.launch.py"
ARGUMENTS = {
    "drive": ("synthetic", "Source to play: synthetic[:FRAMES[:SEED]], a KITTI raw drive, an image folder, a video or a bag"),
    "rate": ("1.0", "Playback speed"),
    "loop": ("true", "Whether to repeat the drive"),
    "weights": ("", "Network weights: a shipped or downloaded name, or a file (default: the node's own)"),
    "device": ("", "auto, cpu, cuda or cuda:N (default: auto)"),
    "rviz": ("false", "Whether to start RViz"),
    "fixed_frame": ("", "Fixed frame of RViz (default: frame_id of the first image of the drive)"),
    "rviz_config": ("", "Configuration of RViz (default: as in perception.launch.py)"),
}


def generate_launch_description() -> LaunchDescription:
    """Include perception.launch.py with the drive as `bag`."""
    declared = [DeclareLaunchArgument(name, default_value=value, description=text) for name, (value, text) in ARGUMENTS.items()]
    forwarded = {name: LaunchConfiguration(name) for name in ARGUMENTS if name != "drive"}
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(PERCEPTION)),
        launch_arguments={**forwarded, "bag": LaunchConfiguration("drive")}.items(),
    )
    return LaunchDescription([*declared, perception])
