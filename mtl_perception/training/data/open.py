"""Which data sets a path, or a list in YAML, means. The one table of formats is here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.labels import load_mapping
from mtl_perception.training.data.dataset import Dataset, PictureDataset, Selected, Setting
from mtl_perception.training.data.fields import Fields, escape_variables, read_yaml
from mtl_perception.training.data.formats import camvid, folder, kitti, kitti_drive, nyudv2, synthetic
from mtl_perception.training.data.select import select

__all__ = ["FORMATS", "Dataset", "Format", "PictureDataset", "Selected", "open_datasets", "open_sets", "validate"]

COMMON_KEYS = ("path", "format", "name", "select", "labels", "depth", "mapping")
SEARCH_DEPTH = 3
"""How deep below a folder data sets are looked for."""


def _whole(test: Callable[[Path], bool]) -> Callable[[Path], list[dict[str, object]]]:
    return lambda path: [{}] if test(path) else []


@dataclass(frozen=True)
class Format:
    """One layout of files, or a generator.

    Attributes:
        open: (path, setting) -> the set.
        find: path -> the sets that lie in this very folder, each as the keys to open it with; nothing for other folders.
        options: The keys that only this format knows.
        has_path: False for a generator.
    """

    open: Callable[[Path, Setting], Dataset]
    find: Callable[[Path], list[dict[str, object]]]
    options: tuple[str, ...] = field(default=())
    has_path: bool = True


FORMATS: dict[str, Format] = {
    "folder": Format(folder.Folder, _whole(lambda path: (path / folder.DESCRIPTION).is_file())),
    "kitti2015": Format(kitti.Kitti2015, _whole(kitti.is_kitti2015)),
    "kitti-stereo": Format(kitti.open_stereo, _whole(kitti.is_stereo)),
    "kitti-semantics": Format(kitti.open_semantics, _whole(kitti.is_semantics)),
    "kitti-depth": Format(
        kitti_drive.DepthPrediction,
        _whole(kitti_drive.is_depth_prediction),
        kitti_drive.DepthPrediction.OPTIONS,
    ),
    "kitti-raw": Format(kitti_drive.RawDrive, _whole(kitti_drive.is_raw_drive), kitti_drive.RawDrive.OPTIONS),
    "depth-folder": Format(kitti_drive.DepthFolder, _whole(kitti_drive.is_depth_folder), kitti_drive.DepthFolder.OPTIONS),
    "camvid": Format(
        camvid.CamVid,
        lambda path: [{"split": split} if split else {} for split in camvid.find_splits(path)],
        camvid.CamVid.OPTIONS,
    ),
    "nyudv2": Format(nyudv2.NyuDepthV2, nyudv2.find_nyudv2, nyudv2.NyuDepthV2.OPTIONS),
    "synthetic": Format(synthetic.Synthetic, lambda path: [], synthetic.Synthetic.OPTIONS, has_path=False),
}
"""By name, in the order in which a folder is tried."""


def open_datasets(path: str | Path, variables: Mapping[str, str] | None = None) -> list[Dataset]:
    """The data sets that a path means.

    Args:
        path: A YAML file with `sets:`, a folder with dataset.yaml (or that file), a folder of a known layout, or
            one that holds several of them, at most three folders deep.
        variables: For `${NAME}` in the YAML file's paths; None: the environment.

    Raises:
        ConfigError: The YAML file is wrong; names the entry and the key.
        SourceError: Nothing there, or files are missing; names the first.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _open_found(path)
    if not path.exists():
        raise SourceError(f"data {path} does not exist; give a folder of data, or a YAML file with `sets:`")
    if path.suffix not in (".yaml", ".yml"):
        raise SourceError(f"data {path} is neither a folder nor a YAML file with `sets:`")
    values = read_yaml(path)
    if isinstance(values, dict) and values.get("format") == "folder":
        return _open_entry({"path": escape_variables(path), "format": "folder"}, path.parent, str(path), {})
    fields = Fields(values, str(path))
    fields.only(["sets"])
    return open_sets(fields.raw("sets"), path.parent, where=str(path), variables=variables)


