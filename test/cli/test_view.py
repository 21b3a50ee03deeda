"""`view`: what is shown, on which addresses it listens, and what it refuses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.bags import drive, write_bag

pytest.importorskip("rerun", reason="needs rerun-sdk: pip install 'mtl_perception[rerun]'")
from support.rrd import pixels, read_rrd

from mtl_perception import Pipeline
from mtl_perception.__main__ import main
from mtl_perception.labels import STREET
from mtl_perception.sources.bag.outputs import RecordedOutputs, find_node
from mtl_perception.visualization.rerun import RerunFile, RerunLog, RerunOptions

SIZE = (24, 32)
COUNT = 3
NODE = "/mtl_perception"


@pytest.fixture(scope="module")
def processed(tmp_path_factory, weights_file) -> Path:
    """A folder with a bag of the node's outputs, `with.mcap` with and `without.mcap` without the input, and `out.rrd`."""
    folder = tmp_path_factory.mktemp("view")
    bag = write_bag(folder / "drive", "mcap", drive("mcap", COUNT, SIZE))
    options = ["--weights", str(weights_file), "--device", "cpu", "--backend", "torch"]
    recording = ["--with-input", "--rerun", str(folder / "out.rrd"), "--rerun-jpeg", "0"]
    assert main(["process", str(bag), "--out", str(folder / "with.mcap"), *recording, *options]) == 0
    assert main(["process", str(bag), "--out", str(folder / "without.mcap"), *options]) == 0
    return folder


def test_outputs_in_a_bag_are_those_that_were_recorded_directly(tmp_path, processed):
    recorded = RecordedOutputs(processed / "with.mcap", NODE)
    assert recorded.class_set == STREET
    assert not recorded.image_has_labels
    with RerunFile(RerunLog("bag", STREET, 80.0, RerunOptions(jpeg=0)), tmp_path / "bag.rrd") as log:
        for stamp, outputs in recorded:
            log.log(outputs, stamp)
    found, expected = read_rrd(tmp_path / "bag.rrd"), read_rrd(processed / "out.rrd")
    for name, archetype, dtype in (
        ("labels", "SegmentationImage", "u1"),
        ("depth", "DepthImage", "<f2"),
        ("confidence", "Image", "u1"),
    ):
        rows, others = found[f"/world/camera/{name}"], expected[f"/world/camera/{name}"]
        assert [(row["frame"], row["stamp"]) for row in rows] == [(row["frame"], row["stamp"]) for row in others]
        for row, other in zip(rows, others, strict=True):
            assert np.array_equal(pixels(row, archetype, dtype), pixels(other, archetype, dtype), equal_nan=dtype == "<f2")
    for name in ("/world/camera/image", "/world/points", "/world/camera"):
        rows, others = ([{key: row[key] for key in row if ":" in key} for row in of[name]] for of in (found, expected))
        assert rows == others and rows


def test_demo_writes_the_outputs_of_its_recording(tmp_path, processed, weights_file):
    from mtl_perception.demo.recording import write_rerun

    pipe = Pipeline(weights=weights_file, device="cpu", backend="torch", warm_up=False)
    write_rerun(processed / "with.mcap", tmp_path / "demo.rrd", pipe, RerunOptions())
    found, expected = read_rrd(tmp_path / "demo.rrd"), read_rrd(processed / "out.rrd")
    assert found["/world/camera/labels"] == expected["/world/camera/labels"] and len(found["/world/points"]) == COUNT


def test_overlays_take_the_place_of_images_that_were_not_recorded(processed):
    recorded = RecordedOutputs(processed / "without.mcap", NODE)
    assert recorded.image_has_labels
    assert sum(outputs.image is not None for _, outputs in recorded) == COUNT


def test_bag_without_outputs_has_no_node(processed):
    assert find_node(processed / "with.mcap") == NODE
    assert find_node(processed / "drive") is None


def free_ports() -> int:
    """Return a free port whose successor is free as well."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            try:
                second.bind(("127.0.0.1", first.getsockname()[1] + 1))
            except OSError:
                continue
            return int(first.getsockname()[1])


@pytest.mark.slow
def test_page_is_for_this_machine_only_and_sends_nothing_elsewhere(tmp_path, processed, weights_file):
    port = free_ports()
    command = [sys.executable, "-m", "mtl_perception", "view", str(processed / "with.mcap"), "--web", "--port", str(port)]
    environment = {**os.environ, "HOME": str(tmp_path), "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    environment.pop("XDG_CONFIG_HOME", None)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, "--weights", str(weights_file)], stderr=log, env=environment)
    try:
        deadline = time.monotonic() + 120
        while f"{COUNT} frames shown" not in (tmp_path / "log").read_text():
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.2)
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        listening = {
            entry.laddr for each in tree for entry in each.net_connections("inet") if entry.status == psutil.CONN_LISTEN
        }
        assert {address.ip for address in listening} == {"127.0.0.1"}
        assert {port, port + 1} <= {address.port for address in listening}
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/") as answer:
            assert f"url=rerun%2Bhttp%3A%2F%2F127.0.0.1%3A{port + 1}%2Fproxy" in answer.url
            assert "<title>Rerun Viewer</title>" in answer.read().decode()
            sources = answer.headers["Content-Security-Policy"].partition("connect-src ")[2].split()
            assert sources == ["'self'", "data:", "blob:", f"http://127.0.0.1:{port + 1}"]
    finally:
        process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in tree)
    # Rerun's viewer saves the consent to send usage data in the home folder.
    assert not list(tmp_path.rglob("analytics*"))
    assert "Traceback" not in (tmp_path / "log").read_text() and "ERROR" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.rrd", "--web"], 1, "missing.rrd does not exist"),
        (["missing.mcap", "--web"], 1, "missing.mcap does not exist"),
        (["out.rrd"], 2, "view needs a display for its window, and there is none; show a page with --web"),
        (["out.rrd", "--web", "--port", "0"], 2, "--port 0: give 1 to 65534"),
        (
            ["with.mcap", "--web", "--node", "/other"],
            1,
            "has no messages on /other/segmentation/labels; nodes in it: /mtl_perc",
        ),
    ],
)
def test_failure_is_one_line(processed, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(processed)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main(["view", *arguments]) == code
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_port_in_use_is_reported(processed, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["view", str(processed / "out.rrd"), "--web", "--port", str(port)]) == 2
    assert f"port {port} of this machine is in use; give another --port" in capsys.readouterr().err
