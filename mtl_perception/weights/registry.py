"""Registry of shipped and published weights, and lookup of weights by name or path."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from mtl_perception.errors import WeightsError, did_you_mean
from mtl_perception.network.description import Description, published_description

SHIPPED_DIR = Path(__file__).resolve().parents[1] / "models"
SHIPPED_SUFFIX = ".safetensors"
CACHE_VARIABLE = "MTL_PERCEPTION_CACHE"


AUTHORS_FOLDER = "https://github.com/DrSleep/multi-task-refinenet/raw/1986999759dfac7d38ed9ccddda5d4f5ba488e82/weights"
TORCHVISION_FOLDER = "https://download.pytorch.org/models"


def git_blob_id(path: Path) -> str:
    """Return git's blob id of a file: sha1("blob <size>" NUL bytes), 40 hex digits.

    Raises:
        WeightsError: The file cannot be read.
    """
    data = _content(path)
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits.

    Raises:
        WeightsError: The file cannot be read.
    """
    return hashlib.sha256(_content(path)).hexdigest()


DIGESTS = {"git blob": git_blob_id, "SHA-256": sha256}


@dataclass(frozen=True)
class Checksum:
    """Published digest of a file.

    Attributes:
        kind: One of `DIGESTS`.
        digits: Hex digits of the digest, or as many leading ones as were published.
    """

    kind: str
    digits: str

    def of(self, path: Path) -> str:
        """Return the file's digest of this kind, cut to the same number of digits.

        Raises:
            WeightsError: The file cannot be read.
        """
        return DIGESTS[self.kind](path)[: len(self.digits)]

    def matches(self, path: Path) -> bool:
        """Return whether the file has this digest.

        Raises:
            WeightsError: The file cannot be read.
        """
        return self.of(path) == self.digits


@dataclass(frozen=True)
class Published:
    """A published file: a whole network, or an encoder to initialize training with.

    Attributes:
        name: Name in this package.
        file: Name of the published file.
        folder: URL of its folder.
        checksum: Published digest.
        license: License of the weights.
        description: Description of the network; None for an encoder.
    """

    name: str
    file: str
    folder: str
    checksum: Checksum
    license: str
    description: Description | None = None

    @property
    def path(self) -> Path:
        """Path in the cache."""
        return weights_cache() / self.file


def _network(name: str, file: str, blob: str, classes: int, tasks: int) -> Published:
    """Return the entry of a checkpoint published by the paper's authors."""
    description = published_description(classes, tasks)
    return Published(name, file, AUTHORS_FOLDER, Checksum("git blob", blob), description.license, description)


def _encoder(name: str, file: str) -> Published:
    """Return the entry of a torchvision classifier, whose file name ends in the first digits of its SHA-256."""
    digits = file.rpartition("-")[2].partition(".")[0]
    license = "BSD-3-Clause (torchvision); trained on ImageNet, whose own terms may bear on its use"
    return Published(name, file, TORCHVISION_FOLDER, Checksum("SHA-256", digits), license)


PUBLISHED = {
    entry.name: entry
    for entry in (
        _network("kitti", "ExpKITTI_joint.ckpt", "d9386a96f748001406c622100ce944333d1967ff", 6, 2),
        _network("nyud", "ExpNYUD_joint.ckpt", "56f5f5a6bc08a64f36e83547140add41baa4216d", 40, 2),
        _network("nyud-kitti", "ExpNYUDKITTI_joint.ckpt", "54f57cc2bd15e5cdfa9f3f1eaba9760951218bfa", 46, 2),
        _network("nyud-normals", "ExpNYUD_three.ckpt", "6f412c152600827cabff5e1b66efad50090c16a7", 40, 3),
        _encoder("mobilenetv2-imagenet", "mobilenet_v2-b0353104.pth"),
        _encoder("mobilenetv2-imagenet-v2", "mobilenet_v2-7ebf99e0.pth"),
    )
}
ALIASES = {"imagenet": "mobilenetv2-imagenet"}


