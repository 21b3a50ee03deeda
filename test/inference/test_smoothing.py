"""Temporal smoothing: what is blended, what is not, and where a history starts again."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from mtl_perception import CameraModel, Frame
from mtl_perception.inference.host import smoothing
from mtl_perception.inference.host.smoothing import MAX_GAP_NS
from mtl_perception.types import History

CELLS = (40, 60)
SIZE = (4 * CELLS[0], 4 * CELLS[1])
CAMERA = CameraModel(SIZE[1], SIZE[0], 200.0, 200.0, 120.0, 80.0)
STEP = 100_000_000
MIDDLE = np.s_[8:-8, 12:-12]
"""Cells that are in both images although the content moves."""


def texture(shift: int = 0, seed: int = 0) -> np.ndarray:
    """Return a smooth random image of the camera's size; its content is `shift` pixels further to the right."""
    noise = np.random.default_rng(seed).integers(0, 256, (SIZE[0], SIZE[1] + 200), np.uint8)
    plane = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 8), None, 0, 255, cv2.NORM_MINMAX)
    return np.repeat(plane[:, 100 - shift : 100 - shift + SIZE[1], None], 3, 2)


def outputs(first: np.ndarray | float, depth: float | np.ndarray = 10.0) -> tuple[torch.Tensor, ...]:
    """Return logits of two classes, of which the second is 0, and log depth."""
    logits = np.zeros((2, *CELLS), np.float32)
    logits[0] = first
    return torch.from_numpy(logits), torch.from_numpy(np.full((1, *CELLS), np.log(depth), np.float32))


def frame(number: int = 0, image: np.ndarray | None = None, **others) -> Frame:
    return Frame(**{"image": texture() if image is None else image, "camera": CAMERA, "stamp_ns": STEP * number, **others})


def smooth(history: History, of: Frame, raw, strength: float = 0.5, transform: str = "exp", source=()) -> list[np.ndarray]:
    kept = [plane.clone() for plane in raw]
    found = smoothing.smooth(replace(of, history=history), raw, strength, transform, source)
    assert all(torch.equal(now, before) for now, before in zip(raw, kept, strict=True)), "the engine's memory was changed"
    return [plane.numpy().copy() for plane in found]


def test_single_wrong_image_of_a_still_scene_is_outvoted():
    history = History()
    for number in range(4):
        logits, _ = smooth(history, frame(number), outputs(1.0), 0.8)
        np.testing.assert_allclose(logits[0], 1.0, atol=1e-5)
    logits, _ = smooth(history, frame(4), outputs(-2.0), 0.8)
    np.testing.assert_allclose(logits[0], 0.8 * 1 + 0.2 * -2, atol=1e-4)
    np.testing.assert_array_equal(logits[1], 0)


def test_weight_is_the_parameter_and_repeats_geometrically():
    history = History()
    smooth(history, frame(0), outputs(8.0))
    found = [smooth(history, frame(number), outputs(0.0))[0][0].mean() for number in (1, 2, 3)]
    np.testing.assert_allclose(found, [4.0, 2.0, 1.0], rtol=1e-3)


def test_previous_logits_follow_the_moving_content():
    """A region of 20 cells that moves by 2 cells: blended without alignment, its borders would be a mixture."""
    history, at = History(), np.zeros(CELLS, np.float32)
    at[:, 20:40] = 4.0
    smooth(history, frame(0), outputs(at))
    moved = np.roll(at, 2, 1)
    logits, _ = smooth(history, frame(1, texture(8)), outputs(moved))
    np.testing.assert_allclose(logits[0][MIDDLE], moved[MIDDLE], atol=0.5)
    # Labels are the same to the last cell.
    np.testing.assert_array_equal(logits[0][MIDDLE] > 2, moved[MIDDLE] > 2)


