"""Opens data sets by path or from a list in YAML; holds the table of formats."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.labels import load_mapping
from mtl_perception.training.data.dataset import Dataset, DatasetOptions, ImageDataset, Subset
from mtl_perception.training.data.formats import camvid, folder, kitti, kitti_drive, nyudv2, synthetic
from mtl_perception.training.data.select import select
from mtl_perception.yaml_fields import YamlFields, escape_variables, expand_path, read_yaml

COMMON_KEYS = ("path", "format", "name", "select", "labels", "depth", "mapping")
SEARCH_DEPTH = 3
"""Levels of subfolders that are searched for data sets."""


def _one_set(test: Callable[[Path], bool]) -> Callable[[Path], list[dict[str, object]]]:
    return lambda path: [{}] if test(path) else []


@dataclass(frozen=True)
class Format:
    """A file layout, or a generator.

    Attributes:
        open: Opens a path with options.
        find: Returns the data sets in this very folder, each as the keys that open it; empty for other folders.
        keys: Keys that only this format has.
        has_path: False for a generator.
    """

    open: Callable[[Path, DatasetOptions], Dataset]
    find: Callable[[Path], list[dict[str, object]]]
    keys: tuple[str, ...] = ()
    has_path: bool = True


FORMATS: dict[str, Format] = {
    "folder": Format(folder.Folder, _one_set(lambda path: (path / folder.DESCRIPTION).is_file())),
    "kitti2015": Format(kitti.Kitti2015, _one_set(kitti.is_kitti2015)),
    "kitti-stereo": Format(kitti.open_stereo, _one_set(kitti.is_stereo)),
    "kitti-semantics": Format(kitti.open_semantics, _one_set(kitti.is_semantics)),
    "kitti-depth": Format(
        kitti_drive.DepthPrediction,
        _one_set(kitti_drive.is_depth_prediction),
        kitti_drive.DepthPrediction.KEYS,
    ),
    "kitti-raw": Format(kitti_drive.RawDrive, _one_set(kitti_drive.is_raw_drive), kitti_drive.RawDrive.KEYS),
    "depth-folder": Format(kitti_drive.DepthFolder, _one_set(kitti_drive.is_depth_folder), kitti_drive.DepthFolder.KEYS),
    "camvid": Format(
        camvid.CamVid,
        lambda path: [{"split": split} if split else {} for split in camvid.find_splits(path)],
        camvid.CamVid.KEYS,
    ),
    "nyudv2": Format(nyudv2.NyuDepthV2, nyudv2.find_nyudv2, nyudv2.NyuDepthV2.KEYS),
    "synthetic": Format(synthetic.Synthetic, lambda path: [], synthetic.Synthetic.KEYS, has_path=False),
}
"""Formats by name, in the order in which they are tried on a folder."""


def open_datasets(path: str | Path) -> list[Dataset]:
    """Open the data sets at a path.

    Args:
        path: A YAML file with `sets:`, a folder with dataset.yaml (or that file), a folder of a known layout, or a folder that
            contains such folders, at most three levels deep.

    Raises:
        ConfigError: The YAML file is invalid; the message names the entry and the key.
        SourceError: There is no data set, or a file is missing; the message names the first.
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
        return open_entry({"path": escape_variables(path), "format": "folder"}, path.parent, str(path))
    fields = YamlFields(values, str(path))
    fields.only(["sets"])
    return open_sets(fields.raw("sets"), path.parent, where=str(path))


def open_sets(sets: object, base: Path, *, where: str = "sets") -> list[Dataset]:
    """Open the data sets of a list of entries, as in YAML.

    Args:
        sets: List of mappings with the keys `path`, `format`, `name`, `select`, `labels`, `depth`, `mapping`, and those of the
            format.
        base: Folder that relative paths start from.
        where: Start of every error message, such as the file.

    Raises:
        ConfigError: An entry is invalid; the message names it and the key.
        SourceError: A file is missing; the message names the first.
    """
    if not isinstance(sets, Sequence) or isinstance(sets, str) or not sets:
        raise ConfigError(f"{where}: sets: not a list of data sets")
    found: list[Dataset] = []
    for number, entry in enumerate(sets, 1):
        found += open_entry(entry, base, f"{where}: set {number}")
    refuse_same_names(found, where)
    return found


