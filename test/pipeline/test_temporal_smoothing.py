"""The parameter temporal_smoothing in the pipeline: which frames belong together, and where it is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.images import noise_image
from support.pipeline_fixtures import pipeline_fixtures, same

from mtl_perception import CameraModel, Frame
from mtl_perception.errors import ConfigError
from mtl_perception.inference import backend
from mtl_perception.types import History

make, pipe, tuned, full = pipeline_fixtures()

CAMERA = CameraModel(192, 128, 140.0, 140.0, 96.0, 64.0)
NAMES = ("labels", "confidence", "depth", "cloud", "scores")


def drive(seed: int = 0, frame_id: str = "cam") -> list[Frame]:
    """Return four images of a still scene with sensor noise."""
    scene, rng = noise_image(128, 192, seed).astype(np.float32), np.random.default_rng(seed)
    images = [np.clip(scene + rng.normal(0, 6, scene.shape), 0, 255).astype(np.uint8) for _ in range(4)]
    return [Frame(image, CAMERA, 10**9 + 10**8 * number, frame_id) for number, image in enumerate(images)]


def with_history(frames: list[Frame]) -> list[Frame]:
    history = History()
    return [replace(frame, history=history) for frame in frames]


def equal(one, other) -> bool:
    return all(same(getattr(one, name), getattr(other, name)) for name in NAMES)


@pytest.fixture(scope="module")
def smoothing(make):
    return make(temporal_smoothing=0.8)


@pytest.fixture(scope="module")
def smoothed(smoothing):
    return [smoothing(frame, NAMES) for frame in with_history(drive())]


def test_scores_change_less_from_image_to_image(pipe, smoothed):
    plain = [pipe(frame, NAMES) for frame in drive()]
    assert equal(smoothed[0], plain[0]), "the first image has no predecessor"
    changes = [
        np.mean([np.abs(after.scores - before.scores).mean() for before, after in pairwise(found[1:])])
        for found in (smoothed, plain)
    ]
    assert 0 < changes[0] < 0.5 * changes[1]
    assert not same(smoothed[3].depth, plain[3].depth)
    assert not same(smoothed[3].confidence, plain[3].confidence)


def test_frames_without_history_or_parameter_are_not_smoothed(pipe, smoothing):
    for frame, other in zip(drive(), with_history(drive()), strict=True):
        expected = pipe(frame, NAMES)
        assert equal(smoothing(frame, NAMES), expected)
        assert equal(pipe(other, NAMES), expected)


def test_stream_smooths_its_frames_as_those_of_one_camera(smoothing, smoothed):
    for _ in range(2):  # A second stream starts again.
        assert all(equal(one, other) for one, other in zip(smoothing.stream(drive(), NAMES), smoothed, strict=True))


def test_cameras_of_a_batch_have_their_own_histories(smoothing, smoothed):
    others = drive(5)
    alone = [smoothing(frame, NAMES) for frame in with_history(others)]
    for number, frames in enumerate(zip(with_history(drive()), with_history(others), strict=True)):
        found = smoothing.batch(frames, [NAMES, NAMES])
        assert equal(found[0], smoothed[number])
        assert equal(found[1], alone[number])


def test_requested_outputs_of_earlier_frames_do_not_matter(smoothing, smoothed):
    frames = with_history(drive())
    for frame, wanted in zip(frames[:3], ({"depth"}, {"labels"}, {"cloud", "image"}), strict=True):
        smoothing(frame, wanted)
    assert equal(smoothing(frames[3], NAMES), smoothed[3])


def test_rebuilt_pipeline_and_another_input_scale_start_anew(make, pipe):
    smoothing, frames = make(temporal_smoothing=0.8), with_history(drive())
    smoothing(frames[0])
    smoothing.rebuild()
    assert equal(smoothing(frames[1], NAMES), pipe(frames[1], NAMES))
    smoothing.update(input_scale=0.75)
    assert equal(smoothing(frames[2], NAMES), make(input_scale=0.75)(frames[2], NAMES))


def test_gpu_is_refused(make, monkeypatch):
    monkeypatch.setattr(backend, "select_device", lambda name: torch.device("cuda", 0))
    with pytest.raises(ConfigError, match=r"temporal_smoothing: 0.5 runs on a CPU only, not on device cuda:0: set device cpu"):
        make(temporal_smoothing=0.5, device="auto", precision="fp32")


@pytest.mark.parametrize("value", [-0.1, 0.95, float("nan")])
def test_values_out_of_range_are_refused(make, value):
    with pytest.raises(ConfigError, match=r"temporal_smoothing: .* is outside 0 to 0\.9"):
        make(temporal_smoothing=value)
