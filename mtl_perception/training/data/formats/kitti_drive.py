"""KITTI's raw drives with depth: their own LiDAR sweeps, or depth pictures that lie elsewhere."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from mtl_perception.camera.calibration import load_calibration
from mtl_perception.camera.model import Calibration, CameraModel
from mtl_perception.errors import SourceError
from mtl_perception.labels import load_mapping
from mtl_perception.sources.base import CameraResolver
from mtl_perception.training.data.dataset import Item, PictureDataset, Setting
from mtl_perception.training.data.formats.files import by_stem, check_partners, need_folder
from mtl_perception.training.data.formats.kitti import LICENSE
from mtl_perception.training.data.formats.kitti_cameras import camera_by_size
from mtl_perception.training.data.formats.velodyne import CAMERAS_FILE, laser_projection, project, read_sweep

CAMERAS = ("image_02", "image_03")
"""KITTI's left and right color camera."""

DEPTH_FOLDERS = ("lidar", "sgbm")
"""Depth from projected LiDAR, or from stereo; the first that is there is taken."""

GROUND_TRUTH = "proj_depth/groundtruth"

logger = logging.getLogger(__name__)


class DrivePictures(PictureDataset):
    """Pictures of raw drives: the camera is that of the drive's calibration, or else is told by the picture's size."""

    def __init__(self, name: str, items: list[Item], setting: Setting) -> None:
        super().__init__(name, LICENSE, items, setting.mapping or load_mapping("street"), setting)
        folders = sorted({item.image.parent for item in self.items})
        self._calibrations = {folder: calibration_of(folder) for folder in folders}
        self._fit = CameraResolver(self.name, rectified=True)

    def camera(self, item: Item, width: int, height: int) -> CameraModel | None:
        """The drive's own, or KITTI's for this size."""
        calibration = self._calibrations[item.image.parent]
        if calibration is None:
            return camera_by_size(width, height)
        return self._fit.camera(calibration, width, height)


class DepthFolder(DrivePictures):
    """`image` and `lidar` or `sgbm`: KITTI pictures, and depth pictures (uint16, meters x 256) for all or some of them.

    A folder `drive_NNNN` without `image` belongs to the raw drive of that number, found in a `kitti_raw` beside its parent or
    named by the key `images`.
    """

    OPTIONS = ("images", "depth_from")

    def __init__(self, path: Path, setting: Setting) -> None:
        depth_from = setting.fields.choice("depth_from", DEPTH_FOLDERS, _depth_from(path))
        folder = need_folder(path / depth_from, f"depth-folder {path}")
        images, depths = by_stem(_images_folder(path, setting)), by_stem(folder)
        check_partners(images, depths, folder, "depth picture")
        items = [Item(stem, image, None, depths.get(stem)) for stem, image in images.items()]
        super().__init__(setting.name or path.absolute().name, items, setting)


class RawDrive(DrivePictures):
    """One raw drive: `image_02/data`, and depth where `velodyne_points/data` has the sweep of a picture's number.

    The key `camera` chooses image_02 (default) or image_03.
    """

    OPTIONS = ("camera",)

    def __init__(self, path: Path, setting: Setting) -> None:
        camera = setting.fields.choice("camera", CAMERAS, CAMERAS[0])
        what = f"kitti-raw {path}"
        images = by_stem(need_folder(path / camera / "data", what))
        sweeps = {sweep.stem: sweep for sweep in sorted((path / "velodyne_points" / "data").glob("*.bin"))}
        items = [Item(stem, image, None, sweeps.get(stem)) for stem, image in images.items()]
        super().__init__(setting.name or path.absolute().name, items, setting)
        # Sweeps of numbers without a picture are nothing wrong: KITTI's drives have some.
        has_depth = any(item.depth is not None for item in self.items)
        self._projection = laser_projection(path.absolute().parent, camera[-2:]) if has_depth else np.zeros((3, 4))

    def read_depth(self, item: Item, path: Path, camera: CameraModel | None, shape: tuple[int, int]) -> np.ndarray:
        """The sweep, projected."""
        return project(read_sweep(path), self._projection, shape)


