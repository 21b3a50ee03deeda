"""Finds the files that lie beside the package: `config/…`, `launch/…`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mtl_perception.errors import ConfigError

PACKAGE = "mtl_perception"


def share_file(relative: str) -> Path:
    """The file `relative` (such as "config/perception.yaml") of a checkout, of a ROS workspace or of this Python's prefix.

    Raises:
        ConfigError: It is in none of them; the message names where was looked.
    """
    places = _places()
    for place in places:
        if (place / relative).is_file():
            return place / relative
    raise ConfigError(
        f"cannot find {relative} of {PACKAGE}, looked in {', '.join(map(str, places))}; "
        "install the package, or source the workspace that holds it"
    )


def _places() -> list[Path]:
    prefixes = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
    return [Path(__file__).resolve().parents[1], *(Path(prefix) / "share" / PACKAGE for prefix in prefixes)]
