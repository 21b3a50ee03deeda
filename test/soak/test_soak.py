"""The tool for long runs: that it runs and ends as it should, and that its accounts find what is wrong."""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")

TOOLS = Path(__file__).parents[2] / "tools"
SECOND = 1_000_000_000
PATIENCE = 240.0


@pytest.fixture(scope="module")
def tools():
    """The soak's modules, by name."""
    sys.path.insert(0, str(TOOLS))
    names = ("soak_accounts", "soak_camera", "soak_checker", "soak_plot", "soak_process", "soak_report", "soak_trends")
    yield {name.removeprefix("soak_"): importlib.import_module(name) for name in names}
    sys.path.remove(str(TOOLS))
    for name in names:
        del sys.modules[name]


def start(out: Path, weights: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with (out.parent / "soak.out").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, str(TOOLS / "soak.py"), "--out", str(out), "--weights", str(weights), *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def wait_for(condition, what: str):
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)
    return value


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            # One that nobody has asked for its end has ended all the same.
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


# A run.


def test_a_run_ended_by_ctrl_c_accounts_for_every_picture_and_leaves_nothing(tmp_path, weights_file):
    out = tmp_path / "soak"
    soak = start(out, weights_file, "--hours", "1", "--faults", "10", "--period", "0.5")
    try:
        wait_for(lambda: lines(out / "outputs.csv") > 60 or soak.poll() is not None, "outputs")
        wait_for(lambda: lines(out / "samples.csv") > 3, "samples")
        children = descendants(soak.pid)
        soak.send_signal(signal.SIGINT)
        code = soak.wait(PATIENCE)
    finally:
        soak.kill()
    report = json.loads((out / "report.json").read_text())
    failed = [check for check in report["checks"] if not check["holds"]]
    assert (code, failed) == (0, []), (tmp_path / "soak.out").read_text()
    pictures = report["pictures"]
    assert pictures["received"] == sum(pictures[n] for n in ("processed", "replaced", "rejected", "without subscriber"))
    assert pictures["processed"] >= pictures["seen"] > 0
    assert pictures["sent at least"] <= pictures["received"] <= pictures["sent at most"] <= pictures["sent"]
    assert "all holds" in (out / "report.txt").read_text()
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert not alive(children)
    run = json.loads((out / "run.json").read_text())
    assert run["segments_left"] == []


def test_killing_the_soak_ends_its_processes_and_leaves_records_that_can_be_judged(tmp_path, weights_file, tools):
    out = tmp_path / "soak"
    soak = start(out, weights_file, "--hours", "1", "--period", "0.5")
    try:
        wait_for(lambda: lines(out / "outputs.csv") > 20 or soak.poll() is not None, "outputs")
        wait_for(lambda: lines(out / "samples.csv") > 3, "samples")
        children = descendants(soak.pid)
        assert len(children) >= 3
    finally:
        soak.kill()
        soak.wait()
    wait_for(lambda: not alive(children), "the end of node, camera and checker")
    report = tools["report"].judge(out)
    failed = {check["name"] for check in report["checks"] if not check["holds"]}
    assert failed == {"processes"}, report["checks"]
    assert report["pictures"]["received"] > 0


# The accounts, on made-up records.


