"""The lifecycle node: pictures in; segmentation, depth and points out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile

from mtl_perception.errors import PerceptionError
from mtl_perception.messages.outputs import NODE_NAME, Encoder
from mtl_perception.pipeline import Pipeline
from mtl_perception.ros import parameters
from mtl_perception.ros.camera import Camera
from mtl_perception.ros.health import health
from mtl_perception.ros.transitions import refuse_impossible_transitions
from mtl_perception.ros.worker import Worker

STOP_TIMEOUT = 3.0
"""Seconds that a frame in work is waited for at the end of the process."""


class PerceptionNode(LifecycleNode):
    """Perception for one camera, or for several by one network.

    The executor's thread only takes pictures in and leaves the newest of each camera in a mailbox; a worker takes it from
    there through decoding, pipeline and publishing. Parameters: see `mtl_perception.config`.

    Args:
        arguments: The command line's, as rclpy took them, where they are for this node alone: an unknown name is then refused.
        options: Those of rclpy's nodes.

    Raises:
        ConfigError: A parameter given at start does not fit, or has an unknown name.
    """

    def __init__(self, arguments: Sequence[str] = (), **options: Any) -> None:
        super().__init__(NODE_NAME, **options)
        refuse_impossible_transitions(self)
        own = [*arguments, "--", *(options.get("cli_args") or ())]
        self.config = parameters.declare(self, own, options.get("parameter_overrides"))
        self.failure = ""
        self.state_name = "unconfigured"
        self.pipeline: Pipeline | None = None
        self.encoder: Encoder | None = None
        self.cameras: list[Camera] = []
        self._make_cameras()
        self._worker: Worker | None = None
        self._guard = parameters.ChangeGuard(self, lambda: self.state_name == "unconfigured", self._apply)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))
        self._diagnostics_timer: Any = None
        self._schedule_diagnostics()

    # Transitions. rclpy swallows what they raise, so each reports its own failure.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters, load the network, create the publishers."""
        started = time.monotonic()
        try:
            self.config = parameters.read(self)
            self.pipeline = Pipeline(config=self.config, reuse_outputs=True)
            self.encoder = Encoder(self.pipeline.class_set, self.config.overlay_opacity)
            self._make_cameras()
            for camera in self.cameras:
                camera.create_outputs(self.config)
        except Exception as error:
            self._release()
            return self._failed("configure", error)
        self._schedule_diagnostics()
        self.failure, self.state_name = "", "inactive"
        self.get_logger().info(
            f"weights {self.pipeline.description.name!r} ({len(self.pipeline.class_set)} classes) on {self.pipeline.device}, "
            f"{self.pipeline.precision}, ready after {time.monotonic() - started:.1f} s. "
            f"Licence of the weights: {self.pipeline.description.licence}"
        )
        for note in self.pipeline.notes:
            self.get_logger().warning(note)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start to work."""
        try:
            super().on_activate(state)
            self._worker = Worker(self)
            self._worker.start()
            for number, camera in enumerate(self.cameras):
                if self.encoder is not None:
                    camera.publish_label_info(self.encoder)
                camera.listen(self.config, partial(self._worker.put, number))
        except Exception as error:
            self._stop()
            super().on_deactivate(state)
            return self._failed("activate", error)
        self.failure, self.state_name = "", "active"
        inputs = [camera.input for camera in self.cameras if camera.input is not None]
        topics = [f"{source.images.topic}, camera_info on {source.infos.topic}" for source in inputs]
        self.get_logger().info(f"waiting for pictures on {'; on '.join(topics)}")
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and stop working."""
        self._stop()
        self.state_name = "inactive"
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of network and publishers."""
        self._release()
        self.state_name = "unconfigured"
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and let go, from whatever state."""
        self._stop()
        self._release()
        self.state_name = "finalized"
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a transition went wrong: back to unconfigured, where parameters can be mended."""
        self._stop()
        self._release()
        self.state_name = "unconfigured"
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> bool:
        """Stop, for the end of the process, when transitions are no longer possible; False if a frame is still in work."""
        worker = self._worker
        self._stop(STOP_TIMEOUT)
        return worker is None or not worker.is_alive()

    def _failed(self, transition: str, error: Exception) -> TransitionCallbackReturn:
        known = isinstance(error, PerceptionError)
        self.failure = str(error) if known else f"{type(error).__name__}: {error}"
        self.get_logger().error(f"cannot {transition}: {self.failure}")
        return TransitionCallbackReturn.FAILURE

    def _stop(self, timeout: float | None = None) -> None:
        for camera in self.cameras:
            camera.stop_listening()
        if self._worker is not None:
            self._worker.close()
            # To the end, as a rule: the pipeline is not for two threads.
            self._worker.join(timeout)
            self._worker = None

    def _release(self) -> None:
        for camera in self.cameras:
            camera.destroy_outputs()
        on_gpu = self.pipeline is not None and self.pipeline.device.type == "cuda"
        self.pipeline = self.encoder = None
        if on_gpu:
            try:
                torch.cuda.empty_cache()
            except RuntimeError as error:
                # A device that has failed gives nothing back before the process ends.
                self.get_logger().warning(f"the GPU's memory could not be given back: {error}")

    def _make_cameras(self) -> None:
        """Those of the configuration, with nothing counted yet."""
        self.cameras = [Camera(self, name) for name in self.config.cameras or ("",)]

    def _apply(self, changes: dict[str, Any]) -> None:
        """Take over parameters that can change at any time."""
        if self.pipeline is None or self.encoder is None:
            return
        self.pipeline.update(**changes)
        self.config = self.pipeline.config
        self.encoder.overlay_opacity = self.config.overlay_opacity

    # Diagnostics.

    def _schedule_diagnostics(self) -> None:
        if self._diagnostics_timer is not None:
            self.destroy_timer(self._diagnostics_timer)
        # By the steady clock: diagnostics go on while simulated time stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics_timer = self.create_timer(self.config.diagnostics_period, self._publish_diagnostics, clock=steady)

    def _publish_diagnostics(self) -> None:
        message = DiagnosticArray(status=health(self))
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)
