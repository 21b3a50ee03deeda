"""Style mixing: colors follow the style images, contents stay."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mtl_perception.errors import ConfigError
from mtl_perception.training.augmentation.style import StyleMixer
from mtl_perception.training.config import Augmentation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with one image, red and brighter towards the top."""
    path = tmp_path_factory.mktemp("style")
    image = np.zeros((120, 160, 3), np.uint8)
    image[..., 2] = np.linspace(240, 160, 120)[:, None]
    cv2.imwrite(str(path / "red.png"), image)
    (path / "notes.txt").write_text("no image")
    return path


def test_colors_move_towards_the_style_and_edges_stay(folder: Path) -> None:
    mixer, rng = StyleMixer(str(folder)), np.random.default_rng(0)
    image = np.full((64, 96, 3), 100, np.uint8)
    image[:, 48:] = 140
    results = [mixer(image, rng) for _ in range(20)]
    assert all(result.shape == image.shape and result.dtype == np.uint8 for result in results)
    means = np.array([result.mean(axis=(0, 1)) for result in results])
    # A share of 0 keeps the mean of 120 of each channel, a share of 1 gives that of the style: 200 and 0.
    assert (means[:, 0] >= 119).all() and means[:, 0].max() > 170
    assert (means[:, 1] <= 121).all() and means[:, 1].min() < 40
    bright = [result for result in results if result[..., 1].mean() > 60]
    assert bright
    for result in bright:
        step = result[:, 49:52, 1].mean() - result[:, 44:47, 1].mean()
        assert step > 15, "the edge between the halves"


def test_mixing_is_reproducible(folder: Path) -> None:
    image = np.random.default_rng(1).integers(0, 255, (64, 96, 3)).astype(np.uint8)
    one, two = (StyleMixer(str(folder))(image, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one, two) and not np.array_equal(one, image)


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ConfigError, match=r"augmentation\.style: .* has no images; give a folder of \.jpg"):
        StyleMixer(str(tmp_path))


def test_share_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"augmentation\.style_share 1\.5: give a share from 0 to 1"):
        Augmentation(style_share=1.5)
