"""Run node, camera and checker as processes, sample the node, and restart the camera when it exits.

All records are written as they arrive, so that an interrupted run can be judged as well.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.soak import camera, process, report

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ("camera.csv", "outputs.csv", "events.jsonl", "samples.csv", "run.json", "node.log", "camera.log", "checker.log")
PARAMETERS = {
    "weights": "street",
    "cpu_threads": 1,
    # The subscription must hold a whole burst: images that the middleware drops do not appear in the node's counts.
    "image_queue_size": camera.QUEUE_SIZE,
    "output_queue_size": 10,
}
START_TIMEOUT, STOP_TIMEOUT = 180.0, 150.0
# Domains whose ports lie above Linux's ephemeral range, and which the tests do not use.
DOMAINS = range(215, 233)


def run(args: argparse.Namespace) -> None:
    """Run until the duration has passed, a signal arrives, or the node or the checker exits."""
    args.out.mkdir(parents=True, exist_ok=True)
    for name in (*RECORDS, *report.REPORTS):
        (args.out / name).unlink(missing_ok=True)
    os.environ.update(
        ROS_DOMAIN_ID=os.environ.get("SOAK_DOMAIN", str(DOMAINS[os.getpid() % len(DOMAINS)])),
        ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST",
        ROS_LOG_DIR=str(args.out.resolve() / "ros_log"),
    )
    for name, columns in (("camera.csv", camera.JOURNAL), ("outputs.csv", report.OUTPUTS)):
        (args.out / name).write_text(",".join(columns) + "\n")
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stopped.append(number))
    Soak(args, stopped).run()


class Soak:
    """The processes of one run.

    Args:
        args: Parsed command line.
        stopped: Becomes non-empty when the run must end.
    """

    def __init__(self, args: argparse.Namespace, stopped: list[int]) -> None:
        self._args, self._stopped, self._out = args, stopped, args.out.resolve()
        self._segments: set[str] = set()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._camera_runs = 0
        self._facts: dict[str, Any] = {"arguments": {key: str(value) for key, value in vars(args).items()}}

    def run(self) -> None:
        """Start the processes, watch them, and end them."""
        parameters = {**PARAMETERS, "weights": self._args.weights}
        settings = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
        self._write_facts(parameters=parameters, domain=os.environ["ROS_DOMAIN_ID"], started_ns=time.time_ns())
        try:
            node = self._start("node", "mtl_perception", "node", "--ros-args", *settings)
            self._wait_for_node(node)
            common = ("--seed", str(self._args.seed), "--faults", str(self._args.faults))
            self._start("checker", "tools.soak.checker", "--out", str(self._out), "--node-pid", str(node.pid), *common)
            self._write_facts(ready_ns=time.time_ns())
            self._watch(node, common)
        finally:
            self._stop_all()

    def _watch(self, node: subprocess.Popen[bytes], common: tuple[str, ...]) -> None:
        latencies = process.LatencyReader(self._out / "outputs.csv")
        with (self._out / "samples.csv").open("w", newline="", buffering=1) as file:
            writer = csv.DictWriter(file, list(process.ProcessSample.__dataclass_fields__))
            writer.writeheader()
            started = due = restart_at = time.monotonic()
            while not self._stopped and time.monotonic() < started + 3600 * self._args.hours:
                if any(self._children[name].poll() is not None for name in ("node", "checker")):
                    return
                running = self._children.get("camera")
                if running is not None and running.poll() is not None:
                    del self._children["camera"]
                    restart_at = time.monotonic() + 1 + self._camera_runs % 3
                elif running is None and time.monotonic() >= restart_at:
                    self._start_camera(common)
                if time.monotonic() >= due:
                    due += self._args.period
                    self._segments.update(*(process.segments(child.pid) for child in self._children.values()))
                    # The next iteration notices that the node has exited.
                    with contextlib.suppress(OSError):
                        writer.writerow(asdict(process.sample(node.pid, time.monotonic() - started, latencies.read())))
                time.sleep(0.1)

    def _start_camera(self, common: tuple[str, ...]) -> None:
        journal = self._out / "camera.csv"
        last = journal.read_text().rstrip("\n").rpartition("\n")[2].partition(",")[0] if self._camera_runs else ""
        options = ("--journal", str(journal), "--first", str(int(last) + 1 if last.isdigit() else 0))
        rate = ("--rate", str(self._args.rate), "--run", str(self._camera_runs))
        self._start("camera", "tools.soak.camera", *options, *rate, *common)
        self._camera_runs += 1

    def _start(self, name: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._out / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                # Ctrl-C must reach this process alone, which ends the others in order.
                start_new_session=True,
                preexec_fn=terminate_with_parent,
            )
        return self._children[name]

    def _wait_for_node(self, node: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        log = self._out / "node.log"
        while "waiting for" not in log.read_text(errors="replace"):
            if node.poll() is not None or self._stopped or time.monotonic() > deadline:
                raise SystemExit(f"the node did not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.2)

    def _stop_all(self) -> None:
        """Stop the checker first: it reads the final counts while the node still runs and the camera still publishes."""
        codes = {}
        for name in ("checker", "camera", "node"):
            child = self._children.get(name)
            if child is None:
                continue
            self._segments |= process.segments(child.pid)
            alive = child.poll() is None
            if alive:
                child.terminate()
            try:
                child.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            codes[name] = {"exited_early": not alive, "code": child.returncode}
        left = process.remove_unused(self._segments)
        shutil.rmtree(self._out / "ros_log", ignore_errors=True)
        self._write_facts(ended_ns=time.time_ns(), exits=codes, camera_runs=self._camera_runs, segments_left=left)

    def _write_facts(self, **facts: Any) -> None:
        self._facts.update(facts)
        (self._out / "run.json").write_text(json.dumps(self._facts, indent=1) + "\n")


def terminate_with_parent() -> None:
    """Make a child process receive SIGTERM when its parent exits for whatever reason."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
