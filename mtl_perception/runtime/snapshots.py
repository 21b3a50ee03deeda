"""State of the node at one moment, from which diagnostics are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mtl_perception.runtime.calibrations import CameraState
from mtl_perception.runtime.statistics import StatisticsSnapshot
from mtl_perception.runtime.stream_monitor import StreamSnapshot


@dataclass(frozen=True)
class TopicSnapshot:
    """A subscribed topic.

    Attributes:
        name: Full name.
        publishers: Full names of the publishing nodes.
        reliable: Whether the subscription is reliable.
        silence: Why no messages arrive; empty while they do.
    """

    name: str
    publishers: Sequence[str] = ()
    reliable: bool = True
    silence: str = ""


@dataclass(frozen=True)
class InputSnapshot:
    """The subscriptions of a camera while the node is active.

    Attributes:
        image: Topic of the images.
        camera_info: Topic of the calibration.
        state: Camera model for the latest image.
        image_size: Width and height of the latest image in pixels; None before the first.
        image_frame_id: frame_id of the latest image; None before the first.
        image_remark: Remark on the values of the latest image; usually empty.
        info_frame_id: frame_id of the latest CameraInfo; None before the first.
        info_changes: Number of times that the calibration changed.
        ignored_remappings: Messages about remappings without effect.
    """

    image: TopicSnapshot
    camera_info: TopicSnapshot
    state: CameraState
    image_size: tuple[int, int] | None = None
    image_frame_id: str | None = None
    image_remark: str = ""
    info_frame_id: str | None = None
    info_changes: int = 0
    ignored_remappings: Sequence[str] = ()


@dataclass(frozen=True)
class CameraSnapshot:
    """A camera; `input` is None unless the node is active."""

    name: str
    statistics: StatisticsSnapshot = field(default_factory=StatisticsSnapshot)
    stream: StreamSnapshot = field(default_factory=StreamSnapshot)
    input: InputSnapshot | None = None


@dataclass(frozen=True)
class NetworkSnapshot:
    """The network while the node is configured.

    Attributes:
        summary: Name and device.
        values: Diagnostic values.
        trouble: Why the device does not work at present; empty if it works.
        notes: Remarks of recovery and pipeline.
    """

    summary: str
    values: dict[str, str]
    trouble: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Snapshot:
    """State of the node.

    Attributes:
        state: Lifecycle state.
        failure: Why the last transition failed; empty if it did not.
        image_timeout: Parameter in seconds.
        input_rectified: Parameter.
        cameras: All cameras.
        network: None while the node is unconfigured.
        duplicate_name: Description of other nodes with the name of this one; empty if there are none.
    """

    state: str
    failure: str
    image_timeout: float
    input_rectified: bool
    cameras: Sequence[CameraSnapshot]
    network: NetworkSnapshot | None
    duplicate_name: str = ""
