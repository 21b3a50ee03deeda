"""A camera without a camera: plays a drive to the perception node. `--show-args` lists the arguments."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from mtl_perception.resources import share_file

ARGUMENTS = {
    "drive": ("synthetic", "What is played: synthetic[:FRAMES[:SEED]], a KITTI raw drive, a folder of pictures or a bag"),
    "rate": ("1.0", "Speed at which it is played; 1: as recorded"),
    "loop": ("true", "true: again and again"),
    "weights": ("", "Shipped or fetched name, or file, of the weights (default: the node's own)"),
    "device": ("", "auto, cpu, cuda or cuda:N (default: auto)"),
    "rviz": ("false", "true: also start RViz"),
    "fixed_frame": ("", "RViz's fixed frame (default: the frame_id of the drive's pictures)"),
}


def generate_launch_description() -> LaunchDescription:
    """perception.launch.py with a player."""
    declared = [DeclareLaunchArgument(name, default_value=value, description=text) for name, (value, text) in ARGUMENTS.items()]
    handed_on = {name: LaunchConfiguration(name) for name in ARGUMENTS if name != "drive"}
    perception = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(share_file("launch/perception.launch.py"))),
        launch_arguments={**handed_on, "bag": LaunchConfiguration("drive")}.items(),
    )
    return LaunchDescription([*declared, perception])
