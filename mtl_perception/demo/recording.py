"""Reader of the demo's recording."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtl_perception.messages.decode import decode_cloud, decode_depth, decode_image, stamp_ns
from mtl_perception.messages.topics import NODE_NAME
from mtl_perception.pipeline import Pipeline
from mtl_perception.sources.bag.outputs import RecordedOutputs
from mtl_perception.sources.bag.reader import deserialize, open_bag
from mtl_perception.visualization.report import TopicRow
from mtl_perception.visualization.rerun import RerunFile, RerunLog, RerunOptions

NODE = f"/{NODE_NAME}"
IMAGE, OVERLAY, DEPTH = "/image", f"{NODE}/segmentation/overlay", f"{NODE}/depth/image"
CLOUD = f"{NODE}/points"


@dataclass
class RecordedFrame:
    """A recorded input image with its outputs.

    Attributes:
        stamp_ns: Stamp, nanoseconds.
        image: H x W x 3 uint8 RGB.
        overlay: h x w x 3 uint8 RGB.
        depth: h x w float32 meters.
    """

    stamp_ns: int
    image: np.ndarray
    overlay: np.ndarray
    depth: np.ndarray


@dataclass
class _Times:
    kind: str
    stamps: list[int] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)


class Recording:
    """A recorded run of the node.

    Args:
        path: Bag.

    Raises:
        SourceError: The bag cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._bag = open_bag(path)

    def _messages(self, *topics: str) -> Iterator[tuple[str, int, Any]]:
        for record in self._bag.messages(set(topics) & set(self._bag.topics)):
            yield record.topic, record.time_ns, deserialize(record)

    def frames(self) -> Iterator[RecordedFrame]:
        """Yield the frames whose image, overlay and depth were all recorded, in the order of their stamps."""
        parts: dict[int, dict[str, np.ndarray]] = {}
        for topic, _, message in self._messages(IMAGE, OVERLAY, DEPTH):
            stamp = stamp_ns(message.header)
            found = parts.setdefault(stamp, {})
            found[topic] = decode_depth(message) if topic == DEPTH else decode_image(message)
            if len(found) == 3:
                # Older incomplete frames were replaced in the node and never become complete.
                parts = {key: value for key, value in parts.items() if key > stamp}
                yield RecordedFrame(stamp, found[IMAGE], found[OVERLAY], found[DEPTH])

    def cloud(self, stamp: int) -> np.ndarray | None:
        """Return the cloud with a stamp, H x W of CLOUD_DTYPE, or None if it was not recorded."""
        for _, _, message in self._messages(CLOUD):
            if stamp_ns(message.header) == stamp:
                cloud: np.ndarray = decode_cloud(message).copy()
                return cloud
        return None

    def topics(self) -> list[TopicRow]:
        """Return message count, rate by stamps and latency (stamp to arrival at the recorder) of each topic."""
        times = {name: _Times(topic.type) for name, topic in self._bag.topics.items()}
        for topic, time_ns, message in self._messages(*times):
            # Messages without a header have no latency.
            stamp = stamp_ns(message.header) if hasattr(message, "header") else time_ns
            times[topic].stamps.append(stamp)
            if hasattr(message, "header"):
                times[topic].latencies.append((time_ns - stamp) / 1e6)
        return [_row(name, entry) for name, entry in sorted(times.items()) if entry.stamps]

    def counts(self) -> dict[str, str]:
        """Return the node's counts from its last diagnostics."""
        counts: dict[str, str] = {}
        for _, _, message in self._messages("/diagnostics"):
            for status in message.status:
                if status.name.endswith(": frames"):
                    counts = {value.key: value.value for value in status.values}
        return counts


def write_rerun(bag: Path, path: Path, pipeline: Pipeline, options: RerunOptions) -> None:
    """Write the outputs in a recording as a recording for Rerun, which replaces an existing one.

    Raises:
        SourceError: The bag cannot be read, or the file cannot be written.
    """
    recorded = RecordedOutputs(bag, NODE)
    classes = recorded.class_set or pipeline.class_set
    log = RerunLog(path.stem, classes, pipeline.max_depth, options, recorded.image_has_labels)
    with RerunFile(log, path, force=True):
        for stamp, outputs in recorded:
            log.log(outputs, stamp)


def _row(name: str, times: _Times) -> TopicRow:
    span = (max(times.stamps) - min(times.stamps)) / 1e9
    latencies = sorted(times.latencies)
    return TopicRow(
        name=name,
        type=times.kind,
        messages=len(times.stamps),
        rate_hz=(len(times.stamps) - 1) / span if span > 0 else None,
        latency_median_ms=statistics.median(latencies) if latencies else None,
        latency_p95_ms=latencies[int(0.95 * (len(latencies) - 1))] if latencies else None,
    )
