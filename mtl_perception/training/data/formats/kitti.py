"""KITTI's single frames: Cityscapes labels, and depth images or stereo disparity."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mtl_perception.camera.calibration import load_calibration
from mtl_perception.camera.model import Calibration, CameraModel
from mtl_perception.errors import SourceError
from mtl_perception.labels import load_mapping
from mtl_perception.training.data.dataset import DatasetOptions, ImageDataset, SampleFiles
from mtl_perception.training.data.formats.files import check_partner_files, files_by_stem, read_depth_values, require_folder

LICENSE = "KITTI (Geiger et al., KIT and TTI-C): CC BY-NC-SA 3.0, non-commercial"
DISPARITY_SCALE = 256.0
# Size -> (focal length, cx, cy) in pixels: P_rect_02 of each date's calib_cam_to_cam.txt (Geiger et al.). 1242x375 is
# 2011_09_26, 1224x370 is 2011_09_28, 1238x374 is 2011_09_29, 1226x370 is 2011_09_30, 1241x376 is 2011_10_03.
CAMERA_BY_SIZE = {
    (1242, 375): (721.5377, 609.5593, 172.8540),
    (1224, 370): (707.0493, 604.0814, 180.5066),
    (1238, 374): (718.3351, 600.3891, 181.5122),
    (1226, 370): (707.0912, 601.8873, 183.1104),
    (1241, 376): (718.8560, 607.1928, 185.2157),
}


class Kitti2015(ImageDataset):
    """`image label depth`: KITTI 2015 with depth images (uint16, meters x 256) computed from its disparity.

    Every image has labels (Cityscapes labelIds), some have depth. The camera follows from the image size.
    """

    def __init__(self, path: Path, options: DatasetOptions) -> None:
        what = f"kitti2015 {path}"
        images = files_by_stem(require_folder(path / "image", what))
        labels, depths = files_by_stem(require_folder(path / "label", what)), files_by_stem(path / "depth")
        check_partner_files(images, labels, path / "label", "label image", complete=True)
        check_partner_files(images, depths, path / "depth", "depth image")
        items = [SampleFiles(stem, image, labels[stem], depths.get(stem)) for stem, image in images.items()]
        name = options.name or path.absolute().name
        super().__init__(name, LICENSE, items, options.mapping or load_mapping("cityscapes"), options)

    def camera(self, item: SampleFiles, width: int, height: int) -> CameraModel | None:
        """Return KITTI's camera for this size."""
        return camera_by_size(width, height)


class KittiFrames(ImageDataset):
    """The official `training` folder of KITTI's stereo (2015 and 2012) and semantics benchmarks: frames NNNNNN_10.

    Stereo 2015: `image_2`, `disp_occ_0` and `calib_cam_to_cam`. Stereo 2012: `image_0` (gray, the camera of the disparity),
    `disp_occ` and `calib`. Semantics: `image_2` and `semantic`, 8-bit Cityscapes labelIds. Depth is focal length x baseline /
    disparity, both from the calibration; without a calibration the camera follows from the image size.
    """

    def __init__(self, path: Path, options: DatasetOptions, *, stereo: bool) -> None:
        root = path / "training" if (path / "training").is_dir() else path
        what = f"kitti-{'stereo' if stereo else 'semantics'} {root}"
        old = stereo and not (root / "disp_occ_0").is_dir()
        images = files_by_stem(require_folder(root / ("image_0" if old else "image_2"), what))
        # The second image of a stereo frame (_11) has no ground truth.
        images = {stem: image for stem, image in images.items() if not stem.endswith("_11")}
        disparity_folder, label_folder = root / ("disp_occ" if old else "disp_occ_0"), root / "semantic"
        disparities, labels = files_by_stem(disparity_folder) if stereo else {}, files_by_stem(label_folder)
        if stereo:
            require_folder(disparity_folder, what)
            check_partner_files(images, disparities, disparity_folder, "disparity image", complete=True)
        check_partner_files(images, labels, label_folder, "label image", complete=not stereo)
        items = [SampleFiles(stem, image, labels.get(stem), disparities.get(stem)) for stem, image in images.items()]
        name = options.name or what.partition(" ")[0]
        super().__init__(name, LICENSE, items, options.mapping or load_mapping("cityscapes"), options)
        self._left, self._right = ("00", "01") if old else ("02", "03")
        self._calibrations = root / ("calib" if old else "calib_cam_to_cam")
        for item in self.items:
            if item.depth is not None and not self._file(item).is_file():
                raise SourceError(
                    f"{what}: calibration {self._file(item)} is missing, and disparity needs it to become depth; "
                    "add it, or give `depth: false`"
                )

    def camera(self, item: SampleFiles, width: int, height: int) -> CameraModel | None:
        """Return the camera of the frame, or KITTI's for this size."""
        if not self._file(item).is_file():
            return camera_by_size(width, height)
        return self._calibration(item, self._left, (width, height)).camera(rectified=True)

    def read_depth(self, item: SampleFiles, path: Path, camera: CameraModel | None, shape: tuple[int, int]) -> np.ndarray:
        """Compute depth from disparity (uint16, pixels x 256, 0 = unknown): m, NaN where it is unknown."""
        size = (shape[1], shape[0])
        left, right = (self._calibration(item, number, size).p for number in (self._left, self._right))
        # The fourth value of each P is -fx times the position of its camera on the common baseline.
        focal_baseline = left[3] - right[3]
        if focal_baseline <= 0:
            raise SourceError(f"calibration {self._file(item)}: the right camera is not on the right of the left one")
        stored = read_depth_values(path, shape)
        depth = np.full(shape, np.nan, np.float32)
        known = stored > 0
        depth[known] = focal_baseline * DISPARITY_SCALE / stored[known]
        return depth

    def _file(self, item: SampleFiles) -> Path:
        return self._calibrations / f"{item.key.partition('_')[0]}.txt"

    def _calibration(self, item: SampleFiles, number: str, size: tuple[int, int]) -> Calibration:
        return load_calibration(self._file(item), number, size).for_image(*size)


def camera_by_size(width: int, height: int) -> CameraModel | None:
    """Return KITTI's camera whose rectified images have this size; None for other sizes."""
    if (width, height) not in CAMERA_BY_SIZE:
        return None
    focal, cx, cy = CAMERA_BY_SIZE[width, height]
    return CameraModel(width, height, focal, focal, cx, cy)


def open_stereo(path: Path, options: DatasetOptions) -> KittiFrames:
    """Open KITTI stereo: every frame has depth, and labels where `semantic` has them."""
    return KittiFrames(path, options, stereo=True)


def open_semantics(path: Path, options: DatasetOptions) -> KittiFrames:
    """Open KITTI semantics: every frame has labels."""
    return KittiFrames(path, options, stereo=False)


def is_kitti2015(path: Path) -> bool:
    """Return whether the folder has the layout of `Kitti2015`."""
    return (path / "label").is_dir() and any(re.fullmatch(r"\d{6}_10", stem) for stem in files_by_stem(path / "image"))


def is_stereo(path: Path) -> bool:
    """Return whether the folder contains `training` of KITTI stereo."""
    return any((path / "training" / name).is_dir() for name in ("disp_occ_0", "disp_occ"))


def is_semantics(path: Path) -> bool:
    """Return whether the folder contains `training` of KITTI semantics, without disparity."""
    return all((path / "training" / name).is_dir() for name in ("image_2", "semantic")) and not is_stereo(path)
