"""The table of parameters, from which ROS descriptors, command line options, YAML files and documentation are generated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

from mtl_perception.errors import ConfigError, did_you_mean, truncated_repr

# When a parameter can change.
LIVE = "any time"
CONFIGURE = "while unconfigured"
START = "at startup only"

RENAMED = {
    "image_depth": "image_queue_size",
    "output_depth": "output_queue_size",
    "gpu_graph": "cuda_graph",
    "gpu_tuning": "cudnn_benchmark",
}
"""Current parameter name by former name. Former names are refused."""


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
    """Define a row of the table; see `Parameter` for the columns."""
    metadata = {"doc": doc, "when": when, "unit": unit, "low": low, "high": high, "choices": choices, "node_only": node_only}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """Validated values of all parameters, built from keywords or by `Config.from_mapping`.

    Raises:
        ConfigError: A name is unknown, or a value has the wrong type or is out of range; the message names the parameter.
    """

    weights: str = _parameter("street", "Network weights: a shipped or downloaded name, or the path of a file", when=CONFIGURE)
    classes: str = _parameter("", "Class set, for weights with several; empty: the last one of the weights", when=CONFIGURE)
    class_groups: tuple[str, ...] = _parameter(
        (),
        "Groups that replace the classes in all outputs, each `name: class, class` or `name: *` for the remaining classes; "
        "ids are positions in the list; empty: the classes themselves",
        when=CONFIGURE,
    )
    device: str = _parameter(
        "auto", "Inference device: auto (cuda if available, else cpu), cpu, cuda or cuda:N", when=CONFIGURE
    )
    precision: str = _parameter(
        "auto",
        "Inference precision; auto: fp16 on cuda, on cpu the fastest that the weights are certified for, else fp32",
        when=CONFIGURE,
        choices=("auto", "fp32", "fp16", "bf16", "int8"),
    )
    backend: str = _parameter(
        "auto",
        "Inference backend; auto: on a CPU openvino if installed, else torch",
        when=CONFIGURE,
        choices=("auto", "torch", "openvino"),
    )
    cpu_threads: int = _parameter(
        0,
        "Number of CPU threads used for inference; 0: all cores within affinity and CPU quota",
        when=CONFIGURE,
        low=0,
        high=256,
    )
    cuda_graph: bool = _parameter(
        True, "Capture inference on a GPU as a CUDA graph per image size and set of outputs", when=CONFIGURE
    )
    cudnn_benchmark: bool = _parameter(
        False,
        "Let cuDNN select kernels by timing them per image size: faster, but the last bits of results may differ between runs",
        when=CONFIGURE,
    )
    on_device_error: str = _parameter(
        "retry",
        "Action when the inference device fails: retry (rebuild on the same device, with exponential backoff), "
        "cpu (continue on the CPU) or stop (transition to unconfigured)",
        when=LIVE,
        choices=("retry", "cpu", "stop"),
        node_only=True,
    )
    warm_up: bool = _parameter(
        True, "Run the network once during configuration, so that the first frame is not delayed", when=CONFIGURE
    )
    input_scale: float = _parameter(
        1.0,
        "Scale applied to the image before inference; lower is faster and less accurate",
        when=LIVE,
        low=0.1,
        high=1.0,
    )
    output_scale: float = _parameter(
        1.0, "Size of all outputs relative to the image; intrinsics are scaled accordingly", when=LIVE, low=0.05, high=1.0
    )
    upsampling: str = _parameter(
        "bicubic",
        "Interpolation used to upsample logits and depth: bicubic (as published) or bilinear (faster)",
        when=LIVE,
        choices=("bicubic", "bilinear"),
    )
    min_depth: float = _parameter(0.0, "Minimum depth; smaller values become NaN", when=LIVE, unit="m", low=0.0, high=1000.0)
    max_depth: float = _parameter(
        0.0,
        "Maximum depth; larger values become +Inf and have no point; 0: the depth range of the weights",
        when=LIVE,
        unit="m",
        low=0.0,
        high=1000.0,
    )
    min_confidence: float = _parameter(
        0.0, "Minimum confidence; pixels below it get label 255 (unlabeled)", when=LIVE, low=0.0, high=1.0
    )
    temporal_smoothing: float = _parameter(
        0.0,
        "Weight of the camera's previous image in labels, confidence and depth where optical flow finds the same content; "
        "0: off; on a CPU only; single images are not smoothed",
        when=CONFIGURE,
        low=0.0,
        high=0.9,
    )
    points_edge_filter: float = _parameter(
        0.12,
        "Relative depth jump between neighboring cells of the depth map (4 pixels apart) above which their points become NaN; "
        "0: keep the points between foreground and background",
        when=LIVE,
        low=0.0,
        high=10.0,
    )
    points_stride: int = _parameter(
        1,
        "Step of the rows and columns of the depth image that have a point: point (v, u) belongs to pixel (n v, n u)",
        when=LIVE,
        unit="pixels",
        low=1,
        high=100,
    )
    overlay_opacity: float = _parameter(0.5, "Opacity of the class colors in the overlay image", when=LIVE, low=0.0, high=1.0)
    input_rectified: bool = _parameter(
        True, "Whether input images are rectified; true: use P, false: use K and the distortion coefficients", when=LIVE
    )
    cameras: tuple[str, ...] = _parameter(
        (),
        "Camera names; topics of each camera are prefixed with its name (`front/image`, `~/front/points`); "
        "empty: one camera without a prefix",
        when=CONFIGURE,
        node_only=True,
    )
    image_transport: str = _parameter(
        "raw",
        "Image transport: raw (sensor_msgs/Image on `image`) or compressed (sensor_msgs/CompressedImage on `image/compressed`)",
        when=CONFIGURE,
        choices=("raw", "compressed"),
        node_only=True,
    )
    image_reliability: str = _parameter(
        "auto",
        "Reliability of the image subscription; auto: match the publishers of the topic",
        when=CONFIGURE,
        choices=("auto", "reliable", "best_effort"),
        node_only=True,
    )
    camera_info_reliability: str = _parameter(
        "auto",
        "Reliability of the camera_info subscription; auto: match the publishers of the topic",
        when=CONFIGURE,
        choices=("auto", "reliable", "best_effort"),
        node_only=True,
    )
    image_queue_size: int = _parameter(
        1, "Queue size of the image subscription", when=CONFIGURE, unit="messages", low=1, high=100, node_only=True
    )
    output_reliability: str = _parameter(
        "reliable",
        "Reliability of the output publishers; reliable also serves best-effort subscriptions",
        when=CONFIGURE,
        choices=("reliable", "best_effort"),
        node_only=True,
    )
    output_queue_size: int = _parameter(
        1, "Queue size of the output publishers", when=CONFIGURE, unit="messages", low=1, high=100, node_only=True
    )
    diagnostics_period: float = _parameter(
        1.0, "Period of the diagnostics messages", when=CONFIGURE, unit="s", low=0.1, high=60.0, node_only=True
    )
    image_timeout: float = _parameter(
        1.5,
        "Time without a new image after which diagnostics report STALE",
        when=LIVE,
        unit="s",
        low=0.1,
        high=3600.0,
        node_only=True,
    )
    autostart: bool = _parameter(
        True, "Configure and activate the node at startup; false: wait for a lifecycle manager", when=START, node_only=True
    )

    def __new__(cls, **values: Any) -> Config:
        """Refuse unknown keywords with the nearest parameter name, which a TypeError would not give."""
        for name in values:
            by_name(name)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for parameter in parameters():
            parameter.check(getattr(self, parameter.name))
        if 0 < self.max_depth <= self.min_depth:
            raise ConfigError(
                f"parameter min_depth: {self.min_depth} is not below max_depth {self.max_depth}: no depth is valid"
            )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Config:
        """Build a Config from names and values as ROS and YAML represent them; missing parameters have their defaults.

        Raises:
            ConfigError: A name is unknown (the message suggests the nearest one) or a value is invalid.
        """
        return cls(**{name: by_name(name).convert(value) for name, value in values.items()})


@dataclass(frozen=True)
class Parameter:
    """A parameter: a row of the table.

    Attributes:
        name: Name of the ROS parameter.
        type: str, bool, int, float, or tuple for a list of strings.
        default: Default value.
        doc: Description, one sentence without a final period.
        when: LIVE, CONFIGURE or START.
        unit: Unit of the value; empty if it has none.
        low: Minimum of a number, inclusive; None for other types.
        high: Maximum of a number, inclusive; None for other types.
        choices: Allowed strings; empty if any string is allowed.
        node_only: Whether only the node uses it, not the offline commands.
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
        """Convert an int to float, or a list to a tuple of strings, where this parameter's type needs it.

        ROS has no empty list of strings: `[]` arrives as None, and `[""]` is written instead of it.
        """
        if self.type is float and type(value) is int and abs(value) < 2**53:
            return float(value)
        if self.type is tuple and (value is None or isinstance(value, list)):
            return tuple(text for text in value or () if text != "")
        return value

    def check(self, value: Any) -> None:
        """Validate a value.

        Raises:
            ConfigError: The value has the wrong type or is out of range.
        """
        # Not isinstance(): a bool must not pass for an int.
        found: type = type(value)
        if self.type is tuple:
            if not isinstance(value, tuple) or not all(isinstance(text, str) for text in value):
                raise ConfigError(f"parameter {self.name}: {truncated_repr(value)} is not a list of strings")
            if self.name == "cameras":
                _check_camera_names(value)
            return
        if found is not self.type:
            raise ConfigError(f"parameter {self.name}: {truncated_repr(value)} is not a {self.type.__name__}")
        if self.choices and value not in self.choices:
            raise ConfigError(
                f"parameter {self.name}: {truncated_repr(value)} is not one of {', '.join(self.choices)}"
                f"{did_you_mean(value, self.choices)}"
            )
        if self.low is not None and self.high is not None and not self.low <= value <= self.high:
            raise ConfigError(f"parameter {self.name}: {value} is outside {self.range_text()}")
        if self.name == "weights" and not value:
            raise ConfigError("parameter weights: empty; set a name (see `mtl_perception weights list`) or a file")
        if self.name == "device" and value not in ("auto", "cpu", "cuda"):
            kind, _, index = value.partition(":")
            if kind != "cuda" or not (index.isascii() and index.isdigit()):
                raise ConfigError(f"parameter device: {truncated_repr(value)} is not one of auto, cpu, cuda, cuda:N")

    def range_text(self) -> str:
        """Return the range or choices, with the unit, as human-readable text."""
        if self.choices:
            return ", ".join(self.choices)
        if self.low is None:
            return self.unit
        return f"{self.low:g} to {self.high:g} {self.unit}".rstrip()


