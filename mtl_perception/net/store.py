"""Where weights lie: a file of the user's own, shipped with the package, or fetched into the user's cache."""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from mtl_perception.errors import WeightsError
from mtl_perception.net.description import Description, published_description

SHIPPED_DIR = Path(__file__).resolve().parents[1] / "models"
SHIPPED_SUFFIX = ".safetensors"
CACHE_VARIABLE = "MTL_PERCEPTION_CACHE"


@dataclass(frozen=True)
class Published:
    """One of the checkpoints that the paper's authors published.

    Attributes:
        name: What it is called here.
        file: What it is called there.
        blob: Its git blob id, 40 hex digits.
        classes: Number of classes.
        tasks: Number of tasks.
    """

    name: str
    file: str
    blob: str
    classes: int
    tasks: int

    @property
    def path(self) -> Path:
        """Where it lies once fetched."""
        return weights_cache() / self.file

    @property
    def description(self) -> Description:
        """What it was made for; known without the file."""
        return published_description(self.classes, self.tasks)


PUBLISHED = {
    entry.name: entry
    for entry in (
        Published("kitti", "ExpKITTI_joint.ckpt", "d9386a96f748001406c622100ce944333d1967ff", 6, 2),
        Published("nyud", "ExpNYUD_joint.ckpt", "56f5f5a6bc08a64f36e83547140add41baa4216d", 40, 2),
        Published("nyud-kitti", "ExpNYUDKITTI_joint.ckpt", "54f57cc2bd15e5cdfa9f3f1eaba9760951218bfa", 46, 2),
        Published("nyud-normals", "ExpNYUD_three.ckpt", "6f412c152600827cabff5e1b66efad50090c16a7", 40, 3),
    )
}


def resolve(path_or_name: str | Path) -> Path:
    """The file that a path or a name means: a file of that path, else shipped weights, else fetched ones.

    Raises:
        WeightsError: No such file or name, or a published name that was not fetched yet.
    """
    text = str(path_or_name)
    # ROS parameters and YAML files are not expanded by a shell.
    path = Path(os.path.expanduser(text))
    if os.path.isfile(path):
        return path
    shipped = shipped_weights()
    if text in shipped:
        return shipped[text]
    if text in PUBLISHED:
        return _fetched(PUBLISHED[text])
    if text and os.path.exists(path):
        kind = "a directory" if os.path.isdir(path) else "not a regular file"
        raise WeightsError(f"weights {text!r} are {kind}: give a weights file, or one of {_known_names()}")
    if os.sep in text or path.suffix:
        raise WeightsError(f"no such weights file: {text} (names that need no file: {_known_names()})")
    raise unknown_name(text)


def shipped_weights() -> dict[str, Path]:
    """Weights that come with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED_DIR.glob(f"*{SHIPPED_SUFFIX}"))}


def weights_cache() -> Path:
    """The folder of fetched weights, which may not exist yet.

    `weights` in $MTL_PERCEPTION_CACHE, else in $XDG_CACHE_HOME/mtl_perception, else in ~/.cache/mtl_perception.

    Raises:
        WeightsError: The user has no home folder and neither variable is set.
    """
    own = os.environ.get(CACHE_VARIABLE, "")
    if own:
        return Path(os.path.expanduser(own)).absolute() / "weights"
    shared = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: relative paths are invalid and to be ignored.
    if os.path.isabs(shared):
        return Path(shared) / "mtl_perception" / "weights"
    try:
        return Path.home() / ".cache" / "mtl_perception" / "weights"
    except RuntimeError as error:
        raise WeightsError(f"no home folder to keep weights in: set {CACHE_VARIABLE} to a folder") from error


def git_blob_id(path: Path) -> str:
    """Git's name for a file's content: sha1("blob <size>" NUL bytes), as 40 hex digits.

    Raises:
        WeightsError: The file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def unknown_name(name: str) -> WeightsError:
    """The error for a name that stands for no weights, with the nearest one that does."""
    nearest = difflib.get_close_matches(name, [*shipped_weights(), *PUBLISHED], n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return WeightsError(f"no weights are called {name!r}: {hint}Known names: {_known_names()}; or give a file")


def _known_names() -> str:
    return ", ".join([*shipped_weights(), *PUBLISHED])


def _fetched(entry: Published) -> Path:
    path = entry.path
    command = f"`mtl_perception weights fetch {entry.name}`"
    if not os.path.isfile(path):
        raise WeightsError(f"published weights {entry.name!r} are not fetched yet (no {path}): run {command}")
    got = git_blob_id(path)
    if got != entry.blob:
        raise WeightsError(f"{path} is damaged (git blob {got}, not {entry.blob}): run {command} to fetch it again")
    return path
