"""Checker of a soak run: subscribes, sets parameters, drives the node's lifecycle, and records everything that arrives.

One subscriber of the labels stays for the whole run; others come and go. Messages are not deserialized; only their headers are
read. outputs.csv has a row per output, events.jsonl a line per request and per diagnostics message.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import struct
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter

from mtl_perception.messages.decode import stamp_ns
from mtl_perception.messages.topics import NODE_NAME, OUTPUT_TOPICS
from mtl_perception.ros.convert import MESSAGE_TYPES
from mtl_perception.ros.environment import initialize
from mtl_perception.ros.qos import keep_last
from tools.soak import process

PERMANENT_TOPIC = "segmentation/labels"
QUEUE_SIZE = 100
TIMEOUT = 120.0
"""Seconds to wait for the node's response."""
MAX_TEMPORARY = 5
"""Maximum number of temporary subscribers."""
VALID: dict[str, tuple[Any, ...]] = {
    "input_scale": (1.0, 0.75, 0.5),
    "output_scale": (1.0, 0.5, 0.25),
    "upsampling": ("bicubic", "bilinear"),
    "min_depth": (0.0, 2.0),
    "max_depth": (0.0, 40.0),
    "min_confidence": (0.0, 0.5),
    "overlay_opacity": (0.0, 0.5, 1.0),
    "input_rectified": (True, False),
    "image_timeout": (2.0, 1.0),
}
INVALID: tuple[tuple[str, Any], ...] = (
    ("input_scale", 7.0),
    ("output_scale", 0.0),
    ("upsampling", "nearest"),
    ("min_confidence", -0.1),
    ("overlay_opacity", "half"),
    ("weights", "none"),
    ("backend", "torch"),
    ("cameras", ["left", "right"]),
)
"""Out of range, of a wrong type, or read-only while the node is active."""
MEAN_SECONDS = {"subscribe": 5.0, "unsubscribe": 5.0, "set": 8.0, "set_invalid": 30.0, "pause": 120.0, "reconfigure": 240.0}
"""Mean time between two actions of a kind."""
CLEANUP_SECONDS = 2.0
"""Time in the unconfigured state before the node's memory and handles are sampled."""
TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "cleanup": Transition.TRANSITION_CLEANUP,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
}


class NoResponseError(Exception):
    """The node did not respond."""


