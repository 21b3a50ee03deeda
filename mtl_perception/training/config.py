"""Configuration of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mtl_perception.errors import ConfigError, did_you_mean
from mtl_perception.labels import CLASS_SETS
from mtl_perception.network.description import GRIDS, KITTI_CAMERA
from mtl_perception.yaml_fields import LOCAL_PATH, PATH

TASKS = ("segmentation", "depth")
DEPTH_LOSSES = ("log_l1", "berhu", "silog")
BALANCES = ("fixed", "uncertainty")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DEPTH_FORMS = ("meters", "log", "inverse")
RARE_CLASSES = ("person", "cyclist", "pole", "sign")
"""Rare classes of the class set `street`; other class sets have some of them or none."""
MIN_CROP = 64
"""Smallest side of a crop, pixels: two cells of the coarsest feature map."""
KITTI_FOCAL_LENGTH = KITTI_CAMERA["fx"]
"""Focal length of KITTI's camera 02 of 2011-09-26, pixels."""


@dataclass(frozen=True)
class Augmentation:
    """Image augmentation. Geometric changes also apply to the intrinsics, so depth stays metric.

    Attributes:
        focal_length: Lowest and highest focal length of an image as the network sees it, pixels; sampled log-uniformly.
        late_focal_length: The same for the last part of the run, closer to the deployed camera; empty: no change.
        late: Start of the last part of the run, as a share of the run.
        flip: Probability of a horizontal flip.
        color: Strength of changes to brightness, contrast, color and gamma: 0 is none, 1 typical.
        blur: Probability of blur or noise.
        rare: Probability that a crop contains a pixel of a rare class, if the image shows one.
        rare_classes: Names of the rare classes, the rarest first.
        paste: Probability that people and cyclists of other images are pasted in, at the size that the ground plane implies.
        style: Folder of unlabeled images whose low-frequency amplitudes are mixed into training images (`StyleMixer`),
            relative to the configuration; empty: none.
        style_share: Probability of that.
    """

    focal_length: tuple[float, float] = (360.0, 800.0)
    late_focal_length: tuple[float, ...] = (560.0, 800.0)
    late: float = 0.7
    flip: float = 0.5
    color: float = 1.0
    blur: float = 0.1
    rare: float = 0.4
    rare_classes: tuple[str, ...] = RARE_CLASSES
    paste: float = 0.0
    style: str = field(default="", metadata=LOCAL_PATH)
    style_share: float = 0.5

    def __post_init__(self) -> None:
        for name, ends in (("focal_length", self.focal_length), ("late_focal_length", self.late_focal_length or (1.0, 1.0))):
            valid = len(ends) == 2 and 0 < ends[0] <= ends[1]
            _check(valid, f"augmentation.{name} {list(ends)}: give the lowest, then the highest, above 0")
        _check(self.color >= 0, f"augmentation.color {self.color:g}: give 0 or more")
        for name in ("late", "flip", "blur", "rare", "paste", "style_share"):
            _check(0 <= getattr(self, name) <= 1, f"augmentation.{name} {getattr(self, name)}: give a share from 0 to 1")


@dataclass(frozen=True)
class DepthTarget:
    """Depth loss and the range of depth to learn.

    Attributes:
        loss: log_l1 (L1 of log depth), berhu (inverse Huber, Laina et al., 3DV 2016, of log depth) or silog (scale-invariant,
            Eigen et al., NIPS 2014).
        range: Nearest and farthest depth to learn, m; the weights state it.
        sky: Smallest depth that the sky may get, m; 0: no loss on the sky.
        focal_length: Focal length at which the network's depth is metric, pixels (`Description.depth_focal_length`).
    """

    loss: str = "log_l1"
    range: tuple[float, float] = (1.0, 80.0)
    sky: float = 130.0
    focal_length: float = KITTI_FOCAL_LENGTH

    def __post_init__(self) -> None:
        _check_choice("depth.loss", self.loss, DEPTH_LOSSES)
        _check(0 < self.range[0] < self.range[1], f"depth.range {list(self.range)}: nearest, then farthest, above 0 m")
        _check(self.focal_length > 0, f"depth.focal_length {self.focal_length}: give pixels above 0")


