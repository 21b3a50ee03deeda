"""Image encodings of sensor_msgs: memory layouts of those that are read, and why others are not.

The names are those of image_encodings.hpp up to ROS 2 Rolling; `nv12` was added in Kilted, `yuyv` and `uyvy` in Iron.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import cv2

from mtl_perception.errors import FrameError, truncated_repr


@dataclass(frozen=True)
class PixelLayout:
    """Memory layout of an encoding whose channels are interleaved.

    Attributes:
        channels: Channels per pixel.
        item_bytes: Bytes per channel.
        to_rgb: OpenCV's color conversion to RGB; None for RGB.
    """

    channels: int
    item_bytes: int
    to_rgb: int | None


@dataclass(frozen=True)
class SemiplanarLayout:
    """Memory layout of an encoding with a plane of Y, then a plane of interleaved U and V, one byte each.

    Attributes:
        subsampling: Pixels per sample of U and V, along both axes.
        to_rgb: OpenCV's color conversion to RGB; None if OpenCV has none.
    """

    subsampling: int
    to_rgb: int | None

    def rows(self, height: int) -> int:
        """Return the length of both planes in rows of Y."""
        return height + 2 * height // self.subsampling**2


# OpenCV names a Bayer pattern by the second and third pixel of the second row, ROS by the first two rows: RGGB is OpenCV's BG.
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
_COLOR = {
    "rgb": (3, None),
    "bgr": (3, cv2.COLOR_BGR2RGB),
    "rgba": (4, cv2.COLOR_RGBA2RGB),
    "bgra": (4, cv2.COLOR_BGRA2RGB),
    "mono": (1, cv2.COLOR_GRAY2RGB),
}
PIXEL_LAYOUTS: dict[str, PixelLayout] = {
    **{f"{name}{8 * size}": PixelLayout(c, size, code) for name, (c, code) in _COLOR.items() for size in (1, 2)},
    **{f"bayer_{name}{8 * size}": PixelLayout(1, size, code) for name, code in _BAYER.items() for size in (1, 2)},
    # Generic encodings are in OpenCV's channel order.
    **{f"{bits}UC1": PixelLayout(1, bits // 8, cv2.COLOR_GRAY2RGB) for bits in (8, 16)},
    **{f"{bits}UC3": PixelLayout(3, bits // 8, cv2.COLOR_BGR2RGB) for bits in (8, 16)},
    **{f"{bits}UC4": PixelLayout(4, bits // 8, cv2.COLOR_BGRA2RGB) for bits in (8, 16)},
    **{name: PixelLayout(2, 1, cv2.COLOR_YUV2RGB_UYVY) for name in ("yuv422", "uyvy")},
    **{name: PixelLayout(2, 1, cv2.COLOR_YUV2RGB_YUY2) for name in ("yuv422_yuy2", "yuyv")},
}
SEMIPLANAR_LAYOUTS: dict[str, SemiplanarLayout] = {
    "nv12": SemiplanarLayout(2, cv2.COLOR_YUV2RGB_NV12),
    "nv21": SemiplanarLayout(2, cv2.COLOR_YUV2RGB_NV21),
    "nv24": SemiplanarLayout(1, None),
    # Not in image_encodings.hpp: the name of NV24 in the discussion that added it (ros2/common_interfaces #172).
    "yuv444": SemiplanarLayout(1, None),
}
SUPPORTED = (*PIXEL_LAYOUTS, *SEMIPLANAR_LAYOUTS)
"""Names of all encodings that are read."""
_REFUSED = (
    (r"(8|16)UC2", "two channels are neither color nor gray"),
    (r"(8|16|32)SC[1-4]", "signed integers are not color or gray"),
    (r"(32|64)FC[1-4]", "floating-point values are depth or other data, not color or gray"),
)


def find_refusal(encoding: str) -> str:
    """Return why an encoding of sensor_msgs is not read; empty if it is, or if it is unknown."""
    return next((reason for pattern, reason in _REFUSED if re.fullmatch(pattern, encoding)), "")


def refuse(encoding: str) -> FrameError:
    """Return the error for an encoding that is not read."""
    if not encoding:
        return FrameError("image has no encoding", "encoding")
    reason = find_refusal(encoding)
    # Names are case-sensitive, and some drivers omit the number of bits.
    meant = next((name for name in SUPPORTED if name.lower() in (encoding.lower(), f"{encoding.lower()}8")), "")
    hint = f": {reason}" if reason else f"; the driver should call it {meant!r}" if meant else ""
    return FrameError(
        f"unsupported image encoding {truncated_repr(encoding)}{hint} (supported: {', '.join(SUPPORTED)})",
        "encoding",
    )
