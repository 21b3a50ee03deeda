"""The lifecycle node: pictures in; segmentation, depth and points out."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile
from std_msgs.msg import Header

from mtl_perception.errors import DeviceError, FrameError, PerceptionError
from mtl_perception.geometry.camera import CameraModel
from mtl_perception.messages.decode import stamp_ns
from mtl_perception.messages.outputs import NODE_NAME, OUTPUT_TOPICS, Encoder, needed_results
from mtl_perception.pipeline import Pipeline
from mtl_perception.ros import parameters
from mtl_perception.ros.camera_input import CameraInput
from mtl_perception.ros.convert import MESSAGE_TYPES, to_message, to_rgb
from mtl_perception.ros.health import health
from mtl_perception.ros.mailbox import Mailbox
from mtl_perception.ros.qos import keep_last, output_profile
from mtl_perception.ros.statistics import Statistics
from mtl_perception.ros.transitions import refuse_impossible_transitions
from mtl_perception.types import Frame

LOG_PERIOD = 5.0
"""Seconds between two log lines on bad frames."""
STOP_TIMEOUT = 3.0
"""Seconds that a frame in work is waited for at the end of the process."""


class PerceptionNode(LifecycleNode):
    """One camera's perception.

    The executor's thread only takes pictures in and leaves the newest in a mailbox; a worker takes it from there through
    decoding, pipeline and publishing. Parameters: see `mtl_perception.config`.

    Raises:
        ConfigError: A parameter given at start does not fit.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(NODE_NAME, **options)
        refuse_impossible_transitions(self)
        self.config = parameters.declare(self)
        self.statistics = Statistics()
        self.failure = ""
        self.state_name = "unconfigured"
        self.last_size: tuple[int, int] | None = None
        self.last_frame_id: str | None = None
        self.pipeline: Pipeline | None = None
        self.camera: CameraInput | None = None
        self._encoder: Encoder | None = None
        self._outputs: dict[str, Any] = {}
        self._worker: threading.Thread | None = None
        self._mailbox: Mailbox[tuple[Any, float]] = Mailbox()
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
            self._encoder = Encoder(self.pipeline.class_set, self.config.overlay_opacity)
            self._create_outputs()
        except Exception as error:
            self._release()
            return self._failed("configure", error)
        self.statistics = Statistics()
        self._schedule_diagnostics()
        self.failure, self.state_name = "", "inactive"
        self.get_logger().info(
            f"weights {self.pipeline.description.name!r} ({len(self.pipeline.class_set)} classes) on {self.pipeline.device}, "
            f"{self.pipeline.precision}, ready after {time.monotonic() - started:.1f} s. "
            f"Licence of the weights: {self.pipeline.description.licence}"
        )
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start to work."""
        try:
            super().on_activate(state)
            self._publish_label_info()
            # Pictures may come from another camera than before.
            self.last_size = self.last_frame_id = None
            self._mailbox = Mailbox()
            self._worker = threading.Thread(target=self._work, args=(self._mailbox,), name="perception", daemon=True)
            self._worker.start()
            self.camera = CameraInput(self, self.config, self._on_image)
        except Exception as error:
            self._stop()
            super().on_deactivate(state)
            return self._failed("activate", error)
        self.failure, self.state_name = "", "active"
        self.get_logger().info(f"waiting for pictures on {self.camera.images.topic}, camera_info on {self.camera.infos.topic}")
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
        if self.camera is not None:
            self.camera.close()
            self.camera = None
        if self._mailbox.close():
            self.statistics.count_replaced()
        if self._worker is not None:
            # To the end, as a rule: the pipeline is not for two threads.
            self._worker.join(timeout)
            self._worker = None

    def _release(self) -> None:
        for publisher in self._outputs.values():
            self.destroy_lifecycle_publisher(publisher)
        self._outputs.clear()
        on_gpu = self.pipeline is not None and self.pipeline.device.type == "cuda"
        self.pipeline = self._encoder = None
        if on_gpu:
            torch.cuda.empty_cache()

    def _create_outputs(self) -> None:
        profile = output_profile(self.config)
        for row in OUTPUT_TOPICS:
            kind = MESSAGE_TYPES[row.type]
            if kind is None:
                continue
            quality = keep_last(1, reliable=True, latched=True) if row.latched else profile
            self._outputs[row.name] = self.create_lifecycle_publisher(kind, f"~/{row.name}", quality)

    def _publish_label_info(self) -> None:
        assert self._encoder is not None
        for row in OUTPUT_TOPICS:
            if row.latched and row.name in self._outputs:
                header = Header(stamp=self.get_clock().now().to_msg())
                self._outputs[row.name].publish(to_message(row.type, self._encoder.label_info(), header))

    def _apply(self, changes: dict[str, Any]) -> None:
        """Take over parameters that can change at any time."""
        if self.pipeline is None or self._encoder is None:
            return
        self.pipeline.update(**changes)
        self.config = self.pipeline.config
        self._encoder.overlay_opacity = self.config.overlay_opacity

    # Frames.

    def _on_image(self, message: Any) -> None:
        self.statistics.count_received()
        if self._mailbox.put((message, time.monotonic())):
            self.statistics.count_replaced()

    def _work(self, mailbox: Mailbox[tuple[Any, float]]) -> None:
        while (job := mailbox.take()) is not None:
            message, arrived = job
            try:
                self._process(message, arrived)
            except FrameError as error:
                self._reject(error.reason, str(error))
            except DeviceError as error:
                self._reject("device", str(error))
            except Exception as error:
                if not self.context.ok():
                    return
                self._reject("internal", f"{type(error).__name__}: {error}")

    def _process(self, message: Any, arrived: float) -> None:
        pipeline, encoder, camera = self.pipeline, self._encoder, self.camera
        if pipeline is None or encoder is None:
            return
        rows = [
            row
            for row in OUTPUT_TOPICS
            if row.name in self._outputs and not row.latched and self._outputs[row.name].get_subscription_count() > 0
        ]
        if not rows:
            self.statistics.count_unwanted()
            return
        image = to_rgb(message)
        height, width = image.shape[:2]
        self.last_size, self.last_frame_id = (width, height), message.header.frame_id
        model = camera.model(width, height, pipeline.config.input_rectified) if camera is not None else None
        frame = Frame(
            image, model if isinstance(model, CameraModel) else None, stamp_ns(message.header), message.header.frame_id
        )
        result = pipeline(frame, needed_results({row.name for row in rows}))
        # All are made before the first is sent: a frame comes out whole, or it is rejected.
        encoded = [(row, encoder.encode(row.name, result)) for row in rows]
        ready = [(row.name, to_message(row.type, fields, message.header)) for row, fields in encoded if fields is not None]
        for name, output in ready:
            self._outputs[name].publish(output)
        age = (self.get_clock().now().nanoseconds - frame.stamp_ns) / 1e9
        self.statistics.count_processed(time.monotonic() - arrived, age)

    def _reject(self, reason: str, text: str) -> None:
        self.statistics.count_rejected(reason, text)
        self.get_logger().warning(f"frame dropped: {text}", throttle_duration_sec=LOG_PERIOD)

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
