"""The perception node, with whatever of bag player and RViz is asked for. `--show-args` lists the arguments."""

import os
import subprocess
from pathlib import Path

from ament_index_python.packages import get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, LogInfo, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from mtl_perception.resources import share_file
from mtl_perception.ros.environment import prepare_middleware

NODE_NAME = "mtl_perception"
DEFAULT_FRAME = "camera_optical_frame"

ARGUMENTS = {
    "image": ("", "Topic of the pictures (default: image); with `cameras`, under each one's name, or with {} for that name"),
    "camera_info": ("", "Topic of the calibration (default: camera_info beside the image topic); with `cameras`, as `image`"),
    "cameras": ("", "Names of several cameras, separated by commas: front,left,right (default: as in params_file)"),
    "weights": ("", "Shipped or fetched name, or file, of the weights (default: as in params_file)"),
    "device": ("", "auto, cpu, cuda or cuda:N (default: as in params_file)"),
    "use_sim_time": ("", "true: time comes from /clock (default: as in params_file, else false)"),
    "params_file": (str(share_file("config/perception.yaml")), "Parameters of the node; the arguments above win over it"),
    "namespace": ("", "Namespace of the node, and of the player of `bag`"),
    "bag": ("", "Also play this (to each camera): a bag, KITTI raw drive, folder of pictures, or synthetic[:FRAMES[:SEED]]"),
    "rate": ("1.0", "Speed at which `bag` is played; 1: as recorded"),
    "loop": ("false", "true: play `bag` again and again"),
    "rviz": ("false", "true: also start RViz"),
    "fixed_frame": ("", "RViz's fixed frame: the pictures' frame_id (default: that of `bag`, else camera_optical_frame)"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
}
CHOICES = {"use_sim_time": ["", "true", "false"], "loop": ["true", "false"], "rviz": ["true", "false"]}
PRINT_FRAME = """
import sys
from mtl_perception.sources.open import open_source
print(next(iter(open_source(sys.argv[1]))).frame_id)
"""


def generate_launch_description() -> LaunchDescription:
    """Declares the arguments; what they start is in `start`."""
    declared = [
        DeclareLaunchArgument(name, default_value=value, description=text, choices=CHOICES.get(name))
        for name, (value, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list:
    """The processes that the arguments ask for."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    # For every process of this launch: a camera driver launched beside the node needs it as much.
    prepare_middleware()
    actions = [perception(given)]
    if given["bag"]:
        actions += [player(given, camera, leads=not number) for number, camera in enumerate(cameras(given))]
    if given["rviz"] == "true":
        # First: where RViz is not installed, launch ends with an error, and would leave behind what was started before.
        actions = [*rviz(given), *actions]
    return actions


def perception(given: dict[str, str]) -> Node:
    """The node, with only those parameters and remappings that were given."""
    overrides = {name: ParameterValue(given[name], value_type=str) for name in ("weights", "device") if given[name]}
    if given["use_sim_time"]:
        overrides["use_sim_time"] = given["use_sim_time"] == "true"
    if given["cameras"]:
        overrides["cameras"] = cameras(given)
    return Node(
        package="mtl_perception",
        executable="perception_node",
        name=NODE_NAME,
        namespace=given["namespace"],
        parameters=[given["params_file"], overrides] if overrides else [given["params_file"]],
        remappings=[pair for camera in cameras(given) for pair in camera_remappings(given, camera)],
        ros_arguments=["--log-level", given["log_level"]],
        output="screen",
        emulate_tty=True,
    )


def player(given: dict[str, str], camera: str = "", leads: bool = True) -> ExecuteProcess:
    """Plays `bag` as the camera that the node listens to, from when it listens; the one that leads gives the time."""
    remappings = dict(camera_remappings(given, camera))
    under = f"{camera}/" if camera else ""
    if f"{under}image" in remappings:
        remappings.setdefault(f"{under}camera_info", beside(remappings[f"{under}image"]))
    # The player's own names are those of one camera.
    played = {name: remappings.get(f"{under}{name}", f"{under}{name}") for name in ("image", "camera_info")}
    ros_arguments = [part for name, topic in played.items() if topic != name for part in ("-r", f"{name}:={topic}")]
    if camera:
        ros_arguments += ["-r", f"__node:=play_{camera}"]
    if given["namespace"]:
        ros_arguments += ["-r", f"__ns:=/{given['namespace'].strip('/')}"]
    command = [package_python(), "-m", "mtl_perception", "play", given["bag"], "--rate", given["rate"], "--subscribers", "1"]
    command += ["--loop"] if given["loop"] == "true" else []
    command += ["--clock"] if leads and given["use_sim_time"] == "true" else []
    command += ["--ros-args", *ros_arguments] if ros_arguments else []
    return ExecuteProcess(cmd=command, name=f"play_{camera}" if camera else "play", output="screen")


def rviz(given: dict[str, str]) -> list:
    """RViz with displays of all outputs of the (first) camera; its configuration names them without namespace and camera."""
    from mtl_perception.messages.topics import OUTPUT_TOPICS  # pulls in OpenCV: not for those who want no RViz

    space = given["namespace"].strip("/")
    start, under = f"/{space}" if space else "", f"{cameras(given)[0]}/" if given["cameras"] else ""
    topics = [row.name for row in OUTPUT_TOPICS] if space or under else []
    parameters = [{"use_sim_time": given["use_sim_time"] == "true"}] if given["use_sim_time"] else []
    frame = given["fixed_frame"] or frame_of(given["bag"])
    started = Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", str(share_file("config/perception.rviz")), "-f", frame or DEFAULT_FRAME],
        remappings=[(f"/{NODE_NAME}/{topic}", f"{start}/{NODE_NAME}/{under}{topic}") for topic in topics],
        parameters=parameters,
        output="log",
    )
    guessed = f"RViz's fixed frame is {DEFAULT_FRAME}; if it shows nothing, give the pictures' frame_id as fixed_frame:=FRAME"
    return [started] if frame else [started, LogInfo(msg=guessed)]


def frame_of(source: str) -> str:
    """frame_id of the first picture of what is played; empty where there is none to be read, of which the player will tell."""
    if not source:
        return ""
    if source.split(":")[0] == "synthetic":
        # Known, and rendering a picture to ask it takes seconds.
        return DEFAULT_FRAME
    asked = subprocess.run([package_python(), "-c", PRINT_FRAME, source], capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else ""


def package_python() -> str:
    """The Python that has what the package needs, found as `perception_node` finds it; `ros2 launch` is run by the system's."""
    python = Path(get_package_prefix("mtl_perception")) / "bin/python3"
    return str(python) if os.access(python, os.X_OK) else "python3"


def cameras(given: dict[str, str]) -> list[str]:
    """Names of the cameras; one empty name where none was given."""
    return [name.strip() for name in given["cameras"].split(",") if name.strip()] or [""]


def camera_remappings(given: dict[str, str], camera: str = "") -> list[tuple[str, str]]:
    """Topics of the camera, as far as they were given."""
    under = f"{camera}/" if camera else ""

    def place(topic: str) -> str:
        """With several cameras, a topic under the camera's name, unless it is a full one or says where the name goes."""
        return topic.replace("{}", camera) if "{}" in topic or topic.startswith("/") else f"{under}{topic}"

    topics = {name: place(given[name]) for name in ("image", "camera_info") if given[name]}
    remappings = [(f"{under}{name}", topic) for name, topic in topics.items()]
    if len(remappings) == 2:
        # By the name that the node takes by itself too: `camera_info` remapped to its own full name shows no difference.
        remappings.append((beside(topics["image"]), topics["camera_info"]))
    return remappings


def beside(image: str) -> str:
    """Where the node looks for the camera_info of the pictures on this topic."""
    folder, slash, _ = image.rpartition("/")
    return f"{folder}{slash}camera_info"
