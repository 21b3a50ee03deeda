"""Lookup of files installed beside the package: `config/…`, `launch/…`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mtl_perception.errors import ConfigError

PACKAGE = "mtl_perception"


def share_file(relative: str) -> Path:
    """Return the path of a file such as "config/perception.yaml" in a checkout, a ROS workspace or this Python's prefix.

    Raises:
        ConfigError: The file is in none of them; the message lists the searched folders.
    """
    places = _places()
    for place in places:
        if (place / relative).is_file():
            return place / relative
    raise ConfigError(
        f"cannot find {relative} of {PACKAGE} in {', '.join(map(str, places))}; "
        "install the package, or source the workspace that contains it"
    )


def _places() -> list[Path]:
    prefixes = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
    return [Path(__file__).resolve().parents[1], *(Path(prefix) / "share" / PACKAGE for prefix in prefixes)]
