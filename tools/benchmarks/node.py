"""Measure the node among other processes: what it adds to the pipeline, and what a foreign subscriber gets of it.

    python -m tools.benchmarks.node path --size 1242x375
    python -m tools.benchmarks.node stream --params config/perception.yaml --rate 10 --seconds 60
    python -m tools.benchmarks.node stream --cameras 3

`path` runs the node in this process, camera and subscriber in others, and takes each frame's time apart, from the middleware's
reception of the picture to the last output published. Between frames it publishes the very same messages, already made: the
floor that the node's share is held against. `stream` runs every part in a process of its own, as in use: a reliable camera, the
node with the given parameters, and a best-effort subscriber that knows nothing of this package.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["ROS_DOMAIN_ID"] = os.environ.get("MEASURE_DOMAIN", str(101 + os.getpid() % 100))
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor

from mtl_perception.inference.machine import device_name
from mtl_perception.messages.topics import NODE_NAME
from mtl_perception.ros.environment import initialize
from tools.benchmarks import node_parts as parts

PATIENCE = 60.0
NAMES = ("front", "left", "right", "rear", "front_left", "front_right", "rear_left", "rear_right")


def main() -> None:
    """Measure, print a table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    path = kinds.add_parser("path", help="what the node adds to the pipeline")
    path.add_argument("--frames", type=int, default=60, help="measured frames; default 60")
    path.add_argument("--pause", type=float, default=0.3, help="seconds between a frame's end and the next; default 0.3")
    stream = kinds.add_parser("stream", help="what a foreign best-effort subscriber gets")
    stream.add_argument("--rate", type=float, default=10.0, help="Hz of each camera; default 10")
    stream.add_argument("--seconds", type=float, default=60.0, help="default 60")
    stream.add_argument("--cameras", type=int, default=1, help=f"1 to {len(NAMES)}; default 1")
    for each in (path, stream):
        each.add_argument("--size", default="1242x375", help="of the pictures; default 1242x375")
        each.add_argument("--params", type=Path, help="ROS parameters file for the node")
        each.add_argument("--outputs", default="", help="subscribed to, separated by commas")
        each.add_argument("--json", type=Path, help="write the figures there, too")
    args = parser.parse_args()
    figures = {"machine": machine(), "arguments": {k: str(v) for k, v in vars(args).items()}}
    print(", ".join(f"{key} {value}" for key, value in figures["machine"].items()))
    with tempfile.TemporaryDirectory() as folder:
        figures["results"] = (measure_path if args.kind == "path" else measure_stream)(args, Path(folder))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


def machine() -> dict[str, str]:
    """What the figures were measured on and with."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = ("mtl_perception", "torch", "numpy", "rclpy")
    load = f"{os.getloadavg()[0]:.1f}"
    versions = {name: version(name) for name in names}
    return {"device": device_name(device), "system": platform.platform(), "python": platform.python_version(), **versions} | {
        "rmw": rclpy.get_rmw_implementation_identifier(),
        "load before": load,
    }


# What the node adds.


def measure_path(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Times of the parts of a frame's way through the node."""
    outputs = args.outputs.split(",") if args.outputs else list(parts.FIVE)
    parameters = ["--params-file", str(args.params)] if args.params else []
    initialize(["measure", "--ros-args", *parameters])
    node = parts.timed_node()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    node.trigger_configure()
    node.trigger_activate()
    pipeline = node.pipeline
    if pipeline is None:
        raise SystemExit(f"the node cannot be configured: {node.failure}")
    print(f"node: {pipeline.backend} on {pipeline.device}, {pipeline.precision}; outputs {', '.join(outputs)}", flush=True)
    topics = [f"/{NODE_NAME}/{name}" for name in outputs]
    listener = child(
        "listen", "--topics", *topics, "--kinds", *map(parts.kind_of, outputs), "--out", str(folder / "heard.json")
    )
    camera = child("camera", "--topics", "/image", "--size", args.size, "--count", str(args.frames + 5), "--on-demand")
    floors: list[dict[str, float]] = []
    try:
        wait(executor, lambda: len(node.cameras[0].wanted()) == len(outputs) and node.cameras[0].last_size is None)
        for _ in range(args.frames + 5):
            done = len(node.frames)
            assert camera.stdin is not None
            camera.stdin.write(b"\n")
            camera.stdin.flush()
            wait(executor, lambda done=done: len(node.frames) > done)
            until = time.monotonic() + args.pause / 2
            while time.monotonic() < until:
                executor.spin_once(timeout_sec=0.01)
            floors.append(parts.publish_again(node, outputs))
            time.sleep(args.pause / 2)
    finally:
        end(camera, listener)
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()
    frames = [frame.parts() for frame in node.frames[5:]]
    rows = {name: summary([frame[name] for frame in frames]) for name in frames[0]}
    rows |= {f"floor, {name}": summary([floor[name] for floor in floors[5:]]) for name in floors[0]}
    added, floor = rows["node's share: all but pipeline"], rows["floor, all"]
    print_rows(rows)
    ratio = added["median_ms"] / floor["median_ms"]
    print(f"\nnode's share over the floor in this run: {ratio:.2f} (medians; aim <= 1.5)")
    return {"parts": rows, "ratio_to_floor": round(ratio, 3), "frames": len(frames)}