def published(name: str) -> Published | None:
    """Return the published file of this name or alias."""
    return PUBLISHED.get(ALIASES.get(name, name))


def resolve(path_or_name: str | Path, encoder: bool = False) -> Path:
    """Return the path of a weights file: an existing file, shipped weights, or fetched weights, in this order.

    Args:
        path_or_name: A file, or a name listed by `weights list`.
        encoder: Accept published encoders in addition to whole networks.

    Raises:
        WeightsError: There is no such file or name, the published file is not fetched, or the name is an encoder's where a
            network is required.
    """
    text = str(path_or_name)
    # No shell expands ~ in ROS parameters and YAML files.
    path = Path(os.path.expanduser(text))
    if os.path.isfile(path):
        return path
    shipped = shipped_weights()
    if text in shipped:
        return shipped[text]
    names = known_names(encoder)
    entry = published(text)
    if entry is not None:
        if entry.description is None and not encoder:
            raise WeightsError(
                f"{text!r} cannot be used as a network: it is an encoder for training, without heads for labels and depth; "
                f"give a weights file, or one of {', '.join(names)}"
            )
        return _fetched(entry)
    if text and os.path.exists(path):
        kind = "a directory" if os.path.isdir(path) else "not a regular file"
        raise WeightsError(
            f"weights {text!r} cannot be read: the path is {kind}; give a weights file, or one of {', '.join(names)}"
        )
    if os.sep in text or path.suffix:
        # Relative to the working directory, also in a parameter file of another folder.
        place = "" if path.is_absolute() else f" in {os.getcwd()}"
        raise WeightsError(f"no such weights file: {text}{place} (available names: {', '.join(names)})")
    raise unknown_name(text, names)


def shipped_weights() -> dict[str, Path]:
    """Return the weights shipped with the package by name."""
    found = SHIPPED_DIR.glob(f"*{SHIPPED_SUFFIX}")
    return {path.stem: path for path in sorted(found, key=lambda path: path.stem)}


def weights_cache() -> Path:
    """Return the folder of fetched weights, which may not exist yet: `weights` in `cache_folder`.

    Raises:
        WeightsError: The user has no home folder and neither variable is set.
    """
    return cache_folder() / "weights"


def cache_folder() -> Path:
    """Return the user's cache folder: $MTL_PERCEPTION_CACHE, else $XDG_CACHE_HOME/mtl_perception, else ~/.cache/mtl_perception.

    Raises:
        WeightsError: The user has no home folder and neither variable is set.
    """
    own = os.environ.get(CACHE_VARIABLE, "")
    if own:
        return Path(os.path.expanduser(own)).absolute()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification requires relative paths to be ignored.
    if os.path.isabs(shared):
        return Path(shared) / "mtl_perception"
    try:
        return Path.home() / ".cache" / "mtl_perception"
    except RuntimeError as error:
        raise WeightsError(f"no cache folder: the user has no home folder; set {CACHE_VARIABLE} to a folder") from error


def known_names(encoders: bool) -> list[str]:
    """Return the names of shipped and published networks and, optionally, of published encoders."""
    entries = [entry.name for entry in PUBLISHED.values() if encoders or entry.description is not None]
    return [*shipped_weights(), *entries]


def unknown_name(name: str, names: list[str]) -> WeightsError:
    """Return the error for an unknown name, with the closest known one."""
    return WeightsError(f"unknown weights {name!r}{did_you_mean(name, names)} (available: {', '.join(names)}; or give a file)")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error


def _fetched(entry: Published) -> Path:
    path = entry.path
    command = f"`mtl_perception weights fetch {entry.name}`"
    if not os.path.isfile(path):
        raise WeightsError(f"published weights {entry.name!r} are not fetched (no {path}); run {command}")
    want, got = entry.checksum, entry.checksum.of(path)
    if got != want.digits:
        raise WeightsError(f"{path} is damaged ({want.kind} {got}, not {want.digits}); run {command} to fetch it again")
    return path