class DepthPrediction(DrivePictures):
    """KITTI's depth prediction benchmark: `…/<drive>/proj_depth/groundtruth/image_0X`, with the raw drives' pictures.

    The path holds `train` and `val`, or is one of them, or the raw data with the depth laid into it. The raw drives are found
    in it, beside it, or in the folder that the key `raw` names; drives that are not there are left out with a warning. The
    key `camera` chooses one of the two cameras.
    """

    OPTIONS = ("raw", "camera")

    def __init__(self, path: Path, setting: Setting) -> None:
        cameras = [setting.fields.choice("camera", CAMERAS)] if "camera" in setting.fields else CAMERAS
        raw = [setting.path("raw")] if "raw" in setting.fields else _raw_places(path.absolute())
        items: list[Item] = []
        left_out: list[str] = []
        for folder in depth_prediction_folders(path):
            drive = folder.parents[2].name
            if folder.name not in cameras:
                continue
            images_folder = _raw_pictures(raw, folder)
            if images_folder is None:
                left_out.append(drive)
                continue
            images, depths = by_stem(images_folder), by_stem(folder)
            check_partners(images, depths, folder, "depth picture")
            items += [Item(f"{drive}/{folder.name}/{stem}", images[stem], None, depth) for stem, depth in depths.items()]
        if left_out and not items:
            raise SourceError(f"kitti-depth {path}: no pictures of {left_out[0]}: give the folder of the raw drives as `raw:`")
        if left_out:
            logger.warning("kitti-depth %s: left out for want of pictures: %s", path, ", ".join(sorted(set(left_out))))
        super().__init__(setting.name or f"kitti-depth-{path.absolute().name}", items, setting)


def is_depth_folder(path: Path) -> bool:
    """Whether the folder has the layout of `DepthFolder`."""
    has_depth = any((path / name).is_dir() for name in DEPTH_FOLDERS)
    return has_depth and ((path / "image").is_dir() or _drive_images(path.absolute()) is not None)


def is_raw_drive(path: Path) -> bool:
    """Whether the folder is a raw drive with pictures of the left color camera."""
    return (path / CAMERAS[0] / "data").is_dir()


def is_depth_prediction(path: Path) -> bool:
    """Whether the folder holds drives with the depth of `DepthPrediction`."""
    return any(path.glob(f"*/{GROUND_TRUTH}"))


def depth_prediction_folders(path: Path) -> list[Path]:
    """The folders of depth pictures of `DepthPrediction`, at most three folders deep."""
    patterns = (f"{prefix}{GROUND_TRUTH}/image_0[23]" for prefix in ("", "*/", "*/*/", "*/*/*/"))
    return sorted(folder for pattern in patterns for folder in path.absolute().glob(pattern))


def calibration_of(data_folder: Path) -> Calibration | None:
    """The calibration of a raw drive's `…/<date>/<drive>/image_0X/data`; None where there is none.

    Raises:
        CameraError: The date's calib_cam_to_cam.txt is no calibration.
    """
    folder = data_folder.absolute()
    path = folder.parents[2] / CAMERAS_FILE
    if not folder.parent.name.startswith("image_0") or not path.is_file():
        return None
    return load_calibration(path, camera=folder.parent.name[-2:])


def _depth_from(path: Path) -> str:
    return next((name for name in DEPTH_FOLDERS if (path / name).is_dir()), DEPTH_FOLDERS[0])


def _drive_images(path: Path) -> Path | None:
    """The pictures of the raw drive whose depth a folder `drive_NNNN` holds."""
    if not path.name.startswith("drive_"):
        return None
    places = sorted(path.parent.parent.glob(f"kitti_raw/*/*_{path.name}_sync/image_02/data"))
    return places[0] if places else None


def _images_folder(path: Path, setting: Setting) -> Path:
    if "images" in setting.fields:
        return need_folder(setting.path("images"), f"{setting.fields.where}: images")
    found = path / "image" if (path / "image").is_dir() else _drive_images(path.absolute())
    if found is None:
        raise SourceError(f"depth-folder {path}: there is no folder {path / 'image'}, nor the raw drive that it belongs to")
    return found


def _raw_places(path: Path) -> list[Path]:
    beside = (path, path.parent, path.parent.parent)
    return [place for folder in beside for place in (folder, folder / "raw", folder / "kitti_raw")]


def _raw_pictures(places: list[Path], depth_folder: Path) -> Path | None:
    drive, camera = depth_folder.parents[2], depth_folder.name
    inside = [place / drive.name[:10] / drive.name for place in places]
    return next((folder / camera / "data" for folder in (drive, *inside) if (folder / camera / "data").is_dir()), None)
