"""Recognition of raw images that are processed as rectified ones."""

from __future__ import annotations

from mtl_perception.camera.model import Calibration


def describe_raw_input(topic: str, calibration: Calibration | None, rectified: bool) -> str:
    """Describe that images are taken for rectified ones although their topic and calibration suggest raw ones.

    Args:
        topic: Topic of the images.
        calibration: Their calibration, if known.
        rectified: Whether they are taken for rectified ones.

    Returns:
        A message for the user; empty if there is nothing to report.
    """
    if calibration is None or not (rectified and calibration.is_distorted and is_raw_topic(topic)):
        return ""
    return (
        f"images of {topic} seem to be raw, but input_rectified is true and camera_info has distortion: "
        "use the topic of rectified images, or set input_rectified to false (but not for bags of kitti2bag: they are rectified)"
    )


def is_raw_topic(topic: str) -> bool:
    """Return whether the name is one of raw images: image_raw, but not RealSense's image_rect_raw."""
    names = topic.split("/")
    return any("raw" in name.split("_") for name in names) and not any("rect" in name for name in names)
