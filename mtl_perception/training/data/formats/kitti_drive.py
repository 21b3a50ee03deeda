"""KITTI's raw drives with depth: their LiDAR sweeps, or depth images in another folder."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from mtl_perception.camera.calibration import load_calibration
from mtl_perception.camera.kitti import CAMERAS_FILE
from mtl_perception.camera.model import Calibration, CameraModel
from mtl_perception.errors import SourceError
from mtl_perception.labels import load_mapping
from mtl_perception.sources.base import CameraResolver
from mtl_perception.training.data.dataset import DatasetOptions, ImageDataset, SampleFiles
from mtl_perception.training.data.formats.files import check_partner_files, files_by_stem, require_folder
from mtl_perception.training.data.formats.kitti import LICENSE, camera_by_size
from mtl_perception.training.data.formats.lidar import lidar_projection, project, read_sweep

CAMERAS = ("image_02", "image_03")
"""KITTI's left and right color camera."""
DEPTH_FOLDERS = ("lidar", "sgbm")
"""Depth from projected LiDAR, or from stereo; the first folder that exists is used."""
GROUND_TRUTH = "proj_depth/groundtruth"

logger = logging.getLogger(__name__)


class DriveDataset(ImageDataset):
    """Images of raw drives. The camera is that of the drive's calibration, or follows from the image size."""

    def __init__(self, name: str, items: list[SampleFiles], options: DatasetOptions) -> None:
        super().__init__(name, LICENSE, items, options.mapping or load_mapping("street"), options)
        folders = sorted({item.image.parent for item in self.items})
        self._calibrations = {folder: load_drive_calibration(folder) for folder in folders}
        self._cameras = CameraResolver(self.name, rectified=True)

    def camera(self, item: SampleFiles, width: int, height: int) -> CameraModel | None:
        """Return the camera of the drive, or KITTI's for this size."""
        calibration = self._calibrations[item.image.parent]
        if calibration is None:
            return camera_by_size(width, height)
        return self._cameras.camera(calibration, width, height)


class DepthFolder(DriveDataset):
    """`image` and `lidar` or `sgbm`: KITTI images, and depth images (uint16, meters x 256) for all or some of them.

    A folder `drive_NNNN` without `image` uses the raw drive of that number, in `kitti_raw` next to its parent, or in the folder
    that the key `images` names.
    """

    KEYS = ("images", "depth_from")

    def __init__(self, path: Path, options: DatasetOptions) -> None:
        depth_from = options.fields.choice("depth_from", DEPTH_FOLDERS, _depth_from(path))
        folder = require_folder(path / depth_from, f"depth-folder {path}")
        images, depths = files_by_stem(_images_folder(path, options)), files_by_stem(folder)
        check_partner_files(images, depths, folder, "depth image")
        items = [SampleFiles(stem, image, None, depths.get(stem)) for stem, image in images.items()]
        super().__init__(options.name or path.absolute().name, items, options)


class RawDrive(DriveDataset):
    """One raw drive: `image_02/data`, and depth where `velodyne_points/data` has a sweep with the number of an image.

    The key `camera` selects image_02 (default) or image_03.
    """

    KEYS = ("camera",)

    def __init__(self, path: Path, options: DatasetOptions) -> None:
        camera = options.fields.choice("camera", CAMERAS, CAMERAS[0])
        what = f"kitti-raw {path}"
        images = files_by_stem(require_folder(path / camera / "data", what))
        sweeps = {sweep.stem: sweep for sweep in sorted((path / "velodyne_points" / "data").glob("*.bin"))}
        items = [SampleFiles(stem, image, None, sweeps.get(stem)) for stem, image in images.items()]
        super().__init__(options.name or path.absolute().name, items, options)
        # Some of KITTI's drives have sweeps without an image, so those are not an error.
        has_depth = any(item.depth is not None for item in self.items)
        self._projection = lidar_projection(path.absolute().parent, camera[-2:]) if has_depth else np.zeros((3, 4))

    def read_depth(self, item: SampleFiles, path: Path, camera: CameraModel | None, shape: tuple[int, int]) -> np.ndarray:
        """Project the sweep."""
        return project(read_sweep(path), self._projection, shape)


