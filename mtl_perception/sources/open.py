"""Factory of sources."""

from __future__ import annotations

import logging
from pathlib import Path

from mtl_perception.errors import SourceError
from mtl_perception.sources.bag.reader import METADATA, is_bag_file
from mtl_perception.sources.bag.source import BagSource
from mtl_perception.sources.base import Source
from mtl_perception.sources.images import SUFFIXES, ImageSource, describe_skipped, is_image_file, list_images
from mtl_perception.sources.kitti import find_camera_folder, open_drive
from mtl_perception.sources.video import VideoSource, is_video_file
from mtl_perception.visualization.files import partial_path

ACCEPTED = (
    "a KITTI raw or KITTI-360 drive (…_drive_NNNN_sync), a KITTI odometry sequence, an image folder, an image, a video, "
    "a ROS 1 .bag, a ROS 2 bag (folder, .mcap or .db3), or synthetic[:FRAMES[:SEED]]"
)

logger = logging.getLogger(__name__)


def open_source(
    spec: str | Path,
    *,
    rectified: bool = True,
    camera_file: Path | None = None,
    image_topic: str = "",
    camera_info_topic: str = "",
) -> Source:
    """Open a drive, an image folder, an image, a video, a bag or the synthetic drive.

    Args:
        spec: A path, or `synthetic`, `synthetic:FRAMES`, `synthetic:FRAMES:SEED`.
        rectified: Whether the images are rectified: use P; otherwise K and the distortion.
        camera_file: Calibration file to use instead of the source's calibration.
        image_topic: Image topic of a bag; empty: select it by type and name.
        camera_info_topic: CameraInfo topic of a bag; empty: the image topic's sibling.

    Raises:
        SourceError: The source is of an unsupported kind or cannot be read.
        CameraError: The camera file cannot be used.
        DependencyError: The extra that reads this kind of source is not installed.
    """
    if isinstance(spec, str) and spec.split(":")[0] == "synthetic":
        return _open_synthetic(spec, camera_file)
    path = Path(spec).expanduser()
    if _is_bag(path):
        return BagSource(
            path,
            rectified=rectified,
            camera_file=camera_file,
            image_topic=image_topic,
            camera_info_topic=camera_info_topic,
        )
    if image_topic or camera_info_topic:
        raise SourceError(f"{path} has no topic {image_topic or camera_info_topic}: it is not a bag")
    if path.is_dir():
        return _open_folder(path, rectified, camera_file)
    if is_image_file(path):
        return _report_camera(ImageSource([path], path.name, rectified=rectified, camera_file=camera_file))
    if is_video_file(path):
        return _report_camera(VideoSource(path, rectified=rectified, camera_file=camera_file))
    if not path.exists():
        partial = partial_path(path)
        hint = f", but {partial} does, from a run that did not finish" if partial.exists() else f"; accepted: {ACCEPTED}"
        raise SourceError(f"{path} does not exist{hint}")
    raise SourceError(f"{path} is not a source: unsupported file type {path.suffix or '(none)'}; accepted: {ACCEPTED}")


def _is_bag(path: Path) -> bool:
    """Return whether the path is a bag: a file of one, or a folder with metadata.yaml or without images but with such files."""
    if not path.is_dir():
        return is_bag_file(path)
    if (path / METADATA).is_file():
        return True
    if find_camera_folder(path.absolute()) is not None or list_images(path):
        return False
    return any(is_bag_file(entry) for entry in path.iterdir())


def _open_folder(path: Path, rectified: bool, camera_file: Path | None) -> Source:
    drive = find_camera_folder(path.absolute())
    if drive is not None:
        return open_drive(drive, rectified=rectified, camera_file=camera_file)
    images = list_images(path)
    skipped = describe_skipped(path)
    if images:
        name = path.absolute().name
        if skipped:
            logger.warning("%s: %s", name, skipped)
        return _report_camera(ImageSource(images, name, rectified=rectified, camera_file=camera_file))
    names = sorted(entry.name for entry in path.iterdir())
    drives = [name for name in names if find_camera_folder(path / name) is not None]
    if drives:
        raise SourceError(f"folder {path} contains several KITTI drives; give one of them: {', '.join(drives[:5])}")
    found = ", ".join(names[:3]) + (", …" if len(names) > 3 else "") if names else "nothing"
    raise SourceError(
        f"folder {path} contains neither images ({' '.join(SUFFIXES)}) nor a bag, but {found}; accepted: {ACCEPTED}"
    )


def _report_camera(source: ImageSource | VideoSource) -> Source:
    """Return the source, with a warning if it has no calibration file."""
    if source.camera_file is None:
        logger.warning(
            "%s: frames have no camera, so there are no clouds; give --camera FILE, or put camera.yaml into the folder",
            source.name,
        )
    return source


def _open_synthetic(spec: str, camera_file: Path | None) -> Source:
    words = spec.split(":")[1:]
    if len(words) > 2 or not all(word.isascii() and word.isdecimal() for word in words):
        raise SourceError(f"invalid source {spec!r}; write synthetic, synthetic:FRAMES or synthetic:FRAMES:SEED with integers")
    numbers = dict(zip(("frames", "seed"), map(int, words), strict=False))
    if numbers.get("frames") == 0:
        raise SourceError(f"invalid source {spec!r}: at least one frame is required")
    if camera_file is not None:
        raise SourceError(f"source {spec!r} takes no camera file: it has its own camera; omit {camera_file}")
    from mtl_perception.synthetic.drive import SyntheticDrive

    return SyntheticDrive(**numbers)
