"""Writes samples as a data set in the plain folder format."""

from __future__ import annotations

import csv
import io
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import yaml

from mtl_perception.errors import SourceError
from mtl_perception.progress import progress_bar
from mtl_perception.training.data.formats.files import DEPTH_INF, DEPTH_SCALE
from mtl_perception.types import Sample

COLUMNS = ("name", "width", "height", "fx", "fy", "cx", "cy")
CHUNK = 10
"""Neighboring samples per task of a worker: consecutive scenes share a street."""


@runtime_checkable
class IndexedSamples(Protocol):
    """Samples that are created on access, with names known in advance."""

    @property
    def keys(self) -> Sequence[str]:
        """Names of the samples."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int, /) -> Sample:
        """Create a sample."""


def write_folder(
    samples: IndexedSamples | Iterable[Sample],
    folder: Path | str,
    name: str,
    license: str,
    *,
    classes: str = "street",
    suffix: str = ".jpg",
    workers: int = 1,
    progress: bool = True,
) -> int:
    """Write samples as a data set in the plain folder format; resume an interrupted one.

    Writes `image/<name><suffix>`, `label/<name>.png` (8-bit ids, 255 = unlabeled), `depth/<name>.png` (16-bit, meters x 256, 0
    = unknown, 65535 = sky), `cameras.csv` and, at the end, `dataset.yaml`: a folder without it is incomplete. Samples whose
    image exists are skipped. Every file is replaced atomically.

    Args:
        samples: A data set, of which only missing samples are created; or any samples.
        folder: Target folder; created if it does not exist.
        name: Name of the data set.
        license: Its license.
        classes: Class set of the labels.
        suffix: Format of the images: `.jpg` (quality 95) or `.png`.
        workers: Processes that create samples; more than one needs a data set that can be pickled.
        progress: Show a progress bar.

    Returns:
        Number of samples written by this call.

    Raises:
        SourceError: The folder cannot be written, or contains another data set, or a worker process died.
    """
    folder = Path(folder)
    try:
        start_folder(folder, name)
        written, keys = _fill(samples, folder, suffix, workers, progress)
        finish_folder(folder, keys, name, license, classes)
    except OSError as error:
        raise SourceError(f"{folder}: the data set cannot be written: {error}; check the disk and its permissions") from error
    except BrokenProcessPool as error:
        raise SourceError(f"{folder}: a worker process died, possibly out of memory; try again with fewer workers") from error
    return written


def finish_folder(
    folder: Path, keys: Sequence[str], name: str, license: str, classes: str | Sequence[Mapping[str, object]]
) -> None:
    """Write cameras.csv in the order of the samples, and dataset.yaml.

    Args:
        folder: Folder with the files of `write_sample`.
        keys: Names of the samples.
        name: Name of the data set.
        license: Its license.
        classes: Class set of the labels, or its classes as {"name", "color"}.

    Raises:
        OSError: A file cannot be written.
    """
    rows = _camera_rows(folder)
    _replace(folder / "cameras.csv", _table([rows[key] for key in keys if key in rows]))
    description: dict[str, object] = {"format": "folder", "name": name, "license": license, "classes": classes}
    if any((folder / "label").rglob("*.png")):
        description |= {"labels": "label"}
    if any((folder / "depth").rglob("*.png")):
        description |= {"depth": "depth", "depth_scale": DEPTH_SCALE}
    if rows:
        description |= {"camera": "cameras.csv"}
    _replace(folder / "dataset.yaml", yaml.safe_dump(description, sort_keys=False, allow_unicode=True).encode())


def start_folder(folder: Path, name: str) -> None:
    """Create a folder for samples, or continue one.

    Raises:
        SourceError: The folder contains another data set.
        OSError: It cannot be written.
    """
    description = folder / "dataset.yaml"
    if description.exists():
        held = yaml.safe_load(description.read_text(encoding="utf-8"))
        if not isinstance(held, dict) or held.get("name") != name:
            raise SourceError(f"{folder}: contains another data set than {name!r}; give another folder, or remove this one")
    folder.mkdir(parents=True, exist_ok=True)
    # Lines are appended from here on, so a partial line of an interrupted run must go.
    _replace(folder / "cameras.csv", _table(_camera_rows(folder).values()))


def _fill(
    samples: IndexedSamples | Iterable[Sample], folder: Path, suffix: str, workers: int, progress: bool
) -> tuple[int, Sequence[str]]:
    """Write missing samples; return their number, and the names of all samples."""
    if not isinstance(samples, IndexedSamples):
        keys, written = [], 0
        for sample in progress_bar(samples, unit="image", disable=not progress):
            keys.append(sample.name)
            if not _image_path(folder, sample.name, suffix).exists():
                write_sample(sample, folder, suffix)
                written += 1
        return written, keys
    keys = list(samples.keys)
    missing = [i for i, key in enumerate(keys) if not _image_path(folder, key, suffix).exists()]
    chunks = [list(chunk) for chunk in _chunks(missing)]
    with progress_bar(total=len(keys), initial=len(keys) - len(missing), unit="image", disable=not progress) as bar:
        if workers <= 1:
            for i in missing:
                write_sample(samples[i], folder, suffix)
                bar.update()
            return len(missing), keys
        # Spawned because the renderer's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, _set_task, (samples, folder, suffix)) as pool:
            tasks = [pool.submit(_write_chunk, chunk) for chunk in chunks]
            try:
                for task in as_completed(tasks):
                    bar.update(task.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return len(missing), keys


def _chunks(indices: list[int]) -> Iterator[list[int]]:
    """Yield runs of indices within the same CHUNK."""
    run: list[int] = []
    for i in indices:
        if run and i // CHUNK != run[-1] // CHUNK:
            yield run
            run = []
        run.append(i)
    if run:
        yield run


_task: tuple[IndexedSamples, Path, str] | None = None


def _set_task(samples: IndexedSamples, folder: Path, suffix: str) -> None:
    global _task
    _task = (samples, folder, suffix)


def _write_chunk(indices: list[int]) -> int:
    assert _task is not None
    samples, folder, suffix = _task
    for i in indices:
        write_sample(samples[i], folder, suffix)
    return len(indices)


def write_sample(sample: Sample, folder: Path, suffix: str = ".jpg") -> None:
    """Write the files of a sample, the image last: if it exists, the sample is complete."""
    if sample.labels is not None:
        _replace(folder / "label" / f"{sample.name}.png", _encode(".png", sample.labels))
    if sample.depth is not None:
        _replace(folder / "depth" / f"{sample.name}.png", _encode(".png", encode_depth(sample.depth)))
    camera = sample.frame.camera
    if camera is not None:
        values = (repr(float(value)) for value in (camera.fx, camera.fy, camera.cx, camera.cy))
        row = (sample.name, camera.width, camera.height, *values)
        with open(folder / "cameras.csv", "ab", buffering=0) as file:
            # A single appending write, so that processes do not mix their lines.
            file.write(_table([row], header=False))
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix == ".jpg" else []
    _replace(_image_path(folder, sample.name, suffix), _encode(suffix, sample.frame.image[..., ::-1], options))


def encode_depth(depth: np.ndarray) -> np.ndarray:
    """Convert depth (H x W float32, m) to H x W uint16: meters x 256; NaN becomes 0, +Inf and beyond 256 m become 65535."""
    scaled = np.clip(np.rint(np.nan_to_num(depth, nan=0.0, posinf=np.inf) * float(DEPTH_SCALE)), 1, DEPTH_INF)
    return np.where(np.isnan(depth), 0, scaled).astype(np.uint16)


def _image_path(folder: Path, name: str, suffix: str) -> Path:
    return folder / "image" / f"{name}{suffix}"


def _encode(suffix: str, image: np.ndarray, options: Sequence[int] = ()) -> bytes:
    done, data = cv2.imencode(suffix, np.ascontiguousarray(image), list(options))
    if not done:
        raise SourceError(f"an image of shape {image.shape}, {image.dtype} cannot be encoded as {suffix}")
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


def _camera_rows(folder: Path) -> dict[str, list[str]]:
    """Return the complete lines of cameras.csv by name."""
    path = folder / "cameras.csv"
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines()[1:]
    return {row[0]: row for row in csv.reader(lines) if len(row) == len(COLUMNS)}
