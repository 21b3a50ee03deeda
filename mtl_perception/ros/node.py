"""Lifecycle node: images in; segmentation, depth and point cloud out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter

from mtl_perception.errors import ConfigError, describe_error
from mtl_perception.inference.memory import trim_heap
from mtl_perception.messages.topics import NODE_NAME
from mtl_perception.ros import parameters
from mtl_perception.ros.bond import Bond
from mtl_perception.ros.camera import Camera
from mtl_perception.ros.compat import answer_invalid_transitions, destroy_state_machine
from mtl_perception.ros.diagnostics import DiagnosticsPublisher
from mtl_perception.ros.environment import describe_duplicate_name
from mtl_perception.runtime.session import Session
from mtl_perception.runtime.snapshots import CameraSnapshot, Snapshot
from mtl_perception.runtime.worker import Worker

STOP_TIMEOUT = 3.0
"""Seconds to wait for the frame in progress at the end of the process."""


class PerceptionNode(LifecycleNode):
    """Perception for one or several cameras with one network.

    The executor's thread stores the newest image of each camera in a mailbox; a worker thread decodes it, runs the pipeline
    and publishes the outputs. Parameters: see `mtl_perception.config`.

    Args:
        arguments: Command line as given to rclpy, to find unknown parameter names in it.
        options: Options of rclpy.node.Node.

    Attributes:
        config: Parameters as of startup or of the last configuration, with later changes.
        session: What exists while the node is configured, otherwise None.
        state_name: Lifecycle state.
        failure: Why the last transition failed; empty if it did not.

    Raises:
        ConfigError: A parameter given at startup has an unknown name or an invalid value.
    """

    def __init__(self, arguments: Sequence[str] = (), **options: Any) -> None:
        with parameters.creation_errors():
            super().__init__(NODE_NAME, **options)
        answer_invalid_transitions(self)
        own_arguments = [*arguments, "--", *(options.get("cli_args") or ())]
        try:
            self.config = parameters.declare(self, own_arguments, options.get("parameter_overrides"))
        except ConfigError:
            self.destroy_node()
            raise
        self.session: Session[Camera] | None = None
        self.state_name, self.failure = "unconfigured", ""
        self._worker: Worker | None = None
        self._bond: Bond | None = None
        # Set by the worker thread; only the executor's thread makes transitions.
        self._stop_reason = ""
        self._stop_request = self.create_guard_condition(self._stop_if_requested)
        self.add_on_set_parameters_callback(self._change_parameters)
        self._diagnostics = DiagnosticsPublisher(self, self.snapshot, self.config.diagnostics_period)

    def destroy_node(self) -> None:
        """Destroy the node and free its DDS participant if no other node of the context uses it."""
        super().destroy_node()
        destroy_state_machine(self)

    def set_parameters_atomically(self, parameter_list: list[RosParameter]) -> SetParametersResult:
        """Set all parameters or none; also called by the parameter services."""
        refused = parameters.refuse_undeclared(self, parameter_list)
        return super().set_parameters_atomically(parameter_list) if refused is None else refused

    # Transitions. rclpy swallows their exceptions, so each one reports its own failure.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters, load the network and create the publishers."""
        try:
            self._configure()
        except Exception as error:
            self._report_failure("configure", error)
        else:
            self.failure, self.state_name = "", "inactive"
            return TransitionCallbackReturn.SUCCESS
        # Outside the handler, because the traceback keeps the pipeline and its memory alive.
        self._release()
        return TransitionCallbackReturn.FAILURE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras and start the worker."""
        try:
            super().on_activate(state)
            topics = self._start()
        except Exception as error:
            self._stop()
            super().on_deactivate(state)
            self._report_failure("activate", error)
            return TransitionCallbackReturn.FAILURE
        self.failure, self.state_name = "", "active"
        self.get_logger().info(f"waiting for images on {'; '.join(topics)}")
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and stop the worker; lead to error processing if a failed device is to stop the node."""
        try:
            self._stop()
            super().on_deactivate(state)
        except Exception as error:
            self._report_failure("deactivate", error)
            return TransitionCallbackReturn.ERROR
        self.state_name = "inactive"
        return TransitionCallbackReturn.ERROR if self._stop_reason else TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release network and publishers."""
        return self._shut_down("cleanup", "unconfigured")

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and release everything, from any state."""
        return self._shut_down("shutdown", "finalized")

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Return to unconfigured, where parameters can be corrected, or to finalized if even that fails."""
        if self._stop_reason:
            self.failure = f"stopped because the inference device failed (on_device_error is stop): {self._stop_reason}"
            self._stop_reason = ""
        result = self._shut_down("process the error", "unconfigured")
        if result != TransitionCallbackReturn.SUCCESS:
            self.state_name = "finalized"
        return result

    def close(self) -> bool:
        """Stop at the end of the process, when transitions are no longer possible.

        Returns:
            Whether the worker has ended; False if a frame is still in progress.
        """
        worker = self._worker
        self._stop(STOP_TIMEOUT)
        return worker is None or not worker.is_alive()

    def snapshot(self) -> Snapshot:
        """Return the state of the node for diagnostics."""
        session, config = self.session, self.config
        if session is None:
            cameras = [CameraSnapshot(name) for name in config.cameras or ("",)]
        else:
            cameras = [camera.snapshot(config) for camera in session.cameras]
        network = None if session is None else session.network_snapshot()
        return Snapshot(
            self.state_name,
            self.failure,
            config.image_timeout,
            config.input_rectified,
            cameras,
            network,
            describe_duplicate_name(self),
        )

    def _configure(self) -> None:
        started = time.monotonic()
        self.config = config = parameters.read(self)
        cameras = [Camera(self, name) for name in config.cameras or ("",)]
        self.session = Session(config, cameras, self._request_stop, self.get_logger())
        for camera in cameras:
            camera.create_publishers(config)
        self._diagnostics.set_period(config.diagnostics_period)
        pipeline = self.session.pipeline
        self.get_logger().info(
            f"weights {pipeline.description.name!r} ({len(pipeline.class_set)} classes) ready on {pipeline.device}, "
            f"{pipeline.precision}, after {time.monotonic() - started:.1f} s; "
            f"license of the weights: {pipeline.description.license}"
        )
        if loss := pipeline.certified_loss:
            self.get_logger().info(f"precision {pipeline.precision}, {loss}")
        for note in pipeline.notes:
            self.get_logger().warning(note)

    def _start(self) -> list[str]:
        """Start the worker and subscribe; return the subscribed topics."""
        session = self.session
        assert session is not None
        clock, context = self.get_clock(), self.context
        worker = self._worker = Worker(session, lambda: clock.now().nanoseconds, lambda: not context.ok(), self.get_logger())
        worker.start()
        topics = []
        for index, camera in enumerate(session.cameras):
            camera.publish_latched(session.encoder)
            camera.subscribe(self.config, partial(worker.put, index))
            if camera.subscriptions is not None:
                topics.append(f"{camera.subscriptions.image.topic}, camera_info on {camera.subscriptions.camera_info.topic}")
        self._bond = Bond(self)
        return topics

    def _stop(self, timeout: float | None = None) -> None:
        if self._bond is not None:
            self._bond.close()
            self._bond = None
        for camera in self.session.cameras if self.session is not None else ():
            camera.unsubscribe()
        if self._worker is not None:
            self._worker.close()
            # Without a timeout, because a second worker must not use the pipeline at the same time.
            self._worker.join(timeout)
            self._worker = None

    def _release(self) -> None:
        if self.session is not None:
            for camera in self.session.cameras:
                camera.destroy_publishers()
        self.session = None
        # Whatever the device of the pipeline is now: it may have been a GPU before.
        if torch.cuda.is_initialized():
            try:
                torch.cuda.empty_cache()
            except RuntimeError as error:
                # A failed device releases nothing before the process ends.
                self.get_logger().warning(f"could not release GPU memory: {error}")
        trim_heap()

    def _shut_down(self, transition: str, state_name: str) -> TransitionCallbackReturn:
        try:
            self._stop()
            self._release()
        except Exception as error:
            self._report_failure(transition, error)
            return TransitionCallbackReturn.ERROR
        self.state_name = state_name
        return TransitionCallbackReturn.SUCCESS

    def _report_failure(self, transition: str, error: Exception) -> None:
        self.failure = describe_error(error)
        self.get_logger().error(f"cannot {transition}: {self.failure}")

    def _request_stop(self, reason: str) -> None:
        """Called by the worker thread, which cannot make the transition because the transition waits for it."""
        self._stop_reason = reason
        self._stop_request.trigger()

    def _stop_if_requested(self) -> None:
        # Another transition may have come first.
        if self._stop_reason and self.state_name == "active":
            self.trigger_deactivate()

    def _change_parameters(self, changes: list[RosParameter]) -> SetParametersResult:
        """Accept or refuse changes, and apply those that take effect immediately."""
        try:
            live = parameters.validate_changes(self, changes, self.state_name == "unconfigured")
            if self.session is not None and live:
                threshold = self.session.encoder.min_confidence
                self.session.update(**live)
                self.config = self.session.config
                if self.session.encoder.min_confidence != threshold:
                    for camera in self.session.cameras:
                        camera.publish_latched(self.session.encoder)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)
