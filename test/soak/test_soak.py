"""Soak tool: processes, records, accounting, trends and the plot."""

from __future__ import annotations

import contextlib
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

from mtl_perception.errors import DependencyError
from tools.soak import accounts, camera, checker, plot, process, report, trends

ROOT = Path(__file__).parents[2]
SECOND = 1_000_000_000
TIMEOUT = 240.0


def start(out: Path, weights: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with (out.parent / "soak.out").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tools.soak", "--out", str(out), "--weights", str(weights), *arguments],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def wait_for(condition, what: str):
    deadline = time.monotonic() + TIMEOUT
    while not (value := condition()):
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.1)
    return value


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for child in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            # A zombie has exited although its parent has not collected it yet.
            if child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


# A complete run.


def test_run_stopped_by_ctrl_c_accounts_for_every_image_and_leaves_nothing_behind(tmp_path, weights_file):
    out = tmp_path / "soak"
    soak = start(out, weights_file, "--hours", "1", "--faults", "10", "--period", "0.5")
    try:
        wait_for(lambda: lines(out / "outputs.csv") > 60 or soak.poll() is not None, "outputs")
        wait_for(lambda: lines(out / "samples.csv") > 3, "samples")
        children = descendants(soak.pid)
        soak.send_signal(signal.SIGINT)
        code = soak.wait(TIMEOUT)
    finally:
        soak.kill()
    summary = json.loads((out / "report.json").read_text())
    failed = [check for check in summary["checks"] if not check["passed"]]
    assert (code, failed) == (0, []), (tmp_path / "soak.out").read_text()
    images = summary["images"]
    assert images["received"] == sum(images[n] for n in ("processed", "replaced", "rejected", "without subscriber"))
    assert images["processed"] >= images["seen"] > 0
    bounds = images["published, lower bound"], images["published, upper bound"]
    assert bounds[0] <= images["received"] <= bounds[1] <= images["published"]
    assert "passed" in (out / "report.txt").read_text()
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert not alive(children)
    run = json.loads((out / "run.json").read_text())
    assert run["segments_left"] == []


def test_killed_run_ends_its_processes_and_its_records_can_be_judged(tmp_path, weights_file):
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
    wait_for(lambda: not alive(children), "node, camera and checker to exit")
    summary = report.judge(out)
    failed = {check["name"] for check in summary["checks"] if not check["passed"]}
    assert failed == {"processes"}, summary["checks"]
    assert summary["images"]["received"] > 0


# Accounting, with fabricated records.


