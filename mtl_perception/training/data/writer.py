"""Samples written to a folder, in the plain folder format that `folder` data sets are read from."""

from __future__ import annotations

import csv
import io
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import yaml

from mtl_perception.errors import SourceError
from mtl_perception.progress import progress_bar
from mtl_perception.training.data.formats.files import BEYOND, DEPTH_SCALE
from mtl_perception.types import Sample

COLUMNS = ("name", "width", "height", "fx", "fy", "cx", "cy")
CHUNK = 10
"""Neighboring samples that a worker makes in one go: scenes in a row share a street."""


@runtime_checkable
class Indexed(Protocol):
    """Samples that are made when asked for, with names that are known before."""

    @property
    def keys(self) -> Sequence[str]:
        """Names of the samples."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int, /) -> Sample:
        """Sample number `index`."""


def write_folder(
    samples: Indexed | Iterable[Sample],
    folder: Path | str,
    name: str,
    license: str,
    *,
    classes: str = "street",
    suffix: str = ".jpg",
    workers: int = 1,
    progress: bool = True,
) -> int:
    """Write samples as a data set of the plain folder format; begun folders are finished.

    Makes `image/<name><suffix>`, `label/<name>.png` (8-bit ids, 255 = unknown), `depth/<name>.png` (16-bit, meters * 256, 0 =
    unknown, 65535 = sky), `cameras.csv` and, last of all, `dataset.yaml`: a folder without it is not finished. A sample whose
    picture is there is not made again; no file is ever seen half written.

    Args:
        samples: A data set, whose missing samples alone are made; or any samples, which are all made but not all written.
        folder: Where to; made where it is missing.
        name: Of the data set.
        license: Of the data set.
        classes: Name of the labels' class set.
        suffix: `.jpg` (quality 95) or `.png`, of the pictures.
        workers: Processes that make samples; more than one needs a data set that can be pickled.
        progress: Show a bar.

    Returns:
        How many samples were written now.

    Raises:
        SourceError: The folder cannot be written, or is another data set; a worker process died.
    """
    folder = Path(folder)
    try:
        _begin(folder, name)
        written, keys = _fill(samples, folder, suffix, workers, progress)
        rows = _cameras(folder)
        _replace(folder / "cameras.csv", _table([rows[key] for key in keys if key in rows]))
        about: dict[str, object] = {"format": "folder", "name": name, "license": license, "classes": classes}
        if any((folder / "label").rglob("*.png")):
            about |= {"labels": "label"}
        if any((folder / "depth").rglob("*.png")):
            about |= {"depth": "depth", "depth_scale": DEPTH_SCALE}
        if rows:
            about |= {"camera": "cameras.csv"}
        _replace(folder / "dataset.yaml", yaml.safe_dump(about, sort_keys=False, allow_unicode=True).encode())
    except OSError as error:
        raise SourceError(f"{folder}: the data set cannot be written ({error}): check the disk and its permissions") from error
    except BrokenProcessPool as error:
        raise SourceError(
            f"{folder}: a worker process died, perhaps for want of memory: try again with fewer workers"
        ) from error
    return written


def _begin(folder: Path, name: str) -> None:
    about = folder / "dataset.yaml"
    if about.exists():
        held = yaml.safe_load(about.read_text(encoding="utf-8"))
        if not isinstance(held, dict) or held.get("name") != name:
            raise SourceError(f"{folder}: holds another data set than {name!r}: give another folder, or remove this one")
    folder.mkdir(parents=True, exist_ok=True)
    # Rows are appended from here on: a line that an earlier run left half written must not be continued.
    _replace(folder / "cameras.csv", _table(_cameras(folder).values()))


def _fill(
    samples: Indexed | Iterable[Sample], folder: Path, suffix: str, workers: int, progress: bool
) -> tuple[int, Sequence[str]]:
    """Write what is missing; how many that were, and the names of all."""
    if not isinstance(samples, Indexed):
        keys, written = [], 0
        for sample in progress_bar(samples, unit="picture", disable=not progress):
            keys.append(sample.name)
            if not _picture(folder, sample.name, suffix).exists():
                write_sample(sample, folder, suffix)
                written += 1
        return written, keys
    keys = list(samples.keys)
    missing = [i for i, key in enumerate(keys) if not _picture(folder, key, suffix).exists()]
    chunks = [list(chunk) for chunk in _chunks(missing)]
    with progress_bar(total=len(keys), initial=len(keys) - len(missing), unit="picture", disable=not progress) as bar:
        if workers <= 1:
            for i in missing:
                write_sample(samples[i], folder, suffix)
                bar.update()
            return len(missing), keys
        # Not forked: the renderer's threads would not live on in a fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, _start, (samples, folder, suffix)) as pool:
            tasks = [pool.submit(_make, chunk) for chunk in chunks]
            try:
                for task in as_completed(tasks):
                    bar.update(task.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return len(missing), keys


def _chunks(indices: list[int]) -> Iterator[list[int]]:
    """Indices in runs that lie in the same CHUNK."""
    run: list[int] = []
    for i in indices:
        if run and i // CHUNK != run[-1] // CHUNK:
            yield run
            run = []
        run.append(i)
    if run:
        yield run


_job: tuple[Indexed, Path, str] | None = None


def _start(samples: Indexed, folder: Path, suffix: str) -> None:
    global _job
    _job = (samples, folder, suffix)


def _make(indices: list[int]) -> int:
    assert _job is not None
    samples, folder, suffix = _job
    for i in indices:
        write_sample(samples[i], folder, suffix)
    return len(indices)


def write_sample(sample: Sample, folder: Path, suffix: str = ".jpg") -> None:
    """One sample's files, its picture last: where that is, all is."""
    if sample.labels is not None:
        _replace(folder / "label" / f"{sample.name}.png", _encoded(".png", sample.labels))
    if sample.depth is not None:
        _replace(folder / "depth" / f"{sample.name}.png", _encoded(".png", depth_picture(sample.depth)))
    camera = sample.frame.camera
    if camera is not None:
        values = (repr(float(value)) for value in (camera.fx, camera.fy, camera.cx, camera.cy))
        row = (sample.name, camera.width, camera.height, *values)
        with open(folder / "cameras.csv", "ab", buffering=0) as file:
            # One write at the end of the file, so that processes do not mix their lines.
            file.write(_table([row], header=False))
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix == ".jpg" else []
    _replace(_picture(folder, sample.name, suffix), _encoded(suffix, sample.frame.image[..., ::-1], options))


