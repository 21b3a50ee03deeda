"""CamVid with the 11 classes of the SegNet tutorial: 480 x 360, labels only."""

from __future__ import annotations

import re
from pathlib import Path

from mtl_perception.errors import SourceError
from mtl_perception.labels import load_mapping
from mtl_perception.training.data.dataset import DatasetOptions, ImageDataset, SampleFiles
from mtl_perception.training.data.formats.files import check_partner_files, files_by_stem

LICENSE = "CamVid (Brostow et al., 2009): research use"
SPLITS = ("train", "val", "test")
SEQUENCE = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_")
"""Start of the name of a CamVid image."""


class CamVid(ImageDataset):
    """One split: `<split>/image` and `<split>/label`, or the SegNet tutorial's `<split>` and `<split>annot`.

    The path is the folder of the splits, with the key `split`, or the folder of one split. The camera is unknown.
    """

    KEYS = ("split",)

    def __init__(self, path: Path, options: DatasetOptions) -> None:
        split = options.fields.choice("split", SPLITS) if "split" in options.fields else None
        image_folder, label_folder, name = _folders(path, split)
        images, labels = files_by_stem(image_folder), files_by_stem(label_folder)
        check_partner_files(images, labels, label_folder, "label image", complete=True)
        items = [SampleFiles(stem, image, labels[stem]) for stem, image in images.items()]
        super().__init__(options.name or name, LICENSE, items, options.mapping or load_mapping("camvid"), options)


def find_splits(path: Path) -> list[str]:
    """Return the splits in a folder of CamVid: [""] for the folder of one split, an empty list for another folder."""
    if _is_split(path):
        return [""]
    return [split for split in SPLITS if _is_split(path / split) or _is_segnet(path, split)]


def _is_split(path: Path) -> bool:
    return (path / "label").is_dir() and any(map(SEQUENCE.match, files_by_stem(path / "image")))


def _is_segnet(path: Path, split: str) -> bool:
    return (path / f"{split}annot").is_dir() and any(map(SEQUENCE.match, files_by_stem(path / split)))


def _folders(path: Path, split: str | None) -> tuple[Path, Path, str]:
    """Return the folder of images, the folder of labels, and the name of the data set."""
    if split is None:
        if _is_split(path):
            return path / "image", path / "label", f"camvid-{path.absolute().name}"
        splits = find_splits(path)
        hint = f"give `split:`, one of {', '.join(splits)}" if splits else "it has neither image and label, nor <split>annot"
        raise SourceError(f"camvid {path}: not the folder of one split: {hint}")
    if _is_split(path / split):
        return path / split / "image", path / split / "label", f"camvid-{split}"
    if _is_segnet(path, split):
        return path / split, path / f"{split}annot", f"camvid-{split}"
    raise SourceError(f"camvid {path}: there is no split {split} (found: {', '.join(find_splits(path)) or 'none'})")