def _check_camera_names(names: tuple[str, ...]) -> None:
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", name):
            rule = "use letters, digits and single underscores"
            raise ConfigError(f"parameter cameras: {truncated_repr(name)} is not valid in a topic name; {rule}")
        if names.count(name) > 1:
            raise ConfigError(f"parameter cameras: {truncated_repr(name)} occurs {names.count(name)} times")


def parameters() -> Iterator[Parameter]:
    """Iterate over the table."""
    return iter(_table().values())


@cache
def _table() -> dict[str, Parameter]:
    types = {"str": str, "bool": bool, "int": int, "float": float, "tuple[str, ...]": tuple}
    return {
        row.name: Parameter(name=row.name, type=types[str(row.type)], default=row.default, **row.metadata)
        for row in fields(Config)
    }


def by_name(name: str) -> Parameter:
    """Return a parameter.

    Raises:
        ConfigError: The name is unknown; the message gives the new name of a renamed parameter, else the nearest name.
    """
    if name in _table():
        return _table()[name]
    raise ConfigError(describe_unknown(name))


def describe_unknown(name: str) -> str:
    """Explain an unknown parameter name: its new name if it was renamed, else the nearest name."""
    if name in RENAMED:
        return f"parameter {name} was renamed to {RENAMED[name]}"
    return f"unknown parameter {truncated_repr(name)}{suggest(name)}"


def suggest(name: str) -> str:
    """Return "; did you mean 'X'?" with the parameter that an unknown name resembles; "" if there is none."""
    return did_you_mean(name, _table())
