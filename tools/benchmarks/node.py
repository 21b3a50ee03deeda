"""Benchmark of the node among other processes: its overhead over the pipeline, and what other subscribers receive.

    python -m tools.benchmarks.node path --size 1242x375
    python -m tools.benchmarks.node stream --params config/perception.yaml --rate 10 --seconds 60
    python -m tools.benchmarks.node stream --cameras 3

`path` runs the node in this process, with camera and subscriber in others, and divides the time of each frame into parts, from
reception by the middleware to the last publication. Between frames it publishes the same messages again, already encoded, as
the lower bound of the node's overhead. `stream` runs every part in its own process, as in operation: a reliable camera, the
node with the given parameters, and a best-effort subscriber that does not use this package.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["ROS_DOMAIN_ID"] = os.environ.get("MEASURE_DOMAIN", str(101 + os.getpid() % 100))
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor

from mtl_perception.benchmark.timing import describe_machine, summarize
from mtl_perception.messages.topics import NODE_NAME, OUTPUT_TOPICS
from mtl_perception.ros.environment import initialize
from tools.benchmarks.node_processes import delivery
from tools.benchmarks.timed_node import republish, timed_node

TIMEOUT = 60.0
PATH_OUTPUTS = ("segmentation/image", "segmentation/overlay", "segmentation/labels", "depth/image", "points")
STREAM_OUTPUTS = ("segmentation/image", "segmentation/labels", "depth/image", "points")
NAMES = ("front", "left", "right", "rear", "front_left", "front_right", "rear_left", "rear_right")


def main() -> None:
    """Measure, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    path = kinds.add_parser("path", help="overhead of the node over the pipeline")
    path.add_argument("--frames", type=int, default=60, help="measured frames (default: %(default)s)")
    path.add_argument("--pause", type=float, default=0.3, help="seconds between frames (default: %(default)s)")
    stream = kinds.add_parser("stream", help="losses and latencies of a best-effort subscriber")
    stream.add_argument(
        "--rate", type=float, nargs="+", default=[10.0], help="rate of each camera, Hz; several are measured in turn"
    )
    stream.add_argument("--seconds", type=float, default=60.0, help="duration at each rate (default: %(default)s)")
    stream.add_argument("--cameras", type=int, default=1, help=f"number of cameras, 1 to {len(NAMES)} (default: %(default)s)")
    for each in (path, stream):
        each.add_argument("--size", default="1242x375", help="image size (default: %(default)s)")
        each.add_argument("--params", type=Path, help="ROS parameters file of the node")
        each.add_argument("--outputs", default="", help="comma-separated outputs to subscribe to")
        each.add_argument("--json", type=Path, help="also write the figures to a JSON file")
    args = parser.parse_args()
    figures = {"machine": machine(), "arguments": {k: str(v) for k, v in vars(args).items()}}
    print(", ".join(f"{key} {value}" for key, value in figures["machine"].items()))
    with tempfile.TemporaryDirectory() as folder:
        figures["results"] = (measure_path if args.kind == "path" else measure_stream)(args, Path(folder))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


def type_of(output: str) -> str:
    """Return the ROS type name of an output."""
    return next(row.type for row in OUTPUT_TOPICS if row.name == output)


def machine() -> dict[str, Any]:
    """Return hardware, versions and load."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        **describe_machine(device, ("mtl_perception", "torch", "numpy", "rclpy")),
        "system": platform.platform(),
        "rmw": rclpy.get_rmw_implementation_identifier(),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


# Overhead of the node.


def measure_path(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure the parts of a frame's path through the node."""
    outputs = args.outputs.split(",") if args.outputs else list(PATH_OUTPUTS)
    parameters = ["--params-file", str(args.params)] if args.params else []
    initialize(["measure", "--ros-args", *parameters])
    node = timed_node()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    node.trigger_configure()
    node.trigger_activate()
    if node.session is None:
        raise SystemExit(f"cannot configure the node: {node.failure}")
    pipeline, measured = node.session.pipeline, node.session.cameras[0]
    print(f"node: {pipeline.backend} on {pipeline.device}, {pipeline.precision}; outputs {', '.join(outputs)}", flush=True)
    topics = [f"/{NODE_NAME}/{name}" for name in outputs]
    listener = child("listen", "--topics", *topics, "--kinds", *map(type_of, outputs), "--out", str(folder / "received.json"))
    camera = child("camera", "--topics", "/image", "--size", args.size, "--count", str(args.frames + 5), "--on-demand")
    bounds: list[dict[str, float]] = []
    try:
        wait(executor, lambda: len(measured.subscribed_outputs()) == len(outputs) and measured.image_size is None)
        for _ in range(args.frames + 5):
            done = len(node.frames)
            assert camera.stdin is not None
            camera.stdin.write(b"\n")
            camera.stdin.flush()
            wait(executor, lambda done=done: len(node.frames) > done)
            until = time.monotonic() + args.pause / 2
            while time.monotonic() < until:
                executor.spin_once(timeout_sec=0.01)
            bounds.append(republish(node, outputs))
            time.sleep(args.pause / 2)
    finally:
        end(camera, listener)
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()
    frames = [frame.parts() for frame in node.frames[5:]]
    rows = {name: summarize([1000 * frame[name] for frame in frames]) for name in frames[0]}
    rows |= {f"lower bound, {name}": summarize([1000 * bound[name] for bound in bounds[5:]]) for name in bounds[0]}
    added, bound = rows["node overhead: total without pipeline"], rows["lower bound, all"]
    print_rows(rows)
    ratio = added["median_ms"] / bound["median_ms"]
    print(f"\nnode overhead relative to the lower bound: {ratio:.2f} (medians; target <= 1.5)")
    return {"parts": rows, "ratio_to_lower_bound": round(ratio, 3), "frames": len(frames)}


