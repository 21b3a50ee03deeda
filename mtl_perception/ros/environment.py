"""What must be set before rclpy starts."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import rclpy

from mtl_perception.errors import ConfigError
from mtl_perception.resources import share_file

# What Fast DDS 2 reads (Humble to Jazzy), and what Fast DDS 3 reads (Kilted and newer; the old variable too, with a warning):
# a variable, and a file in the working directory.
OLD_VARIABLE, NEW_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"
OLD_FILE, NEW_FILE = "DEFAULT_FASTRTPS_PROFILES.xml", "DEFAULT_FASTDDS_PROFILES.xml"
OLD_DISTRIBUTIONS = ("humble", "iron", "jazzy")
LAST_OLD_RCLPY = 7


def initialize(arguments: list[str]) -> None:
    """Start rclpy, its middleware prepared.

    Args:
        arguments: Of the command line, the program's name first.

    Raises:
        ConfigError: The ROS arguments cannot be read.
    """
    prepare_middleware()
    try:
        rclpy.init(args=arguments)
    except Exception as error:  # unreadable files and wrong arguments raise several kinds of private modules
        raise ConfigError(f"ROS arguments {' '.join(arguments[1:])}: {' '.join(str(error).split())}") from error


def prepare_middleware() -> None:
    """Give Fast DDS a shared-memory segment that holds clouds, unless the user set a profile that it reads.

    Its default of 512 KiB loses most messages of a picture's size and more. Other middlewares ignore the setting.
    """
    old = _has_fast_dds_2()
    # Not the new variable where nothing reads it: who sets it there has no profile.
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
    """By the rclpy that is there, whatever was sourced; by the distribution where its version is not told."""
    try:
        return int(version("rclpy").partition(".")[0]) <= LAST_OLD_RCLPY
    except (PackageNotFoundError, ValueError):
        return os.environ.get("ROS_DISTRO", "") in OLD_DISTRIBUTIONS
