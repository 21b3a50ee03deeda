"""What must be set before rclpy starts."""

from __future__ import annotations

import os

import rclpy

from mtl_perception.errors import ConfigError
from mtl_perception.resources import share_file

# Jazzy and older read the first, Kilted and newer the second.
FASTDDS_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def initialise(arguments: list[str]) -> None:
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
    """Give Fast DDS a shared-memory segment that holds clouds, unless the user set a profile.

    Its default of 512 KiB loses most messages of a picture's size and more. Other middlewares ignore the setting.
    """
    if any(os.environ.get(variable) for variable in (*FASTDDS_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS")):
        return
    try:
        profile = str(share_file("config/fastdds_shm.xml"))
    except ConfigError:
        return
    # Newer ones warn when they find the old name, so only the one that this distribution reads is set.
    old = os.environ.get("ROS_DISTRO", _distribution_of_wheels()) in ("humble", "iron", "jazzy")
    os.environ[FASTDDS_VARIABLES[0 if old else 1]] = profile


def _distribution_of_wheels() -> str:
    """Without a sourced ROS: jazzy, if rclpy's version says so."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return "jazzy" if version("rclpy").startswith("7.") else "newer"
    except PackageNotFoundError:
        return "newer"
