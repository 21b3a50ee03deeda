"""What a training run is told: one YAML file, checked before anything is loaded."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from mtl_perception.errors import ConfigError
from mtl_perception.network.description import KITTI_CAMERA
from mtl_perception.network.grid import GRIDS
from mtl_perception.training.fields import read_yaml

TASKS = ("segmentation", "depth")
DEPTH_LOSSES = ("log_l1", "berhu", "silog")
BALANCES = ("fixed", "uncertainty")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
KITTI_FOCAL_LENGTH = KITTI_CAMERA["fx"]
"""Pixels, KITTI's camera 02 of 2011-09-26."""


@dataclass(frozen=True)
class Augmentation:
    """How pictures are varied; what is done to a picture is done to its intrinsics.

    Attributes:
        focal_length: Least and greatest focal length, pixels, of the picture as the network sees it, drawn on a logarithmic
            scale; a sample of an unknown camera is taken as one of the training camera.
        late_focal_length: The same for the last part of the run, nearer to what the network will meet; empty: no change.
        late: From this part of the run on.
        flip: Share of pictures mirrored.
        color: Strength of changes to brightness, contrast, color and gamma; 0 is none, 1 usual.
        blur: Share of pictures blurred or made noisy.
        rare: Share of crops placed on a pixel of a rare class (`rare_classes`) where the picture has one.
        rare_classes: Names.
        paste: Share of pictures that get people and cyclists of other pictures, of the size that the ground gives them.
    """

    focal_length: tuple[float, float] = (360.0, 800.0)
    late_focal_length: tuple[float, float] = (560.0, 800.0)
    late: float = 0.7
    flip: float = 0.5
    color: float = 1.0
    blur: float = 0.1
    rare: float = 0.4
    rare_classes: tuple[str, ...] = ("person", "cyclist", "pole", "sign")
    paste: float = 0.0


@dataclass(frozen=True)
class DepthTarget:
    """How depth is learned.

    Attributes:
        loss: log_l1 (L1 of log depth), berhu (inverse Huber, Laina et al., 3DV 2016, of log depth) or silog (scale-invariant,
            Eigen et al., NIPS 2014).
        range: Nearest and farthest meters that are learned from, and the range that the weights will state.
        sky: Meters that the sky shall at least be away; 0: nothing is learned from the sky.
        focal_length: The focal length for which the network's depth is metric, pixels (`Description.depth_focal_length`).
    """

    loss: str = "log_l1"
    range: tuple[float, float] = (1.0, 80.0)
    sky: float = 130.0
    focal_length: float = KITTI_FOCAL_LENGTH


@dataclass(frozen=True)
class Optimizer:
    """AdamW with a warm-up and a cosine.

    Attributes:
        encoder: Learning rate of the encoder.
        decoder: Learning rate of the decoder and the heads.
        weight_decay: AdamW's.
        warm_up: Steps.
        clip: Largest norm of the gradient.
        ema: Decay of the running average of the weights, which is what is evaluated and written.
        batch_norm: frozen (ImageNet's statistics: for batches too small to measure new ones) or train.
    """

    encoder: float = 2e-4
    decoder: float = 6e-4
    weight_decay: float = 1e-4
    warm_up: int = 50
    clip: float = 2.0
    ema: float = 0.997
    batch_norm: str = "frozen"


