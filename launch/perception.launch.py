"""The perception node, optionally with a player and RViz. `--show-args` lists the arguments."""

import os
import shlex
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

# The only import of the package: a launch file that imports OpenCV keeps every RViz of the launch from starting.
from mtl_perception.ros.environment import configure_middleware

PACKAGE = NODE_NAME = "mtl_perception"
PARAMETERS = Path(get_package_share_directory(PACKAGE)) / "config/perception.yaml"
BOOLEANS = ["true", "false", "True", "False"]
# name: (default, description, choices)
ARGUMENTS = {
    "image": ("", "Image topic (default: image); with `cameras`, relative to each name, or with {} in place of the name"),
    "camera_info": ("", "CameraInfo topic (default: camera_info beside the image topic); with `cameras`, as `image`"),
    "image_transport": ("", "raw or compressed (default: as in params_file)", ["", "raw", "compressed"]),
    "input_rectified": ("", "Whether images are rectified; false for raw ones (default: as in params_file)", ["", *BOOLEANS]),
    "cameras": ("", "Camera names, separated by commas: front,left,right (default: as in params_file)"),
    "weights": ("", "Network weights: a shipped or downloaded name, or a file (default: as in params_file)"),
    "device": ("", "auto, cpu, cuda or cuda:N (default: as in params_file)"),
    "use_sim_time": ("", "Use the time of /clock (default: with `bag` true, else as in params_file)", ["", *BOOLEANS]),
    "params_file": (str(PARAMETERS), "Parameter file; the arguments above override it"),
    "namespace": ("", "Namespace of the node and the player"),
    "bag": ("", "Source to play to each camera: a bag, KITTI raw drive, image folder, video, or synthetic[:FRAMES[:SEED]]"),
    "rate": ("1.0", "Playback speed of `bag`"),
    "loop": ("false", "Whether to repeat `bag`", BOOLEANS),
    "rviz": ("false", "Whether to start RViz", BOOLEANS),
    "fixed_frame": ("", "Fixed frame of RViz (default: frame_id of the first image of `bag`, else camera_optical_frame)"),
    "rviz_config": ("", "Configuration of RViz (default: config/perception.rviz, with perception_z_up.rviz for z-up frames)"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; `start` creates the processes."""
    declared = [
        DeclareLaunchArgument(name, default_value=value, description=text, choices=choices[0] if choices else None)
        for name, (value, text, *choices) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Node]:
    """Return the node, and the players and RViz if requested."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    # A launch file that includes this one may have pushed a namespace.
    given["ros_namespace"] = context.launch_configurations.get("ros_namespace", "")
    # Launch files for Nav2 pass Python's True and False.
    given |= {name: value.lower() for name, value in given.items() if value in ("True", "False")}
    for name in ("params_file", "rviz_config"):
        # No shell expands ~ after :=.
        given[name] = os.path.expanduser(given[name])
        if given[name] and not Path(given[name]).is_file():
            raise FileNotFoundError(f"{name} {given[name]} does not exist")
    # Recorded stamps are in the past of every other clock.
    given["use_sim_time"] = given["use_sim_time"] or ("true" if given["bag"] else "")
    # For all processes of this launch: a camera driver that is launched beside the node needs it as much.
    configure_middleware()
    players = [player(given, name, index) for index, name in enumerate(cameras(given)) if given["bag"]]
    # RViz first: if it is not installed, nothing else is started.
    return [*([rviz(given)] if given["rviz"] == "true" else []), perception(given), *players]


def perception(given: dict[str, str]) -> Node:
    """Return the node with the given parameters and remappings."""
    names = ("weights", "device", "image_transport")
    overrides = {name: ParameterValue(given[name], value_type=str) for name in names if given[name]}
    overrides |= {"cameras": cameras(given)} if given["cameras"] else {}
    overrides |= {"input_rectified": given["input_rectified"] == "true"} if given["input_rectified"] else {}
    return Node(
        package=PACKAGE,
        executable="perception_node",
        name=NODE_NAME,
        namespace=given["namespace"],
        parameters=[*filter(None, (given["params_file"], {**overrides, **clock(given)}))],
        remappings=[pair for camera in cameras(given) for pair in camera_remappings(given, camera)],
        ros_arguments=["--log-level", given["log_level"]],
        output="screen",
        emulate_tty=True,
    )


def player(given: dict[str, str], camera: str, index: int) -> Node:
    """Return a player of `bag` on the topics of a camera; the first one also publishes /clock if needed."""
    image = place(given["image"] or "image", camera)
    info = place(given["camera_info"], camera) if given["camera_info"] else sibling(image)
    arguments = ["-m", PACKAGE, "play", given["bag"], "--rate", given["rate"], "--subscribers", "1"]
    arguments += ["--loop"] if given["loop"] == "true" else []
    arguments += ["--stamps", "now"] if given["use_sim_time"] == "false" else ["--clock"] if index == 0 else []
    return Node(
        package=PACKAGE,
        executable="python",
        name=f"play_{camera}" if camera else "player",
        namespace=given["namespace"],
        arguments=arguments,
        remappings=[("image", image), ("camera_info", info)],
        output="screen",
    )


def rviz(given: dict[str, str]) -> Node:
    """Return RViz for the (first) camera, started by a script that selects frame, configuration and topics."""
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError as error:
        package = f"ros-{os.environ.get('ROS_DISTRO', '<distro>')}-rviz2"
        raise RuntimeError(f"rviz:=true needs RViz, which is not installed; run: sudo apt install {package}") from error
    python = Path(get_package_prefix(PACKAGE)) / "lib" / PACKAGE / "python"
    pushed = "" if given["namespace"].startswith("/") else given.get("ros_namespace", "")
    parts = (pushed.strip("/"), given["namespace"].strip("/"), NODE_NAME, cameras(given)[0])
    node = "/".join(["", *filter(None, parts)])
    script = [str(python), "-m", f"{PACKAGE}.ros.rviz", given["bag"], given["fixed_frame"], given["rviz_config"], node]
    parameters = [*filter(None, [clock(given)])]
    return Node(package="rviz2", executable="rviz2", prefix=shlex.join(script), parameters=parameters, output="log")


def clock(given: dict[str, str]) -> dict[str, bool]:
    """Return the parameter use_sim_time if it is given."""
    return {"use_sim_time": given["use_sim_time"] == "true"} if given["use_sim_time"] else {}


def cameras(given: dict[str, str]) -> list[str]:
    """Return the camera names; one empty name if none are given."""
    return [name.strip() for name in given["cameras"].split(",") if name.strip()] or [""]


def camera_remappings(given: dict[str, str], camera: str = "") -> list[tuple[str, str]]:
    """Return the remappings of a camera's topics to those that are given."""
    topics = {name: place(given[name], camera) for name in ("image", "camera_info") if given[name]}
    if len(topics) == 2:
        # Remap the default, too: the node cannot see a remapping of `camera_info` to its own full name.
        topics[sibling(topics["image"])] = topics["camera_info"]
    return [(place(name, camera) if name in ARGUMENTS else name, topic) for name, topic in topics.items()]


def place(topic: str, camera: str) -> str:
    """Return a camera's topic: with the name in place of {}, or below the name if the topic is relative."""
    if "{}" in topic or topic.startswith("/") or not camera:
        return topic.replace("{}", camera)
    return f"{camera}/{topic}"


def sibling(image: str) -> str:
    """Return the topic on which the node expects the CameraInfo of an image topic."""
    folder, slash, _ = image.rpartition("/")
    return f"{folder}{slash}camera_info"