# What others get.


def measure_stream(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Losses, latencies and the node's own counts."""
    if not 1 <= args.cameras <= len(NAMES):
        raise SystemExit(f"--cameras {args.cameras}: 1 to {len(NAMES)}")
    outputs = args.outputs.split(",") if args.outputs else list(parts.FOUR)
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
    kinds = [parts.kind_of(output) for _ in names for output in outputs]
    listener = child("listen", "--topics", *topics, "--kinds", *kinds, "--out", str(folder / "heard.json"))
    images = [f"/{under[name]}image" for name in names]
    camera_arguments = ("--topics", *images, "--size", args.size, "--rate", str(args.rate))
    cameras: list[subprocess.Popen[bytes]] = []

    def play(count: int, out: Path) -> dict[str, list[int]]:
        cameras.append(child("camera", *camera_arguments, "--count", str(count), "--out", str(out)))
        wait(executor, lambda: cameras[-1].poll() is not None, PATIENCE + 2 * count / args.rate)
        settled = len(seen)
        # The last frame, and a message that tells of it.
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
        # Caches are warm after that, and both sides know each other.
        play(20, folder / "warm.json")
        before = counts()
        sent = play(round(args.rate * args.seconds), folder / "sent.json")
        after = counts()
    finally:
        end(*cameras, listener, node)
        rclpy.try_shutdown()
    heard = json.loads((folder / "heard.json").read_text())
    results: dict[str, Any] = {"topics": {}, "node": {}, "network": statuses.get("network", {})}
    print(f"\n{'topic':<44}{'sent':>7}{'lost':>7}{'median':>10}{'p99':>10}{'p99/median':>12}   latency in ms, stamp to arrival")
    for topic in topics:
        name = next(name for name in names if topic.startswith(f"/{NODE_NAME}/{under[name]}"))
        row = parts.losses(sent[f"/{under[name]}image"], heard[topic])
        results["topics"][topic] = row
        print(
            f"{topic:<44}{row['sent']:>7}{row['lost']:>7}{row['median_ms']:>10}{row['p99_ms']:>10}{row['p99_over_median']:>12}"
        )
    for name in names:
        row = {key: after[name][key] - before[name][key] for key in after[name]}
        results["node"][name or "camera"] = row
        print(f"node, {name or 'the camera'}: " + ", ".join(f"{value} {key}" for key, value in row.items()))
    return results


# Help.


def child(role: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A camera or listener in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", parts.__name__, role, *arguments], stdin=subprocess.PIPE)


def end(*children: subprocess.Popen[bytes]) -> None:
    for process in children:
        if process.stdin is not None:
            process.stdin.close()
            process.stdin = None
    for process in children:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)


def wait(executor: SingleThreadedExecutor, condition: Any, seconds: float = PATIENCE) -> None:
    """Spin until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {seconds:.0f} s in vain")
        executor.spin_once(timeout_sec=0.01)


def summary(seconds: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles([1000 * value for value in seconds], n=4)
    return {"median_ms": round(middle, 3), "iqr_ms": round(high - low, 3)}


def print_rows(rows: dict[str, dict[str, float]]) -> None:
    print(f"\n{'part':<50}{'median':>10}{'iqr':>10}   ms")
    for name, row in rows.items():
        print(f"{name:<50}{row['median_ms']:>10.3f}{row['iqr_ms']:>10.3f}")


if __name__ == "__main__":
    main()
