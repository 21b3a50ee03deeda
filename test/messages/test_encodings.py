"""Every encoding of sensor_msgs is read, or refused by name."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mtl_perception.errors import FrameError
from mtl_perception.messages.decode import decode_image
from mtl_perception.messages.encodings import SUPPORTED, find_refusal

COLOR = ["rgb8", "rgba8", "rgb16", "rgba16", "bgr8", "bgra8", "bgr16", "bgra16", "mono8", "mono16"]
BAYER = [f"bayer_{pattern}{bits}" for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)]
YUV = ["uyvy", "yuv422", "yuyv", "yuv422_yuy2", "nv12", "nv21", "nv24"]
READ = [*COLOR, *BAYER, *YUV, "8UC1", "8UC3", "8UC4", "16UC1", "16UC3", "16UC4"]
NUMBERS = [f"{kind}C{channels}" for kind in ("8S", "16S", "32S", "32F", "64F") for channels in (1, 2, 3, 4)]
REFUSED = ["8UC2", "16UC2", *NUMBERS]
HEADERS = [
    *Path(sys.prefix).glob("include/sensor_msgs/**/image_encodings.hpp"),
    *Path("/opt/ros").glob("*/include/sensor_msgs/**/image_encodings.hpp"),
]


def test_supported_encodings_are_those_of_sensor_msgs_and_yuv444() -> None:
    assert sorted(SUPPORTED) == sorted([*READ, "yuv444"])


@pytest.mark.parametrize("encoding", REFUSED)
def test_other_encodings_of_sensor_msgs_are_refused_by_name_with_the_reason(encoding: str) -> None:
    message = SimpleNamespace(height=4, width=4, step=128, encoding=encoding, is_bigendian=0, data=bytes(512))
    with pytest.raises(
        FrameError, match=f"unsupported image encoding '{encoding}': .*(color or gray|color nor gray)"
    ) as caught:
        decode_image(message)
    assert caught.value.reason == "encoding"
    assert find_refusal(encoding) in str(caught.value)


@pytest.mark.skipif(not HEADERS, reason="needs the C++ header of sensor_msgs")
def test_installed_header_has_no_other_encodings() -> None:
    names = re.findall(r'^const char \w+\[\] = "(\w+)"', HEADERS[0].read_text(encoding="utf-8"), re.MULTILINE)
    assert len(names) > 40
    assert set(names) <= {*READ, *REFUSED}
