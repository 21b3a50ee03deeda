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


@pytest.mark.parametrize(("encoding", "meant"), [("RGB8", "rgb8"), ("rgb", "rgb8"), ("Mono", "mono8"), ("8uc3", "8UC3")])
def test_encoding_in_another_spelling_is_refused_with_the_name(encoding: str, meant: str) -> None:
    message = SimpleNamespace(height=4, width=4, step=128, encoding=encoding, is_bigendian=0, data=bytes(512))
    with pytest.raises(FrameError) as caught:
        decode_image(message)
    start = f"unsupported image encoding '{encoding}'; the driver should call it '{meant}' (supported: "
    assert str(caught.value).startswith(start)


def test_unknown_layout_is_refused_without_a_name() -> None:
    message = SimpleNamespace(height=4, width=4, step=128, encoding="yuv420p", is_bigendian=0, data=bytes(512))
    with pytest.raises(FrameError, match=r"^unsupported image encoding 'yuv420p' \(supported: "):
        decode_image(message)


@pytest.mark.skipif(not HEADERS, reason="needs the C++ header of sensor_msgs")
def test_installed_header_has_no_other_encodings() -> None:
    names = re.findall(r'^const char \w+\[\] = "(\w+)"', HEADERS[0].read_text(encoding="utf-8"), re.MULTILINE)
    assert len(names) > 40
    assert set(names) <= {*READ, *REFUSED}
