"""Training runs: learning, resuming, several processes, initial weights, and errors."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.training import FOCAL_LENGTH, datasets_fixture, read_log, train, write_config, write_road_dataset

from mtl_perception.errors import WeightsError
from mtl_perception.threads import single_thread
from mtl_perception.training.config_file import read_config
from mtl_perception.weights.files import load_network

data = datasets_fixture()


@pytest.mark.slow
def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_run(data: Path, tmp_path: Path) -> None:
    path = write_config(data, "resumed", held_out=[{"path": "unseen", "format": "folder"}], license="for the test", workers=1)
    # All runs use one thread, because the number of threads changes the order of sums.
    with single_thread():
        train(path, tmp_path / "whole")
    command = [sys.executable, "-m", "mtl_perception", "train", str(path), "--out", str(tmp_path / "parts"), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while not ((tmp_path / "parts/log.csv").exists() and read_log(tmp_path / "parts")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    # The signal goes to the whole process group, as from a batch system or at shutdown.
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "stopped at step" in errors and "run the same command again to resume" in errors and "Traceback" not in errors
    done = len(read_log(tmp_path / "parts"))
    assert 1 <= done < 6
    assert "the weights so far are in" in errors
    assert load_network(tmp_path / "parts/tiny-latest.safetensors").description.card == {"step": done, "complete": False}
    with single_thread():
        text = train(path, tmp_path / "parts", "--set", "epoch=2")
    assert f"resumed at step {done} of 6" in text and "different from the checkpoint: epoch was 3, is 2" in text
    resumed, whole = (load_network(tmp_path / name / "tiny.safetensors") for name in ("parts", "whole"))
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name
    assert [row["segmentation"] for row in read_log(tmp_path / "parts")] == [
        row["segmentation"] for row in read_log(tmp_path / "whole")
    ]
    card = resumed.description.card
    assert resumed.description.depth_focal_length == FOCAL_LENGTH and resumed.description.license == "for the test"
    assert card["steps"] == 6 and card["seed"] == 1 and card["command"].startswith("mtl_perception train ")
    assert 0 <= card["metrics"]["unseen"]["segmentation"]["street"]["mIoU"] <= 1
    assert card["metrics"]["unseen"]["depth"]["abs_rel"] > 0
    assert len(list((tmp_path / "whole/samples").glob("*.jpg"))) == 2


def test_a_damaged_image_ends_the_run_with_its_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Workers ignore the signals that a batch system sends, so an error must end them in another way."""
    write_road_dataset(tmp_path / "both", 4)
    damaged = sorted((tmp_path / "both/image").iterdir())[2]
    damaged.write_bytes(damaged.read_bytes()[:100])
    path = write_config(tmp_path, "damaged", sets=[{"path": "both", "format": "folder"}], workers=2, steps=50)
    text = train(path, tmp_path / "out", code=1)
    printed = capfd.readouterr()
    assert f"{damaged}: truncated image" in text and "Traceback" not in text + printed.out + printed.err
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(data: Path, tmp_path: Path) -> None:
    entries = [{"path": "both", "format": "folder"}, {"path": "depth", "format": "folder"}]
    path = write_config(data, "processes", sets=entries, batch=4, steps=3, overlap=0.5)
    train(path, tmp_path / "one")
    train(path, tmp_path / "two", processes=2)
    one, two = read_log(tmp_path / "one"), read_log(tmp_path / "two")
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        for column in ("segmentation", "depth", "sky"):
            assert float(a[column]) == pytest.approx(float(b[column]), rel=2e-3, abs=2e-4), (a["step"], column)
    assert float(one[0]["segmentation"]) != float(one[-1]["segmentation"])


def test_training_reduces_the_losses_of_both_tasks(data: Path, tmp_path: Path) -> None:
    """Training on four simple images overfits both tasks."""
    path = write_config(data, "learns", steps=40, epoch=40, optimizer={"encoder": 1e-3, "decoder": 2e-3, "ema": 0.5})
    train(path, tmp_path)
    rows = read_log(tmp_path)
    for column, factor in (("segmentation", 0.6), ("depth", 0.7)):
        first, last = (np.mean([float(row[column]) for row in part]) for part in (rows[:3], rows[-5:]))
        assert last < factor * first, column
    assert 0 < float(rows[-1]["saturated"] or rows[-2]["saturated"] or 0.5) < 1


