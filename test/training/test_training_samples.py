"""Training samples: crops, pasted people, pseudo-labels, and sampling from several data sets."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.training import (
    FOCAL_LENGTH,
    HEIGHT,
    PERSON,
    ROAD,
    SKY,
    WIDTH,
    datasets_fixture,
    road_sample,
    write_config,
    write_road_dataset,
)

from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.labels import STREET
from mtl_perception.pipeline import Pipeline
from mtl_perception.training.augmentation.crop import Augmenter, flip, resize, window
from mtl_perception.training.augmentation.paste import CAMERA_HEIGHT, Paster
from mtl_perception.training.augmentation.sample import PSEUDO_DEPTH, PSEUDO_LABELS, TrainingSample, merge
from mtl_perception.training.config import Augmentation, DepthTarget, Teacher, TrainConfig
from mtl_perception.training.config_file import read_config
from mtl_perception.training.data.dataset import Subset
from mtl_perception.training.data.training_set import open_training_sets
from mtl_perception.training.finalize import _spread_with_depth
from mtl_perception.training.loader import TrainingSamples
from mtl_perception.training.pseudo_labels import write_pseudo_labels
from mtl_perception.training.run import Run
from mtl_perception.types import UNLABELED, Sample

data = datasets_fixture()
SHAPE = (HEIGHT, WIDTH)


# Crops.


def test_depth_is_rescaled_to_the_focal_length_after_resizing_and_cropping() -> None:
    """Each pixel of a crop must have the depth of the scene times the ratio of the focal lengths."""
    config = TrainConfig(**{**_plain(), "crop": (96, 64)})
    augment = Augmenter(config, STREET)
    sample = road_sample(0)
    # The image itself encodes the depth.
    meters = np.nan_to_num(sample.depth, posinf=0)
    image = np.repeat(np.clip(meters * 8, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    training_sample = TrainingSample(image, sample.labels, sample.depth, np.zeros_like(sample.labels))
    seen = set()
    for seed in range(20):
        crop = augment(training_sample, sample.frame.camera, np.random.default_rng(seed))
        flat = (crop.labels == ROAD) & (crop.image[..., 0] > 20) & (crop.image[..., 0] < 250)
        ratio = np.median(crop.depth[flat] / (crop.image[..., 0][flat] / 8.0))
        # Scaling by s makes the focal length 100 s, and depth is learned for 100.
        seen.add(round(1 / ratio, 1))
        assert 0.79 < 1 / ratio < 1.32
        assert np.isinf(crop.depth[crop.labels == SKY]).all()
    assert len(seen) >= 4, "scales vary"


def _plain() -> dict[str, object]:
    from mtl_perception.training.config import Augmentation

    return {
        "name": "plain",
        "sets": ({"path": "x"},),
        "depth": DepthTarget(focal_length=FOCAL_LENGTH),
        "augmentation": Augmentation((80.0, 130.0), (), color=0.0, blur=0.0, rare=0.0),
    }


def test_resizing_does_not_interpolate_labels_or_depth() -> None:
    sample = road_sample(1)
    training_sample = TrainingSample(sample.frame.image, sample.labels, sample.depth, np.zeros_like(sample.labels))
    for scale in (0.5, 0.77, 1.6):
        small = resize(training_sample, scale)
        assert small.labels.shape == small.image.shape[:2]
        assert set(np.unique(small.labels)) <= set(np.unique(sample.labels))
        known = small.depth[np.isfinite(small.depth)]
        assert np.isin(known, sample.depth[np.isfinite(sample.depth)]).all()
    part = flip(window(training_sample, 10, 20, 50, 40))
    assert np.array_equal(part.labels, sample.labels[20:60, 10:60][:, ::-1])
    assert np.array_equal(part.depth, sample.depth[20:60, 10:60][:, ::-1], equal_nan=True)


def test_crops_are_chosen_to_contain_rare_classes() -> None:
    base = TrainConfig(**{**_plain(), "crop": (64, 64)})
    sample = road_sample(2)
    training_sample = TrainingSample(sample.frame.image, sample.labels, sample.depth, np.zeros_like(sample.labels))

    def share(rare: float) -> float:
        config = replace(base, augmentation=replace(base.augmentation, rare=rare, rare_classes=("person",)))
        augment = Augmenter(config, STREET)
        crops = [augment(training_sample, sample.frame.camera, np.random.default_rng(i)) for i in range(60)]
        return float(np.mean([(crop.labels == PERSON).any() for crop in crops]))

    assert share(1.0) > 0.95
    assert share(0.0) < 0.8


def test_sets_in_one_folder_divide_its_share_by_their_sizes(tmp_path: Path) -> None:
    for name, count in (("labeled/monday", 3), ("labeled/tuesday", 1), ("other", 2)):
        write_road_dataset(tmp_path / name, count)
    sets = open_training_sets([{"path": "labeled", "share": 2, "teach": False}, {"path": "other"}], tmp_path)
    assert [(one.dataset.name, one.share, one.teach) for one in sets] == [
        ("monday", 1.5, False),
        ("tuesday", 0.5, False),
        ("other", 1.0, True),
    ]


def test_the_error_of_an_invalid_set_names_its_number(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_road_dataset(tmp_path / name, 1)
    with pytest.raises(ConfigError, match="^sets: set 2: unknown key 'pth'; did you mean 'path'"):
        open_training_sets([{"path": "one"}, {"pth": "two"}], tmp_path)
    with pytest.raises(ConfigError, match="^sets: set 2: teach: 'no' is not true or false"):
        open_training_sets([{"path": "one"}, {"path": "two", "teach": "no"}], tmp_path)
    with pytest.raises(ConfigError, match="^sets: two sets are named 'one'; give each its own `name:`"):
        open_training_sets([{"path": "one"}, {"path": "one"}], tmp_path)
    with pytest.raises(ConfigError, match="^sets: no data set has a share above 0"):
        open_training_sets([{"path": "one", "share": 0}, {"path": "two", "share": 0}], tmp_path)
    wrong = [{"path": "one", "name": "other"}, {"path": "two", "format": "folders"}]
    for key in ("validation", "held_out"):
        run = Run(TrainConfig("run", sets=({"path": "one"},), **{key: tuple(wrong)}), tmp_path, tmp_path / "out")
        with pytest.raises(ConfigError, match=f"^{key}: set 2: format: 'folders' is not one of"):
            run.check()


def test_held_out_images_that_are_trained_on_are_refused(tmp_path: Path) -> None:
    write_road_dataset(tmp_path / "all", 4)
    (tmp_path / "two.txt").write_text("001\n003\n")
    some, others = ({"path": "all", "name": f"set {i}", "select": {"list": "two.txt", "invert": bool(i)}} for i in (0, 1))
    for sets, held_out, fault in (
        (({"path": "all"},), (some,), "2 of 2 images of set 0 are in the training set all too, the first is .*001.png; select"),
        ((some,), ({"path": "all"},), "2 of 4 images of all are in the training set set 0 too"),
        ((some,), (others,), ""),
    ):
        run = Run(TrainConfig("run", sets=sets, held_out=held_out), tmp_path, tmp_path / "out")
        with pytest.raises(ConfigError, match=fault) if fault else contextlib.nullcontext():
            run.check()


def test_pasted_people_stand_on_the_ground_with_a_plausible_height_and_depth(data: Path) -> None:
    sets = open_training_sets([{"path": "both", "format": "folder"}], data)
    paster = Paster(sets, STREET)
    assert PERSON in paster.instances
    bare = road_sample(3)
    bare.labels[bare.labels == PERSON] = ROAD
    camera = bare.frame.camera
    heights = []
    for seed in range(30):
        training_sample = TrainingSample(bare.frame.image, bare.labels, bare.depth, np.zeros_like(bare.labels))
        changed = paster(training_sample, camera, np.random.default_rng(seed))
        mask = (changed.labels == PERSON).astype(np.uint8)
        count, _, boxes, _ = cv2.connectedComponentsWithStats(mask)
        if count != 2:
            continue
        _, top, _, height, _ = boxes[1]
        if top == 0:
            continue
        feet = top + height - 1
        heights.append(height / (feet - camera.cy) * CAMERA_HEIGHT)
        assert (changed.pseudo[mask > 0] == PSEUDO_DEPTH).all()
        assert np.allclose(changed.depth[mask > 0], FOCAL_LENGTH * CAMERA_HEIGHT / (feet - camera.cy), rtol=0.15)
        untouched = mask == 0
        assert np.array_equal(changed.depth[untouched], bare.depth[untouched], equal_nan=True)
    assert len(heights) >= 5
    assert 1.4 < np.median(heights) < 2.0


def test_a_set_without_a_share_of_the_batches_still_provides_people_to_paste(data: Path) -> None:
    entries = [{"path": "depth", "format": "folder", "name": "bare"}, {"path": "both", "format": "folder", "share": 0.0}]
    augmentation = Augmentation((80.0, 130.0), (), paste=1.0)
    config = replace(read_config(write_config(data, "sources")), augmentation=augmentation)
    samples = TrainingSamples(config, STREET, open_training_sets(entries, data))
    assert samples._paste is not None and len(samples._paste.instances[PERSON]) == 4
    assert all((samples.sample(number).labels == UNLABELED).all() for number in range(12))


# Pseudo-labels.


def test_pseudo_labels_only_fill_pixels_without_ground_truth() -> None:
    sample = road_sample(0)
    pseudo = np.full_like(sample.labels, PERSON), np.full_like(sample.depth, 7.0)
    both = merge(sample, *pseudo, sparse=True)
    open_ = sample.labels == UNLABELED
    assert np.array_equal(both.labels[~open_], sample.labels[~open_]) and (both.labels[open_] == PERSON).all()
    assert ((both.pseudo & PSEUDO_LABELS) > 0).sum() == open_.sum()
    assert (both.depth[np.isnan(sample.depth)] == 7.0).all() and np.isinf(both.depth[np.isinf(sample.depth)]).all()
    whole = merge(sample, *pseudo, sparse=False)
    assert np.array_equal(whole.labels, sample.labels) and not whole.pseudo.any()
    without = merge(Sample(sample.frame, None, sample.depth), *pseudo, sparse=False)
    assert (without.labels == PERSON).all() and (without.pseudo == PSEUDO_LABELS).all()


def test_pseudo_labels_of_another_teacher_are_refused(data: Path, tmp_path: Path, weights_file: Path) -> None:
    [entry] = open_training_sets([{"path": "labels", "format": "folder"}], data)
    weights = tmp_path / "teacher.safetensors"
    shutil.copy(weights_file, weights)
    teacher, folder = Teacher(weights=str(weights)), tmp_path / "pseudo"
    write_pseudo_labels([entry], teacher, folder, "cpu")
    with pytest.raises(ConfigError, match=r"pseudo has the pseudo-labels of a teacher with confidence 0\.7, not 0\.5; delete"):
        write_pseudo_labels([entry], replace(teacher, confidence=0.5), folder, "cpu")
    weights.write_bytes(b"retrained")
    with pytest.raises(ConfigError, match=r"of a teacher with weights sha256:[0-9a-f]{64}, not "):
        write_pseudo_labels([entry], teacher, folder, "cpu")
    weights.unlink()
    [complete] = write_pseudo_labels([entry], teacher, folder, "cpu")
    assert complete.pseudo_labels.load(1, SHAPE)[0].shape == SHAPE, "a machine without the teacher"


def test_pseudo_labels_are_written_once_and_only_where_missing(data: Path, tmp_path: Path, weights_file: Path) -> None:
    entries = [{"path": "labels", "format": "folder", "focal_length": 90.0}, {"path": "both", "format": "folder"}]
    sets = open_training_sets(entries, data)
    teacher = Teacher(weights=str(weights_file), confidence=0.3, sparse=False)
    labels_only, both = write_pseudo_labels(sets, teacher, tmp_path, "cpu")
    assert both.pseudo_labels.load(0, SHAPE) == (None, None)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert files == [f"labels/{kind}/00{i}.png" for kind in ("depth", "label") for i in (0, 1)]
    sample = labels_only.sample(0)
    assert sample.frame.camera.fx == 90.0
    expected = Pipeline(str(weights_file), "cpu", min_confidence=0.3, warm_up=False)(sample.frame)
    labels, depth = labels_only.pseudo_labels.load(0, SHAPE)
    assert np.array_equal(labels, expected.labels)
    known = np.isfinite(depth)
    assert known.mean() > 0.05
    assert np.abs(depth[known] - expected.depth[known]).max() <= 0.5 / 256 + 1e-6
    assert np.array_equal(np.isinf(depth), np.isinf(expected.depth) & (expected.labels == SKY))
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    write_pseudo_labels(sets, teacher, tmp_path, "cpu")
    # All samples have labels, so nothing is written.
    [first, _] = write_pseudo_labels(sets, replace(teacher, tasks=("segmentation",)), tmp_path, "cpu")
    assert first.pseudo_labels.load(0, SHAPE) == (None, None)
    [first, _] = write_pseudo_labels(sets, replace(teacher, tasks=("depth",)), tmp_path, "cpu")
    labels, again = first.pseudo_labels.load(0, SHAPE)
    assert labels is None and np.array_equal(again, depth, equal_nan=True)
    with pytest.raises(
        SourceError, match=r"depth/000.png is 160x96, its image is 160x97; delete .*labels to create them again"
    ):
        first.pseudo_labels.load(0, (HEIGHT + 1, WIDTH))
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}


# Several data sets.


def test_samples_are_reproducible_and_drawn_from_each_set_by_its_share(data: Path) -> None:
    entries = [{"path": "both", "format": "folder", "share": 3}, {"path": "depth", "format": "folder", "share": 1}]
    path = write_config(data, "examples", sets=entries, steps=20, batch=4)
    config = read_config(path)
    first, second = (TrainingSamples(config, STREET, open_training_sets(config.sets, data)) for _ in range(2))
    kinds = []
    for number in range(80):
        a, b = first.sample(number), second.sample(number)
        for name in ("image", "labels", "depth"):
            assert np.array_equal(getattr(a, name), getattr(b, name), equal_nan=name == "depth")
        assert a.image.shape == (64, 128, 3)
        kinds.append(bool((a.labels != UNLABELED).any()))
    assert 0.7 < np.mean(kinds) < 0.8
    assert all(3 <= sum(kinds[i : i + 5]) <= 5 for i in range(75)), "every five consecutive samples hold the shares"


def test_calibration_images_are_spread_over_the_sets_whatever_their_size(data: Path) -> None:
    entries = [
        {"path": "both", "format": "folder", "share": 3},
        {"path": "both", "format": "folder", "name": "many", "share": 1},
        {"path": "labels", "format": "folder", "name": "no depth", "share": 5},
    ]
    real, many, labels = open_training_sets(entries, data)
    thousand = replace(many, dataset=Subset(many.dataset, [0] * 1000))
    drawn = [entry.dataset.name for entry, _ in _spread_with_depth([real, thousand, labels], 4)]
    assert drawn.count("both") == min(3, len(real.dataset)) and drawn.count("many") == 1 and len(set(drawn)) == 2
