"""KITTI's single frames: semantics with Cityscapes labels, and depth as a picture or as stereo disparity."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mtl_perception.camera.calibration import load_calibration
from mtl_perception.camera.model import Calibration, CameraModel
from mtl_perception.errors import SourceError
from mtl_perception.labels import load_mapping
from mtl_perception.training.data.dataset import Item, PictureDataset, Setting
from mtl_perception.training.data.formats.files import by_stem, check_partners, need_folder, read_stored_depth
from mtl_perception.training.data.formats.kitti_cameras import camera_by_size

LICENSE = "KITTI (Geiger et al., KIT and TTI-C): CC BY-NC-SA 3.0, non-commercial"
DISPARITY_SCALE = 256.0


class Kitti2015(PictureDataset):
    """`image label depth`: KITTI 2015 with depth pictures (uint16, meters x 256) that were made from its disparity.

    Every picture has labels (Cityscapes labelIds); where there is no depth picture there is no depth. The camera is told by
    the picture's size.
    """

    def __init__(self, path: Path, setting: Setting) -> None:
        what = f"kitti2015 {path}"
        images = by_stem(need_folder(path / "image", what))
        labels, depths = by_stem(need_folder(path / "label", what)), by_stem(path / "depth")
        check_partners(images, labels, path / "label", "label picture", complete=True)
        check_partners(images, depths, path / "depth", "depth picture")
        items = [Item(stem, image, labels[stem], depths.get(stem)) for stem, image in images.items()]
        name = setting.name or path.absolute().name
        super().__init__(name, LICENSE, items, setting.mapping or load_mapping("cityscapes"), setting)

    def camera(self, item: Item, width: int, height: int) -> CameraModel | None:
        """KITTI's for this size."""
        return camera_by_size(width, height)


class KittiFrames(PictureDataset):
    """The official `training` folder of KITTI's stereo (2015 and 2012) and semantics benchmarks: frames NNNNNN_10.

    Stereo 2015: `image_2`, `disp_occ_0` and `calib_cam_to_cam`. Stereo 2012: `image_0` (gray: its disparity is that camera's),
    `disp_occ` and `calib`. Semantics: `image_2` and `semantic`, 8-bit Cityscapes labelIds. Depth is focal length x baseline /
    disparity, both from the calibration; without disparity and calibration the camera is told by the picture's size.
    """

    def __init__(self, path: Path, setting: Setting, *, stereo: bool) -> None:
        root = path / "training" if (path / "training").is_dir() else path
        what = f"kitti-{'stereo' if stereo else 'semantics'} {root}"
        old = stereo and not (root / "disp_occ_0").is_dir()
        images = by_stem(need_folder(root / ("image_0" if old else "image_2"), what))
        # A stereo frame's second picture (_11) has no truth.
        images = {stem: image for stem, image in images.items() if not stem.endswith("_11")}
        disparity_folder, label_folder = root / ("disp_occ" if old else "disp_occ_0"), root / "semantic"
        disparities, labels = by_stem(disparity_folder) if stereo else {}, by_stem(label_folder)
        if stereo:
            need_folder(disparity_folder, what)
            check_partners(images, disparities, disparity_folder, "disparity picture", complete=True)
        check_partners(images, labels, label_folder, "label picture", complete=not stereo)
        items = [Item(stem, image, labels.get(stem), disparities.get(stem)) for stem, image in images.items()]
        name = setting.name or what.partition(" ")[0]
        super().__init__(name, LICENSE, items, setting.mapping or load_mapping("cityscapes"), setting)
        self._left, self._right = ("00", "01") if old else ("02", "03")
        self._calibrations = root / ("calib" if old else "calib_cam_to_cam")
        for item in self.items:
            if item.depth is not None and not self._file(item).is_file():
                raise SourceError(
                    f"{what}: calibration {self._file(item)} is missing, without which disparity is no depth; "
                    "add it, or give `depth: false`"
                )

    def camera(self, item: Item, width: int, height: int) -> CameraModel | None:
        """The frame's own, or KITTI's for this size."""
        if not self._file(item).is_file():
            return camera_by_size(width, height)
        return self._calibration(item, self._left, (width, height)).camera(rectified=True)

    def read_depth(self, item: Item, path: Path, camera: CameraModel | None, shape: tuple[int, int]) -> np.ndarray:
        """Meters from disparity (uint16, pixels x 256, 0 = unknown); NaN where it is unknown."""
        size = (shape[1], shape[0])
        left, right = (self._calibration(item, number, size).p for number in (self._left, self._right))
        # The fourth value of each P is -fx x (its camera's place on the common baseline).
        focal_baseline = left[3] - right[3]
        if focal_baseline <= 0:
            raise SourceError(f"calibration {self._file(item)}: the right camera is not right of the left one")
        stored = read_stored_depth(path, shape)
        depth = np.full(shape, np.nan, np.float32)
        known = stored > 0
        depth[known] = focal_baseline * DISPARITY_SCALE / stored[known]
        return depth

    def _file(self, item: Item) -> Path:
        return self._calibrations / f"{item.key.partition('_')[0]}.txt"

    def _calibration(self, item: Item, number: str, size: tuple[int, int]) -> Calibration:
        return load_calibration(self._file(item), number, size).for_image(*size)


def open_stereo(path: Path, setting: Setting) -> KittiFrames:
    """KITTI stereo: every frame has depth, and labels where `semantic` has them."""
    return KittiFrames(path, setting, stereo=True)


def open_semantics(path: Path, setting: Setting) -> KittiFrames:
    """KITTI semantics: every frame has labels."""
    return KittiFrames(path, setting, stereo=False)


def is_kitti2015(path: Path) -> bool:
    """Whether the folder has the layout of `Kitti2015`."""
    return (path / "label").is_dir() and any(re.fullmatch(r"\d{6}_10", stem) for stem in by_stem(path / "image"))


def is_stereo(path: Path) -> bool:
    """Whether the folder holds KITTI stereo's `training`."""
    return any((path / "training" / name).is_dir() for name in ("disp_occ_0", "disp_occ"))


def is_semantics(path: Path) -> bool:
    """Whether the folder holds KITTI semantics' `training`, and no disparity."""
    return all((path / "training" / name).is_dir() for name in ("image_2", "semantic")) and not is_stereo(path)
