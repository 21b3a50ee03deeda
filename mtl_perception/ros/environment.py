"""Middleware settings that must be made before rclpy starts."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import rclpy
from rclpy.exceptions import NameValidationException
from rclpy.node import Node
from rclpy.validate_namespace import validate_namespace
from rclpy.validate_node_name import validate_node_name
from rclpy.validate_topic_name import validate_topic_name

from mtl_perception.errors import ConfigError, PerceptionError, one_line, truncated_repr
from mtl_perception.resources import share_file
from mtl_perception.ros.overrides import find_file_fault

# Profiles are read from a file named by an environment variable, or from a file in the working directory. Fast DDS 2 (Humble to
# Jazzy) uses the old names. Fast DDS 3 (Kilted and newer) uses the new names, and also reads the old variable, with a warning.
OLD_VARIABLE, NEW_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"
OLD_FILE, NEW_FILE = "DEFAULT_FASTRTPS_PROFILES.xml", "DEFAULT_FASTDDS_PROFILES.xml"
OLD_DISTRIBUTIONS = ("humble", "iron", "jazzy")
LAST_OLD_RCLPY = 7
DISCOVERY_VARIABLES = (
    "ROS_LOCALHOST_ONLY",
    "ROS_AUTOMATIC_DISCOVERY_RANGE",
    "ROS_STATIC_PEERS",
    "ROS_DISCOVERY_SERVER",
    "RMW_IMPLEMENTATION",
)
"""Variables besides ROS_DOMAIN_ID that must match for nodes to discover each other."""
LAST_DOMAIN = 232
SHARED_MEMORY = Path("/dev/shm")
"""Folder of the ports and segments of Fast DDS."""


def initialize(arguments: list[str]) -> None:
    """Configure the middleware and initialize rclpy.

    Args:
        arguments: Command line, including the name of the program.

    Raises:
        ConfigError: The ROS arguments or ROS_DOMAIN_ID are invalid.
        PerceptionError: The folder of ROS's log files cannot be created.
    """
    configure_middleware()
    domain, peers = (os.environ.get(name, "") for name in ("ROS_DOMAIN_ID", "ROS_STATIC_PEERS"))
    number = int(domain) if domain.strip().isdecimal() else -1
    # Fast DDS ends the process instead of returning an error; rcl takes -1 for the default domain.
    if domain and not 0 <= number <= LAST_DOMAIN and "zenoh" not in os.environ.get("RMW_IMPLEMENTATION", ""):
        raise ConfigError(
            f"ROS_DOMAIN_ID {truncated_repr(domain)} is not an integer from 0 to {LAST_DOMAIN}, the highest with port numbers "
            "in DDS; set another one"
        )
    if re.search(r"[\s,]", peers.strip()):
        raise ConfigError(f"ROS_STATIC_PEERS {truncated_repr(peers)} has a comma or a space; separate addresses by semicolons")
    try:
        rclpy.init(args=arguments)
    except Exception as error:  # Invalid arguments and files raise various private exceptions.
        if re.search("Failed to (get logging|create log) directory", str(error)):
            raise PerceptionError(f"ROS cannot write its log files: {_log_folder_fault()}") from error
        if found := re.search("Failed opening file (.*) for writing: (.*)", without_source(error)):
            reason = f"{Path(found[1]).parent}: {found[2]}; set ROS_LOG_DIR to a folder that can be written"
            raise PerceptionError(f"ROS cannot write its log files: {reason}") from error
        reason = without_source(error).removeprefix("failed to initialize rcl: ")
        reason = _name_fault(arguments) or find_file_fault(arguments) or reason
        # Not all arguments: those of launch hide the reason.
        raise ConfigError(f"{'invalid ROS arguments' if arguments[1:] else 'cannot initialize ROS'}: {reason}") from error


def without_source(error: Exception) -> str:
    """Return the message of an error of rcl on one line, without the places in its source code."""
    return " ".join(re.sub(r", at \S+:\d+", "", str(error)).split())


def _name_fault(arguments: list[str]) -> str:
    """Return what is wrong with a name in a remapping, which rcl's parser does not state; empty if nothing is."""
    for flag, rule in itertools.pairwise(arguments):
        if flag not in ("-r", "--remap"):
            continue
        old, _, new = rule.partition(":=")
        kind = old.rpartition(":")[2]
        try:
            if kind == "__ns":
                validate_namespace(new)
            elif kind in ("__node", "__name"):
                validate_node_name(new)
            else:
                validate_topic_name(new)
        except (NameValidationException, ValueError) as error:
            return f"{rule}: {one_line(error)}"
    return ""