@pytest.mark.parametrize("columns", [240, 238, 237], ids=lambda columns: f"{columns} columns")
@pytest.mark.parametrize("scale", [1, 2], ids=["a quarter of the image", "an eighth of it"])
def test_previous_outputs_follow_in_images_of_any_size(columns, scale):
    """A step in logits and depth that moves by 8 pixels, in an image whose last cells may be incomplete."""
    history, crop = History(), np.s_[: SIZE[0] - 2, :columns]
    cells = tuple(-(-side // (4 * scale)) for side in (SIZE[0] - 2, columns))
    shift, middle = 2 // scale, np.s_[8 // scale : -8 // scale, 12 // scale : -12 // scale]
    at = np.broadcast_to(np.where(np.arange(cells[1]) < cells[1] // 2, 4.0, -4.0), cells).astype(np.float32)
    moved = np.roll(at, shift, 1)
    for number, plane in enumerate((at, moved)):
        raw = torch.from_numpy(plane.copy())[None], torch.from_numpy(3 + plane / 8)[None]
        image = np.ascontiguousarray(texture(8 * number)[crop])
        logits, depth = smooth(history, frame(number, image, camera=None), raw, 0.8)
    np.testing.assert_array_equal(logits[0][middle] > 0, moved[middle] > 0)
    np.testing.assert_allclose(depth[0][middle], 3 + moved[middle] / 8, atol=0.15)


def test_content_that_enters_at_the_border_is_not_blended():
    """The content moves by 6 cells to the right, so that the first columns had no place in the previous image."""
    history = History()
    smooth(history, frame(0), outputs(6.0, 40.0))
    logits, depth = smooth(history, frame(1, texture(24)), outputs(0.5, 12.0))
    np.testing.assert_array_equal(logits[0, :, :3], 0.5)
    np.testing.assert_array_equal(depth[0, :, :3], np.float32(np.log(12.0)))
    assert logits[0][MIDDLE].mean() > 2


def test_image_may_be_read_only_and_mirrored():
    mirrored, same = texture()[:, ::-1], np.ascontiguousarray(texture()[:, ::-1])
    mirrored.flags.writeable = False
    results = []
    for image in (mirrored, same):
        history = History()
        smooth(history, frame(0, image), outputs(6.0))
        results.append(smooth(history, frame(1, image), outputs(1.0))[0])
    np.testing.assert_array_equal(*results)
    np.testing.assert_allclose(results[0][0], 3.5, atol=1e-3)


def test_content_that_changed_is_not_blended():
    """A bright object appears where the previous image had another one."""
    history, image = History(), np.full((*SIZE, 3), 90, np.uint8)
    smooth(history, frame(0, image), outputs(5.0, 30.0))
    new = image.copy()
    new[40:120, 80:160] = 200
    logits, depth = smooth(history, frame(1, new), outputs(-5.0, 5.0))
    np.testing.assert_allclose(logits[0, 12:28, 22:38], -5.0, atol=1e-3)
    np.testing.assert_allclose(np.exp(depth[0, 12:28, 22:38]), 5.0, rtol=1e-3)
    assert np.all(logits[0, 35:, 50:] == pytest.approx(0.0, abs=0.01))


def test_depth_that_breathes_is_steadier_and_the_cameras_motion_stays():
    """All true depths decrease by 1 m an image; a third of each image is too near and too far by 4 %, in turn."""
    history, columns = History(), np.arange(CELLS[1])
    scene = np.broadcast_to(np.where(columns % 20 < 10, 20.0, 30.0), CELLS)
    errors, raw_errors = [], []
    for number in range(8):
        true = scene - number
        sign = 1 if number % 2 else -1
        noise = np.where(columns < 20, 0.04, 0.0) * sign
        _, depth = smooth(history, frame(number), outputs(0.0, true * np.exp(noise)), 0.6)
        errors.append(depth[0] - np.log(true))
        raw_errors.append(np.broadcast_to(noise, CELLS))
    change, raw_change = (np.abs(np.diff(found[2:], axis=0))[..., :20].mean() for found in (errors, raw_errors))
    assert raw_change == pytest.approx(0.08)
    assert change < 0.7 * raw_change
    assert abs(np.mean(errors[2:])) < 0.003, "depth lags behind the motion"
    assert np.abs(errors[2:]).max() < 0.041


def test_abs_depth_is_smoothed_like_its_logarithm():
    found = []
    for transform in ("exp", "abs"):
        history = History()
        for number, depth in ((0, 10.0), (1, 10.4)):
            logits, raw = outputs(0.0, depth)
            raw[0, :10] += 0.02 * number
            raw = raw if transform == "exp" else -raw.exp()
            _, depth = smooth(history, frame(number), (logits, raw), 0.5, transform)
        found.append(np.exp(depth) if transform == "exp" else np.abs(depth))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
    assert found[0][0, 0, 0] != found[0][0, -1, 0]


def test_repeated_image_gives_the_same_bytes_and_counts_once():
    histories = History(), History()
    results = []
    for history in histories:
        for number in range(3):
            results.append(smooth(history, frame(number, texture(number)), outputs(float(number))))
            if history is histories[0]:
                again = smooth(history, frame(number, texture(number)), outputs(float(number)))
                assert all(a.tobytes() == b.tobytes() for a, b in zip(again, results[-1], strict=True))
    for once, twice in zip(results[3:], results[:3], strict=True):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(once, twice, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"stamp_ns": 0},
        {"stamp_ns": STEP + MAX_GAP_NS + 1},
        {"camera": replace(CAMERA, fx=210.0)},
        {"camera": None},
        {"frame_id": "other"},
    ],
    ids=lambda change: " ".join(f"{name}={value if name != 'camera' else ''}" for name, value in change.items()),
)
def test_history_starts_again(change):
    history = History()
    smooth(history, frame(1), outputs(6.0))
    found = smooth(history, frame(**{"number": 2, **change}), outputs(0.0, 20.0))
    np.testing.assert_array_equal(found[0][0], 0.0)
    np.testing.assert_array_equal(found[1], np.float32(np.log(20.0)))
    # The gap itself is measured in stamps, and the new image is the start of the next series.
    after = replace(frame(**{"number": 2, **change}), stamp_ns=frame(**{"number": 2, **change}).stamp_ns + MAX_GAP_NS)
    np.testing.assert_allclose(smooth(history, after, outputs(4.0))[0][0], 2.0, atol=1e-3)


def test_history_starts_again_with_another_source_or_size():
    history = History()
    smooth(history, frame(1), outputs(6.0), source=("one", 1.0))
    assert smooth(history, frame(2), outputs(0.0), source=("two", 1.0))[0].max() == 0
    assert smooth(history, frame(3), outputs(0.0), source=("two", 0.5))[0].max() == 0
    small = tuple(plane[:, :30] for plane in outputs(4.0))
    assert smooth(history, frame(4), small, source=("two", 0.5))[0].min() == 0
    np.testing.assert_array_equal(smooth(history, frame(4), small, source=("two", 0.5))[0][0], 4.0)


def test_small_image_repeated_gives_the_same_bytes():
    """OpenCV's optical flow changes its scales for images of this size, and keeps the change."""
    history, raw = History(), tuple(plane[:, :25, :40] for plane in outputs(np.arange(CELLS[1]) / 7))
    first, second = (frame(i, np.ascontiguousarray(texture(5 * i)[:100, :160]), camera=None) for i in range(2))
    smooth(history, first, raw)
    found = [smooth(history, second, raw)[0] for _ in range(2)]
    np.testing.assert_array_equal(*found)
    assert np.abs(found[0][0] - raw[0][0].numpy()).max() > 0.01


def test_nonfinite_outputs_do_not_spread():
    history = History()
    smooth(history, frame(1), outputs(6.0))
    damaged = outputs(np.nan)
    found = smoothing.smooth(frame(2, history=history), damaged, 0.5, "exp")
    assert found[0] is damaged[0]
    np.testing.assert_array_equal(smooth(history, frame(3), outputs(2.0))[0][0], 2.0)


def test_tiny_images_are_not_smoothed():
    history = History()
    tiny = [tuple(torch.full((1, 15, 60), value) for _ in range(2)) for value in (1.0, 3.0)]
    image = np.zeros((60, 240, 3), np.uint8)
    for number, raw in enumerate(tiny):
        found = smoothing.smooth(frame(number, image, camera=None, history=history), raw, 0.5, "exp")
        assert torch.equal(found[0], raw[0])


def test_result_does_not_depend_on_the_number_of_threads():
    threads = cv2.getNumThreads()
    found = []
    try:
        for number in (1, 2, 5):
            cv2.setNumThreads(number)
            history = History()
            smooth(history, frame(0, texture(0)), outputs(np.arange(CELLS[1]) / 7, 12.0))
            found.append(smooth(history, frame(1, texture(5)), outputs(np.arange(CELLS[1]) / 5, 11.0)))
    finally:
        cv2.setNumThreads(threads)
    for other in found[1:]:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(other, found[0], strict=True))
