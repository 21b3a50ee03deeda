"""Git LFS pointers and HTML pages in place of weights, images, bags, calibrations and labels."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mtl_perception.camera.calibration import load_calibration
from mtl_perception.errors import PerceptionError
from mtl_perception.image.files import read_image_file
from mtl_perception.placeholders import describe_placeholder
from mtl_perception.sources.bag.reader import open_bag
from mtl_perception.training.data.formats.files import read_labels
from mtl_perception.weights.encoders import load_encoder
from mtl_perception.weights.files import load_network

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 6115042\n"
HTML = b"\xef\xbb\xbf\n<!DOCTYPE html><html><title>Virus scan warning</title></html>"
READERS = {
    "weights.safetensors": load_network,
    "weights.ckpt": load_network,
    "encoder.pth": load_encoder,
    "image.png": read_image_file,
    "drive.bag": open_bag,
    "drive.mcap": open_bag,
    "drive.db3": open_bag,
    "camera.yaml": load_calibration,
    "label.png": lambda path: read_labels(path, (1, 1)),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LFS, "a Git LFS pointer, not the file; install git-lfs and run git lfs pull"),
        (HTML, "an HTML page, not the file: the download failed or needs a login"),
    ],
    ids=["lfs", "html"],
)
def test_error_says_what_the_file_is(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PerceptionError, match=f"{re.escape(str(path))}.* is {reason}$"):
        READERS[name](path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<HTML>\r\n<body>Sign in</body>", "an HTML page"),
        (b"/annex/objects/SHA256E-s12--aa.png\n", "a git-annex pointer"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an error message of a download server"),
    ],
)
def test_other_placeholders_are_recognized(content: bytes, reason: str) -> None:
    assert describe_placeholder(content).startswith(reason)


@pytest.mark.parametrize(
    "content", [b"", b"PK\3\4", b"image_width: 640\n", b'<?xml version="1.0"?><opencv_storage></opencv_storage>']
)
def test_other_content_is_no_placeholder(content: bytes) -> None:
    assert describe_placeholder(content) == ""
