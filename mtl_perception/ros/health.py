"""What diagnostics say of the node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticStatus

from mtl_perception.errors import CameraError
from mtl_perception.ros.statistics import ERROR, OK, STALE, WARN, status

GRAVE = ("device", "not_finite", "internal")
"""Reasons of rejection that are no camera's fault."""

if TYPE_CHECKING:
    from mtl_perception.ros.camera import Camera
    from mtl_perception.ros.node import PerceptionNode


def health(node: PerceptionNode) -> list[DiagnosticStatus]:
    """The node's statuses: frames and camera, of each camera, and network."""
    parts = [part(node, camera) for camera in node.cameras for part in (_frames, _camera)]
    return [*parts, _network(node)]


def _frames(node: PerceptionNode, camera: Camera) -> DiagnosticStatus:
    source, statistics = camera.input, camera.statistics
    level, text = OK, "processing"
    silence = statistics.silence()
    refused = statistics.rejected_lately(2 * node.config.image_timeout)
    if source is None:
        text = node.state_name
    elif silence is None:
        level, text = WARN, f"no picture yet: {source.images.why_silent()}"
    elif silence > node.config.image_timeout:
        level, text = STALE, f"no picture for {silence:.1f} s"
    elif refused:
        level = ERROR if refused.reason in GRAVE else WARN
        text = f"frames dropped: {refused.text}"
    values = {"state": node.state_name, **statistics.values()}
    return _status(node, _part(camera, "frames"), level, text, values)


def _camera(node: PerceptionNode, camera: Camera) -> DiagnosticStatus:
    source = camera.input
    if source is None:
        return _status(node, _part(camera, "camera"), OK, node.state_name, {})
    level, text = OK, "camera_info in use"
    note = ""
    size = camera.last_size
    state = source.state(size, node.config.input_rectified)
    if state is None:
        level, text = WARN, "no point cloud: no camera_info yet"
    elif isinstance(state, CameraError):
        level, text = ERROR, f"no point cloud: {state}"
    values = {
        "image topic": source.images.topic,
        "camera_info topic": source.infos.topic,
        "camera_info frame_id": source.frame_id or "-",
        "reliability": "reliable" if source.images.is_reliable else "best effort",
        "rectified input": str(node.config.input_rectified),
    }
    if size is not None:
        values["picture"] = f"{size[0]}x{size[1]}"
        note = source.note(*size)
    if camera.last_frame_id is not None:
        values["picture frame_id"] = camera.last_frame_id
        if source.frame_id is not None and source.frame_id != camera.last_frame_id:
            note = f"camera_info is of frame {source.frame_id!r}, the picture of {camera.last_frame_id!r}"
    if level == OK and note:
        level, text = WARN, note
    return _status(node, _part(camera, "camera"), level, text, values)


def _network(node: PerceptionNode) -> DiagnosticStatus:
    if node.failure:
        return _status(node, "network", ERROR, node.failure, {"state": node.state_name})
    pipeline = node.pipeline
    if pipeline is None:
        return _status(node, "network", OK, node.state_name, {"state": node.state_name})
    values = {
        "weights": node.config.weights,
        "classes": str(len(pipeline.class_set)),
        "device": str(pipeline.device),
        "precision": pipeline.precision,
        "backend": pipeline.backend,
        "licence": pipeline.description.licence,
        "device failures": str(node.recovery.failures),
        "device recoveries": str(node.recovery.recoveries),
    }
    if node.recovery.trouble:
        return _status(node, "network", ERROR, node.recovery.trouble, values)
    notes = list(filter(None, (node.recovery.note, *pipeline.notes)))
    text = "; ".join((f"{pipeline.description.name} on {pipeline.device}", *notes))
    return _status(node, "network", WARN if notes else OK, text, values)


def _part(camera: Camera, name: str) -> str:
    """With several cameras, each has statuses under its name."""
    return f"{camera.name}: {name}" if camera.name else name


def _status(node: PerceptionNode, part: str, level: bytes, text: str, values: dict[str, str]) -> DiagnosticStatus:
    name = node.get_fully_qualified_name().lstrip("/")
    return status(f"{name}: {part}", name, level, text, values)
