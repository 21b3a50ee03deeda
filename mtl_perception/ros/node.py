"""The lifecycle node: pictures in; segmentation, depth and points out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import QoSProfile

from mtl_perception.errors import PerceptionError
from mtl_perception.inference.memory import trim_heap
from mtl_perception.messages.encode import MessageEncoder
from mtl_perception.messages.topics import NODE_NAME
from mtl_perception.pipeline import Pipeline
from mtl_perception.ros import parameters
from mtl_perception.ros.camera import Camera
from mtl_perception.ros.health import CHECK_PERIOD, Report
from mtl_perception.ros.transitions import refuse_impossible_transitions
from mtl_perception.ros.worker import Worker
from mtl_perception.runtime.recovery import Recovery

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
        self.recovery = self._new_recovery()
        self.pipeline: Pipeline | None = None
        self.encoder: MessageEncoder | None = None
        self.cameras: list[Camera] = []
        self._make_cameras()
        self._worker: Worker | None = None
        # Why the worker's thread asks the executor's, which alone makes transitions, to stop; empty: it does not.
        self._given_up = ""
        self._stop_request = self.create_guard_condition(self._stop_if_given_up)
        self._guard = parameters.ChangeGuard(self, lambda: self.state_name == "unconfigured", self._apply)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))
        self._diagnostics_timer: Any = None
        self._schedule_diagnostics()

    def set_parameters_atomically(self, parameter_list: list[RosParameter]) -> SetParametersResult:
        """Set parameters, all or none; the parameter services call this, too."""
        refused = parameters.refuse_undeclared(self, parameter_list)
        return super().set_parameters_atomically(parameter_list) if refused is None else refused

    # Transitions. rclpy swallows what they raise, so each reports its own failure.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters, load the network, create the publishers."""
        try:
            self._set_up()
        except Exception as error:
            self._report("configure", error)
        else:
            self.failure, self.state_name = "", "inactive"
            return TransitionCallbackReturn.SUCCESS
        # Out of the handler: the error's traceback holds what there was of the pipeline, and its memory.
        self._release()
        return TransitionCallbackReturn.FAILURE

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
            self._report("activate", error)
            return TransitionCallbackReturn.FAILURE
        self.failure, self.state_name = "", "active"
        inputs = [camera.input for camera in self.cameras if camera.input is not None]
        topics = [f"{source.images.topic}, camera_info on {source.infos.topic}" for source in inputs]
        self.get_logger().info(f"waiting for pictures on {'; on '.join(topics)}")
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and stop working; to error processing where the device was given up."""
        try:
            self._stop()
            super().on_deactivate(state)
        except Exception as error:
            self._report("deactivate", error)
            return TransitionCallbackReturn.ERROR
        self.state_name = "inactive"
        return TransitionCallbackReturn.ERROR if self._given_up else TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of network and publishers."""
        return self._end("cleanup", "unconfigured")

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and let go, from whatever state."""
        return self._end("shutdown", "finalized")

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a transition went wrong: back to unconfigured, where parameters can be mended; finalized if even that fails."""
        if self._given_up:
            self.failure = f"stopped, as the device failed and on_device_error is stop: {self._given_up}"
            self._given_up = ""
        result = self._end("clear up after an error", "unconfigured")
        if result != TransitionCallbackReturn.SUCCESS:
            self.state_name = "finalized"
        return result

    def close(self) -> bool:
        """Stop, for the end of the process, when transitions are no longer possible; False if a frame is still in work."""
        worker = self._worker
        self._stop(STOP_TIMEOUT)
        return worker is None or not worker.is_alive()

    def _set_up(self) -> None:
        started = time.monotonic()
        self.config = parameters.read(self)
        self.pipeline = Pipeline(config=self.config, reuse_outputs=True)
        self.recovery = self._new_recovery()
        self.encoder = MessageEncoder(self.pipeline.class_set, self.config.overlay_opacity)
        self._make_cameras()
        for camera in self.cameras:
            camera.create_outputs(self.config)
        self._schedule_diagnostics()
        self.get_logger().info(
            f"weights {self.pipeline.description.name!r} ({len(self.pipeline.class_set)} classes) on {self.pipeline.device}, "
            f"{self.pipeline.precision}, ready after {time.monotonic() - started:.1f} s. "
            f"License of the weights: {self.pipeline.description.license}"
        )
        for note in self.pipeline.notes:
            self.get_logger().warning(note)

    def _report(self, transition: str, error: Exception) -> None:
        known = isinstance(error, PerceptionError)
        self.failure = str(error) if known else f"{type(error).__name__}: {error}"
        self.get_logger().error(f"cannot {transition}: {self.failure}")

    def _end(self, transition: str, state_name: str) -> TransitionCallbackReturn:
        """Stop and let go of everything."""
        try:
            self._stop()
            self._release()
        except Exception as error:
            self._report(transition, error)
            return TransitionCallbackReturn.ERROR
        self.state_name = state_name
        return TransitionCallbackReturn.SUCCESS

    def _new_recovery(self) -> Recovery:
        return Recovery(lambda: self.config.on_device_error, self._give_up, self.get_logger())

    def _give_up(self, reason: str) -> None:
        """Called in the worker's thread, which a transition ends and so cannot make one."""
        self._given_up = reason
        self._stop_request.trigger()

    def _stop_if_given_up(self) -> None:
        # A transition that was asked for by somebody else may have come first.
        if self._given_up and self.state_name == "active":
            self.trigger_deactivate()

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
        self.pipeline = self.encoder = None
        # Whatever the pipeline's device: it may have been one before, or none to the end.
        if torch.cuda.is_initialized():
            try:
                torch.cuda.empty_cache()
            except RuntimeError as error:
                # A device that has failed gives nothing back before the process ends.
                self.get_logger().warning(f"the GPU's memory could not be given back: {error}")
        trim_heap()

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
        self._news = Report(self.config.diagnostics_period)
        self._diagnostics_timer = self.create_timer(CHECK_PERIOD, self._publish_diagnostics, clock=steady)

    def _publish_diagnostics(self) -> None:
        statuses = self._news.due(self)
        if statuses:
            message = DiagnosticArray(status=statuses)
            message.header.stamp = self.get_clock().now().to_msg()
            self._diagnostics.publish(message)
