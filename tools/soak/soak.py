"""Run the node for hours beside a camera that fails and a checker that interferes, and judge what is left of it.

    make soak HOURS=2
    python tools/soak/soak.py --hours 2 --out build/soak

Four processes: the node as users start it, a camera (soak_camera.py), a checker (soak_checker.py), and this one, which samples
the node and starts the camera again when it ends. All records are in the folder as they come, so a run that is cut off can
be read, too: `python tools/soak/soak.py --judge build/soak`. Exit code 1 if anything fails; see docs/soak.md.
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

import soak_camera
import soak_process
import soak_report

HERE = Path(__file__).parent
RECORDS = ("camera.csv", "outputs.csv", "events.jsonl", "samples.csv", "run.json", "node.log", "camera.log", "checker.log")
PARAMETERS = {
    "weights": "street",
    "cpu_threads": 1,
    # Every picture reaches the node's own counts, also those of a burst: what is replaced is replaced by the node, not by the
    # middleware, which does not count.
    "image_queue_size": soak_camera.QUEUE,
    "output_queue_size": 10,
}
START_PATIENCE, STOP_PATIENCE = 180.0, 150.0
# Above the ports that Linux gives to whoever asks for any, and not those of the tests.
DOMAINS = range(215, 233)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=2.0, help="default 2")
    parser.add_argument("--out", type=Path, default=Path("build/soak"), help="folder of the records; emptied of older ones")
    parser.add_argument("--seed", type=int, default=1, help="of what happens; default 1")
    parser.add_argument("--rate", type=float, default=30.0, help="pictures a second; default 30")
    parser.add_argument("--faults", type=float, default=1.0, help="how often things happen, against docs/soak.md; default 1")
    parser.add_argument("--period", type=float, default=5.0, help="seconds between two samples; default 5")
    parser.add_argument("--weights", default=PARAMETERS["weights"], help="of the node; default street")
    parser.add_argument("--judge", type=Path, metavar="FOLDER", help="only judge the records of a run")
    args = parser.parse_args(arguments)
    if args.judge is None:
        soak(args)
    return soak_report.write(args.judge or args.out)


def soak(args: argparse.Namespace) -> None:
    """Run until the time is over, Ctrl-C, or the end of node or checker."""
    args.out.mkdir(parents=True, exist_ok=True)
    for name in (*RECORDS, *soak_report.REPORTS):
        (args.out / name).unlink(missing_ok=True)
    os.environ.update(
        ROS_DOMAIN_ID=os.environ.get("SOAK_DOMAIN", str(DOMAINS[os.getpid() % len(DOMAINS)])),
        ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST",
        ROS_LOG_DIR=str(args.out.resolve() / "ros_log"),
    )
    for name, columns in (("camera.csv", soak_camera.JOURNAL), ("outputs.csv", soak_report.OUTPUTS)):
        (args.out / name).write_text(",".join(columns) + "\n")
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stopped.append(number))
    Soak(args, stopped).run()


class Soak:
    """The processes of a run.

    Args:
        args: Of the command line.
        stopped: Not empty once the run is to end.
    """

    def __init__(self, args: argparse.Namespace, stopped: list[int]) -> None:
        self._args, self._stopped, self._out = args, stopped, args.out
        self._segments: set[str] = set()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._camera_runs = 0
        self._facts: dict[str, Any] = {"arguments": {key: str(value) for key, value in vars(args).items()}}

    def run(self) -> None:
        """All of it."""
        parameters = {**PARAMETERS, "weights": self._args.weights}
        settings = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
        self._note(parameters=parameters, domain=os.environ["ROS_DOMAIN_ID"], started_ns=time.time_ns())
        try:
            node = self._start("node", "-m", "mtl_perception", "node", "--ros-args", *settings)
            self._wait_for_node(node)
            common = ("--seed", str(self._args.seed), "--faults", str(self._args.faults))
            self._start("checker", str(HERE / "soak_checker.py"), "--out", str(self._out), "--node", str(node.pid), *common)
            self._note(ready_ns=time.time_ns())
            self._watch(node, common)
        finally:
            self._end()

    def _watch(self, node: subprocess.Popen[bytes], common: tuple[str, ...]) -> None:
        columns = list(soak_process.Sample.__dataclass_fields__)
        outputs = soak_process.Follower(self._out / "outputs.csv")
        with (self._out / "samples.csv").open("w", newline="", buffering=1) as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            started = due = time.monotonic()
            restart_at = started
            while not self._stopped and time.monotonic() < started + 3600 * self._args.hours:
                for name in ("node", "checker"):
                    if self._children[name].poll() is not None:
                        return
                camera = self._children.get("camera")
                if camera is not None and camera.poll() is not None:
                    del self._children["camera"]
                    restart_at = time.monotonic() + 1 + self._camera_runs % 3
                elif camera is None and time.monotonic() >= restart_at:
                    self._start_camera(common)
                if time.monotonic() >= due:
                    due += self._args.period
                    self._segments.update(*(soak_process.segments(child.pid) for child in self._children.values()))
                    # A node that has just died is found by the next look.
                    with contextlib.suppress(OSError):
                        sample = soak_process.sample(node.pid, time.monotonic() - started, outputs.latencies())
                        writer.writerow(asdict(sample))
                time.sleep(0.1)

    def _start_camera(self, common: tuple[str, ...]) -> None:
        journal = self._out / "camera.csv"
        last = journal.read_text().rstrip("\n").rpartition("\n")[2].partition(",")[0] if self._camera_runs else ""
        options = ("--journal", str(journal), "--first", str(int(last) + 1 if last.isdigit() else 0))
        rate = ("--rate", str(self._args.rate), "--run", str(self._camera_runs))
        self._start("camera", str(HERE / "soak_camera.py"), *options, *rate, *common)
        self._camera_runs += 1

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._out / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                # Ctrl-C is for this process, which ends the others in their order.
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        return self._children[name]

    def _wait_for_node(self, node: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_PATIENCE
        log = self._out / "node.log"
        while "waiting for pictures" not in log.read_text(errors="replace"):
            if node.poll() is not None or self._stopped or time.monotonic() > deadline:
                raise SystemExit(f"the node did not come up:\n{log.read_text(errors='replace')}")
            time.sleep(0.2)

    def _end(self) -> None:
        """The checker first, which takes the last counts while there is a node; the camera goes on until then."""
        codes = {}
        for name in ("checker", "camera", "node"):
            child = self._children.get(name)
            if child is None:
                continue
            self._segments |= soak_process.segments(child.pid)
            alive = child.poll() is None
            if alive:
                child.terminate()
            try:
                child.wait(STOP_PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            codes[name] = {"ended_by_itself": not alive, "code": child.returncode}
        left = soak_process.remove_unused(self._segments)
        shutil.rmtree(self._out / "ros_log", ignore_errors=True)
        self._note(ended_ns=time.time_ns(), exits=codes, camera_runs=self._camera_runs, segments_left=left)

    def _note(self, **facts: Any) -> None:
        self._facts.update(facts)
        (self._out / "run.json").write_text(json.dumps(self._facts, indent=1) + "\n")


def die_with_parent() -> None:
    """For a child: SIGTERM when whoever started it is gone, however that ended."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
