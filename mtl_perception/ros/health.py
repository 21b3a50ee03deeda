"""What diagnostics say of the node, and when."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticStatus

from mtl_perception.errors import CameraError, one_line, truncated_repr
from mtl_perception.ros.statistics import ERROR, OK, STALE, WARN, status
from mtl_perception.runtime.recovery import NOT_FINITE

GRAVE = ("device", NOT_FINITE, "internal")
"""Reasons of rejection that are no camera's fault."""
CHECK_PERIOD = 0.1
"""Seconds between two looks at whether there is something new to tell."""

if TYPE_CHECKING:
    from mtl_perception.ros.camera import Camera
    from mtl_perception.ros.camera_input import CameraInput
    from mtl_perception.ros.node import PerceptionNode


@dataclass(frozen=True)
class Finding:
    """Something that an engineer should look at.

    Attributes:
        level: Of DiagnosticStatus.
        name: Stays the same while it lasts.
        text: What it is, with figures that may change.
    """

    level: bytes
    name: str
    text: str


@dataclass(frozen=True)
class Part:
    """A status in the making: what was found, what to say if nothing was, and values, which take longer to collect."""

    name: str
    found: list[Finding]
    fine: str
    values: Callable[[], dict[str, str]]

    @property
    def gist(self) -> tuple[str, ...]:
        """What makes it news when it changes."""
        return (self.name, *(finding.name for finding in self.found)) if self.found else (self.name, self.fine)

    def status(self, node: PerceptionNode) -> DiagnosticStatus:
        """Its level is that of the gravest finding, which its message begins with."""
        name = node.get_fully_qualified_name().lstrip("/")
        found = sorted(self.found, key=lambda finding: finding.level, reverse=True)
        level = found[0].level if found else OK
        message = "; ".join(finding.text for finding in found) or self.fine
        return status(f"{name}: {self.name}", name, level, message, self.values())


class Report:
    """Says when diagnostics are due: each period, and at once when something is found or is over.

    Args:
        period: Seconds.
    """

    def __init__(self, period: float) -> None:
        self._period = period
        self._told: list[tuple[str, ...]] | None = None
        self._told_at = 0.0

    def due(self, node: PerceptionNode) -> list[DiagnosticStatus]:
        """The statuses to publish; none if there is nothing new. To be called every CHECK_PERIOD."""
        parts, now = _parts(node), time.monotonic()
        gist = [part.gist for part in parts]
        # A timer is never quite on time: half a look early is on time.
        if gist == self._told and now - self._told_at < self._period - CHECK_PERIOD / 2:
            return []
        self._told, self._told_at = gist, now
        return [part.status(node) for part in parts]


def _parts(node: PerceptionNode) -> list[Part]:
    return [*(part(node, camera) for camera in node.cameras for part in (_frames, _stream, _camera)), _network(node)]


def _frames(node: PerceptionNode, camera: Camera) -> Part:
    source, statistics = camera.input, camera.statistics
    found = []
    silence = statistics.silence()
    refused = statistics.rejected_lately(2 * node.config.image_timeout)
    if source is not None:
        if silence is None:
            found.append(Finding(WARN, "no picture yet", f"no picture yet: {source.images.why_silent()}"))
        elif silence > node.config.image_timeout:
            found.append(Finding(STALE, "silence", f"no picture for {silence:.1f} s: {source.images.why_silent()}"))
        elif refused:
            level = ERROR if refused.reason in GRAVE else WARN
            found.append(Finding(level, refused.reason, f"frames dropped: {refused.text}"))
    return Part(
        _of(camera, "frames"),
        found,
        "processing" if source is not None else node.state_name,
        lambda: {"state": node.state_name, **statistics.values()},
    )


def _stream(node: PerceptionNode, camera: Camera) -> Part:
    watch, source = camera.watch, camera.input
    odd = watch.oddities(time.monotonic(), node.config.image_timeout) if source is not None else {}

    def values() -> dict[str, str]:
        names = (watch.REPEATED, watch.BACK, watch.CHANGED)
        age = "-" if watch.last is None else f"{watch.last.age:.3f}"
        return {**{name: str(watch.counts[name]) for name in names}, "age of stamp at arrival [s]": age}

    found = [Finding(WARN, name, text) for name, text in odd.items()]
    return Part(_of(camera, "stream"), found, "nothing odd" if source is not None else node.state_name, values)


