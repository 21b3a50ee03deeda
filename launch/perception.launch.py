"""The perception node, optionally with a player and RViz. `--show-args` lists the arguments."""

import os
import shlex
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

# The only import of the package. Importing OpenCV here would keep RViz from starting.
from mtl_perception.ros.environment import configure_middleware

PACKAGE = NODE_NAME = "mtl_perception"
SHARE = Path(get_package_share_directory(PACKAGE))
DEFAULT_FRAME = "camera_optical_frame"
OUTPUTS = (
    *(f"segmentation/{name}" for name in ("image", "overlay", "labels", "confidence")),
    *("depth/image", "depth/camera_info", "points"),
)

ARGUMENTS = {
    "image": ("", "Image topic (default: image); with `cameras`, relative to each name, or with {} in place of the name"),
    "camera_info": ("", "CameraInfo topic (default: camera_info beside the image topic); with `cameras`, as `image`"),
    "cameras": ("", "Camera names, separated by commas: front,left,right (default: as in params_file)"),
    "weights": ("", "Network weights: a shipped or downloaded name, or a file (default: as in params_file)"),
    "device": ("", "auto, cpu, cuda or cuda:N (default: as in params_file)"),
    "use_sim_time": ("", "Whether to use the time of /clock (default: as in params_file, else false)"),
    "params_file": (str(SHARE / "config/perception.yaml"), "Parameter file; the arguments above override it"),
    "namespace": ("", "Namespace of the node and the player"),
    "bag": ("", "Source to play to each camera: a bag, KITTI raw drive, image folder, or synthetic[:FRAMES[:SEED]]"),
    "rate": ("1.0", "Playback speed of `bag`"),
    "loop": ("false", "Whether to repeat `bag`"),
    "rviz": ("false", "Whether to start RViz"),
    "fixed_frame": ("", f"Fixed frame of RViz (default: frame_id of the first image of `bag`, else {DEFAULT_FRAME})"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
}
CHOICES = {"use_sim_time": ["", "true", "false"], "loop": ["true", "false"], "rviz": ["true", "false"]}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; `start` creates the processes."""
    declared = [
        DeclareLaunchArgument(name, default_value=value, description=text, choices=CHOICES.get(name))
        for name, (value, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list:
    """Return the node, and the players and RViz if requested."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    if not Path(given["params_file"]).is_file():
        raise FileNotFoundError(f"params_file {given['params_file']} does not exist")
    # For all processes of this launch: a camera driver that is launched beside the node needs it as much.
    configure_middleware()
    players = [player(given, name, index) for index, name in enumerate(cameras(given)) if given["bag"]]
    # RViz first: if it is not installed, nothing else is started.
    return [*(rviz(given) if given["rviz"] == "true" else ()), perception(given), *players]


def perception(given: dict[str, str]) -> Node:
    """Return the node with the given parameters and remappings."""
    overrides = {name: ParameterValue(given[name], value_type=str) for name in ("weights", "device") if given[name]}
    if given["use_sim_time"]:
        overrides["use_sim_time"] = given["use_sim_time"] == "true"
    if given["cameras"]:
        overrides["cameras"] = cameras(given)
    return Node(
        package=PACKAGE,
        executable="perception_node",
        name=NODE_NAME,
        namespace=given["namespace"],
        parameters=[given["params_file"], *([overrides] if overrides else [])],
        remappings=[pair for camera in cameras(given) for pair in camera_remappings(given, camera)],
        ros_arguments=["--log-level", given["log_level"]],
        output="screen",
        emulate_tty=True,
    )


def player(given: dict[str, str], camera: str, index: int) -> Node:
    """Return a player of `bag` on the topics of a camera; the first one also publishes /clock if needed."""
    prefix = f"{camera}/" if camera else ""
    remappings = dict(camera_remappings(given, camera))
    image = remappings.get(f"{prefix}image", f"{prefix}image")
    info = remappings.get(f"{prefix}camera_info", sibling(image))
    arguments = ["-m", PACKAGE, "play", given["bag"], "--rate", given["rate"], "--subscribers", "1"]
    arguments += ["--loop"] if given["loop"] == "true" else []
    arguments += ["--clock"] if index == 0 and given["use_sim_time"] == "true" else []
    return Node(
        package=PACKAGE,
        executable="python",
        name=f"play_{camera}" if camera else "player",
        namespace=given["namespace"],
        arguments=arguments,
        remappings=[("image", image), ("camera_info", info)],
        output="screen",
    )


def rviz(given: dict[str, str]) -> list:
    """Return RViz for the (first) camera; the topics of its configuration have neither namespace nor camera name."""
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError as error:
        package = f"ros-{os.environ.get('ROS_DISTRO', '<distro>')}-rviz2"
        raise RuntimeError(f"rviz:=true needs RViz, which is not installed; run: sudo apt install {package}") from error
    space, camera = given["namespace"].strip("/"), cameras(given)[0]
    node = "/".join(filter(None, (space, NODE_NAME, camera)))
    python = Path(get_package_prefix(PACKAGE)) / "lib" / PACKAGE / "python"
    reads_frame = given["bag"] and not given["fixed_frame"]
    started = Node(
        package="rviz2",
        executable="rviz2",
        prefix=shlex.join([str(python), "-m", f"{PACKAGE}.ros.rviz", given["bag"]]) if reads_frame else None,
        arguments=["-d", str(SHARE / "config/perception.rviz")]
        + ([] if reads_frame else ["-f", given["fixed_frame"] or DEFAULT_FRAME]),
        remappings=[(f"/{NODE_NAME}/{topic}", f"/{node}/{topic}") for topic in OUTPUTS if space or camera],
        parameters=[{"use_sim_time": given["use_sim_time"] == "true"}] if given["use_sim_time"] else [],
        output="log",
    )
    if given["fixed_frame"] or given["bag"]:
        return [started]
    hint = f"RViz uses the fixed frame {DEFAULT_FRAME}; if it shows nothing, set fixed_frame to the frame_id of the images"
    return [started, LogInfo(msg=hint)]


def cameras(given: dict[str, str]) -> list[str]:
    """Return the camera names; one empty name if none are given."""
    return [name.strip() for name in given["cameras"].split(",") if name.strip()] or [""]


def camera_remappings(given: dict[str, str], camera: str = "") -> list[tuple[str, str]]:
    """Return the remappings of a camera's topics to those that are given."""
    prefix = f"{camera}/" if camera else ""

    def place(topic: str) -> str:
        # With several cameras, a relative topic without {} is relative to the camera's name.
        return topic.replace("{}", camera) if "{}" in topic or topic.startswith("/") else f"{prefix}{topic}"

    topics = {name: place(given[name]) for name in ("image", "camera_info") if given[name]}
    remappings = [(f"{prefix}{name}", topic) for name, topic in topics.items()]
    if len(remappings) == 2:
        # Remap the default, too: the node cannot see a remapping of `camera_info` to its own full name.
        remappings.append((sibling(topics["image"]), topics["camera_info"]))
    return remappings


def sibling(image: str) -> str:
    """Return the topic on which the node expects the CameraInfo of an image topic."""
    folder, slash, _ = image.rpartition("/")
    return f"{folder}{slash}camera_info"