class DepthPrediction(DriveDataset):
    """KITTI's depth prediction benchmark: `…/<drive>/proj_depth/groundtruth/image_0X`, with the images of the raw drives.

    The path contains `train` and `val`, or is one of them, or is the raw data with the depth inside. The raw drives are in it,
    next to it, or in the folder that the key `raw` names; missing drives are left out with a warning. The key `camera` selects
    one of the two cameras.
    """

    KEYS = ("raw", "camera")

    def __init__(self, path: Path, options: DatasetOptions) -> None:
        cameras = [options.fields.choice("camera", CAMERAS)] if "camera" in options.fields else CAMERAS
        raw = [options.fields.path("raw")] if "raw" in options.fields else _raw_places(path.absolute())
        items: list[SampleFiles] = []
        left_out: list[str] = []
        for folder in depth_prediction_folders(path):
            drive = folder.parents[2].name
            if folder.name not in cameras:
                continue
            images_folder = _raw_images(raw, folder)
            if images_folder is None:
                left_out.append(drive)
                continue
            images, depths = files_by_stem(images_folder), files_by_stem(folder)
            check_partner_files(images, depths, folder, "depth image")
            items += [SampleFiles(f"{drive}/{folder.name}/{stem}", images[stem], None, depth) for stem, depth in depths.items()]
        if left_out and not items:
            raise SourceError(f"kitti-depth {path}: no images of {left_out[0]}; give the folder of the raw drives as `raw:`")
        if left_out:
            logger.warning("kitti-depth %s: left out drives without images: %s", path, ", ".join(sorted(set(left_out))))
        super().__init__(options.name or f"kitti-depth-{path.absolute().name}", items, options)


def is_depth_folder(path: Path) -> bool:
    """Return whether the folder has the layout of `DepthFolder`."""
    has_depth = any((path / name).is_dir() for name in DEPTH_FOLDERS)
    return has_depth and ((path / "image").is_dir() or _drive_images(path.absolute()) is not None)


def is_raw_drive(path: Path) -> bool:
    """Return whether the folder is a raw drive with images of the left color camera."""
    return (path / CAMERAS[0] / "data").is_dir()


def is_depth_prediction(path: Path) -> bool:
    """Return whether the folder contains drives with the depth of `DepthPrediction`."""
    return any(path.glob(f"*/{GROUND_TRUTH}"))


def depth_prediction_folders(path: Path) -> list[Path]:
    """Return the folders of depth images of `DepthPrediction`, at most three levels deep."""
    patterns = (f"{prefix}{GROUND_TRUTH}/image_0[23]" for prefix in ("", "*/", "*/*/", "*/*/*/"))
    return sorted(folder for pattern in patterns for folder in path.absolute().glob(pattern))


def load_drive_calibration(data_folder: Path) -> Calibration | None:
    """Load the calibration of a raw drive's `…/<date>/<drive>/image_0X/data`; None if it has none.

    Raises:
        CameraError: calib_cam_to_cam.txt of the date is invalid.
    """
    folder = data_folder.absolute()
    path = folder.parents[2] / CAMERAS_FILE
    if not folder.parent.name.startswith("image_0") or not path.is_file():
        return None
    return load_calibration(path, camera=folder.parent.name[-2:])


def _depth_from(path: Path) -> str:
    return next((name for name in DEPTH_FOLDERS if (path / name).is_dir()), DEPTH_FOLDERS[0])


def _drive_images(path: Path) -> Path | None:
    """Return the images of the raw drive whose depth a folder `drive_NNNN` contains."""
    if not path.name.startswith("drive_"):
        return None
    places = sorted(path.parent.parent.glob(f"kitti_raw/*/*_{path.name}_sync/image_02/data"))
    return places[0] if places else None


def _images_folder(path: Path, options: DatasetOptions) -> Path:
    if "images" in options.fields:
        return require_folder(options.fields.path("images"), f"{options.fields.where}: images")
    found = path / "image" if (path / "image").is_dir() else _drive_images(path.absolute())
    if found is None:
        raise SourceError(f"depth-folder {path}: there is neither a folder {path / 'image'} nor a matching raw drive")
    return found


def _raw_places(path: Path) -> list[Path]:
    beside = (path, path.parent, path.parent.parent)
    return [place for folder in beside for place in (folder, folder / "raw", folder / "kitti_raw")]


def _raw_images(places: list[Path], depth_folder: Path) -> Path | None:
    drive, camera = depth_folder.parents[2], depth_folder.name
    inside = [place / drive.name[:10] / drive.name for place in places]
    return next((folder / camera / "data" for folder in (drive, *inside) if (folder / camera / "data").is_dir()), None)
