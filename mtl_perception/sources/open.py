"""Which source a word or a path means."""

from __future__ import annotations

from pathlib import Path

from mtl_perception.errors import SourceError
from mtl_perception.sources.base import Source
from mtl_perception.sources.images import SUFFIXES, ImageSource, is_image_file, list_images
from mtl_perception.sources.kitti import find_camera_folder, open_drive

BAG_SUFFIXES = (".bag", ".mcap", ".db3")
ACCEPTED = (
    "a KITTI raw drive (…_drive_NNNN_sync), a folder of pictures, a picture, a ROS 1 .bag, "
    "a ROS 2 bag (folder with metadata.yaml, .mcap or .db3), or synthetic[:FRAMES[:SEED]]"
)


def open_source(
    spec: str | Path,
    *,
    rectified: bool = True,
    camera_file: Path | None = None,
    image_topic: str = "",
    camera_info_topic: str = "",
) -> Source:
    """The source that `spec` means.

    Args:
        spec: A path, or `synthetic`, `synthetic:FRAMES`, `synthetic:FRAMES:SEED`.
        rectified: The pictures are rectified: P holds, otherwise K and the distortion.
        camera_file: Calibration to use instead of the source's own.
        image_topic: A bag's topic of pictures; empty: found by type and name.
        camera_info_topic: A bag's topic of calibrations; empty: the image topic's sibling.

    Raises:
        SourceError: Nothing that is accepted, or it cannot be read.
        CameraError: The camera file cannot be used.
    """
    if isinstance(spec, str) and spec.split(":")[0] == "synthetic":
        return _open_synthetic(spec, camera_file)
    path = Path(spec).expanduser()
    if _is_bag(path):
        from mtl_perception.sources.bag.source import BagSource

        return BagSource(
            path,
            rectified=rectified,
            camera_file=camera_file,
            image_topic=image_topic,
            camera_info_topic=camera_info_topic,
        )
    if image_topic or camera_info_topic:
        raise SourceError(f"{path} is not a bag: it has no topic {image_topic or camera_info_topic}")
    if path.is_dir():
        return _open_folder(path, rectified, camera_file)
    if is_image_file(path):
        return ImageSource([path], path.name, rectified=rectified, camera_file=camera_file)
    if not path.exists():
        raise SourceError(f"{path} does not exist; accepted: {ACCEPTED}")
    raise SourceError(f"{path} is a {path.suffix or 'nameless'} file, not a source; accepted: {ACCEPTED}")


def _is_bag(path: Path) -> bool:
    if path.is_dir():
        return (path / "metadata.yaml").is_file()
    return path.suffix in BAG_SUFFIXES and path.exists()


def _open_folder(path: Path, rectified: bool, camera_file: Path | None) -> Source:
    drive = find_camera_folder(path.absolute())
    if drive is not None:
        return open_drive(drive, rectified=rectified, camera_file=camera_file)
    pictures = list_images(path)
    if pictures:
        return ImageSource(pictures, path.absolute().name, rectified=rectified, camera_file=camera_file)
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise SourceError(f"folder {path} cannot be read: {error.strerror}") from None
    bags = [name for name in names if Path(name).suffix in BAG_SUFFIXES]
    if bags:
        raise SourceError(f"folder {path} has no metadata.yaml: give the bag file itself ({path / bags[0]}), or reindex it")
    drives = [name for name in names if find_camera_folder(path / name) is not None]
    if drives:
        raise SourceError(f"folder {path} is not one KITTI drive but holds some; give one of them: {', '.join(drives[:5])}")
    found = ", ".join(names[:3]) + (", …" if len(names) > 3 else "") if names else "nothing"
    raise SourceError(
        f"folder {path} has neither pictures ({' '.join(SUFFIXES)}) nor a bag in it, but {found}; accepted: {ACCEPTED}"
    )


def _open_synthetic(spec: str, camera_file: Path | None) -> Source:
    words = spec.split(":")[1:]
    if len(words) > 2 or not all(word.isascii() and word.isdecimal() for word in words):
        raise SourceError(f"{spec!r}: write synthetic, synthetic:FRAMES or synthetic:FRAMES:SEED, in whole numbers")
    numbers = dict(zip(("frames", "seed"), map(int, words), strict=False))
    if numbers.get("frames") == 0:
        raise SourceError(f"{spec!r}: at least one frame is needed")
    if camera_file is not None:
        raise SourceError(f"{spec!r} has a camera of its own; leave out {camera_file}")
    from mtl_perception.synthetic.drive import SyntheticDrive

    return SyntheticDrive(**numbers)
