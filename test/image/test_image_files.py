"""Reading of image files."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from support.images import noise_image

from mtl_perception.errors import FrameError
from mtl_perception.image.files import read_image_file


def test_rgb_order_and_values(tmp_path):
    rgb = noise_image(20, 40, 1)
    cv2.imwrite(str(tmp_path / "a.png"), rgb[..., ::-1])
    read = read_image_file(tmp_path / "a.png")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, rgb)


def test_gray_is_replicated_and_transparency_dropped(tmp_path):
    gray = noise_image(20, 40, 2)[..., 0]
    cv2.imwrite(str(tmp_path / "gray.png"), gray)
    np.testing.assert_array_equal(read_image_file(tmp_path / "gray.png"), np.dstack([gray] * 3))
    bgra = np.dstack([noise_image(20, 40, 3), np.full((20, 40), 7, np.uint8)])
    cv2.imwrite(str(tmp_path / "alpha.png"), bgra)
    np.testing.assert_array_equal(read_image_file(tmp_path / "alpha.png"), bgra[..., 2::-1])


def test_exif_rotation_is_ignored(tmp_path):
    jpeg = cv2.imencode(".jpg", noise_image(20, 40, 4))[1].tobytes()
    # Orientation 6: "rotate by 90 degrees".
    tiff = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    tagged = jpeg[:2] + b"\xff\xe1" + (len(tiff) + 2).to_bytes(2, "big") + tiff + jpeg[2:]
    (tmp_path / "phone.jpg").write_bytes(tagged)
    assert cv2.imread(str(tmp_path / "phone.jpg")).shape == (40, 20, 3), "OpenCV applies this tag"
    assert read_image_file(tmp_path / "phone.jpg").shape == (20, 40, 3)


@pytest.mark.parametrize("content", [b"", b"not an image", cv2.imencode(".png", noise_image(20, 40, 5))[1].tobytes()[:60]])
def test_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(FrameError, match=r"bad\.png: (damaged or not a supported image|truncated image)") as caught:
        read_image_file(path)
    assert caught.value.reason == "unreadable"


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(FrameError, match=r"none\.png cannot be read: No such file"):
        read_image_file(tmp_path / "none.png")


def test_path_with_a_null_byte_is_refused():
    with pytest.raises(FrameError, match=r"image a\0\.png cannot be read: embedded null byte"):
        read_image_file("a\0.png")