def test_the_head_of_a_task_that_is_not_trained_keeps_its_weights(data: Path, tmp_path: Path) -> None:
    path = write_config(data, "single", tasks=["segmentation"], steps=3)
    train(path, tmp_path)
    rows = read_log(tmp_path)
    assert all(float(row["depth"]) == 0 for row in rows) and float(rows[0]["segmentation"]) > 0
    network = load_network(tmp_path / "tiny.safetensors")
    assert float(network.get_parameter("depth.bias")) == pytest.approx(math.log(15), abs=2e-3)


def test_a_run_can_start_from_weights_with_the_same_classes_only(data: Path, tmp_path: Path, weights_file: Path) -> None:
    path = write_config(data, "start", start=str(weights_file), steps=1)
    license = load_network(weights_file).description.license
    assert f"derived from {weights_file} (license: {license})" in train(path, tmp_path)
    start, after = load_network(weights_file), load_network(tmp_path / "tiny.safetensors")
    name = "layer5.0.output.0.0.weight"
    assert torch.allclose(start.state_dict()[name], after.state_dict()[name], atol=2e-3)
    assert after.description.depth_focal_length == FOCAL_LENGTH
    assert license in after.description.card["started_from"]
    from mtl_perception.training.initialize import initialize_network

    with pytest.raises(WeightsError, match="classes"):
        initialize_network(read_config(path, {"classes": "nyud40"}))


def test_a_run_with_written_pseudo_labels_needs_no_weights_of_the_teacher(
    data: Path, tmp_path: Path, weights_file: Path
) -> None:
    teacher = tmp_path / "teacher.safetensors"
    shutil.copy(weights_file, teacher)
    entries = [{"path": "depth", "format": "folder"}]
    options = {"weights": str(teacher), "folder": str(tmp_path / "pseudo-labels"), "confidence": 0.0, "sparse": False}
    path = write_config(data, "taught", sets=entries, steps=1, teacher=options)
    train(path, tmp_path / "out", "--teach")
    teacher.unlink()
    text = train(path, tmp_path / "out")
    assert f"derived from {teacher} (license unknown: no such weights file" in text
    assert float(read_log(tmp_path / "out")[0]["segmentation"]) > 0, "the pseudo-labels are used"
    assert load_network(tmp_path / "out/tiny.safetensors").description.card["teacher"].startswith(f"{teacher} (license unknown")


def test_an_error_names_the_invalid_file(data: Path, tmp_path: Path) -> None:
    folder = write_road_dataset(tmp_path / "invalid", 2)
    config = write_config(tmp_path, "invalid", sets=[{"path": "invalid", "format": "folder"}])
    (folder / "label/001.png").write_bytes(b"not an image")
    for arguments in ([], ["--check"]):
        text = train(config, tmp_path / "out", *arguments, code=1)
        assert "001.png" in text and "Traceback" not in text
    assert "both: 4 samples, all valid" in train(write_config(data, "valid"), tmp_path / "out", "--check")
    assert "unknown key" in train(config, tmp_path / "out", "--set", "stepps=3", code=2)


def test_a_non_finite_loss_ends_the_run(data: Path, tmp_path: Path) -> None:
    config = write_config(data, "diverges", optimizer={"decoder": 1e12, "encoder": 1e12, "warm_up": 0, "clip": 1e9}, steps=30)
    text = train(config, tmp_path, code=1)
    assert "the loss is" in text and "lower learning rate" in text


def test_interim_evaluations_are_written_to_curve_jsonl(data: Path, tmp_path: Path) -> None:
    held_out = [{"path": "unseen", "format": "folder", "name": "held"}]
    path = write_config(data, "curve", evaluate=2, held_out=held_out)
    # Resumed from step 3, the run repeats the evaluation of step 4.
    for arguments in ((), ("--resume", str(tmp_path / "step-0000003.checkpoint"))):
        train(path, tmp_path, *arguments)
        curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
        assert [point["step"] for point in curve] == [2, 4]
        assert all(0 <= point["held"]["segmentation"]["street"]["mIoU"] <= 1 for point in curve)