def records(tools, count: int = 100, broken: dict[int, str] | None = None):
    """Pictures at 10 Hz, the node active from before to after them."""
    accounts = tools["accounts"]
    pictures = [
        accounts.Picture(n, 10 * SECOND + n * SECOND // 10, 5 * SECOND + n, (broken or {}).get(n, ""), 0) for n in range(count)
    ]
    end = 10 * SECOND + count * SECOND
    configuration = accounts.Configuration([accounts.Window(0, SECOND, end, end)], is_final=True)
    return pictures, configuration


def counts(processed: int = 0, replaced: int = 0, unwanted: int = 0, **rejected: int) -> dict[str, int]:
    total = sum(rejected.values())
    named = {f"rejected: {reason}": count for reason, count in rejected.items()}
    parts = {"processed": processed, "replaced": replaced, "rejected": total, "without subscriber": unwanted}
    return {"received": processed + replaced + unwanted + total, **parts, **named}


def failures(tools, pictures, configuration, seen) -> set[str]:
    checks, _ = tools["accounts"].check_configuration("c", configuration, pictures, set(seen))
    return {check.name.removeprefix("c: ") for check in checks if not check.holds}


def test_counts_that_add_up_hold(tools):
    broken = {5: "step", 50: "step", 60: "short", 61: "short"}
    pictures, configuration = records(tools, broken=broken)
    configuration.counts = counts(processed=90, replaced=7, step=2, data_length=1)
    good = [n for n in range(100) if n not in broken]
    assert failures(tools, pictures, configuration, good[:90]) == set()


@pytest.mark.parametrize(
    ("change", "seen", "failed"),
    [
        ({"received": 101}, 96, {"counts add up", "received what was sent"}),
        ({"received": 60, "processed": 56}, 56, {"received what was sent"}),
        ({"processed": 70, "replaced": 26}, 40, {"processed came out"}),
        ({"processed": 70, "replaced": 26}, 75, {"processed came out"}),
        ({"rejected": 8, "rejected: step": 8, "processed": 92}, 92, {"rejected what was broken"}),
        ({"rejected": 0, "rejected: step": 0, "processed": 100}, 96, {"rejected what was broken", "processed what was whole"}),
        ({"rejected: step": 3, "rejected: internal": 1}, 96, {"rejected what was broken"}),
    ],
)
def test_counts_that_do_not_add_up_fail(tools, change, seen, failed):
    broken = dict.fromkeys((50, 60, 70, 80), "step")
    pictures, configuration = records(tools, broken=broken)
    configuration.counts = counts(processed=96, step=4) | change
    good = [n for n in range(100) if n not in broken]
    assert failures(tools, pictures, configuration, good[:seen]) == failed


def test_too_many_in_work_is_found_though_the_last_count_is_right(tools):
    pictures, configuration = records(tools)
    configuration.counts = counts(processed=100)
    configuration.most_in_work = 3
    assert failures(tools, pictures, configuration, range(100)) == {"counts add up"}


def test_a_configuration_without_counts_fails(tools):
    pictures, configuration = records(tools)
    assert failures(tools, pictures, configuration, range(100)) == {"counts"}


def test_pictures_around_activation_and_restart_may_be_lost_and_others_not(tools):
    accounts = tools["accounts"]
    # Two runs of the camera, at 10 Hz: seconds 10 to 20, and 25 to 35; the node leaves at 34 and is gone at 34.5.
    times = [10 + n / 10 for n in range(100)] + [25 + n / 10 for n in range(100)]
    pictures = [accounts.Picture(n, round(at * SECOND), 0, "", n // 100) for n, at in enumerate(times)]
    window = accounts.Window(9 * SECOND, 10 * SECOND, 34 * SECOND, 34 * SECOND + SECOND // 2)
    seen = set(range(3, 190)) - set(range(100, 105))
    certain, possible = accounts.sent_bounds(pictures, [window], seen)
    # Certain from a second after the first one seen of a run, to a second before its end.
    assert {p.number for p in certain} == set(range(13, 90)) | set(range(115, 181))
    assert {p.number for p in possible} == set(range(196))


def test_configurations_follow_the_events(tools):
    def transition(name: str, begun: int, done: int) -> dict:
        return {"event": "transition", "name": name, "begun_ns": begun, "t_ns": done, "expected": True, "done": True}

    def told(t: int, state: str, values: dict) -> dict:
        return {"event": "diagnostics", "t_ns": t, "state": state, "counts": values}

    first, second = counts(processed=7), counts(processed=1, replaced=2)
    pending = first | {"received": 9}
    events = [
        told(5, "active", pending),
        transition("deactivate", 10, 11),
        {"event": "final", "t_ns": 12, "counts": first},
        transition("cleanup", 13, 14),
        told(15, "unconfigured", first),
        transition("configure", 16, 17),
        transition("activate", 18, 19),
        told(30, "active", second),
    ]
    before, after = tools["accounts"].configurations(events, 1)
    window = tools["accounts"].Window
    assert (before.windows, before.counts, before.is_final, before.most_in_work) == ([window(1, 1, 10, 11)], first, True, 2)
    assert (after.windows, after.counts, after.is_final) == ([window(18, 19, 30, 30)], second, False)


def output(tools, number: int, subscriber: int = 1, topic: str = "points", stamp: int | None = None, size=(160, 96)):
    stamp = 5 * SECOND + number if stamp is None else stamp
    return tools["accounts"].Output(subscriber, topic, number, stamp, size)


@pytest.mark.parametrize(
    ("make", "failed"),
    [
        (lambda o: [o(1), o(2), o(1, subscriber=2), o(4)], set()),
        (lambda o: [o(2), o(1)], {"order"}),
        (lambda o: [o(2), o(2)], {"order"}),
        (lambda o: [o(1), o(2, stamp=7)], {"headers"}),
        (lambda o: [o(1), o(1000)], {"headers"}),
        (lambda o: [o(1), o(3)], {"nothing of broken pictures"}),
        (lambda o: [o(1), o(1, subscriber=2, size=(80, 48))], {"sizes"}),
    ],
)
def test_outputs_that_are_wrong_are_found(tools, make, failed):
    pictures, _ = records(tools, broken={3: "step"})
    checks = tools["accounts"].check_outputs(pictures, make(lambda *a, **k: output(tools, *a, **k)))
    assert {check.name for check in checks if not check.holds} == failed


def test_requests_answered_wrongly_are_found(tools):
    good = {"event": "parameter", "name": "input_scale", "value": 0.5, "expected": True, "done": True, "reason": ""}
    taken = good | {"value": 7.0, "expected": False}
    assert tools["accounts"].check_events([good])[0].holds
    check = tools["accounts"].check_events([good, taken])[0]
    assert not check.holds
    assert "input_scale=7.0" in check.text


# Trends.


def trend_of(tools, values: np.ndarray):
    seconds = np.linspace(1800, 7200, len(values))
    return tools["trends"].trend("rss_mib", seconds, values)


def test_trends_tell_leaks_from_noise_and_steps(tools):
    noise = np.random.default_rng(0).normal(0, 5, 1000)
    time = np.linspace(0, 1, 1000)
    flat = trend_of(tools, 600 + noise)
    assert flat.holds
    assert abs(flat.growth) < 3 * flat.growth_error < 8
    leak = trend_of(tools, 600 + noise + 20 * time)
    assert not leak.holds
    assert leak.growth == pytest.approx(20, abs=3 * leak.growth_error)
    assert leak.slope == pytest.approx(leak.growth / 1.5)
    assert trend_of(tools, 600 + noise + 40 * (time > 0.4)).holds
    assert not trend_of(tools, 600 + noise + 5 * np.floor(8 * time)).holds
    # Single samples do not matter, nor do those that are missing.
    holes = np.where(np.arange(1000) % 7 == 0, np.nan, 600 + noise)
    holes[900] = 1e6
    assert trend_of(tools, holes).holds


def test_what_is_left_after_cleanups_is_judged_by_itself(tools):
    seconds = np.arange(0, 7200.0, 5)
    samples = {name: np.full(len(seconds), 10.0) for name in tools["trends"].ALLOWED} | {"seconds": seconds}

    def judged(growth: float, count: int = 30):
        times = np.linspace(60, 7100, count)
        events = [
            {"event": "clean", "t_ns": int(t * SECOND), "mib": 240 + growth * t / 5400, "fds": 20, "threads": 9} for t in times
        ]
        return tools["report"].judge_trends(samples, [{"event": "final"}, *events], 0)

    assert judged(0)["clean_mib"].holds
    assert not judged(20)["clean_mib"].holds
    assert judged(20)["clean_mib"].slope == pytest.approx(40 / 3)
    assert judged(20)["clean_fds"].holds
    # Of few nothing can be said.
    assert "clean_mib" not in judged(20, 4)


def test_short_runs_are_not_judged_by_slopes(tools):
    judged_from = tools["trends"].judged_from
    assert judged_from(np.arange(0, 1500.0)) is None
    assert judged_from(np.arange(0, 1900.0)) == 600
    assert judged_from(np.arange(0, 7201.0)) == 1800
    assert judged_from(np.array([])) is None


# The camera's script, and what is read of messages and processes.


def test_the_camera_does_the_same_for_the_same_seed_and_everything_in_time(tools):
    camera = tools["camera"]

    def some(seed: int) -> list:
        return [shot for shot, _ in zip(camera.shots(seed, 30.0, 1.0), range(60_000), strict=False)]

    first = some(1)
    assert first == some(1) != some(2)
    usual = sum(shot == camera.Shot(wait=1 / 30) for shot in first)
    assert 0.5 < usual / len(first) < 0.95
    assert {shot.broken for shot in first} == {"", *camera.BROKEN}
    assert {shot.size for shot in first} == set(camera.SIZES)
    assert {shot.encoding for shot in first} == set(camera.ENCODINGS)
    assert {shot.calibration for shot in first} == set(camera.CALIBRATIONS)
    assert {shot.stamp for shot in first} == {"now", "same", "back"}
    assert {shot.end for shot in first} == {"", "leave", "die"}
    assert 0.0 in {shot.wait for shot in first}
    assert max(shot.wait for shot in first) > 2.0
    assert all(shot == camera.Shot(wait=1 / 30) for shot, _ in zip(camera.shots(1, 30.0, 0.0), range(1000), strict=False))


@pytest.mark.parametrize("frame_id", ["soak/1/2", "soak/12/345", "soak/123/4567", "soak/7/123456"])
def test_headers_are_read_from_serialized_messages(tools, frame_id):
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import CameraInfo, Image, PointCloud2

    for kind in (Image, PointCloud2, CameraInfo):
        message = kind(height=96, width=160)
        message.header.frame_id = frame_id
        message.header.stamp.sec, message.header.stamp.nanosec = 17, 5
        assert tools["checker"].header_of(serialize_message(message)) == (17 * SECOND + 5, frame_id, 96, 160)


def test_tables_cut_off_in_the_middle_of_a_line_are_read(tools, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n3,4\n5,")
    assert list(tools["report"].read_table(table)) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    rows = "subscriber,topic,number,stamp_ns,latency_us,height,width\n1,t,0,0,100,9,9\n2,t,0,0,999,9,9\n1,t,1,0,2"
    table.write_text(rows)
    follower = tools["process"].Follower(table)
    assert follower.latencies() == [100]
    table.write_text(rows + "00,9,9\n")
    assert follower.latencies() == [200]
    assert follower.latencies() == []


def test_the_plot_shows_each_curve_where_its_values_are(tools):
    seconds = np.arange(0.0, 3600.0, 5.0)
    names = (*csv.DictReader(["seconds,cpu_seconds,outputs"]).fieldnames, *tools["trends"].ALLOWED)
    samples = {name: np.full(len(seconds), 10.0) for name in names} | {"seconds": seconds}
    plot, color = tools["plot"], tools["plot"].COLORS[0]
    low = plot.plot(samples, 900.0)
    samples["anonymous_mib"] = np.full(len(seconds), 5.0)
    samples["rss_mib"] = np.where(seconds < 1800, 10.0, 40.0)
    high = plot.plot(samples, 900.0)
    assert low.shape == high.shape
    assert low.shape[1:] == (plot.WIDTH, 3)
    # A panel more, where something was looked at after cleanups.
    samples["clean_mib"] = np.where(np.arange(len(seconds)) % 100 == 50, 240.0, np.nan)
    assert plot.plot(samples, 900.0).shape[0] == high.shape[0] + plot.PANEL_HEIGHT
    panel = slice(plot.TOP, plot.PANEL_HEIGHT - plot.BOTTOM)
    rows = [
        np.flatnonzero(np.abs(high[panel, x].astype(int) - color).max(axis=-1) < 60)
        for x in (plot.WIDTH // 4, 3 * plot.WIDTH // 4)
    ]
    assert rows[0].min() > rows[1].max()
