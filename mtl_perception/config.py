"""The one table of parameters. ROS descriptors, command lines, YAML and the documentation's table are all made from it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from mtl_perception.errors import ConfigError, truncated_repr

# When a change can be applied.
LIVE = "any time"
CONFIGURE = "while unconfigured"
START = "at start only"


def _parameter(
    default: Any,
    doc: str,
    *,
    when: str,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    node_only: bool = False,
) -> Any:
    """A row of the table; see `Parameter` for the columns."""
    metadata = {"doc": doc, "when": when, "unit": unit, "low": low, "high": high, "choices": choices, "node_only": node_only}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """All parameters, checked. Build one with `Config.from_mapping`, or by keywords.

    Raises:
        ConfigError: A value of a wrong type or out of bounds; the message names the parameter.
    """

    weights: str = _parameter("street", "Weights: a shipped or fetched name, or a file", when=CONFIGURE)
    classes: str = _parameter("", "Class group, for weights that hold several; empty: the weights' last", when=CONFIGURE)
    device: str = _parameter(
        "auto", "Where to compute: auto (cuda if there is one, else cpu), cpu, cuda or cuda:N", when=CONFIGURE
    )
    precision: str = _parameter(
        "auto",
        "Arithmetic of the network; auto: fp16 on cuda, fp32 on cpu",
        when=CONFIGURE,
        choices=("auto", "fp32", "fp16", "bf16"),
    )
    backend: str = _parameter(
        "auto",
        "What runs the network; auto: on a CPU openvino where it is installed, else torch",
        when=CONFIGURE,
        choices=("auto", "torch", "openvino"),
    )
    cpu_threads: int = _parameter(0, "Threads of the network on a CPU; 0: all cores", when=CONFIGURE, low=0, high=256)
    gpu_graph: bool = _parameter(
        True, "Capture the work on a GPU as a CUDA graph for each picture size and set of outputs", when=CONFIGURE
    )
    gpu_tuning: bool = _parameter(
        False,
        "Let cuDNN time its kernels for each picture size: faster, but the last bits may differ from run to run",
        when=CONFIGURE,
    )
    on_device_error: str = _parameter(
        "retry",
        "When the device fails at work: retry (make the network anew on it, with growing pauses), cpu (go on there), "
        "or stop (back to unconfigured)",
        when=LIVE,
        choices=("retry", "cpu", "stop"),
        node_only=True,
    )
    warm_up: bool = _parameter(
        True, "Run the network once at configuration, so that the first frame is not slow", when=CONFIGURE
    )
    input_scale: float = _parameter(
        1.0, "Shrinks the picture before the network: faster, coarser", when=LIVE, low=0.1, high=1.0
    )
    output_scale: float = _parameter(
        1.0, "Size of all outputs relative to the picture; intrinsics follow", when=LIVE, low=0.05, high=1.0
    )
    upsampling: str = _parameter(
        "bicubic",
        "How logits and depth grow to the output size: bicubic (as published) or bilinear (faster)",
        when=LIVE,
        choices=("bicubic", "bilinear"),
    )
    min_depth: float = _parameter(0.0, "Nearer depth is invalid (NaN)", when=LIVE, unit="m", low=0.0, high=1000.0)
    max_depth: float = _parameter(
        0.0, "Farther depth is +Inf and has no point; 0: the weights' own range", when=LIVE, unit="m", low=0.0, high=1000.0
    )
    min_confidence: float = _parameter(
        0.0, "Labels less confident than this become 255 (unlabeled)", when=LIVE, low=0.0, high=1.0
    )
    overlay_opacity: float = _parameter(0.5, "Weight of the class colors in the overlay", when=LIVE, low=0.0, high=1.0)
    input_rectified: bool = _parameter(
        True, "The pictures are rectified: use P. Else K and the distortion, rays undistorted", when=LIVE
    )
    cameras: tuple[str, ...] = _parameter(
        (),
        "Names of several cameras, each with its topics under its name (`front/image`, `~/front/points`); empty: one, without",
        when=CONFIGURE,
        node_only=True,
    )
    image_transport: str = _parameter(
        "raw",
        "raw: sensor_msgs/Image on `image`; compressed: CompressedImage on `image/compressed`",
        when=CONFIGURE,
        choices=("raw", "compressed"),
        node_only=True,
    )
    image_reliability: str = _parameter(
        "auto",
        "Reliability of the image subscription; auto: what the topic's publishers offer",
        when=CONFIGURE,
        choices=("auto", "reliable", "best_effort"),
        node_only=True,
    )
    camera_info_reliability: str = _parameter(
        "auto",
        "Reliability of the camera_info subscription; auto: what the topic's publishers offer",
        when=CONFIGURE,
        choices=("auto", "reliable", "best_effort"),
        node_only=True,
    )
    image_depth: int = _parameter(
        1, "History depth of the image subscription", when=CONFIGURE, unit="messages", low=1, high=100, node_only=True
    )
    output_reliability: str = _parameter(
        "reliable",
        "Reliability of the outputs; reliable serves both kinds of subscriber",
        when=CONFIGURE,
        choices=("reliable", "best_effort"),
        node_only=True,
    )
    output_depth: int = _parameter(
        1, "History depth of the outputs", when=CONFIGURE, unit="messages", low=1, high=100, node_only=True
    )
    diagnostics_period: float = _parameter(
        1.0, "Time between two diagnostics messages", when=CONFIGURE, unit="s", low=0.1, high=60.0, node_only=True
    )
    image_timeout: float = _parameter(
        1.5, "Without a new picture for so long, diagnostics say so", when=LIVE, unit="s", low=0.1, high=3600.0, node_only=True
    )
    autostart: bool = _parameter(
        True, "Configure and activate at start; false: wait for a lifecycle manager", when=START, node_only=True
    )

    def __post_init__(self) -> None:
        for parameter in parameters():
            parameter.check(getattr(self, parameter.name))
        if 0 < self.max_depth <= self.min_depth:
            raise ConfigError(f"parameter min_depth: {self.min_depth} is not below max_depth {self.max_depth}: none is valid")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Config:
        """A Config from names and values; what is not named has its default.

        Raises:
            ConfigError: An unknown name (the nearest right one is suggested) or a value that does not fit.
        """
        known = [parameter.name for parameter in parameters()]
        for name in values:
            if name not in known:
                raise ConfigError(f"unknown parameter {truncated_repr(name)}{_suggest(name, known)}")
        return cls(**{name: by_name(name).convert(value) for name, value in values.items()})


@dataclass(frozen=True)
class Parameter:
    """One row: name, type, default, what it does, unit, bounds, choices, when it can change.

    Types are str, bool, int, float, and tuple for a list of names. `node_only` rows mean nothing to the offline commands.
    """

    name: str
    type: type
    default: Any
    doc: str
    when: str
    unit: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    node_only: bool

    def convert(self, value: Any) -> Any:
        """`value` in this row's type, where it stands for one: a whole number for a float that holds it, a list for names.

        ROS has no empty list of strings: `[]` arrives as None, and `[""]` is what is written for it.
        """
        if self.type is float and type(value) is int and abs(value) < 2**53:
            return float(value)
        if self.type is tuple and (value is None or isinstance(value, list)):
            return tuple(name for name in value or () if name != "")
        return value

    def check(self, value: Any) -> None:
        """Raise ConfigError, naming this parameter, unless `value` is of its type and within its bounds."""
        # Not isinstance: True is no number.
        found: type = type(value)
        if self.type is tuple:
            self._check_names(value)
            return
        if found is not self.type:
            raise ConfigError(f"parameter {self.name}: {truncated_repr(value)} is not a {self.type.__name__}")
        if self.choices and value not in self.choices:
            raise ConfigError(
                f"parameter {self.name}: {truncated_repr(value)} is not one of {', '.join(self.choices)}"
                f"{_suggest(value, self.choices)}"
            )
        if self.low is not None and self.high is not None and not self.low <= value <= self.high:
            raise ConfigError(f"parameter {self.name}: {value} is outside {self.range_text()}")
        if self.name == "weights" and not value:
            raise ConfigError("parameter weights: empty; give a name (`mtl_perception weights list`) or a file")
        if self.name == "device" and value not in ("auto", "cpu", "cuda"):
            kind, _, index = value.partition(":")
            if kind != "cuda" or not (index.isascii() and index.isdigit()):
                raise ConfigError(f"parameter device: {truncated_repr(value)} is not one of auto, cpu, cuda, cuda:N")

    def _check_names(self, value: Any) -> None:
        if not isinstance(value, tuple) or not all(isinstance(name, str) for name in value):
            raise ConfigError(f"parameter {self.name}: {truncated_repr(value)} is not a list of names")
        for name in value:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", name):
                rule = "use letters, digits and single underscores"
                raise ConfigError(f"parameter {self.name}: {truncated_repr(name)} cannot be in a topic's name: {rule}")
            if value.count(name) > 1:
                raise ConfigError(f"parameter {self.name}: {truncated_repr(name)} is there {value.count(name)} times")

    def range_text(self) -> str:
        """Bounds or choices with the unit, for people."""
        if self.choices:
            return ", ".join(self.choices)
        if self.low is None:
            return self.unit
        return f"{self.low:g} to {self.high:g} {self.unit}".rstrip()


def parameters() -> Iterator[Parameter]:
    """The rows of the table, in order."""
    types = {"str": str, "bool": bool, "int": int, "float": float, "tuple[str, ...]": tuple}
    for row in fields(Config):
        yield Parameter(name=row.name, type=types[str(row.type)], default=row.default, **_columns(row))


def by_name(name: str) -> Parameter:
    """The row of that name.

    Raises:
        ConfigError: There is none.
    """
    for parameter in parameters():
        if parameter.name == name:
            return parameter
    raise ConfigError(f"unknown parameter {truncated_repr(name)}{_suggest(name, [p.name for p in parameters()])}")


def nearest(name: str, likeness: float = 0.6) -> str:
    """The parameter's name that a wrong one is most like; empty when it is less like any than `likeness`, of 1."""
    return next(iter(difflib.get_close_matches(name, [p.name for p in parameters()], n=1, cutoff=likeness)), "")


def _columns(row: Field[Any]) -> dict[str, Any]:
    return dict(row.metadata)


def _suggest(name: object, known: Any) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
