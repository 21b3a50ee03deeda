"""Color images of labels and depth, overlays, legend and depth scale."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clouds import ROAD, SIDEWALK, VEHICLE

from mtl_perception.errors import ConfigError, FrameError
from mtl_perception.labels import STREET, ClassSet
from mtl_perception.types import UNLABELED
from mtl_perception.visualization.colors import (
    BEYOND_COLOR,
    colorize_depth,
    colorize_labels,
    depth_scale,
    legend,
    overlay,
    with_legend,
)

# Labels


def test_labels_have_class_colors_and_void_is_black() -> None:
    labels = np.array([[0, 1, 11], [12, 254, 255]], np.uint8)
    expected = np.array([[ROAD, SIDEWALK, VEHICLE], [(0, 0, 0)] * 3], np.uint8)
    np.testing.assert_array_equal(colorize_labels(labels, STREET), expected)


def test_label_colors_of_non_contiguous_views() -> None:
    labels = np.arange(48, dtype=np.uint8).reshape(6, 8) % 13
    view = labels[::-1, ::2]
    np.testing.assert_array_equal(colorize_labels(view, STREET), STREET.palette()[view])


@pytest.mark.parametrize("labels", [np.zeros((4, 4), np.int32), np.zeros((4, 4, 1), np.uint8), np.zeros((0, 4), np.uint8)])
def test_invalid_label_images_are_rejected(labels: np.ndarray) -> None:
    with pytest.raises(FrameError, match="is not H x W uint8") as caught:
        colorize_labels(labels, STREET)
    assert caught.value.reason == "bad_labels"


# Overlay


@settings(max_examples=40, deadline=None)
@given(opacity=st.floats(0.0, 1.0), seed=st.integers(0, 1000))
def test_overlay_is_the_blend_rounded_to_nearest(opacity: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (7, 33, 3), dtype=np.uint8)
    labels = rng.choice(np.array([0, 1, 5, 11, 12, UNLABELED], np.uint8), (7, 33))
    blended = overlay(image, labels, STREET, opacity)
    exact = (1 - opacity) * image + opacity * STREET.palette()[labels].astype(float)
    has_class = labels < len(STREET)
    assert np.abs(blended[has_class] - exact[has_class]).max(initial=0) <= 0.5 + 1e-4
    np.testing.assert_array_equal(blended[~has_class], image[~has_class])


def test_overlay_with_opacity_zero_and_one() -> None:
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    labels = np.zeros((4, 5), np.uint8)
    np.testing.assert_array_equal(overlay(image, labels, STREET, 0.0), image)
    np.testing.assert_array_equal(overlay(image, labels, STREET, 1.0), np.broadcast_to(np.uint8(ROAD), (4, 5, 3)))


def test_overlay_does_not_modify_its_inputs() -> None:
    image = np.full((3, 4, 3), 9, np.uint8)
    labels = np.array([[0, 1, 2, UNLABELED]] * 3, np.uint8)
    before = labels.copy()
    overlay(image, labels, STREET, 0.5)
    assert (image == 9).all()
    np.testing.assert_array_equal(labels, before)


def test_overlay_rejects_mismatched_sizes_and_invalid_opacities() -> None:
    image, labels = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8)
    with pytest.raises(FrameError, match="size|image is"):
        overlay(image, labels, STREET, 0.5)
    for opacity in (-0.1, 1.1, math.nan):
        with pytest.raises(ConfigError, match="outside 0 to 1"):
            overlay(image, labels[:, :4], STREET, opacity)


# Depth


def test_invalid_depth_and_depth_beyond_the_range_have_their_own_colors() -> None:
    depth = np.array([[np.nan, np.inf, -np.inf, 0.0, -3.0]], np.float32)
    np.testing.assert_array_equal(colorize_depth(depth, 80.0)[0], [(0, 0, 0), BEYOND_COLOR, (0, 0, 0), (0, 0, 0), (0, 0, 0)])


def test_depth_colors_run_from_red_to_blue_on_a_logarithmic_scale() -> None:
    depth = np.array([[2.0, math.sqrt(2.0 * 80.0), 80.0, 1.0, 500.0]], np.float32)
    near, middle, far, nearer, farther = colorize_depth(depth, 80.0)[0].astype(int)
    turbo = cv2.applyColorMap(np.array([[255, 128, 0]], np.uint8), cv2.COLORMAP_TURBO)[0, :, ::-1].astype(int)
    np.testing.assert_array_equal(near, turbo[0])
    assert np.abs(middle - turbo[1]).max() <= 6
    np.testing.assert_array_equal(far, turbo[2])
    assert near[0] > near[2] and far[2] > far[1]
    np.testing.assert_array_equal(nearer, near)
    np.testing.assert_array_equal(farther, far)


@pytest.mark.parametrize("max_depth", [0.0, -1.0, math.inf, math.nan])
def test_an_invalid_end_of_the_depth_scale_is_rejected(max_depth: float) -> None:
    with pytest.raises(ConfigError, match="not above 0 and finite"):
        colorize_depth(np.ones((2, 2), np.float32), max_depth)


def test_depth_of_another_dtype_is_rejected() -> None:
    with pytest.raises(FrameError, match="H x W float32"):
        colorize_depth(np.ones((2, 2), np.uint16), 80.0)


# Legend and scale


def test_legend_shows_every_class_color() -> None:
    image = legend(STREET, 400)
    assert image.shape[1] == 400 and image.dtype == np.uint8
    for color in STREET.colors:
        assert (image == np.array(color, np.uint8)).all(axis=-1).sum() >= 100


def test_narrow_legend_has_more_rows() -> None:
    assert legend(STREET, 160).shape[0] > legend(STREET, 640).shape[0]
    assert legend(ClassSet("odd", ("straße",), ((1, 2, 3),))).shape[1] == 640


@pytest.mark.parametrize("width", [100, 320, 1242, 3840])
def test_legend_below_an_image_has_every_color_at_a_size_that_is_readable(width: int) -> None:
    image = np.full((50, width, 3), 200, np.uint8)
    shown = with_legend(image, STREET)
    assert shown.shape[1] == max(width, 160)
    np.testing.assert_array_equal(shown[:50, :width], image)
    strip = shown[50:]
    side = round(16 * max(0.8, width / 1280))
    for color in STREET.colors:
        assert (strip == np.array(color, np.uint8)).all(axis=-1).sum() >= (0.7 * side) ** 2
    dark = ClassSet("dark", ("ready",), ((1, 2, 3),))
    text = (with_legend(image, dark)[50:] > 130).all(axis=-1).any(axis=1).sum()
    assert text >= max(9, width / 125), "height of the text, pixels"


def test_depth_scale_has_the_colors_of_the_depth_image() -> None:
    image = depth_scale(80.0, width=500)
    ends = colorize_depth(np.array([[2.0, 80.0]], np.float32), 80.0)[0]
    np.testing.assert_array_equal(image[18, 14], ends[0])
    np.testing.assert_array_equal(image[18, 485], ends[1])
