"""Training: geometry kept, runs that repeat, go on after a stop, and give the same in two processes as in one."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import noise_picture

from mtl_perception.__main__ import main
from mtl_perception.errors import ConfigError, WeightsError
from mtl_perception.geometry.camera import CameraModel
from mtl_perception.labels import STREET
from mtl_perception.net.weights import load_network
from mtl_perception.pipeline import Pipeline
from mtl_perception.train.augment import TAUGHT_DEPTH, TAUGHT_LABELS, Augmenter, Example, merged, mirrored, resized, window
from mtl_perception.train.batches import Examples
from mtl_perception.train.config import DepthTarget, Teacher, TrainConfig, read_config
from mtl_perception.train.finish import _with_depth
from mtl_perception.train.formats.base import Selected
from mtl_perception.train.loop import learning_rate
from mtl_perception.train.paste import CAMERA_HEIGHT, Paster
from mtl_perception.train.run import open_training_sets
from mtl_perception.train.teacher import teach
from mtl_perception.types import UNLABELLED, Frame, Sample

WIDTH, HEIGHT = 160, 96
FOCAL_LENGTH = 100.0
ROAD, SKY, PERSON, VEHICLE = (STREET.names.index(name) for name in ("road", "sky", "person", "vehicle"))


def picture(seed: int) -> Sample:
    """Sky over road, a box and a person on it, with the depth of flat ground."""
    rng = np.random.default_rng(seed)
    image = noise_picture(HEIGHT, WIDTH, seed)
    labels = np.full((HEIGHT, WIDTH), SKY, np.uint8)
    depth = np.full((HEIGHT, WIDTH), np.inf, np.float32)
    horizon = HEIGHT // 2
    rows = np.arange(horizon + 2, HEIGHT)
    labels[horizon + 2 :] = ROAD
    depth[horizon + 2 :] = (FOCAL_LENGTH * CAMERA_HEIGHT / (rows - horizon))[:, None]
    labels[horizon : horizon + 2] = UNLABELLED
    depth[horizon : horizon + 2] = np.nan
    for label, width, height in ((VEHICLE, 40, 30), (PERSON, 12, 44)):
        x, bottom = int(rng.integers(5, WIDTH - width - 5)), int(rng.integers(horizon + 12, HEIGHT - 4))
        part = np.s_[max(bottom - height, 1) : bottom, x : x + width]
        labels[part] = label
        depth[part] = FOCAL_LENGTH * CAMERA_HEIGHT / (bottom - horizon)
    tint = np.array([(i * 83 % 256, i * 151 % 256, i * 197 % 256) for i in range(256)], np.float32)
    image = (0.4 * image + 0.6 * tint[labels]).astype(np.uint8)
    camera = CameraModel(WIDTH, HEIGHT, FOCAL_LENGTH, FOCAL_LENGTH, WIDTH / 2, horizon)
    return Sample(Frame(image, camera), labels, depth, f"{seed:03d}")


def write_set(folder: Path, count: int, labels: bool = True, depth: bool = True, camera: bool = True) -> Path:
    """A data set in the plain folder format."""
    for i in range(count):
        sample = picture(i)
        for name, values, wanted in (
            ("image", cv2.cvtColor(sample.frame.image, cv2.COLOR_RGB2BGR), True),
            ("label", sample.labels, labels),
            ("depth", np.nan_to_num(sample.depth * 256, posinf=65535).astype(np.uint16), depth),
        ):
            if wanted:
                (folder / name).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / name / f"{sample.name}.png"), values)
    description: dict[str, object] = {"format": "folder", "name": folder.name, "licence": "none", "classes": "street"}
    if labels:
        description["labels"] = "label"
    if depth:
        description |= {"depth": "depth", "depth_scale": 256}
    if camera:
        intrinsics = {"fx": FOCAL_LENGTH, "fy": FOCAL_LENGTH, "cx": WIDTH / 2, "cy": HEIGHT // 2}
        description["camera"] = {"width": WIDTH, "height": HEIGHT, **intrinsics}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(description))
    return folder


def configuration(**changes: object) -> dict[str, object]:
    values: dict[str, object] = {
        "name": "tiny",
        "encoder": "",
        "sets": [{"path": "both", "format": "folder"}],
        "steps": 6,
        "batch": 2,
        "crop": [128, 64],
        "epoch": 3,
        "precision": "fp32",
        "workers": 0,
        "augmentation": {"focal_length": [80, 130], "late_focal_length": []},
        "depth": {"focal_length": FOCAL_LENGTH},
        "optimiser": {"warm_up": 2},
    }
    return {**values, **changes}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_set(folder / "both", 4)
    write_set(folder / "labels", 2, depth=False, camera=False)
    write_set(folder / "depth", 2, labels=False)
    return folder


def write_config(data: Path, name: str, **changes: object) -> Path:
    path = data / f"{name}.yaml"
    path.write_text(yaml.safe_dump(configuration(**changes)))
    return path


def train(config: Path, out: Path, *arguments: str, code: int = 0, processes: int = 0) -> str:
    """Run the command, in this process or in so many others of one thread each; what it printed."""
    command = ["train", str(config), "--out", str(out), "--device", "cpu", *arguments]
    if processes == 0:
        with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.redirect_stderr(text):
            given = main(command)
        assert given == code, text.getvalue()
        return text.getvalue()
    several = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"] if processes > 1 else []
    launcher = ["-m", *several, "mtl_perception"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, *command], capture_output=True, text=True, timeout=280, env=environment, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def log(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# The configuration.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 5}, "unknown key step; did you mean steps?"),
        ({"optimiser": {"emma": 0.9}}, "unknown key optimiser.emma; did you mean ema?"),
        ({"steps": "many"}, "steps: 'many' is not a whole number"),
        ({"crop": [512]}, r"crop: \[512\] is not"),
        ({"tasks": ["normals"]}, "tasks"),
        ({"depth": {"loss": "l3"}}, "depth.loss 'l3': one of log_l1, berhu, silog"),
        ({"sets": []}, "at least one data set"),
        ({"augmentation": {"focal_length": [3, 2]}}, "augmentation.focal_length"),
    ],
)
def test_wrong_configuration_is_refused_by_name(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write_config(tmp_path, "wrong", **change)
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(path)
    assert "wrong.yaml" in str(caught.value)


def test_a_configuration_builds_on_another_and_on_the_command_line(tmp_path: Path) -> None:
    write_config(tmp_path, "base", optimiser={"ema": 0.9, "warm_up": 7})
    (tmp_path / "own.yaml").write_text("base: base.yaml\nsteps: 11\noptimiser: {ema: 0.8}\n")
    config = read_config(tmp_path / "own.yaml", {"optimiser.clip": 5})
    assert (config.steps, config.optimiser.ema, config.optimiser.warm_up, config.optimiser.clip) == (11, 0.8, 7, 5.0)
    (tmp_path / "base.yaml").write_text("base: own.yaml\n")
    with pytest.raises(ConfigError, match="leads back to itself"):
        read_config(tmp_path / "own.yaml")


# Geometry.


def test_depth_follows_the_focal_length_through_scale_and_crop() -> None:
    """The classic mistake: each pixel of a crop must say the metres of the scene, once the focal lengths are accounted for."""
    config = TrainConfig(**{**_plain(), "crop": (96, 64)})
    augment = Augmenter(config, STREET)
    sample = picture(0)
    # What the metres are is written into the picture itself.
    metres = np.nan_to_num(sample.depth, posinf=0)
    image = np.repeat(np.clip(metres * 8, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    example = Example(image, sample.labels, sample.depth, np.zeros_like(sample.labels))
    seen = set()
    for seed in range(20):
        crop = augment(example, sample.frame.camera, np.random.default_rng(seed))
        flat = (crop.labels == ROAD) & (crop.image[..., 0] > 20) & (crop.image[..., 0] < 250)
        ratio = np.median(crop.depth[flat] / (crop.image[..., 0][flat] / 8.0))
        # The picture was scaled by s: as the network sees it the focal length is 100 s, and depth is learned for 100.
        seen.add(round(1 / ratio, 1))
        assert 0.79 < 1 / ratio < 1.32
        assert np.isinf(crop.depth[crop.labels == SKY]).all()
    assert len(seen) >= 4, "scales vary"


def _plain() -> dict[str, object]:
    from mtl_perception.train.config import Augmentation

    return {
        "name": "plain",
        "sets": ({"path": "x"},),
        "depth": DepthTarget(focal_length=FOCAL_LENGTH),
        "augmentation": Augmentation((80.0, 130.0), (), colour=0.0, blur=0.0, rare=0.0),
    }


def test_resizing_never_mixes_labels_or_depths() -> None:
    sample = picture(1)
    example = Example(sample.frame.image, sample.labels, sample.depth, np.zeros_like(sample.labels))
    for scale in (0.5, 0.77, 1.6):
        small = resized(example, scale)
        assert small.labels.shape == small.image.shape[:2]
        assert set(np.unique(small.labels)) <= set(np.unique(sample.labels))
        known = small.depth[np.isfinite(small.depth)]
        assert np.isin(known, sample.depth[np.isfinite(sample.depth)]).all()
    part = mirrored(window(example, 10, 20, 50, 40))
    assert np.array_equal(part.labels, sample.labels[20:60, 10:60][:, ::-1])
    assert np.array_equal(part.depth, sample.depth[20:60, 10:60][:, ::-1], equal_nan=True)


def test_rare_classes_are_looked_for() -> None:
    from dataclasses import replace

    base = TrainConfig(**{**_plain(), "crop": (64, 64)})
    sample = picture(2)
    example = Example(sample.frame.image, sample.labels, sample.depth, np.zeros_like(sample.labels))

    def share(rare: float) -> float:
        config = replace(base, augmentation=replace(base.augmentation, rare=rare, rare_classes=("person",)))
        augment = Augmenter(config, STREET)
        crops = [augment(example, sample.frame.camera, np.random.default_rng(i)) for i in range(60)]
        return float(np.mean([(crop.labels == PERSON).any() for crop in crops]))

    assert share(1.0) > 0.95
    assert share(0.0) < 0.8


def test_pasted_people_stand_on_the_ground_as_tall_as_the_place_demands(data: Path) -> None:
    sets = open_training_sets([{"path": "both", "format": "folder"}], data)
    paster = Paster(sets, STREET)
    assert PERSON in paster.figures
    bare = picture(3)
    bare.labels[bare.labels == PERSON] = ROAD
    camera = bare.frame.camera
    heights = []
    for seed in range(30):
        example = Example(bare.frame.image, bare.labels, bare.depth, np.zeros_like(bare.labels))
        changed = paster(example, camera, np.random.default_rng(seed))
        mask = (changed.labels == PERSON).astype(np.uint8)
        count, _, boxes, _ = cv2.connectedComponentsWithStats(mask)
        if count != 2:
            continue
        _, top, _, height, _ = boxes[1]
        if top == 0:
            continue
        feet = top + height - 1
        heights.append(height / (feet - camera.cy) * CAMERA_HEIGHT)
        assert (changed.taught[mask > 0] == TAUGHT_DEPTH).all()
        assert np.allclose(changed.depth[mask > 0], FOCAL_LENGTH * CAMERA_HEIGHT / (feet - camera.cy), rtol=0.15)
        untouched = mask == 0
        assert np.array_equal(changed.depth[untouched], bare.depth[untouched], equal_nan=True)
    assert len(heights) >= 5
    assert 1.4 < np.median(heights) < 2.0


def test_a_teacher_fills_only_what_the_truth_leaves_open() -> None:
    sample = picture(0)
    taught = Sample(sample.frame, np.full_like(sample.labels, PERSON), np.full_like(sample.depth, 7.0))
    both = merged(sample, taught, sparse=True)
    open_ = sample.labels == UNLABELLED
    assert np.array_equal(both.labels[~open_], sample.labels[~open_]) and (both.labels[open_] == PERSON).all()
    assert ((both.taught & TAUGHT_LABELS) > 0).sum() == open_.sum()
    assert (both.depth[np.isnan(sample.depth)] == 7.0).all() and np.isinf(both.depth[np.isinf(sample.depth)]).all()
    whole = merged(sample, taught, sparse=False)
    assert np.array_equal(whole.labels, sample.labels) and not whole.taught.any()
    without = merged(Sample(sample.frame, None, sample.depth), taught, sparse=False)
    assert (without.labels == PERSON).all() and (without.taught == TAUGHT_LABELS).all()


def test_the_learning_rate_warms_up_and_falls() -> None:
    how = TrainConfig(name="x", sets=({"path": "y"},)).optimiser
    assert learning_rate(0, 1000, how) == pytest.approx(1 / 50)
    assert learning_rate(500, 1000, how) == pytest.approx(0.505)
    assert learning_rate(999, 1000, how) == pytest.approx(0.01, abs=1e-3)


# Runs.


def test_examples_repeat_and_hold_each_set_by_its_share(data: Path) -> None:
    entries = [{"path": "both", "format": "folder", "share": 3}, {"path": "depth", "format": "folder", "share": 1}]
    path = write_config(data, "examples", sets=entries, steps=20, batch=4)
    config = read_config(path)
    first, second = (Examples(config, STREET, open_training_sets(config.sets, data)) for _ in range(2))
    assert len(first) == 80
    kinds = []
    for number in range(80):
        a, b = first.example(number), second.example(number)
        for name in ("image", "labels", "depth"):
            assert np.array_equal(getattr(a, name), getattr(b, name), equal_nan=name == "depth")
        assert a.image.shape == (64, 128, 3)
        kinds.append(bool((a.labels != UNLABELLED).any()))
    assert 0.7 < np.mean(kinds) < 0.8
    assert all(3 <= sum(kinds[i : i + 5]) <= 5 for i in range(75)), "the shares hold in every short stretch"


def test_a_stopped_run_goes_on_as_if_it_had_not_been(data: Path, tmp_path: Path) -> None:
    path = write_config(data, "resumed", held_out=[{"path": "both", "format": "folder"}], licence="for the test", workers=1)
    # All of them with one thread: another number adds up in another order.
    train(path, tmp_path / "whole", processes=1)
    command = [sys.executable, "-m", "mtl_perception", "train", str(path), "--out", str(tmp_path / "parts"), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while not ((tmp_path / "parts/log.csv").exists() and log(tmp_path / "parts")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    # To all of its processes, as a batch system or a shutdown does.
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "stopped at step" in errors and "the same command goes on" in errors and "Traceback" not in errors
    done = len(log(tmp_path / "parts"))
    assert 1 <= done < 6
    text = train(path, tmp_path / "parts", "--set", "epoch=2", processes=1)
    assert f"resumed at step {done} of 6" in text and "not as in the checkpoint: epoch was 3, is 2" in text
    ours, theirs = (load_network(tmp_path / name / "tiny.safetensors") for name in ("parts", "whole"))
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
    assert [row["segmentation"] for row in log(tmp_path / "parts")] == [row["segmentation"] for row in log(tmp_path / "whole")]
    card = ours.description.card
    assert ours.description.depth_focal_length == FOCAL_LENGTH and ours.description.licence == "for the test"
    assert card["steps"] == 6 and card["seed"] == 1 and "train" in card["command"]
    assert 0 <= card["metrics"]["both"]["segmentation"]["street"]["mIoU"] <= 1
    assert card["metrics"]["both"]["depth"]["abs_rel"] > 0
    assert len(list((tmp_path / "whole/samples").glob("*.jpg"))) == 2


def test_two_processes_learn_what_one_learns(data: Path, tmp_path: Path) -> None:
    entries = [{"path": "both", "format": "folder"}, {"path": "depth", "format": "folder"}]
    path = write_config(data, "processes", sets=entries, batch=4, steps=5)
    train(path, tmp_path / "one")
    train(path, tmp_path / "two", processes=2)
    one, two = log(tmp_path / "one"), log(tmp_path / "two")
    assert len(one) == len(two) == 5
    for a, b in zip(one, two, strict=True):
        for column in ("segmentation", "depth", "sky"):
            assert float(a[column]) == pytest.approx(float(b[column]), rel=2e-3, abs=2e-4), (a["step"], column)
    assert float(one[0]["segmentation"]) != float(one[-1]["segmentation"])


def test_training_learns(data: Path, tmp_path: Path) -> None:
    """On four simple pictures, seen often, both tasks become much better than at the start."""
    path = write_config(data, "learns", steps=40, epoch=40, batch=4, optimiser={"encoder": 1e-3, "decoder": 2e-3, "ema": 0.5})
    train(path, tmp_path)
    rows = log(tmp_path)
    for column, factor in (("segmentation", 0.6), ("depth", 0.7)):
        first, last = (np.mean([float(row[column]) for row in part]) for part in (rows[:3], rows[-5:]))
        assert last < factor * first, column
    assert 0 < float(rows[-1]["saturated"] or rows[-2]["saturated"] or 0.5) < 1


def test_a_task_that_is_not_learned_stays_as_it_was(data: Path, tmp_path: Path) -> None:
    path = write_config(data, "single", tasks=["segmentation"], steps=3)
    train(path, tmp_path)
    rows = log(tmp_path)
    assert all(float(row["depth"]) == 0 for row in rows) and float(rows[0]["segmentation"]) > 0
    network = load_network(tmp_path / "tiny.safetensors")
    assert float(network.get_parameter("depth.bias")) == pytest.approx(math.log(15), abs=2e-3)


def test_a_run_starts_from_own_weights_only_of_its_classes(data: Path, tmp_path: Path, weights_file: Path) -> None:
    path = write_config(data, "start", start=str(weights_file), steps=1)
    licence = load_network(weights_file).description.licence
    assert f"made from {weights_file} (its licence: {licence})" in train(path, tmp_path)
    start, after = load_network(weights_file), load_network(tmp_path / "tiny.safetensors")
    name = "layer5.0.output.0.0.weight"
    assert torch.allclose(start.state_dict()[name], after.state_dict()[name], atol=2e-3)
    assert after.description.depth_focal_length == FOCAL_LENGTH
    assert licence in after.description.card["started_from"]
    from mtl_perception.train.start import start_network

    with pytest.raises(WeightsError, match="classes"):
        start_network(read_config(path, {"classes": "nyud40"}))


def test_a_number_may_be_written_as_people_do(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: x\nsets: [{path: y}]\noptimiser: {encoder: 1e-4, decoder: 3.E+0}\n")
    assert read_config(path).optimiser.encoder == 1e-4
    path.write_text("name: x\nsets: [{path: y}]\noptimiser: {encoder: 1e-}\n")
    with pytest.raises(ConfigError, match="optimiser.encoder: '1e-' is not a number"):
        read_config(path)


def test_far_more_rendered_pictures_than_real_ones_do_not_decide_the_scale(data: Path) -> None:
    entries = [
        {"path": "both", "format": "folder", "share": 3},
        {"path": "both", "format": "folder", "name": "many", "share": 1},
        {"path": "labels", "format": "folder", "name": "no depth", "share": 5},
    ]
    real, many, labels = open_training_sets(entries, data)
    thousand = replace(many, pictures=Selected(many.pictures, [0] * 1000))
    drawn = [entry.pictures.name for entry, _ in _with_depth([real, thousand, labels], 4)]
    assert drawn.count("both") == min(3, len(real.pictures)) and drawn.count("many") == 1 and len(set(drawn)) == 2


def test_a_teacher_writes_what_lacks_and_nothing_twice(data: Path, tmp_path: Path, weights_file: Path) -> None:
    entries = [{"path": "labels", "format": "folder", "focal_length": 90.0}, {"path": "both", "format": "folder"}]
    sets = open_training_sets(entries, data)
    teacher = Teacher(weights=str(weights_file), confidence=0.3, sparse=False)
    labels_only, both = teach(sets, teacher, tmp_path, "cpu")
    assert (both.taught[0].labels, both.taught[0].depth) == (None, None)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert files == [f"labels/{kind}/00{i}.png" for kind in ("depth", "label") for i in (0, 1)]
    sample = labels_only.sample(0)
    assert sample.frame.camera.fx == 90.0
    expected = Pipeline(str(weights_file), "cpu", min_confidence=0.3, warm_up=False)(sample.frame)
    taught = labels_only.taught[0]
    assert np.array_equal(taught.labels, expected.labels)
    known = np.isfinite(taught.depth)
    assert known.mean() > 0.05
    assert np.abs(taught.depth[known] - expected.depth[known]).max() <= 0.5 / 256 + 1e-6
    assert np.array_equal(np.isinf(taught.depth), np.isinf(expected.depth) & (expected.labels == SKY))
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    teach(sets, teacher, tmp_path, "cpu")
    # Of labels there is nothing to write: all have them.
    [first, _] = teach(sets, replace(teacher, tasks=("segmentation",)), tmp_path, "cpu")
    assert first.taught[0].labels is None
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}


def test_bad_data_is_named_and_what_was_done_stays(data: Path, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "bad", 2)
    config = write_config(tmp_path, "bad", sets=[{"path": "bad", "format": "folder"}])
    (folder / "label/001.png").write_bytes(b"no picture")
    for arguments in ([], ["--check"]):
        text = train(config, tmp_path / "out", *arguments, code=1)
        assert "001.png" in text and "Traceback" not in text
    assert "both: 4 samples, all readable" in train(write_config(data, "good"), tmp_path / "out", "--check")
    assert "unknown key" in train(config, tmp_path / "out", "--set", "stepps=3", code=2)


def test_loss_that_is_no_number_ends_the_run(data: Path, tmp_path: Path) -> None:
    config = write_config(data, "diverges", optimiser={"decoder": 1e12, "encoder": 1e12, "warm_up": 0, "clip": 1e9}, steps=30)
    text = train(config, tmp_path, code=1)
    assert "the loss is" in text and "lower learning rate" in text


def test_interim_figures_make_a_curve(data: Path, tmp_path: Path) -> None:
    held_out = [{"path": "both", "format": "folder", "name": "kept"}]
    path = write_config(data, "curve", evaluate=2, held_out=held_out)
    train(path, tmp_path)
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [point["step"] for point in curve] == [2, 4]
    assert all(0 <= point["kept"]["segmentation"]["street"]["mIoU"] <= 1 for point in curve)


def test_batches_that_do_not_divide_are_refused() -> None:
    from mtl_perception.train.processes import Processes

    with pytest.raises(ConfigError, match="batch 6 does not divide by 4 processes"):
        Processes(0, 4, torch.device("cpu")).check_batch(6)