def records(count: int = 100, malformed: dict[int, str] | None = None):
    """Return images at 10 Hz and a configuration that is active throughout."""
    images = [
        accounts.SentImage(n, 10 * SECOND + n * SECOND // 10, 5 * SECOND + n, (malformed or {}).get(n, ""), 0)
        for n in range(count)
    ]
    end = 10 * SECOND + count * SECOND
    configuration = accounts.Configuration([accounts.ActiveWindow(0, SECOND, end, end)], is_final=True)
    return images, configuration


def counts(processed: int = 0, replaced: int = 0, unsubscribed: int = 0, **rejected: int) -> dict[str, int]:
    total = sum(rejected.values())
    named = {f"rejected: {reason}": count for reason, count in rejected.items()}
    parts = {"processed": processed, "replaced": replaced, "rejected": total, "without subscriber": unsubscribed}
    return {"received": processed + replaced + unsubscribed + total, **parts, **named}


def failures(images, configuration, seen) -> set[str]:
    checks, _ = accounts.check_configuration("c", configuration, images, set(seen))
    return {check.name.removeprefix("c: ") for check in checks if not check.passed}


def test_consistent_counts_pass():
    malformed = {5: "step", 50: "step", 60: "short", 61: "short"}
    images, configuration = records(malformed=malformed)
    configuration.counts = counts(processed=90, replaced=7, step=2, data_length=1)
    good = [n for n in range(100) if n not in malformed]
    assert failures(images, configuration, good[:90]) == set()


@pytest.mark.parametrize(
    ("change", "seen", "failed"),
    [
        ({"received": 101}, 96, {"counts add up", "received matches published"}),
        ({"received": 60, "processed": 56}, 56, {"received matches published"}),
        ({"processed": 70, "replaced": 26}, 40, {"processed matches outputs"}),
        ({"processed": 70, "replaced": 26}, 75, {"processed matches outputs"}),
        ({"rejected": 8, "rejected: step": 8, "processed": 92}, 92, {"rejected matches malformed"}),
        ({"rejected": 0, "rejected: step": 0, "processed": 100}, 96, {"rejected matches malformed", "processed matches valid"}),
        ({"rejected: step": 3, "rejected: internal": 1}, 96, {"rejected matches malformed"}),
    ],
)
def test_inconsistent_counts_fail(change, seen, failed):
    malformed = dict.fromkeys((50, 60, 70, 80), "step")
    images, configuration = records(malformed=malformed)
    configuration.counts = counts(processed=96, step=4) | change
    good = [n for n in range(100) if n not in malformed]
    assert failures(images, configuration, good[:seen]) == failed


def test_too_many_images_in_flight_fail_although_the_final_counts_are_consistent():
    images, configuration = records()
    configuration.counts = counts(processed=100)
    configuration.max_in_flight = 3
    assert failures(images, configuration, range(100)) == {"counts add up"}


def test_configuration_without_counts_fails():
    images, configuration = records()
    assert failures(images, configuration, range(100)) == {"counts"}


def test_only_images_around_activation_and_restart_may_be_lost():
    # The camera runs twice at 10 Hz, from 10 to 20 s and from 25 to 35 s; the node deactivates from 34 to 34.5 s.
    times = [10 + n / 10 for n in range(100)] + [25 + n / 10 for n in range(100)]
    images = [accounts.SentImage(n, round(at * SECOND), 0, "", n // 100) for n, at in enumerate(times)]
    window = accounts.ActiveWindow(9 * SECOND, 10 * SECOND, 34 * SECOND, 34 * SECOND + SECOND // 2)
    seen = set(range(3, 190)) - set(range(100, 105))
    certain, possible = accounts.sent_bounds(images, [window], seen)
    # Certain: from 1 s after the first output of a run to 1 s before its end.
    assert {p.number for p in certain} == set(range(13, 90)) | set(range(115, 181))
    assert {p.number for p in possible} == set(range(196))


def test_configurations_are_derived_from_events():
    def transition(name: str, begun: int, done: int) -> dict:
        return {"event": "transition", "name": name, "begun_ns": begun, "t_ns": done, "expected": True, "done": True}

    def diagnostics(t: int, state: str, values: dict) -> dict:
        return {"event": "diagnostics", "t_ns": t, "state": state, "counts": values}

    first, second = counts(processed=7), counts(processed=1, replaced=2)
    pending = first | {"received": 9}
    events = [
        diagnostics(5, "active", pending),
        transition("deactivate", 10, 11),
        {"event": "final", "t_ns": 12, "counts": first},
        transition("cleanup", 13, 14),
        diagnostics(15, "unconfigured", first),
        transition("configure", 16, 17),
        transition("activate", 18, 19),
        diagnostics(30, "active", second),
    ]
    before, after = accounts.configurations(events, 1)
    window = accounts.ActiveWindow
    assert (before.windows, before.counts, before.is_final, before.max_in_flight) == ([window(1, 1, 10, 11)], first, True, 2)
    assert (after.windows, after.counts, after.is_final) == ([window(18, 19, 30, 30)], second, False)


def output(number: int, subscriber: int = 1, topic: str = "points", stamp: int | None = None, size=(160, 96)):
    stamp = 5 * SECOND + number if stamp is None else stamp
    return accounts.ReceivedOutput(subscriber, topic, number, stamp, size)


@pytest.mark.parametrize(
    ("make", "failed"),
    [
        (lambda o: [o(1), o(2), o(1, subscriber=2), o(4)], set()),
        (lambda o: [o(2), o(1)], {"order"}),
        (lambda o: [o(2), o(2)], {"order"}),
        (lambda o: [o(1), o(2, stamp=7)], {"headers"}),
        (lambda o: [o(1), o(1000)], {"headers"}),
        (lambda o: [o(1), o(3)], {"no output of malformed images"}),
        (lambda o: [o(1), o(1, subscriber=2, size=(80, 48))], {"sizes"}),
    ],
)
def test_wrong_outputs_fail(make, failed):
    images, _ = records(malformed={3: "step"})
    checks = accounts.check_outputs(images, make(lambda *a, **k: output(*a, **k)))
    assert {check.name for check in checks if not check.passed} == failed


def test_unexpected_answers_to_requests_fail():
    good = {"event": "parameter", "name": "input_scale", "value": 0.5, "expected": True, "done": True, "reason": ""}
    taken = good | {"value": 7.0, "expected": False}
    assert accounts.check_events([good])[0].passed
    check = accounts.check_events([good, taken])[0]
    assert not check.passed
    assert "input_scale=7.0" in check.text


# Trends.


def trend_of(values: np.ndarray):
    seconds = np.linspace(1800, 7200, len(values))
    return trends.trend("rss_mib", seconds, values)


def test_trends_distinguish_leaks_from_noise_and_steps():
    noise = np.random.default_rng(0).normal(0, 5, 1000)
    time = np.linspace(0, 1, 1000)
    flat = trend_of(600 + noise)
    assert flat.passed
    assert abs(flat.growth) < 3 * flat.growth_error < 8
    leak = trend_of(600 + noise + 20 * time)
    assert not leak.passed
    assert leak.growth == pytest.approx(20, abs=3 * leak.growth_error)
    assert leak.slope == pytest.approx(leak.growth / 1.5)
    assert trend_of(600 + noise + 40 * (time > 0.4)).passed
    assert not trend_of(600 + noise + 5 * np.floor(8 * time)).passed
    # Outliers and missing samples have no effect.
    holes = np.where(np.arange(1000) % 7 == 0, np.nan, 600 + noise)
    holes[900] = 1e6
    assert trend_of(holes).passed


def test_samples_after_cleanups_are_judged_separately():
    seconds = np.arange(0, 7200.0, 5)
    samples = {name: np.full(len(seconds), 10.0) for name in trends.ALLOWED} | {"seconds": seconds}

    def judged(growth: float, count: int = 30):
        times = np.linspace(60, 7100, count)
        events = [
            {"event": "clean", "t_ns": int(t * SECOND), "mib": 240 + growth * t / 5400, "fds": 20, "threads": 9} for t in times
        ]
        return report.judge_trends(samples, [{"event": "final"}, *events], 0)

    assert judged(0)["clean_mib"].passed
    assert not judged(20)["clean_mib"].passed
    assert judged(20)["clean_mib"].slope == pytest.approx(40 / 3)
    assert judged(20)["clean_fds"].passed
    # Too few cleanups are not judged.
    assert "clean_mib" not in judged(20, 4)


def test_trends_of_short_runs_are_not_judged():
    assert trends.warm_up_end(np.arange(0, 1500.0)) is None
    assert trends.warm_up_end(np.arange(0, 1900.0)) == 600
    assert trends.warm_up_end(np.arange(0, 7201.0)) == 1800
    assert trends.warm_up_end(np.array([])) is None


# The camera's plan, message headers and process samples.


def test_image_plans_are_reproducible_and_contain_every_fault():

    def some(seed: int) -> list:
        return [plan for plan, _ in zip(camera.plan_images(seed, 30.0, 1.0), range(60_000), strict=False)]

    first = some(1)
    assert first == some(1) != some(2)
    usual = sum(plan == camera.ImagePlan(wait=1 / 30) for plan in first)
    assert 0.5 < usual / len(first) < 0.95
    assert {plan.malformed for plan in first} == {"", *camera.MALFORMED}
    assert {plan.size for plan in first} == set(camera.SIZES)
    assert {plan.encoding for plan in first} == set(camera.ENCODINGS)
    assert {plan.calibration for plan in first} == set(camera.CALIBRATIONS)
    assert {plan.stamp for plan in first} == {"now", "same", "back"}
    assert {plan.exit for plan in first} == {"", "shutdown", "kill"}
    assert 0.0 in {plan.wait for plan in first}
    assert max(plan.wait for plan in first) > 2.0
    assert all(
        plan == camera.ImagePlan(wait=1 / 30) for plan, _ in zip(camera.plan_images(1, 30.0, 0.0), range(1000), strict=False)
    )


@pytest.mark.parametrize("frame_id", ["soak/1/2", "soak/12/345", "soak/123/4567", "soak/7/123456"])
def test_headers_of_serialized_messages(frame_id):
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import CameraInfo, Image, PointCloud2

    for kind in (Image, PointCloud2, CameraInfo):
        message = kind(height=96, width=160)
        message.header.frame_id = frame_id
        message.header.stamp.sec, message.header.stamp.nanosec = 17, 5
        assert checker.header_of(serialize_message(message)) == (17 * SECOND + 5, frame_id, 96, 160)


def test_truncated_last_rows_are_ignored(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n3,4\n5,")
    assert list(report.read_table(table)) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    rows = "subscriber,topic,number,stamp_ns,latency_us,height,width\n1,t,0,0,100,9,9\n2,t,0,0,999,9,9\n1,t,1,0,2"
    table.write_text(rows)
    reader = process.LatencyReader(table)
    assert reader.read() == [100]
    table.write_text(rows + "00,9,9\n")
    assert reader.read() == [200]
    assert reader.read() == []


def test_plot_draws_each_column_and_the_panels_that_have_data():
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    seconds = np.arange(0.0, 3600.0, 5.0)
    samples = {name: np.full(len(seconds), 10.0) for name in ("cpu_seconds", "outputs", *trends.ALLOWED)} | {"seconds": seconds}
    samples["rss_mib"] = np.where(seconds < 1800, 10.0, 40.0)
    samples["anonymous_mib"][::2] = np.nan
    figure = plot.draw(samples, 900.0)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [panel.title for panel in plot.PANELS if "clean_mib" not in panel.curves]
    resident, private = figure.axes[0].get_lines()
    np.testing.assert_allclose(resident.get_xdata(), seconds / 60)
    np.testing.assert_array_equal(resident.get_ydata(), samples["rss_mib"])
    np.testing.assert_array_equal(private.get_ydata(), np.full(len(seconds) // 2, 10.0))
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["resident", "private"]
    assert figure.axes[0].get_ylim()[0] == 0
    rate = figure.axes[titles.index("output rate of the permanent subscriber (Hz)")].get_lines()[0]
    np.testing.assert_allclose(rate.get_ydata(), 2.0)
    # One more panel when samples after cleanups exist.
    samples["clean_mib"] = np.where(np.arange(len(seconds)) % 100 == 50, 240.0, np.nan)
    figure = plot.draw(samples, None)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [panel.title for panel in plot.PANELS]
    (clean,) = figure.axes[2].get_lines()
    np.testing.assert_allclose(clean.get_xdata(), seconds[50::100] / 60)


def test_report_without_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DependencyError, match=r"pip install 'mtl_perception\[plot\]'"):
        plot.draw({}, None)
