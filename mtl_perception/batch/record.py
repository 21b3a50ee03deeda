"""The settings that an output was made with, stored in the output itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from mtl_perception.batch.settings import Settings
from mtl_perception.config import parameters
from mtl_perception.errors import SourceError
from mtl_perception.sources.bag.mcap import McapFile, NoIndexError
from mtl_perception.sources.bag.scan import DamageError
from mtl_perception.version import __version__
from mtl_perception.weights.registry import resolve, sha256

RECORD_FILE = "process.json"
"""File of the record in a data set."""

KEY = "mtl_perception"
"""Key of the record in the custom data of a bag."""

NOT_COMPARED = frozenset({"weights", "device", "backend", "cpu_threads", "cuda_graph", "cudnn_benchmark", "warm_up"})
"""Parameters that decide where and how fast the network runs; and the weights, of which the content counts."""


@dataclass(frozen=True)
class Record:
    """How an output was made.

    Attributes:
        settings: What the content depends on, by name; see `describe_settings`.
        frames: Number of frames.
        version: Version of this package.
    """

    settings: Mapping[str, object]
    frames: int
    version: str = __version__

    def to_json(self) -> str:
        """Return the record as JSON."""
        return json.dumps(vars(self))

    def difference(self, wanted: Mapping[str, object]) -> str:
        """Return which settings differ, as "max_depth 80.0 -> 40.0, …"; "" if none does."""
        names = [name for name in {**wanted, **self.settings} if self.settings.get(name) != wanted.get(name)]
        return ", ".join(f"{name} {_shorten(self.settings.get(name))} -> {_shorten(wanted.get(name))}" for name in names)


def describe_settings(settings: Settings) -> dict[str, object]:
    """Return what the content of an output depends on besides its source, as values of JSON.

    These are SHA-256 of the weights and of the calibration file, the parameters except `NOT_COMPARED`, and the outputs.

    Raises:
        WeightsError: There are no such weights.
        SourceError: The calibration file cannot be read.
    """
    values = {row.name: getattr(settings.config, row.name) for row in parameters() if not row.node_only}
    camera = settings.camera_file
    described = {
        "weights": sha256(resolve(settings.config.weights)),
        **{name: value for name, value in values.items() if name not in NOT_COMPARED},
        "images": settings.images,
        "topics": [] if settings.images else sorted(settings.topics),
        "with_input": settings.with_input,
        "camera": "" if camera is None else _digest(camera),
        "image_topic": settings.image_topic,
        "camera_info_topic": settings.camera_info_topic,
    }
    # As it is read again: lists for tuples.
    result: dict[str, object] = json.loads(json.dumps(described))
    return result


def read_record(output: Path) -> Record | None:
    """Return the record of a finished output; None if it is not an output of `process`."""
    try:
        if output.is_dir():
            text = (output / RECORD_FILE).read_text("utf-8")
        else:
            information = yaml.safe_load(McapFile(output).metadata("rosbag2")["serialized_metadata"])
            text = information["custom_data"][KEY]
        values = json.loads(text)
        return Record(dict(values["settings"]), int(values["frames"]), str(values["version"]))
    except (OSError, DamageError, NoIndexError, yaml.YAMLError, LookupError, TypeError, ValueError):
        return None


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.expanduser().read_bytes()).hexdigest()
    except OSError as error:
        raise SourceError(f"calibration file {path} cannot be read: {error.strerror}") from None


def _shorten(value: object) -> str:
    """Return a value as text; of a digest, the beginning."""
    text = " ".join(map(str, value)) if isinstance(value, list) else str("" if value is None else value)
    text = text or "(none)"
    return text[:12] if len(text) == 64 else text
