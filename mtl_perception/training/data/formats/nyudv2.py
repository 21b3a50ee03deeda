"""NYU Depth v2: the labeled frames, which the authors publish in one MATLAB file."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from mtl_perception.camera.model import CameraModel
from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.labels import NYUD40, lookup
from mtl_perception.network.description import NYUD_CAMERA
from mtl_perception.sources.base import FRAME_ID
from mtl_perception.training.data.dataset import DatasetOptions
from mtl_perception.types import UNLABELED, Frame, Sample
from mtl_perception.yaml_fields import escape_variables

LICENSE = "NYU Depth v2 (Silberman et al., ECCV 2012): research use"
FILE = "nyu_depth_v2_labeled.mat"
CLASS_MAPPING = "classMapping40.mat"
SPLITS = {"train": "trainNdxs", "test": "testNdxs"}
CAMERA = CameraModel.from_intrinsics(NYUD_CAMERA)
"""Depth is registered to the color camera."""


class NyuDepthV2:
    """Images, depth (m, holes filled by the authors) and labels of nyu_depth_v2_labeled.mat. See `Dataset`.

    The file has 894 fine classes; the key `class_mapping` names classMapping40.mat, which maps them to 40, and `labels: false`
    works without it. The key `split` (train or test) needs `splits`, the authors' splits.mat. Samples are named by the number
    of the frame from 1, as in the authors' lists. Reading needs h5py, and scipy for the two small files.

    Args:
        path: The .mat file, or its folder.
        options: Options of the entry.

    Raises:
        SourceError: A file is missing or invalid, or a package is not installed.
        ConfigError: A key is missing.
    """

    KEYS = ("class_mapping", "splits", "split")

    def __init__(self, path: Path, options: DatasetOptions) -> None:
        self.path = path / FILE if path.is_dir() else path
        self.name = options.name or "nyudv2"
        self.license = LICENSE
        self.classes = NYUD40
        if options.mapping is not None:
            raise ConfigError(f"{options.fields.where}: mapping: nyudv2 takes `class_mapping:` (classMapping40.mat) instead")
        self._depth = options.depth
        self._table = _class_table(options) if options.labels else None
        self._h5py = _require("h5py")
        with self._open() as file:
            count = len(_dataset(self.path, file, "images", 4))
            for name in ("depths",) * options.depth + ("labels",) * options.labels:
                if len(_dataset(self.path, file, name, 3)) != count:
                    raise SourceError(f"nyudv2 {self.path}: {name} and images have different lengths")
        self._numbers = _numbers(options, count)
        self.keys = [f"{number:04d}" for number in self._numbers]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        row = self._numbers[index] - 1
        # Opened for each image because an open HDF5 file must not be shared with the loader's processes.
        with self._open() as file:
            try:
                # MATLAB stores columns first.
                image = np.ascontiguousarray(np.asarray(file["images"][row], np.uint8).transpose(2, 1, 0))
                depth = np.asarray(file["depths"][row], np.float32).T if self._depth else None
                labels = np.asarray(file["labels"][row]).T if self._table is not None else None
            except (OSError, KeyError, ValueError) as error:
                raise SourceError(f"nyudv2 {self.path}: frame {row + 1} cannot be read: {error}") from None
        height, width = image.shape[:2]
        sample = Sample(Frame(image, CAMERA.scaled(width, height), 0, FRAME_ID), None, None, self.keys[index])
        if depth is not None:
            sample = replace(sample, depth=np.where(depth > 0, depth, np.float32(np.nan)))
        if labels is not None and self._table is not None:
            if labels.max() >= len(self._table):
                raise SourceError(f"nyudv2 {self.path}: frame {row + 1} has the class {labels.max()}, not in the class mapping")
            sample = replace(sample, labels=self._table[labels])
        return sample

    def has_labels(self, index: int) -> bool:
        """Return whether labels are loaded; every frame has them."""
        return self._table is not None

    def has_depth(self, index: int) -> bool:
        """Return whether depth is loaded; every frame has it."""
        return self._depth

    def _open(self) -> Any:
        try:
            return self._h5py.File(self.path, "r")
        except OSError as error:
            raise SourceError(f"nyudv2 {self.path} cannot be read: {error}") from None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_h5py": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._h5py = _require("h5py")


def find_nyudv2(path: Path) -> list[dict[str, object]]:
    """Return the keys that open a folder with the file: without labels, unless the class mapping is next to it."""
    if not (path / FILE).is_file():
        return []
    mapping = path / CLASS_MAPPING
    return [{"class_mapping": escape_variables(mapping)} if mapping.is_file() else {"labels": False}]


def _require(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError:
        raise SourceError(f"nyudv2 needs {package}, which is not installed; pip install {package.partition('.')[0]}") from None


def _dataset(path: Path, file: Any, name: str, dimensions: int) -> Any:
    if name not in file or getattr(file[name], "ndim", 0) != dimensions:
        raise SourceError(f"nyudv2 {path}: no array {name!r} of {dimensions} dimensions; give {FILE}")
    return file[name]


def _mat(path: Path, key: str) -> np.ndarray:
    """Read a list of integers from one of the small files, in MATLAB's older format."""
    scipy_io = _require("scipy.io")
    try:
        values = scipy_io.loadmat(str(path))[key]
    except KeyError:
        raise SourceError(f"nyudv2: {path} has no {key!r}") from None
    except (OSError, ValueError, NotImplementedError) as error:
        raise SourceError(f"nyudv2: {path} cannot be read: {error}") from None
    return np.asarray(values).ravel().astype(np.int64)


def _class_table(options: DatasetOptions) -> np.ndarray:
    """Return the map from fine class (0 = none) to id of nyud40 (255 = none)."""
    if "class_mapping" not in options.fields:
        raise ConfigError(
            f"{options.fields.where}: class_mapping is missing; give classMapping40.mat of the toolbox, or `labels: false`"
        )
    path = options.fields.path("class_mapping")
    forty = _mat(path, "mapClass")
    if forty.min() < 0 or forty.max() > len(NYUD40):
        raise SourceError(f"nyudv2: {path}: mapClass has values outside 0 to {len(NYUD40)}")
    to_ids = lookup({i + 1: i for i in range(len(NYUD40))})
    return np.concatenate([np.array([UNLABELED], np.uint8), to_ids[forty]])


def _numbers(options: DatasetOptions, count: int) -> list[int]:
    if "split" not in options.fields:
        return list(range(1, count + 1))
    split = options.fields.choice("split", SPLITS)
    path = options.fields.path("splits")
    numbers = [int(number) for number in _mat(path, SPLITS[split])]
    if not numbers or min(numbers) < 1 or max(numbers) > count:
        raise SourceError(f"nyudv2: {path}: {SPLITS[split]} has numbers outside 1 to {count}")
    return numbers