class Checker:
    """Records outputs and diagnostics, and sends requests to the node.

    Args:
        out: Folder of the records.
        seed: Seed of the actions.
        pid: Process id of the node.
    """

    def __init__(self, out: Path, seed: int, pid: int) -> None:
        self._pid = pid
        self._node = rclpy.create_node("soak_checker")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._outputs = (out / "outputs.csv").open("a", buffering=1)
        self._events = (out / "events.jsonl").open("a", buffering=1)
        self._rng = random.Random(seed)
        self._temporary: list[Any] = []
        self._subscribers = 0
        self._clients: dict[Any, Any] = {}
        self._diagnostics = 0
        self._parent = os.getppid()
        self.counts: dict[str, int] = {}
        self.state = "active"
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._create_subscription(PERMANENT_TOPIC, reliable=True)

    @property
    def abandoned(self) -> bool:
        """Whether the parent process has exited: then the node exits as well and no longer responds."""
        return os.getppid() != self._parent

    def spin(self, seconds: float) -> None:
        """Execute callbacks for a time."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(left, 0.1))

    def act(self, seconds: float, frequency: float) -> None:
        """Draw and execute the actions of a period.

        Args:
            seconds: Length of the period.
            frequency: Frequency of the actions relative to MEAN_SECONDS.
        """
        for kind, mean in MEAN_SECONDS.items():
            if self._rng.random() < seconds * frequency / mean:
                getattr(self, f"_{kind}")()

    def finish(self) -> None:
        """Deactivate, so that the counts are final, and record them."""
        if self.state == "active":
            self._change("deactivate")
        self._record_final_counts()

    def close(self) -> None:
        """Release the node."""
        self._executor.shutdown()
        self._node.destroy_node()

    # Actions.

    def _subscribe(self) -> None:
        if len(self._temporary) < MAX_TEMPORARY:
            topic = self._rng.choice([row.name for row in OUTPUT_TOPICS if not row.latched])
            self._temporary.append(self._create_subscription(topic, self._rng.random() < 0.5))

    def _unsubscribe(self) -> None:
        if self._temporary:
            self._node.destroy_subscription(self._temporary.pop(self._rng.randrange(len(self._temporary))))

    def _set(self) -> None:
        name = self._rng.choice(list(VALID))
        self._set_parameter(name, self._rng.choice(VALID[name]), expected=True)

    def _set_invalid(self) -> None:
        self._set_parameter(*self._rng.choice(INVALID), expected=False)

    def _pause(self) -> None:
        self._change("deactivate")
        self.spin(self._rng.uniform(0.2, 4.0))
        self._change("activate")

    def _reconfigure(self) -> None:
        self._change("deactivate")
        self._record_final_counts()
        self._change("cleanup")
        self.spin(self._rng.uniform(0.1, 1.0) + CLEANUP_SECONDS)
        # The parent process notices that the node has exited.
        with contextlib.suppress(OSError):
            left = process.sample(self._pid, 0.0, [])
            self._record("clean", mib=left.anonymous_mib, fds=left.fds, threads=left.threads)
        self._change("configure")
        self._change("activate")

    def _record_final_counts(self) -> None:
        """Record the counts of the inactive node, which are the last ones of its configuration."""
        # The first message may have been sent before the transition.
        seen = self._diagnostics
        self._wait(lambda: self._diagnostics >= seen + 2, "diagnostics")
        self._record("final", counts=self.counts)

    def _change(self, transition: str) -> None:
        begun = time.time_ns()
        request = ChangeState.Request(transition=Transition(id=TRANSITIONS[transition]))
        done = bool(self._call(ChangeState, "change_state", request).success)
        self.state = {"activate": "active", "cleanup": "unconfigured"}.get(transition, "inactive")
        self._record("transition", name=transition, begun_ns=begun, expected=True, done=done)

    def _set_parameter(self, name: str, value: Any, expected: bool) -> None:
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        result = self._call(SetParameters, "set_parameters", request).results[0]
        self._record("parameter", name=name, value=value, expected=expected, done=bool(result.successful), reason=result.reason)

    def _call(self, kind: Any, service: str, request: Any) -> Any:
        if kind not in self._clients:
            client = self._node.create_client(kind, f"/{NODE_NAME}/{service}")
            self._wait(client.service_is_ready, service)
            # Discovery is not symmetric: the response of a server that has not discovered this client is lost.
            self.spin(0.5)
            self._clients[kind] = client
        future = self._clients[kind].call_async(request)
        self._wait(future.done, service)
        return future.result()

    def _wait(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            if self.abandoned:
                raise NoResponseError("the parent process has exited")
            if time.monotonic() > deadline:
                self._record("no_response", what=what, expected=True, done=False)
                raise NoResponseError(what)
            self._executor.spin_once(timeout_sec=0.1)

    # Records.

    def _create_subscription(self, topic: str, reliable: bool) -> Any:
        self._subscribers += 1
        kind = MESSAGE_TYPES[next(row.type for row in OUTPUT_TOPICS if row.name == topic)]
        record = partial(self._record_output, self._subscribers, topic)
        return self._node.create_subscription(kind, f"/{NODE_NAME}/{topic}", record, keep_last(QUEUE_SIZE, reliable), raw=True)

    def _record_output(self, subscriber: int, topic: str, data: bytes) -> None:
        now = time.time_ns()
        stamp, frame_id, height, width = header_of(data)
        number, sent = map(int, frame_id.split("/")[1:])
        self._outputs.write(f"{subscriber},{topic},{number},{stamp},{(now - sent) // 1000},{height},{width}\n")

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == f"{NODE_NAME}: frames":
                values = {entry.key: entry.value for entry in status.values}
                self.counts = {
                    key.removeprefix("frames "): int(value)
                    for key, value in values.items()
                    if key.startswith(("frames ", "rejected: "))
                }
                self._diagnostics += 1
                # The counts are as old as the stamp, which may be long before the arrival of this message.
                self._record("diagnostics", t_ns=stamp_ns(message.header), state=values["state"], counts=self.counts)

    def _record(self, event: str, t_ns: int = 0, **fields: Any) -> None:
        self._events.write(json.dumps({"t_ns": t_ns or time.time_ns(), "event": event, **fields}) + "\n")


def header_of(data: bytes) -> tuple[int, str, int, int]:
    """Return stamp in ns, frame_id, height and width of a serialized Image, PointCloud2 or CameraInfo."""
    # CDR: four bytes of encapsulation header, from whose end alignment is counted.
    seconds, nanoseconds, length = struct.unpack_from("<iII", data, 4)
    frame_id = bytes(data[16 : 16 + length - 1]).decode()
    height, width = struct.unpack_from("<II", data, 4 + (12 + length + 3) // 4 * 4)
    return seconds * 10**9 + nanoseconds, frame_id, height, width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--faults", type=float, required=True)
    parser.add_argument("--node-pid", type=int, required=True)
    args = parser.parse_args()
    initialize(["checker"])
    stopped = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.append(True))
    checker = Checker(args.out, args.seed, args.node_pid)
    with contextlib.suppress(NoResponseError, ExternalShutdownException):
        checker.spin(2.0)
        while not stopped and not checker.abandoned:
            checker.spin(0.2)
            checker.act(0.2, args.faults)
        checker.finish()
    checker.close()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