def depth_picture(depth: np.ndarray) -> np.ndarray:
    """Depth in meters, H x W float32, as H x W uint16: meters * 256; NaN becomes 0, +Inf and beyond 256 m become 65535."""
    scaled = np.clip(np.rint(np.nan_to_num(depth, nan=0.0, posinf=np.inf) * float(DEPTH_SCALE)), 1, BEYOND)
    return np.where(np.isnan(depth), 0, scaled).astype(np.uint16)


def _picture(folder: Path, name: str, suffix: str) -> Path:
    return folder / "image" / f"{name}{suffix}"


def _encoded(suffix: str, picture: np.ndarray, options: Sequence[int] = ()) -> bytes:
    done, data = cv2.imencode(suffix, np.ascontiguousarray(picture), list(options))
    if not done:
        raise SourceError(f"a picture of {picture.shape} {picture.dtype} cannot be encoded as {suffix}")
    return bytes(data)


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    os.replace(part, path)


def _table(rows: Iterable[Sequence[object]], header: bool = True) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(COLUMNS)
    writer.writerows(rows)
    return text.getvalue().encode()


def _cameras(folder: Path) -> dict[str, list[str]]:
    """Whole lines of cameras.csv by name."""
    path = folder / "cameras.csv"
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines()[1:]
    return {row[0]: row for row in csv.reader(lines) if len(row) == len(COLUMNS)}
