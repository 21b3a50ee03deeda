"""CamVid with the 11 classes of the SegNet tutorial: 480 x 360, labels only."""

from __future__ import annotations

import re
from pathlib import Path

from mtl_perception.errors import SourceError
from mtl_perception.labels import load_mapping
from mtl_perception.training.data.dataset import Item, PictureDataset, Setting
from mtl_perception.training.data.formats.files import by_stem, check_partners

LICENSE = "CamVid (Brostow et al., 2009): research use"
SPLITS = ("train", "val", "test")
SEQUENCE = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_")
"""How CamVid's pictures are called."""


class CamVid(PictureDataset):
    """One split: `<split>/image` and `<split>/label`, or the SegNet tutorial's `<split>` and `<split>annot`.

    The path is the folder of the splits, with the key `split`, or a split's own. The camera is not known.
    """

    OPTIONS = ("split",)

    def __init__(self, path: Path, setting: Setting) -> None:
        split = setting.fields.choice("split", SPLITS) if "split" in setting.fields else None
        image_folder, label_folder, name = _folders(path, split)
        images, labels = by_stem(image_folder), by_stem(label_folder)
        check_partners(images, labels, label_folder, "label picture", complete=True)
        items = [Item(stem, image, labels[stem]) for stem, image in images.items()]
        super().__init__(setting.name or name, LICENSE, items, setting.mapping or load_mapping("camvid"), setting)


def find_splits(path: Path) -> list[str]:
    """The splits in a folder of CamVid; [""] for the folder of one split, nothing for another folder."""
    if _is_split(path):
        return [""]
    return [split for split in SPLITS if _is_split(path / split) or _is_segnet(path, split)]


def _is_split(path: Path) -> bool:
    return (path / "label").is_dir() and any(map(SEQUENCE.match, by_stem(path / "image")))


def _is_segnet(path: Path, split: str) -> bool:
    return (path / f"{split}annot").is_dir() and any(map(SEQUENCE.match, by_stem(path / split)))


def _folders(path: Path, split: str | None) -> tuple[Path, Path, str]:
    """Folder of pictures, folder of labels, name of the set."""
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