def open_sets(sets: object, base: Path, *, where: str = "sets", variables: Mapping[str, str] | None = None) -> list[Dataset]:
    """The data sets of a list of entries, as they stand in YAML.

    Args:
        sets: A list of mappings with the keys `path`, `format`, `name`, `select`, `labels`, `depth`, `mapping`, and
            the format's own.
        base: The folder that relative paths begin at.
        where: What begins every error message: the file.
        variables: For `${NAME}` in paths; None: the environment.

    Raises:
        ConfigError: An entry is wrong; names it and the key.
        SourceError: Files are missing; names the first.
    """
    if not isinstance(sets, Sequence) or isinstance(sets, str) or not sets:
        raise ConfigError(f"{where}: sets: not a list of data sets")
    found: list[Dataset] = []
    for number, entry in enumerate(sets, 1):
        found += _open_entry(entry, base, f"{where}: set {number}", os.environ if variables is None else variables)
    names = [dataset.name for dataset in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{where}: two sets are called {name!r}: give each a `name:` of its own")
    return found


def validate(dataset: Dataset) -> int:
    """Read every file of a data set, and raise at the first that is bad.

    Returns:
        The number of samples.

    Raises:
        SourceError: Names the file, and what is wrong with it.
    """
    if isinstance(dataset, (PictureDataset, Selected)):
        return dataset.validate()
    for index in range(len(dataset)):
        dataset[index]
    return len(dataset)


def _open_entry(entry: object, base: Path, where: str, variables: Mapping[str, str]) -> list[Dataset]:
    fields = Fields(entry, where)
    kind = fields.choice("format", FORMATS) if "format" in fields else None
    fields.only((*COMMON_KEYS, *(FORMATS[kind].options if kind else ())))
    path = base
    if kind is None or FORMATS[kind].has_path:
        path = fields.path("path", base, variables)
        if not path.exists():
            raise SourceError(f"{where}: path: {path} does not exist")
    if kind is None:
        found = _search(path, SEARCH_DEPTH)
        if not found:
            raise ConfigError(f"{where}: path: {path} holds no known layout: give `format:`, one of {', '.join(FORMATS)}")
        if len(found) > 1 and "name" in fields:
            raise ConfigError(f"{where}: name: {path} holds {len(found)} sets, they cannot have one name")
        return [_open_entry({**fields.values, **keys}, base, where, variables)[0] for _, keys in found]
    setting = Setting(
        fields.name("name", ""),
        fields.flag("labels", True),
        fields.flag("depth", True),
        load_mapping(fields.text("mapping"), base, f"{where}: mapping") if "mapping" in fields else None,
        fields,
        base,
        variables,
    )
    dataset = FORMATS[kind].open(path, setting)
    return [select(dataset, fields.raw("select"), base, f"{where}: select") if "select" in fields else dataset]


def _open_found(root: Path) -> list[Dataset]:
    """All sets in a folder, sorted by where they lie."""
    found = _search(root, SEARCH_DEPTH)
    if not found:
        raise SourceError(f"folder {root}: no data set of a known layout in it ({', '.join(FORMATS)}; see docs/data.md)")
    datasets = [_open_entry(keys, root, str(path), {})[0] for path, keys in found]
    names = [dataset.name for dataset in datasets]
    for dataset, (path, _) in zip(datasets, found, strict=True):
        if names.count(dataset.name) > 1 and path != root:
            dataset.name = re.sub(r"[^\w.]+", "-", path.relative_to(root).as_posix())
    return datasets


def _search(path: Path, depth: int) -> list[tuple[Path, dict[str, object]]]:
    """The sets in a folder: where each lies, and the keys to open it with."""
    for name, format_ in FORMATS.items():
        here = format_.find(path)
        if here:
            return [(path, {"path": escape_variables(path), "format": name, **keys}) for keys in here]
    if depth == 0:
        return []
    try:
        inside = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise SourceError(f"folder {path} cannot be read: {error.strerror}") from None
    return [found for entry in inside for found in _search(entry, depth - 1)]