def _camera(node: PerceptionNode, camera: Camera) -> Part:
    source = camera.input
    if source is None:
        return Part(_of(camera, "camera"), [], node.state_name, dict)
    found = [*_calibration(node, camera, source), *_topics(source)]
    size = camera.last_size

    def values() -> dict[str, str]:
        values = {
            "image topic": source.images.topic,
            "camera_info topic": source.infos.topic,
            "camera_info frame_id": one_line(source.frame_id) if source.frame_id else "-",
            "camera_info changes": str(source.changes),
            "reliability": "reliable" if source.images.is_reliable else "best effort",
            "rectified input": str(node.config.input_rectified),
        }
        if size is not None:
            values["picture"] = f"{size[0]}x{size[1]}"
        if camera.last_frame_id is not None:
            values["picture frame_id"] = one_line(camera.last_frame_id) if camera.last_frame_id else ""
        return values

    return Part(_of(camera, "camera"), found, "camera_info in use", values)


def _calibration(node: PerceptionNode, camera: Camera, source: CameraInput) -> list[Finding]:
    size, frame_id = camera.last_size, camera.last_frame_id
    found = []
    state = source.state(size, node.config.input_rectified)
    if state is None:
        found.append(Finding(WARN, "no camera_info", f"no point cloud: no camera_info yet: {source.infos.why_silent()}"))
    elif isinstance(state, CameraError):
        found.append(Finding(ERROR, "no model", f"no point cloud: {state}"))
    elif size is not None and (note := source.note(*size)):
        found.append(Finding(WARN, "scaled", note))
    if frame_id == "":
        found.append(Finding(WARN, "no frame_id", "pictures have no frame_id: no transform can be found for the outputs"))
    elif frame_id is not None and source.frame_id is not None and source.frame_id != frame_id:
        text = f"camera_info is of frame {truncated_repr(source.frame_id)}, the picture of {truncated_repr(frame_id)}"
        found.append(Finding(WARN, "frame_id", text))
    return found


def _topics(source: CameraInput) -> list[Finding]:
    found = [Finding(WARN, "remapping", text) for text in source.ignored]
    for subscription, what in ((source.images, "pictures"), (source.infos, "calibrations")):
        nodes = subscription.publishers
        if len(nodes) > 1:
            text = f"{subscription.topic} has {len(nodes)} publishers ({', '.join(sorted(nodes))}), whose {what} are mixed"
            found.append(Finding(WARN, f"publishers of {what}", text))
    return found


def _network(node: PerceptionNode) -> Part:
    pipeline, state = node.pipeline, {"state": node.state_name}
    if node.failure:
        return Part("network", [Finding(ERROR, node.failure, node.failure)], "", lambda: state)
    if pipeline is None:
        return Part("network", [], node.state_name, lambda: state)
    values = {
        "weights": node.config.weights,
        "classes": str(len(pipeline.class_set)),
        "device": str(pipeline.device),
        "precision": pipeline.precision,
        "backend": pipeline.backend,
        "license": pipeline.description.license,
        "device failures": str(node.recovery.failures),
        "device recoveries": str(node.recovery.recoveries),
    }
    fine = f"{pipeline.description.name} on {pipeline.device}"
    if node.recovery.trouble:
        return Part("network", [Finding(ERROR, "device", node.recovery.trouble)], fine, lambda: values)
    notes = list(filter(None, (node.recovery.note, *pipeline.notes)))
    text = "; ".join((fine, *notes))
    found = [Finding(WARN, text, text)] if notes else []
    return Part("network", found, fine, lambda: values)


def _of(camera: Camera, name: str) -> str:
    """With several cameras, each has statuses under its name."""
    return f"{camera.name}: {name}" if camera.name else name
