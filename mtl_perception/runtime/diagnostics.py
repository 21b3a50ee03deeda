"""Diagnostics of the node as a function of a snapshot of its state."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mtl_perception.errors import one_line, truncated_repr
from mtl_perception.messages.raw_input import describe_raw_input
from mtl_perception.runtime.recovery import NOT_FINITE
from mtl_perception.runtime.snapshots import CameraSnapshot, InputSnapshot, Snapshot

ERROR_REASONS = ("device", NOT_FINITE, "internal")
"""Reasons of rejected frames for which the camera is not responsible."""


class Level(enum.IntEnum):
    """Levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class Finding:
    """A problem to report.

    Attributes:
        level: Severity.
        name: Stays the same while the problem lasts.
        text: Message, with values that may change.
        log: Whether to log it if it lasts: not if it was logged when it occurred, or follows from another finding.
    """

    level: Level
    name: str
    text: str
    log: bool = True


@dataclass(frozen=True)
class Status:
    """A diagnostic status.

    Attributes:
        name: Name of the status, without that of the node.
        findings: Problems.
        summary: Message if there are no problems.
        values: Returns the values, which take longer to format.
    """

    name: str
    findings: Sequence[Finding]
    summary: str
    values: Callable[[], dict[str, str]]

    @property
    def level(self) -> Level:
        """Level of the most severe finding."""
        return max((finding.level for finding in self.findings), default=Level.OK)

    @property
    def message(self) -> str:
        """Texts of all findings, the most severe first."""
        ordered = sorted(self.findings, key=lambda finding: finding.level, reverse=True)
        return "; ".join(finding.text for finding in ordered) or self.summary

    @property
    def key(self) -> tuple[str, ...]:
        """Changes when the status is to be published before its period is over."""
        return (self.name, *(finding.name for finding in self.findings)) if self.findings else (self.name, self.summary)


class Schedule:
    """Decides when to publish diagnostics: once per period, and at once when a finding appears or ends.

    Args:
        period: Seconds between two messages.
        check_period: Seconds between two calls of `is_due`.
    """

    def __init__(self, period: float, check_period: float) -> None:
        self._period, self._check_period = period, check_period
        self._published: list[tuple[str, ...]] | None = None
        self._published_at = 0.0

    def is_due(self, statuses: Iterable[Status], now: float) -> bool:
        """Return whether to publish the statuses, which then count as published at `now`, in monotonic seconds."""
        keys = [status.key for status in statuses]
        # Timers are imprecise: a message may be half a check early.
        if keys == self._published and now - self._published_at < self._period - self._check_period / 2:
            return False
        self._published, self._published_at = keys, now
        return True


def evaluate(snapshot: Snapshot) -> list[Status]:
    """Return the statuses of the node: frames, stream and camera for each camera, and network."""
    statuses = []
    for camera in snapshot.cameras:
        statuses += [_frames(snapshot, camera), _stream(snapshot, camera), _camera(snapshot, camera)]
    return [*statuses, _network(snapshot)]


def _frames(snapshot: Snapshot, camera: CameraSnapshot) -> Status:
    statistics, findings = camera.statistics, []
    if camera.input is not None:
        silence, reason = statistics.silence, camera.input.image.silence
        rejection = statistics.recent_rejection(2 * snapshot.image_timeout)
        if silence is None:
            findings.append(Finding(Level.WARN, "no image yet", f"no image received yet: {reason}"))
        elif silence > snapshot.image_timeout:
            findings.append(Finding(Level.STALE, "silence", f"no image for {silence:.1f} s: {reason}"))
        elif rejection:
            level = Level.ERROR if rejection.reason in ERROR_REASONS else Level.WARN
            findings.append(Finding(level, rejection.reason, f"frames dropped: {rejection.text}", log=False))
    summary = snapshot.state if camera.input is None else "processing"
    return Status(_name(camera, "frames"), findings, summary, lambda: {"state": snapshot.state, **statistics.values()})


def _stream(snapshot: Snapshot, camera: CameraSnapshot) -> Status:
    stream, active = camera.stream, camera.input is not None
    findings = [Finding(Level.WARN, name, text) for name, text in stream.anomalies.items()] if active else []

    def values() -> dict[str, str]:
        age = "-" if stream.age is None else f"{stream.age:.3f}"
        return {**{name: str(count) for name, count in stream.counts.items()}, "stamp age at arrival [s]": age}

    return Status(_name(camera, "stream"), findings, "no anomalies" if active else snapshot.state, values)