# Delivery to other processes.


def measure_stream(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure losses, latencies and the node's counts."""
    if not 1 <= args.cameras <= len(NAMES):
        raise SystemExit(f"--cameras {args.cameras}: 1 to {len(NAMES)}")
    outputs = args.outputs.split(",") if args.outputs else list(STREAM_OUTPUTS)
    names = list(NAMES[: args.cameras]) if args.cameras > 1 else [""]
    under = {name: f"{name}/" if name else "" for name in names}
    settings = ["--params-file", str(args.params)] if args.params else []
    settings += ["-p", f"cameras:=[{','.join(names)}]"] if args.cameras > 1 else []
    log = folder / "node.log"
    with log.open("wb") as file:
        node = subprocess.Popen(
            [sys.executable, "-m", "mtl_perception", "node", "--ros-args", *settings], stdout=file, stderr=subprocess.STDOUT
        )
    initialize(["measure"])
    watch = rclpy.create_node("watch")
    statuses: dict[str, dict[str, str]] = {}
    seen: list[float] = []

    def on_diagnostics(message: DiagnosticArray) -> None:
        for status in message.status:
            statuses[status.name.removeprefix(f"{NODE_NAME}: ")] = {entry.key: entry.value for entry in status.values}
        seen.append(time.monotonic())

    watch.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
    executor = SingleThreadedExecutor()
    executor.add_node(watch)
    topics = [f"/{NODE_NAME}/{under[name]}{output}" for name in names for output in outputs]
    kinds = [type_of(output) for _ in names for output in outputs]
    listener = child("listen", "--topics", *topics, "--kinds", *kinds, "--out", str(folder / "received.json"))
    images = [f"/{under[name]}image" for name in names]
    cameras: list[subprocess.Popen[bytes]] = []

    def play(count: int, rate: float) -> dict[str, list[int]]:
        out = folder / "sent.json"
        arguments = ("--topics", *images, "--size", args.size, "--rate", str(rate), "--count", str(count), "--out", str(out))
        cameras.append(child("camera", *arguments))
        wait(executor, lambda: cameras[-1].poll() is not None, TIMEOUT + 2 * count / rate)
        settled = len(seen)
        # Diagnostics that include the last frame.
        wait(executor, lambda: len(seen) >= settled + 3)
        return json.loads(out.read_text())

    def counts() -> dict[str, dict[str, int]]:
        part = {name: statuses[f"{name}: frames" if name else "frames"] for name in names}
        keys = ("received", "processed", "replaced", "rejected", "without subscriber")
        return {name: {key: int(values[f"frames {key}"]) for key in keys} for name, values in part.items()}

    try:
        wait(executor, lambda: b"waiting for" in log.read_bytes() or node.poll() is not None)
        if node.poll() is not None:
            raise SystemExit(log.read_text())
        # Fills caches and completes discovery.
        play(20, 10.0)
        played = []
        for rate in args.rate:
            before = counts()
            sent = play(round(rate * args.seconds), rate)
            played.append((rate, sent, before, counts()))
    finally:
        end(*cameras, listener, node)
        rclpy.try_shutdown()
    received = json.loads((folder / "received.json").read_text())
    results: dict[str, Any] = {"rates": [], "network": statuses.get("network", {})}
    for rate, sent, before, after in played:
        measured: dict[str, Any] = {"rate_hz": rate, "topics": {}, "node": {}}
        title = f"{rate:g} Hz"
        print(
            f"\n{title:<44}{'sent':>7}{'lost':>7}{'median':>10}{'p99':>10}{'p99/median':>12}   latency in ms, stamp to arrival"
        )
        for topic in topics:
            name = next(name for name in names if topic.startswith(f"/{NODE_NAME}/{under[name]}"))
            row = delivery(sent[f"/{under[name]}image"], received[topic])
            measured["topics"][topic] = row
            print(
                f"{topic:<44}{row['sent']:>7}{row['lost']:>7}{row['median_ms']:>10}{row['p99_ms']:>10}"
                f"{row['p99_over_median']:>12}"
            )
        for name in names:
            row = {key: after[name][key] - before[name][key] for key in after[name]}
            measured["node"][name or "camera"] = row
            print(f"node, {name or 'the camera'}: " + ", ".join(f"{value} {key}" for key, value in row.items()))
        results["rates"].append(measured)
    return results


# Processes and tables.


def child(role: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a camera or listener process."""
    return subprocess.Popen([sys.executable, "-m", "tools.benchmarks.node_processes", role, *arguments], stdin=subprocess.PIPE)


def end(*children: subprocess.Popen[bytes]) -> None:
    for process in children:
        if process.stdin is not None:
            process.stdin.close()
            process.stdin = None
    for process in children:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(TIMEOUT)


def wait(executor: SingleThreadedExecutor, condition: Any, seconds: float = TIMEOUT) -> None:
    """Spin until a condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"timed out after {seconds:.0f} s")
        executor.spin_once(timeout_sec=0.01)


def print_rows(rows: dict[str, dict[str, float]]) -> None:
    print(f"\n{'part':<50}{'median':>10}{'iqr':>10}   ms")
    for name, row in rows.items():
        print(f"{name:<50}{row['median_ms']:>10.3f}{row['iqr_ms']:>10.3f}")


if __name__ == "__main__":
    main()
