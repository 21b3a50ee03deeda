"""What diagnostics say of the node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticStatus

from mtl_perception.errors import CameraError
from mtl_perception.ros.statistics import ERROR, OK, STALE, WARN, status

GRAVE = ("device", "internal")
"""Reasons of rejection that are no camera's fault."""

if TYPE_CHECKING:
    from mtl_perception.ros.node import PerceptionNode


def health(node: PerceptionNode) -> list[DiagnosticStatus]:
    """The node's three statuses: frames, camera, network."""
    return [_frames(node), _camera(node), _network(node)]


def _frames(node: PerceptionNode) -> DiagnosticStatus:
    camera, statistics = node.camera, node.statistics
    level, text = OK, "processing"
    silence = statistics.silence()
    refused = statistics.rejected_lately(2 * node.config.image_timeout)
    if camera is None:
        text = node.state_name
    elif silence is None:
        level, text = WARN, f"no picture yet: {camera.images.why_silent()}"
    elif silence > node.config.image_timeout:
        level, text = STALE, f"no picture for {silence:.1f} s"
    elif refused:
        level = ERROR if refused.reason in GRAVE else WARN
        text = f"frames dropped: {refused.text}"
    values = {"state": node.state_name, **statistics.values()}
    return _status(node, "frames", level, text, values)


def _camera(node: PerceptionNode) -> DiagnosticStatus:
    camera = node.camera
    if camera is None:
        return _status(node, "camera", OK, node.state_name, {})
    level, text = OK, "camera_info in use"
    note = ""
    size = node.last_size
    state = camera.state(size, node.config.input_rectified)
    if state is None:
        level, text = WARN, "no point cloud: no camera_info yet"
    elif isinstance(state, CameraError):
        level, text = ERROR, f"no point cloud: {state}"
    values = {
        "image topic": camera.images.topic,
        "camera_info topic": camera.infos.topic,
        "camera_info frame_id": camera.frame_id or "-",
        "reliability": "reliable" if camera.images.is_reliable else "best effort",
        "rectified input": str(node.config.input_rectified),
    }
    if size is not None:
        values["picture"] = f"{size[0]}x{size[1]}"
        note = camera.note(*size)
    if node.last_frame_id is not None:
        values["picture frame_id"] = node.last_frame_id
        if camera.frame_id is not None and camera.frame_id != node.last_frame_id:
            note = f"camera_info is of frame {camera.frame_id!r}, the picture of {node.last_frame_id!r}"
    if level == OK and note:
        level, text = WARN, note
    return _status(node, "camera", level, text, values)


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
        "licence": pipeline.description.licence,
    }
    return _status(node, "network", OK, f"{pipeline.description.name} on {pipeline.device}", values)


def _status(node: PerceptionNode, part: str, level: bytes, text: str, values: dict[str, str]) -> DiagnosticStatus:
    name = node.get_fully_qualified_name().lstrip("/")
    return status(f"{name}: {part}", name, level, text, values)