def refuse_same_names(datasets: Iterable[Dataset], where: str) -> None:
    """Raise ConfigError if two data sets have one name; `where` is the start of the message."""
    name, count = Counter(dataset.name for dataset in datasets).most_common(1)[0]
    if count > 1:
        raise ConfigError(f"{where}: two sets are named {name!r}; give each its own `name:`")


def validate(dataset: Dataset) -> int:
    """Read every file of a data set.

    Returns:
        Number of samples.

    Raises:
        SourceError: The first file that is invalid; the message names it and the reason.
    """
    whole, indices = (dataset.dataset, dataset.indices) if isinstance(dataset, Subset) else (dataset, range(len(dataset)))
    for index in indices:
        if isinstance(whole, ImageDataset):
            whole.check(index)
        else:
            whole[index]
    return len(indices)


def open_entry(entry: object, base: Path, where: str) -> list[Dataset]:
    """Open the data sets of one entry; see `open_sets`."""
    fields = YamlFields(entry, where, base)
    kind = fields.choice("format", FORMATS) if "format" in fields else None
    fields.only((*COMMON_KEYS, *(FORMATS[kind].keys if kind else ())))
    path = base
    if kind is None or FORMATS[kind].has_path:
        path = fields.path("path")
        if not path.exists():
            raise SourceError(f"{where}: path: {path} does not exist")
    if kind is None:
        found = _search(path, SEARCH_DEPTH)
        if not found:
            raise ConfigError(f"{where}: path: {path} has no known layout; give `format:`, one of {', '.join(FORMATS)}")
        if len(found) > 1 and "name" in fields:
            raise ConfigError(f"{where}: name: {path} contains {len(found)} sets, which cannot share one name")
        return [open_entry({**fields.values, **keys}, base, where)[0] for _, keys in found]
    mapping = None
    if "mapping" in fields:
        mapping = load_mapping(expand_path(fields.text("mapping"), f"{where}: mapping"), base, f"{where}: mapping")
    options = DatasetOptions(fields.name("name", ""), fields.flag("labels", True), fields.flag("depth", True), mapping, fields)
    dataset = FORMATS[kind].open(path, options)
    return [select(dataset, fields.raw("select"), base, f"{where}: select") if "select" in fields else dataset]


def _open_found(root: Path) -> list[Dataset]:
    """Open all data sets in a folder, sorted by path."""
    found = _search(root, SEARCH_DEPTH)
    if not found:
        raise SourceError(f"folder {root} contains no data set of a known layout ({', '.join(FORMATS)}; see docs/data.md)")
    datasets = [open_entry(keys, root, str(path))[0] for path, keys in found]
    names = [dataset.name for dataset in datasets]
    for dataset, (path, _) in zip(datasets, found, strict=True):
        if names.count(dataset.name) > 1 and path != root:
            dataset.name = re.sub(r"[^\w.]+", "-", path.relative_to(root).as_posix())
    return datasets


def _search(path: Path, depth: int) -> list[tuple[Path, dict[str, object]]]:
    """Return the data sets in a folder: the path of each, and the keys that open it."""
    for name, format_ in FORMATS.items():
        here = format_.find(path)
        if here:
            return [(path, {"path": escape_variables(path), "format": name, **keys}) for keys in here]
    if depth == 0:
        return []
    try:
        subfolders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise SourceError(f"folder {path} cannot be read: {error.strerror}") from None
    return [found for entry in subfolders for found in _search(entry, depth - 1)]