@dataclass(frozen=True)
class Optimizer:
    """AdamW with a linear warm-up and a cosine schedule.

    Attributes:
        encoder: Learning rate of the encoder.
        decoder: Learning rate of the decoder and the heads.
        weight_decay: Weight decay of AdamW.
        warm_up: Warm-up, steps.
        clip: Largest norm of the gradient.
        ema: Decay of the exponential moving average of the weights, which is evaluated and written.
        batch_norm: frozen (keep the statistics of the initial encoder, for small batches) or train.
    """

    encoder: float = 2e-4
    decoder: float = 6e-4
    weight_decay: float = 1e-4
    warm_up: int = 50
    clip: float = 2.0
    ema: float = 0.997
    batch_norm: str = "frozen"

    def __post_init__(self) -> None:
        for name in ("encoder", "decoder", "weight_decay"):
            _check(getattr(self, name) >= 0, f"optimizer.{name} {getattr(self, name):g}: give 0 or more")
        _check(self.clip > 0, f"optimizer.clip {self.clip:g}: give a norm above 0; a large one switches clipping off")
        _check(0 <= self.ema < 1, f"optimizer.ema {self.ema}: give 0 to below 1")
        _check_choice("optimizer.batch_norm", self.batch_norm, ("frozen", "train"))


@dataclass(frozen=True)
class OnnxTeacher:
    """Network in an ONNX file that provides pseudo-labels. Its input is 1 x 3 x height x width float32, RGB.

    Attributes:
        file: The file, relative to the configuration; empty: none.
        size: Width and height of its input, to which images are resized.
        mean: Mean that is subtracted from RGB / 255.
        std: Standard deviation that it is then divided by.
        mirror: Also process the mirror image, and use the mean of both outputs.
        depth: Name of the output with depth, 1 x 1 x h x w; empty: none.
        form: What that output is after `depth_scale`: depth in meters, its logarithm, or its inverse (disparity).
        depth_scale: Offset and factor of that output: `form` = offset + factor x output.
        focal_length: Focal length of the resized image at which that depth is metric, pixels; depth of other cameras is
            converted. 0: it is metric in any case.
        labels: Name of the output with class scores, 1 x C x h x w; empty: none. They replace the labels of `Teacher.weights`.
        mapping: Label mapping from the index of a score to the classes of the run (docs/data.md); empty: they are the same.
    """

    file: str = field(default="", metadata=PATH)
    size: tuple[int, int] = (640, 192)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    mirror: bool = False
    depth: str = ""
    form: str = "meters"
    depth_scale: tuple[float, float] = (0.0, 1.0)
    focal_length: float = 0.0
    labels: str = ""
    mapping: str = field(default="", metadata=PATH)

    def __post_init__(self) -> None:
        _check_choice("teacher.onnx.form", self.form, DEPTH_FORMS)
        _check(min(self.size) > 0, f"teacher.onnx.size {list(self.size)}: give pixels above 0")
        _check(min(self.std) > 0, f"teacher.onnx.std {list(self.std)}: give values above 0")
        _check(self.focal_length >= 0, f"teacher.onnx.focal_length {self.focal_length:g}: give pixels above 0, or 0")
        named = bool(self.depth or self.labels)
        _check(named == bool(self.file), "teacher.onnx: give a file and at least one of its outputs, as `depth` or `labels`")