def _camera(snapshot: Snapshot, camera: CameraSnapshot) -> Status:
    source = camera.input
    if source is None:
        return Status(_name(camera, "camera"), [], snapshot.state, dict)

    def values() -> dict[str, str]:
        values = {
            "image topic": source.image.name,
            "camera_info topic": source.camera_info.name,
            "camera_info frame_id": one_line(source.info_frame_id) if source.info_frame_id else "-",
            "camera_info changes": str(source.info_changes),
            "reliability": "reliable" if source.image.reliable else "best effort",
            "rectified input": str(snapshot.input_rectified),
        }
        if source.image_size is not None:
            values["image size"] = "{}x{}".format(*source.image_size)
        if source.image_frame_id is not None:
            values["image frame_id"] = one_line(source.image_frame_id) if source.image_frame_id else ""
        return values

    findings = [*_calibration_findings(source, snapshot.input_rectified), *_frame_findings(source), *_topic_findings(source)]
    return Status(_name(camera, "camera"), findings, "using camera_info", values)


def _calibration_findings(source: InputSnapshot, rectified: bool) -> list[Finding]:
    state = source.state
    if state.error:
        return [Finding(Level.ERROR, "no model", f"no point cloud: {state.error}")]
    if state.model is None:
        reason = source.camera_info.silence
        text = f"no point cloud: no camera_info received yet: {reason}"
        return [Finding(Level.WARN, "no camera_info", text, log=source.image_size is not None)]
    findings = [Finding(Level.WARN, name, text) for name, text in state.notes.items()]
    if text := describe_raw_input(source.image.name, state.model.calibration, rectified):
        findings.append(Finding(Level.WARN, "raw images", text))
    return findings


def _frame_findings(source: InputSnapshot) -> list[Finding]:
    image_frame, info_frame = source.image_frame_id, source.info_frame_id
    if image_frame is None:
        return []
    findings = [Finding(Level.WARN, "dark", source.image_remark)] if source.image_remark else []
    if image_frame == "":
        text = "images have no frame_id: outputs cannot be transformed to other frames"
        return [*findings, Finding(Level.WARN, "no frame_id", text)]
    if image_frame.startswith("/"):
        text = (
            f"frame_id {truncated_repr(image_frame)} of images starts with a slash, which tf2 refuses: change it in the driver"
        )
        findings.append(Finding(Level.WARN, "frame_id with a slash", text))
    if info_frame is not None and image_frame != info_frame:
        text = f"frame_id of camera_info is {truncated_repr(info_frame)}, that of images is {truncated_repr(image_frame)}"
        findings.append(Finding(Level.WARN, "frame_id", text))
    return findings


def _topic_findings(source: InputSnapshot) -> list[Finding]:
    findings = [Finding(Level.WARN, "remapping", text, log=False) for text in source.ignored_remappings]
    for topic, content in ((source.image, "images"), (source.camera_info, "calibrations")):
        count = len(topic.publishers)
        if count > 1:
            text = f"{topic.name} has {count} publishers ({', '.join(sorted(topic.publishers))}); their {content} are mixed"
            findings.append(Finding(Level.WARN, f"publishers of {content}", text))
    return findings


def _network(snapshot: Snapshot) -> Status:
    network, state = snapshot.network, {"state": snapshot.state}
    findings = [Finding(Level.WARN, "duplicate_name", snapshot.duplicate_name)] if snapshot.duplicate_name else []
    if snapshot.failure:
        failure = Finding(Level.ERROR, snapshot.failure, snapshot.failure, log=False)
        return Status("network", [failure, *findings], "", lambda: state)
    if network is None:
        return Status("network", findings, snapshot.state, lambda: state)
    if network.trouble:
        findings.append(Finding(Level.ERROR, "device", network.trouble, log=False))
    elif network.notes:
        text = "; ".join((network.summary, *network.notes))
        findings.append(Finding(Level.WARN, text, text, log=False))
    return Status("network", findings, network.summary, lambda: network.values)


def _name(camera: CameraSnapshot, name: str) -> str:
    return f"{camera.name}: {name}" if camera.name else name
