"""Files and patterns given on the command line."""

from __future__ import annotations

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mtl_perception.errors import SourceError
from mtl_perception.sources.base import natural_key
from mtl_perception.sources.images import describe_skipped, is_image_file
from mtl_perception.sources.video import is_video_file


def list_files(given: Iterable[str]) -> list[Path]:
    """Return the image and video files of files, folders and patterns, in this order and without repetitions.

    Args:
        given: Paths of files; folders, whose images and videos are taken without subfolders; patterns such as `run/*.jpg`,
            which shells pass on when they are quoted.

    Raises:
        SourceError: There is no such file, a folder has no images or videos, or two files have one name, so that their outputs
            would replace each other.
    """
    paths: list[Path] = []
    for text in given:
        for path in match_pattern(text) if is_pattern(text) else [Path(text)]:
            paths += _expand(path)
    paths = list(dict.fromkeys(paths))
    (stem, is_video), count = Counter((path.stem, is_video_file(path)) for path in paths).most_common(1)[0]
    if count > 1:
        kind = "videos" if is_video else "images"
        raise SourceError(
            f"{count} {kind} are named {stem!r}, so their outputs would overwrite each other; use a separate --out for each"
        )
    return paths


def is_pattern(text: str) -> bool:
    """Return whether a text is a pattern such as `run/*.jpg`, and not the path of a file."""
    return glob.has_magic(text) and not Path(text).expanduser().exists()


def match_pattern(pattern: str) -> list[Path]:
    """Return the files and folders that match a pattern, those of a folder in natural order.

    Raises:
        SourceError: There are none.
    """
    matches = map(Path, glob.glob(os.path.expanduser(pattern), recursive=True))
    paths = sorted(matches, key=lambda path: (path.parent, natural_key(path)))
    if not paths:
        raise SourceError(f"{pattern}: no file matches this pattern")
    return paths


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        skipped = describe_skipped(path, also=is_video_file)
        found = [entry for entry in path.iterdir() if is_image_file(entry) or is_video_file(entry)]
        if not found:
            raise SourceError(f"{path}: the folder contains no images or videos{skipped and '; ' + skipped}")
        if skipped:
            print(f"{path}: {skipped}", file=sys.stderr)
        return sorted(found, key=natural_key)
    if not path.is_file():
        raise SourceError(f"{path}: no such image or video")
    return [path]
