"""What exists while the node is configured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from mtl_perception.config import Config
from mtl_perception.messages.encode import MessageEncoder
from mtl_perception.pipeline import Pipeline
from mtl_perception.runtime.interfaces import Camera, Logger
from mtl_perception.runtime.recovery import Recovery
from mtl_perception.runtime.snapshots import NetworkSnapshot

CameraT = TypeVar("CameraT", bound=Camera)


class Session(Generic[CameraT]):
    """Pipeline, encoder, recovery and cameras of a configuration.

    Args:
        config: Parameters.
        cameras: Cameras to process.
        on_stop: Called by the worker thread with the reason if a failed device is to stop the node.
        log: Logger of the node.

    Raises:
        PerceptionError: The pipeline cannot be built.
    """

    def __init__(self, config: Config, cameras: Sequence[CameraT], on_stop: Callable[[str], None], log: Logger) -> None:
        self.pipeline = Pipeline(config=config, reuse_outputs=True)
        self.encoder = MessageEncoder(self.pipeline.class_set, config.overlay_opacity, config.min_confidence)
        self.recovery = Recovery(config.on_device_error, on_stop, log)
        self.cameras = list(cameras)

    @property
    def config(self) -> Config:
        """Current parameters."""
        return self.pipeline.config

    @property
    def batch_limit(self) -> int:
        """Number of images to process together; 1 while the device fails."""
        return 1 if self.recovery.trouble else self.pipeline.batch_limit

    def update(self, **changes: Any) -> None:
        """Change parameters that can change at any time, all or none.

        Raises:
            ConfigError: A value is invalid.
        """
        self.pipeline.update(**changes)
        self.encoder.overlay_opacity = self.config.overlay_opacity
        self.encoder.min_confidence = self.config.min_confidence
        self.recovery.policy = self.config.on_device_error

    def network_snapshot(self) -> NetworkSnapshot:
        """Summarize pipeline and recovery for diagnostics."""
        pipeline, recovery = self.pipeline, self.recovery
        values = {
            "weights": self.config.weights,
            "classes": str(len(pipeline.class_set)),
            "device": str(pipeline.device),
            "precision": pipeline.precision,
            "backend": pipeline.backend,
            "license": pipeline.description.license,
            "device failures": str(recovery.failures),
            "device recoveries": str(recovery.recoveries),
        }
        return NetworkSnapshot(
            summary=f"{pipeline.description.name} on {pipeline.device}",
            values=values,
            trouble=recovery.trouble,
            notes=tuple(filter(None, (recovery.note, *pipeline.notes))),
        )
