"""Planned faults, message headers, process samples, trends and the plot of a soak run."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")

from mtl_perception.errors import DependencyError
from tools.soak import camera, checker, plot, process, report, trends

SECOND = 1_000_000_000


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
