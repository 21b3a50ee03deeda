"""The OpenVINO package and its one runtime."""

from __future__ import annotations

from functools import cache
from typing import Any

from mtl_perception.errors import ConfigError, one_line


def import_openvino() -> Any:
    """Return the package.

    Raises:
        ConfigError: It is not installed, or does not load.
    """
    try:
        import openvino
    except ImportError as error:
        raise ConfigError(
            f"backend openvino cannot be loaded: {one_line(error)}; install it with: pip install 'mtl_perception[openvino]', "
            "or use backend auto or torch"
        ) from error
    return openvino


def is_installed() -> bool:
    """Return whether the package is installed and loads."""
    try:
        import_openvino()
    except ConfigError:
        return False
    return True


@cache
def shared_core() -> Any:
    """Return the only `openvino.Core` of the process, which is never freed.

    OpenVINO's CPU plugin gives the thread that creates it an alternate signal stack, and restores the one before when it is
    freed. Of two plugins, freed in the order of their creation, the second one restores the stack that the first one has
    unmapped, and the next signal that Python handles ends the process with SIGSEGV.

    Raises:
        ConfigError: OpenVINO is not installed, or does not load.
    """
    return import_openvino().Core()
