"""Lists of image and video files given on the command line."""

from __future__ import annotations

import glob
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
        path = Path(text)
        if path.exists() or not glob.has_magic(text):
            paths += _expand(path)
            continue
        matches = sorted(map(Path, glob.glob(text, recursive=True)), key=lambda match: (match.parent, natural_key(match)))
        if not matches:
            raise SourceError(f"{text}: no file matches this pattern")
        for match in matches:
            paths += _expand(match)
    paths = list(dict.fromkeys(paths))
    (stem, is_video), count = Counter((path.stem, is_video_file(path)) for path in paths).most_common(1)[0]
    if count > 1:
        kind = "videos" if is_video else "images"
        raise SourceError(
            f"{count} {kind} are named {stem!r}, so their outputs would overwrite each other; use a separate --out for each"
        )
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
