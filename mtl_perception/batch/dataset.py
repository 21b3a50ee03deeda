"""A data set with the labels and depth of a source, which `train` and `eval` read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import TracebackType

from mtl_perception.batch.record import RECORD_FILE, Record, read_record
from mtl_perception.errors import SourceError
from mtl_perception.labels import CLASS_SETS, ClassSet
from mtl_perception.pipeline import Pipeline
from mtl_perception.result import Result
from mtl_perception.training.data.writer import finish_folder, start_folder, write_sample
from mtl_perception.training.pseudo_labels import keep_infinity_of_sky
from mtl_perception.types import Frame, Sample
from mtl_perception.visualization.files import WriteLock, is_locked, partial_path, replaced_error

CONTENT = frozenset({"image", "label", "depth", "cameras.csv", "dataset.yaml", RECORD_FILE})


class DatasetOutput:
    """Context manager that writes a plain folder of docs/data.md.

    It is written to NAME.partial and gets its name at the end of the block, if there was no exception.

    Args:
        path: The folder.
        pipeline: What computes the outputs.
        force: Replace a finished data set, and what an earlier run left.

    Raises:
        SourceError: The folder or its partial one exists and is not to be replaced, or another process is writing it.
    """

    needs = frozenset({"labels", "depth", "image"})

    def __init__(self, path: Path, pipeline: Pipeline, force: bool) -> None:
        self.path, self.partial, self.frames = path, partial_path(path), 0
        self._locked_file = self.partial / RECORD_FILE
        self._pipeline = pipeline
        if path.exists() and not force:
            raise SourceError(f"output {path} already exists; choose another name, or replace it with --force")
        if path.exists() and read_record(path) is None:
            raise SourceError(f"output {path} is not replaced: it is not a data set of process; choose another name")
        if self.partial.exists():
            self._check_partial(force)

    def __enter__(self) -> DatasetOutput:
        try:
            _remove(self.partial)
            self.partial.mkdir(parents=True)
            # Folders cannot be locked on NFS.
            self._locked_file.touch(exist_ok=False)
            self._lock = WriteLock(self._locked_file)
            start_folder(self.partial, self.path.name)
        except OSError as error:
            raise self._error(error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._move_in_place()
            elif not self.frames and self._lock.is_at(self._locked_file):
                _remove(self.partial)
        except OSError as failure:
            raise self._error(failure) from failure
        finally:
            self._lock.close()

    def write(self, time_ns: int, frame: Frame, result: Result) -> None:
        """Write image, labels and depth of a frame."""
        assert result.image is not None
        assert result.labels is not None
        assert result.depth is not None
        self._check_not_replaced()
        depth = keep_infinity_of_sky(result.depth, result.labels, self._pipeline.class_set)
        sample = Sample(Frame(result.image, result.camera), result.labels, depth, f"{self.frames:06d}")
        try:
            write_sample(sample, self.partial)
        except OSError as error:
            raise self._error(error) from error
        self.frames += 1

    def finish(self, record: Record) -> None:
        """Write the description and the record."""
        description = self._pipeline.description
        try:
            finish_folder(
                self.partial,
                [f"{index:06d}" for index in range(self.frames)],
                self.path.name,
                f"labels and depth by the weights {description.name!r} ({description.license}); images: that of the recording",
                _describe_classes(self._pipeline.class_set),
            )
            self._locked_file.write_text(record.to_json() + "\n", encoding="utf-8")
            # The name must not survive a power cut that the content does not.
            os.sync()
        except OSError as error:
            raise self._error(error) from error

    def _check_partial(self, force: bool) -> None:
        names = {path.name for path in self.partial.iterdir()} if self.partial.is_dir() else {self.partial.name}
        if others := {name for name in names - CONTENT if not name.endswith(".part")}:
            raise SourceError(f"output {self.path}: {self.partial} is not replaced, because it contains {min(others)}")
        if self._locked_file.exists() and is_locked(self._locked_file):
            raise SourceError(f"output {self.path}: another process is writing {self.partial}")
        if not force:
            raise SourceError(
                f"output {self.path}: an earlier run did not finish and left {self.partial}; replace it with --force"
            )

    def _check_not_replaced(self) -> None:
        if not self._lock.is_at(self._locked_file):
            raise SourceError(replaced_error(self.path, self.partial))

    def _move_in_place(self) -> None:
        self._check_not_replaced()
        replaced = self.path.with_name(f"{self.path.name}.replaced")
        if self.path.exists():
            _remove(replaced)
            self.path.rename(replaced)
        self.partial.rename(self.path)
        _remove(replaced)

    def _error(self, error: OSError) -> SourceError:
        return SourceError(f"output {self.path} cannot be written: {error.strerror or error}")


def _describe_classes(classes: ClassSet) -> str | list[dict[str, object]]:
    """Return the name of a known class set with these classes, or the classes."""
    for name, known in CLASS_SETS.items():
        if (known.names, known.colors) == (classes.names, classes.colors):
            return name
    return [{"name": name, "color": list(color)} for name, color in zip(classes.names, classes.colors, strict=True)]


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