def _log_folder_fault() -> str:
    """Return why the folder of log files cannot be created: ROS_LOG_DIR, else log in ROS_HOME, else .ros/log in HOME."""
    folders = {"ROS_LOG_DIR": "", "ROS_HOME": "log", "HOME": ".ros/log"}
    for variable, folder in folders.items():
        if os.environ.get(variable):
            return f"{Path(os.environ[variable], folder)} cannot be created; set ROS_LOG_DIR to a folder that can be written"
    return "HOME is not set; set HOME, or ROS_LOG_DIR to a folder that can be written"


def configure_middleware() -> None:
    """Give Fast DDS a shared-memory segment that is large enough for point clouds, unless the user set a profile.

    With the default of 512 KiB most messages of the size of an image or more are lost. Other middlewares ignore the setting.
    """
    old = _has_fast_dds_2()
    # Fast DDS 2 ignores the new variable, so a profile set by it alone has no effect.
    variables = (OLD_VARIABLE,) if old else (NEW_VARIABLE, OLD_VARIABLE)
    if any(os.environ.get(variable) for variable in (*variables, "FASTDDS_BUILTIN_TRANSPORTS")):
        return
    if Path(OLD_FILE if old else NEW_FILE).is_file() and not os.environ.get("SKIP_DEFAULT_XML_FILE"):
        return
    try:
        profile = str(share_file("config/fastdds_shm.xml"))
    except ConfigError:
        return
    os.environ[variables[0]] = profile


def _has_fast_dds_2() -> bool:
    """Return whether the installed rclpy uses Fast DDS 2; ROS_DISTRO decides if the version of rclpy is unknown."""
    try:
        return int(version("rclpy").partition(".")[0]) <= LAST_OLD_RCLPY
    except (PackageNotFoundError, ValueError):
        return os.environ.get("ROS_DISTRO", "") in OLD_DISTRIBUTIONS


def describe_other_users() -> str:
    """Describe that messages on this machine may be lost between users; empty if nothing suggests so.

    Fast DDS sends to every process on the same machine through shared memory, which other users cannot write. Topics are still
    discovered, through the network, and no error is logged.
    """
    if "fastrtps" not in rclpy.get_rmw_implementation_identifier() or os.environ.get("FASTDDS_BUILTIN_TRANSPORTS"):
        return ""
    users = set()
    for port in SHARED_MEMORY.glob("fast*_port*"):
        with contextlib.suppress(OSError):  # Its process may just have ended.
            users.add(port.stat().st_uid)
    users.discard(os.geteuid())
    if not users:
        return ""
    return (
        f"; if it runs as another user (uid {', '.join(map(str, sorted(users)))}), its messages are lost in Fast DDS's shared "
        "memory: use the same user, or set FASTDDS_BUILTIN_TRANSPORTS=UDPv4 for one of the two"
    )


def describe_discovery(node: Node) -> str:
    """Describe that no other node is visible, with the settings on which discovery depends; empty if one is."""
    own = (node.get_name(), node.get_namespace())
    others = [name for name, place in node.get_node_names_and_namespaces() if (name, place) != own]
    # Hidden nodes belong to tools, and launch has a node of its own.
    if any(not name.startswith(("_", "launch_ros_")) for name in others):
        return ""
    settings = [f"{name}={one_line(os.environ[name])}" for name in DISCOVERY_VARIABLES if os.environ.get(name)]
    settings.insert(0, f"ROS_DOMAIN_ID={node.context.get_domain_id()}")
    return f"; no other node is visible here with {', '.join(settings)}, which may differ where the camera runs"


def describe_duplicate_name(node: Node) -> str:
    """Describe that other nodes have the full name of this one; empty if none has."""
    count = node.get_node_names_and_namespaces().count((node.get_name(), node.get_namespace()))
    if count < 2:
        return ""
    return (
        f"{count} nodes are named {node.get_fully_qualified_name()}: their outputs, parameters and services are mixed; stop "
        "the others, or start this one with -r __node:=NAME or -r __ns:=/NAMESPACE (one that was killed is visible for 20 s)"
    )
