"""`--rerun` of `process` and `infer`: one recording for each source, with the pipeline's results."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from support.bags import START_NS, STEP_NS, bag_image, drive, write_bag

pytest.importorskip("rerun", reason="needs rerun-sdk: pip install 'mtl_perception[rerun]'")
from support.rrd import pixels, read_rrd

from mtl_perception import Frame, Pipeline
from mtl_perception.__main__ import main

SIZE = (24, 32)
COUNT = 3


@pytest.fixture
def command(weights_file, capsys):
    """Run a command in this process and return exit code and the last line of stderr."""

    def run(*arguments: object) -> tuple[int, str]:
        code = main([*map(str, arguments), "--weights", str(weights_file), "--device", "cpu", "--backend", "torch"])
        return code, (capsys.readouterr().err.splitlines() or [""])[-1]

    return run


@pytest.fixture
def bag(tmp_path) -> Path:
    return write_bag(tmp_path / "drive", "mcap", drive("mcap", COUNT, SIZE))


def test_process_logs_the_results_of_every_frame(tmp_path, bag, command, weights_file):
    assert command("process", bag, "--out", tmp_path / "out.mcap", "--rerun", tmp_path / "out.rrd")[0] == 0
    rows = read_rrd(tmp_path / "out.rrd")["/world/camera/labels"]
    assert [row["stamp"] for row in rows] == [START_NS + i * STEP_NS for i in range(COUNT)]
    pipe = Pipeline(weights=weights_file, device="cpu", backend="torch", warm_up=False)
    for i, row in enumerate(rows):
        assert np.array_equal(pixels(row, "SegmentationImage", "u1"), pipe(Frame(bag_image(i, *SIZE))).labels)


def test_recording_does_not_change_the_bag(tmp_path, bag, command):
    assert command("process", bag, "--out", tmp_path / "a.mcap", "--rerun", tmp_path / "a.rrd")[0] == 0
    assert command("process", bag, "--out", tmp_path / "b.mcap")[0] == 0
    with AnyReader([tmp_path / "a.mcap"]) as a, AnyReader([tmp_path / "b.mcap"]) as b:
        for (first, time_ns, data), (second, other_ns, other) in zip(a.messages(), b.messages(), strict=True):
            assert (first.topic, time_ns) == (second.topic, other_ns)
            # Decoded, because the padding of serialized messages is arbitrary.
            texts = {repr(reader.deserialize(raw, first.msgtype)) for reader, raw in ((a, data), (b, other))}
            assert len(texts) == 1


def test_existing_recording_is_an_error_without_force(tmp_path, bag, command):
    (tmp_path / "out.rrd").write_bytes(b"old")
    code, error = command("process", bag, "--out", tmp_path / "out.mcap", "--rerun", tmp_path / "out.rrd")
    assert code == 1 and "out.rrd already exists; choose another name, or replace it with --force" in error
    assert not (tmp_path / "out.mcap").exists() and (tmp_path / "out.rrd").read_bytes() == b"old"


def test_several_sources_get_one_recording_each(tmp_path, bag, command):
    other = write_bag(tmp_path / "other", "mcap", drive("mcap", COUNT - 1, SIZE))
    many = ("process", bag, other, "--out", tmp_path / "out", "--rerun", tmp_path / "rrd")
    assert command(*many)[0] == 0
    counts = {path.name: len(read_rrd(path)["/world/camera/labels"]) for path in (tmp_path / "rrd").iterdir()}
    assert counts == {"drive.rrd": COUNT, "other.rrd": COUNT - 1}
    # A missing recording is written by the next run, an existing one is kept.
    (tmp_path / "rrd/drive.rrd").unlink()
    kept = (tmp_path / "rrd/other.rrd").stat().st_mtime_ns
    assert command(*many)[0] == 0
    assert len(read_rrd(tmp_path / "rrd/drive.rrd")["/world/camera/labels"]) == COUNT
    assert (tmp_path / "rrd/other.rrd").stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rerun", "folder"), "--rerun folder: give FILE.rrd"),
        (("--rerun", "a.rrd", "--rerun-points", "-1"), "--rerun-points -1: give 0 or more"),
        (("--rerun", "a.rrd", "--rerun-jpeg", "101"), "--rerun-jpeg 101: give 0 to 100"),
        (("--rerun", "a.rrd", "--jobs", "2"), "--rerun a.rrd: give a folder for the recordings of several sources"),
    ],
)
def test_wrong_option_is_explained(tmp_path, bag, command, arguments, message):
    code, error = command("process", bag, "--out", tmp_path / "out", *arguments)
    assert code == 2 and message in error


def test_infer_logs_images_in_their_order(tmp_path, command):
    names = []
    for i in range(COUNT):
        names.append(tmp_path / f"{i}.png")
        cv2.imwrite(str(names[-1]), bag_image(i, *SIZE)[..., ::-1])
    for _ in range(2):  # An existing recording is replaced, as the other outputs are.
        assert command("infer", *names, "--out", tmp_path / "out", "--rerun", tmp_path / "a.rrd")[0] == 0
    rows = read_rrd(tmp_path / "a.rrd")
    for i, row in enumerate(rows["/world/camera/labels"]):
        expected = cv2.imread(str(tmp_path / f"out/{i}.labels.png"), cv2.IMREAD_UNCHANGED)
        assert row["frame"] == i and np.array_equal(pixels(row, "SegmentationImage", "u1"), expected)
    assert len(rows["/world/points"]) == COUNT