@dataclass(frozen=True)
class Teacher:
    """Trained networks that provide pseudo-labels for missing labels and depth.

    With depth from both `weights` and `onnx`, pseudo-depth is their geometric mean where they agree.

    Attributes:
        weights: Name or file of weights; empty: none.
        onnx: Network in an ONNX file, see `OnnxTeacher`.
        folder: Folder of the pseudo-labels, relative to the configuration; empty: `teacher` in the folder of the run. A
            run whose pseudo-labels are all there needs neither network.
        agreement: Largest ratio of the two depths at which their mean is used.
        far: Depths between which the mean gives way to the depth of `weights` alone, m; 0, 0: never.
        confidence: Lowest confidence of a label that is kept, 0..1.
        sparse: Also fill unlabeled pixels of samples that have labels or depth.
        weight: Loss weight of a pseudo-labeled pixel; a labeled one has 1. In an image with both true depth and
            pseudo-depth, of all pixels with pseudo-depth together.
        tasks: Tasks that get pseudo-labels: segmentation, depth or both.
    """

    weights: str = field(default="", metadata=PATH)
    onnx: OnnxTeacher = field(default_factory=OnnxTeacher)
    folder: str = field(default="", metadata=PATH)
    agreement: float = 2.0
    far: tuple[float, float] = (0.0, 0.0)
    confidence: float = 0.7
    sparse: bool = True
    weight: float = 0.5
    tasks: tuple[str, ...] = TASKS

    def __post_init__(self) -> None:
        _check(0 <= self.confidence <= 1, f"teacher.confidence {self.confidence}: give 0 to 1")
        _check(self.far == (0, 0) or 0 <= self.far[0] < self.far[1], f"teacher.far {list(self.far)}: nearer depth first")
        _check(self.weight >= 0, f"teacher.weight {self.weight:g}: give 0 or more")
        _check(self.agreement > 1, f"teacher.agreement {self.agreement:g}: give a ratio above 1")
        _check_tasks("teacher.tasks", self.tasks)

    @property
    def names(self) -> tuple[str, ...]:
        """Weights and files of the networks; empty without a teacher."""
        return tuple(name for name in (self.weights, self.onnx.file) if name)


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        name: Name of the weights.
        sets: Training sets, see docs/data.md, each with its `share` of a batch.
        held_out: Data sets for evaluation only.
        validation: Data sets for interim evaluations and for the temperature of the confidence, neither trained on nor held
            out; empty: interim evaluations use `held_out`, and the confidence is not calibrated.
        encoder: Initial encoder: imagenet, a file, or own weights; ignored with `start`.
        start: Own weights that initialize the whole network; empty: the decoder starts from random values.
        tasks: Tasks to train: segmentation, depth or both.
        classes: Class set.
        grid: Alignment of the feature maps: exact, or stretched as in the published networks (`network/grid.py`).
        camera: Training camera stated in the weights: width, height, fx, fy, cx, cy; empty: KITTI's.
        license: License of the weights.
        steps: Optimizer steps.
        minutes: Wall time within which the run ends, start and final files included; the schedule then follows steps or time,
            whichever is further. 0: no limit.
        batch: Images per step, over all processes.
        crop: Width and height of a training sample, pixels.
        seed: Seed of everything random.
        epoch: Steps between checkpoints and sample images.
        checkpoint_minutes: Longest time between checkpoints, minutes.
        evaluate: Steps between evaluations on `validation`; 0: evaluate at the end only.
        precision: auto, fp32, bf16 or fp16 (mixed: parameters and losses stay float32).
        channels_last: Memory layout of images and weights on the device; which one is faster depends on device and versions.
        workers: Processes that load and augment images.
        class_weights: Loss weight by class name; 1 for the others.
        overlap: Weight of the soft Jaccard loss, next to cross-entropy.
        balance: How the tasks' losses are weighted: fixed (`task_weights`) or uncertainty (Kendall et al., CVPR 2018).
        task_weights: Weights of segmentation and depth.
        augmentation: See `Augmentation`.
        depth: See `DepthTarget`.
        optimizer: See `Optimizer`.
        teacher: See `Teacher`.
        card: Additional entries of the model card.
    """

    name: str
    sets: tuple[dict[str, Any], ...]
    held_out: tuple[dict[str, Any], ...] = ()
    validation: tuple[dict[str, Any], ...] = ()
    encoder: str = field(default="imagenet", metadata=PATH)
    start: str = field(default="", metadata=PATH)
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
    channels_last: bool = True
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
        _check(bool(self.sets), "sets: give at least one data set")
        _check_tasks("tasks", self.tasks)
        minima = {"steps": 1, "batch": 1, "epoch": 1, "evaluate": 0, "workers": 0, "seed": 0, "minutes": 0, "overlap": 0}
        for name, low in minima.items():
            _check(getattr(self, name) >= low, f"{name} {getattr(self, name):g}: give at least {low}")
        _check(self.checkpoint_minutes > 0, f"checkpoint_minutes {self.checkpoint_minutes:g}: give minutes above 0")
        _check(min(self.crop) >= MIN_CROP, f"crop {list(self.crop)}: give at least {MIN_CROP} pixels per side")
        _check(min(self.task_weights) >= 0, f"task_weights {list(self.task_weights)}: give 0 or more")
        _check_choice("classes", self.classes, tuple(CLASS_SETS))
        known = CLASS_SETS[self.classes].names
        rare = self.augmentation.rare_classes
        named = {f"class_weights.{name}": name for name in self.class_weights}
        named |= {f"augmentation.rare_classes: {name}": name for name in rare if rare != RARE_CLASSES}
        for place, name in named.items():
            hint = did_you_mean(name, known) or f"; the classes are {', '.join(known)}"
            _check(name in known, f"{place}: {self.classes} has no such class{hint}")
        for name, weight in self.class_weights.items():
            _check(weight >= 0, f"class_weights.{name} {weight:g}: give 0 or more")
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("balance", self.balance, BALANCES)
        _check_choice("grid", self.grid, GRIDS)


def _check_tasks(name: str, tasks: tuple[str, ...]) -> None:
    _check(bool(tasks) and set(tasks) <= set(TASKS), f"{name} {list(tasks)}: give one or both of {', '.join(TASKS)}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    _check(value in choices, f"{name} {value!r}: not one of {', '.join(choices)}")


def _check(valid: bool, message: str) -> None:
    if not valid:
        raise ConfigError(message)