@dataclass(frozen=True)
class Teacher:
    """Where the missing labels and depths come from.

    Attributes:
        weights: Name or file of the network that writes them; empty: no teacher.
        confidence: Labels less sure than this stay unknown, 0..1.
        sparse: Also fill the pixels that a sample's own labels or depth leave open.
        weight: How much a pixel that the teacher wrote counts, beside 1 for the truth.
        tasks: What is taken from it: labels (segmentation), depth or both. A pupil does not get past its teacher where it hears
            much of it and little of the truth.
    """

    weights: str = ""
    confidence: float = 0.7
    sparse: bool = True
    weight: float = 0.5
    tasks: tuple[str, ...] = TASKS


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        name: What the weights will be called.
        sets: Data sets with their `share` of each batch, as docs/data.md says.
        held_out: Data sets to evaluate on, never trained on.
        encoder: What the encoder starts from: imagenet, a file, or own weights; empty with `start`.
        start: Own weights that the whole network starts from; empty: the decoder starts anew.
        tasks: What is learned: segmentation, depth or both.
        classes: The class set.
        grid: How maps lie over one another (`network/grid.py`): exact, or stretched as the published networks' do.
        camera: Training camera to state in the weights: width, height, fx, fy, cx, cy; empty: KITTI's.
        license: What the weights may be used for.
        steps: Optimizer steps.
        minutes: End the run within this wall time, start and final files included; the schedule follows steps or time,
            whichever is further. 0: no limit.
        batch: Pictures a step, over all processes.
        crop: Width and height of what the network is shown, pixels.
        seed: Of everything that is drawn.
        epoch: Steps between checkpoints, sample pictures and log lines that are kept.
        checkpoint_minutes: Also write a checkpoint when the last one is older than this, minutes.
        evaluate: Evaluate on `held_out` every so many steps (and at the end); 0: at the end only.
        precision: auto, fp32, bf16 or fp16 (mixed: the weights stay float32).
        workers: Processes that prepare pictures.
        class_weights: How much a pixel of a class counts, by name; 1 for the others.
        overlap: How much the classes' mean overlap (soft Jaccard index) counts in segmentation, beside cross-entropy.
        balance: fixed (`task_weights`) or uncertainty (Kendall et al., CVPR 2018).
        task_weights: Segmentation and depth.
        augmentation: See `Augmentation`.
        depth: See `DepthTarget`.
        optimizer: See `Optimizer`.
        teacher: See `Teacher`.
        card: Anything to add to the model card.
    """

    name: str
    sets: tuple[dict[str, Any], ...]
    held_out: tuple[dict[str, Any], ...] = ()
    encoder: str = "imagenet"
    start: str = ""
    tasks: tuple[str, ...] = TASKS
    classes: str = "street"
    grid: str = "exact"
    camera: dict[str, float] = field(default_factory=dict)
    license: str = "unknown"
    steps: int = 2000
    minutes: float = 0.0
    batch: int = 6
    crop: tuple[int, int] = (512, 192)
    seed: int = 1
    epoch: int = 100
    checkpoint_minutes: float = 3.0
    evaluate: int = 0
    precision: str = "auto"
    workers: int = 1
    class_weights: dict[str, float] = field(default_factory=dict)
    overlap: float = 0.0
    balance: str = "fixed"
    task_weights: tuple[float, float] = (1.0, 1.0)
    augmentation: Augmentation = field(default_factory=Augmentation)
    depth: DepthTarget = field(default_factory=DepthTarget)
    optimizer: Optimizer = field(default_factory=Optimizer)
    teacher: Teacher = field(default_factory=Teacher)
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(bool(self.sets), "sets: at least one data set is needed")
        _check(
            bool(self.tasks) and set(self.tasks) <= set(TASKS), f"tasks {list(self.tasks)}: one or both of {', '.join(TASKS)}"
        )
        _check(
            bool(self.teacher.tasks) and set(self.teacher.tasks) <= set(TASKS),
            f"teacher.tasks {list(self.teacher.tasks)}: one or both of {', '.join(TASKS)}",
        )
        for name, least in (("steps", 1), ("batch", 1), ("epoch", 1), ("evaluate", 0), ("workers", 0), ("seed", 0)):
            _check(getattr(self, name) >= least, f"{name} {getattr(self, name)}: at least {least}")
        _check(self.minutes >= 0, f"minutes {self.minutes:g}: 0 or more")
        _check(self.checkpoint_minutes > 0, f"checkpoint_minutes {self.checkpoint_minutes:g}: above 0")
        _check(min(self.crop) >= 64, f"crop {list(self.crop)}: at least 64 pixels each way")
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("balance", self.balance, BALANCES)
        _check_choice("grid", self.grid, GRIDS)
        _check_choice("depth.loss", self.depth.loss, DEPTH_LOSSES)
        _check_choice("optimizer.batch_norm", self.optimizer.batch_norm, ("frozen", "train"))
        _check(0 < self.depth.range[0] < self.depth.range[1], f"depth.range {list(self.depth.range)}: nearest, then farthest")
        _check(self.depth.focal_length > 0, f"depth.focal_length {self.depth.focal_length}: pixels, above 0")
        for name in ("focal_length", "late_focal_length"):
            low, high = getattr(self.augmentation, name) or (1.0, 1.0)
            _check(0 < low <= high, f"augmentation.{name} {low}, {high}: least, then greatest")
        for name in ("late", "flip", "blur", "rare", "paste"):
            _check(0 <= getattr(self.augmentation, name) <= 1, f"augmentation.{name}: a share, 0 to 1")
        _check(0 <= self.teacher.confidence <= 1, f"teacher.confidence {self.teacher.confidence}: 0 to 1")
        _check(self.overlap >= 0, f"overlap {self.overlap}: 0 or more")
        _check(0 <= self.optimizer.ema < 1, f"optimizer.ema {self.optimizer.ema}: 0 to below 1")
        for entry in self.sets:
            for key in ("teach", "figures"):
                _check(
                    isinstance(entry.get(key, True), bool),
                    f"sets: {key} {entry.get(key)!r} of {entry.get('path')}: true or false",
                )
            length = entry.get("focal_length", 0)
            _check(_is_number(length) and length >= 0, f"sets: focal_length {length!r} of {entry.get('path')}: pixels, or 0")
            share = entry.get("share", 1)
            _check(_is_number(share) and share >= 0, f"sets: share {share!r} of {entry.get('path')}: a number, 0 or more")


def read_config(path: Path, changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """The run that a YAML file describes.

    Args:
        path: The file; a key `base` names another, relative to it, whose values hold where this one is silent.
        changes: Values over the file's, by dotted name (`optimizer.ema`).

    Raises:
        ConfigError: The file cannot be read, an unknown key (with the nearest right one), a wrong type or value.
    """
    data = _read(path, ())
    for name, value in (changes or {}).items():
        *parents, last = name.split(".")
        target = data
        for parent in parents:
            target = target.setdefault(parent, {})
            _check(isinstance(target, dict), f"{path}: {name}: {parent} has no parts")
        target[last] = value
    try:
        config: TrainConfig = _build(TrainConfig, data, "")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a training configuration is a mapping of names to values")
    base = data.pop("base", None)
    if base is None:
        return data
    other = (path.parent / str(base)).resolve()
    if other in seen:
        raise ConfigError(f"{path}: base {base} leads back to itself")
    return _merged(_read(other, (*seen, path.resolve())), data)


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _build(cls: type, data: Any, where: str) -> Any:
    """A dataclass from a mapping, its values checked against the annotations."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or 'the configuration'}: a mapping, not {data!r}")
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}
    for key in data:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1)
            raise ConfigError(f"unknown key {_dotted(where, str(key))}" + (f"; did you mean {nearest[0]}?" if nearest else ""))
    for f in known.values():
        if f.default is MISSING and f.default_factory is MISSING and f.name not in data:
            raise ConfigError(f"{_dotted(where, f.name)} is missing")
    return cls(**{key: _value(hints[key], value, _dotted(where, key)) for key, value in data.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    if hasattr(kind, "__dataclass_fields__"):
        return _build(kind, value, where)
    origin = getattr(kind, "__origin__", kind)
    if origin is float and _is_number(number := _exponent(value)):
        return float(number)
    if origin is tuple and isinstance(value, list | tuple):
        parts = get_args(kind)
        if parts[-1] is Ellipsis:
            return tuple(_value(parts[0], item, where) for item in value)
        if len(parts) == len(value) or not value:  # empty: what may be left out
            return tuple(_value(part, item, where) for part, item in zip(parts, value, strict=False))
    if origin is dict and isinstance(value, dict):
        inner = get_args(kind)[1]
        return {str(key): value if inner is Any else _value(inner, value, f"{where}.{key}") for key, value in value.items()}
    if origin in (str, bool, int) and isinstance(value, origin) and not (origin is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"{where}: {value!r} is not {_words(kind)}")


def _exponent(value: Any) -> Any:
    """1e-4, which YAML 1.1 takes for a text for want of a point, as the number that is meant."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) else value


def _words(kind: Any) -> str:
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return names.get(kind, str(kind).replace("typing.", ""))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _dotted(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    _check(value in choices, f"{name} {value!r}: one of {', '.join(choices)}")


def _check(right: bool, message: str) -> None:
    if not right:
        raise ConfigError(message)
