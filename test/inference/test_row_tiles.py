"""Row tiles: the same labels and confidence as from planes resized by OpenCV."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import pytest

from mtl_perception.inference.host import row_tiles
from mtl_perception.inference.host.row_tiles import TileReader, is_readable, row_weights
from mtl_perception.network.grid import ResizeSpec

MODES = {"bicubic": cv2.INTER_CUBIC, "bilinear": cv2.INTER_LINEAR}


def scores(classes: int, height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(0).normal(size=(classes, max(height // 4, 1), max(width // 4, 1))).astype(np.float32)
    planes = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_CUBIC) for plane in coarse]
    return np.stack(planes).reshape(classes, height, width)


def upsampled(planes: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    resized = [cv2.resize(plane, size[::-1], interpolation=MODES[mode]) for plane in planes]
    return np.stack(resized).reshape(len(planes), *size)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((9, 12), (33, 47)),
        ((24, 30), (95, 120)),
        ((1, 1), (1, 1)),
        ((1, 50), (3, 200)),
        ((94, 80), (20, 61)),
        ((5, 1), (17, 2)),
    ],
)
def test_labels_and_confidence_are_those_of_opencv(mode, threads, source, target):
    planes = scores(12, *source)
    labels, confidence = np.empty(target, np.uint8), np.empty(target, np.float32)
    reader = TileReader(threads)
    for _ in range(2):
        reader.read(planes, ResizeSpec(target, target, mode), labels, confidence)
        expected = upsampled(planes, target, mode)
        # Labels may differ for equal scores only.
        lost = expected.max(axis=0) - np.take_along_axis(expected, labels[None].astype(int), axis=0)[0]
        assert lost.max() <= 1e-5 * np.abs(expected).max()
        odds = np.exp(expected - expected.max(axis=0))
        np.testing.assert_allclose(confidence, 1 / odds.sum(axis=0), atol=1e-5)
        # Again with other scores: no state of the first may be left.
        planes = planes[::-1].copy()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("source", "target"), [((90, 13), (359, 50)), ((90, 13), (30, 50))])
def test_bands_of_a_large_image_give_the_same_labels_and_confidence(mode, source, target, monkeypatch):
    planes, spec = scores(5, *source), ResizeSpec((target[0] + 1, target[1] + 2), target, mode)
    outputs = []
    for rows in (row_tiles.BAND_ROWS, 60):
        monkeypatch.setattr(row_tiles, "BAND_ROWS", rows)
        reader = TileReader(2)
        labels, confidence = np.empty(target, np.uint8), np.empty(target, np.float32)
        reader.read(planes, spec, labels, confidence)
        outputs.append((len(reader._bands), labels.tobytes(), confidence.tobytes()))
    assert [bands for bands, _, _ in outputs] == [1, 2]
    assert outputs[0][1:] == outputs[1][1:]


def test_a_thread_that_does_not_run_does_not_delay_the_labels():
    planes, spec = scores(5, 9, 12), ResizeSpec((33, 47), (33, 47), "bicubic")
    labels, expected = np.empty((33, 47), np.uint8), np.empty((33, 47), np.uint8)
    TileReader(1).read(planes, spec, expected, None)
    reader, released = TileReader(2), threading.Event()
    reader._pool.submit(released.wait)
    try:
        reader.read(planes, spec, labels, None)
        assert (labels == expected).all()
    finally:
        released.set()


def test_the_first_of_equal_scores_is_the_label():
    labels = np.empty((8, 8), np.uint8)
    TileReader(1).read(np.ones((5, 2, 2), np.float32), ResizeSpec((8, 8), (8, 8), "bicubic"), labels, None)
    assert (labels == 0).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("source", "target"), [(5, 20), (94, 375), (7, 3), (1, 6)])
def test_weights_are_those_of_opencv(mode, source, target):
    column = np.random.default_rng(1).normal(size=(source, 1)).astype(np.float32)
    weights = row_weights(source, target, mode)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    expected = cv2.resize(np.repeat(column, 2, axis=1), (2, target), interpolation=MODES[mode])[:, :1]
    np.testing.assert_allclose(weights @ column, expected, atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
def test_nonfinite_and_huge_scores_are_not_readable(value):
    planes = np.zeros((3, 4, 4), np.float32)
    assert is_readable(planes)
    planes[1, 2, 3] = value
    assert not is_readable(planes)
