"""Description of a network: classes, normalization, depth, camera, license; stored in the metadata of a weights file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from mtl_perception.errors import WeightsError, one_line, truncated_repr
from mtl_perception.labels import KITTI6, NYUD40, ClassSet
from mtl_perception.network.certificate import Certificate

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DEPTH_TRANSFORMS = ("abs", "exp")
GRIDS = ("stretched", "exact")
_CAMERA = ("width", "height", "fx", "fy", "cx", "cy")
TASKS = (("segmentation", "depth"), ("segmentation", "depth", "normals"))


@dataclass(frozen=True)
class Description:
    """Description of a network; docs/models.md explains the entries of the card.

    Attributes:
        name: Short name.
        classes: C class names in id order.
        colors: C RGB colors.
        tasks: ("segmentation", "depth") or with "normals" as the third.
        groups: Class sets of a network trained on several, name -> (first id, number of ids). Empty for a single set.
        mean: Mean that is subtracted from RGB / 255.
        std: Standard deviation by which the difference is divided.
        depth_transform: Conversion of raw depth to meters: "abs" (the published networks) or "exp".
        depth_range: Smallest and largest depth in the training data, meters.
        depth_focal_length: Focal length, pixels, for which the transformed depth is in meters. For other cameras the depth is
            multiplied by the ratio of the focal lengths, because an enlarged image looks like a closer scene. 0 (the published
            networks): do not scale.
        grid: Alignment of feature maps and image (`grid.py`): "stretched" (the published networks) or "exact".
        camera: Intrinsics of the training camera: width, height, fx, fy, cx, cy. Empty if unknown.
        license: License of the weights.
        card: Other information: data, seed, command, hours, metrics, known failures.
        quantization: Table of ranges for int8, and how it was made. Empty for weights without one.
        certified: Measured accuracy by arithmetic, float32 included; `network/digest.py` tells which are valid.
    """

    name: str
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    tasks: tuple[str, ...] = TASKS[0]
    groups: dict[str, tuple[int, int]] = field(default_factory=dict)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    depth_transform: str = "abs"
    depth_range: tuple[float, float] = (0.0, 80.0)
    depth_focal_length: float = 0.0
    grid: str = GRIDS[0]
    camera: dict[str, float] = field(default_factory=dict)
    license: str = "unknown"
    card: dict[str, Any] = field(default_factory=dict)
    quantization: dict[str, Any] = field(default_factory=dict)
    certified: dict[str, Certificate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= len(self.classes) <= 255:
            problems.append(f"{len(self.classes)} classes (1 to 255 fit a label image)")
        if len(self.classes) != len(self.colors):
            problems.append(f"{len(self.classes)} classes but {len(self.colors)} colors")
        if not all(0 <= value <= 255 for color in self.colors for value in color):
            problems.append("colors outside 0..255")
        for name, (first, count) in self.groups.items():
            if first < 0 or count < 1 or first + count > len(self.classes):
                problems.append(f"group {truncated_repr(name)}: {count} classes from id {first}, of {len(self.classes)}")
        if self.tasks not in TASKS:
            problems.append(f"tasks {truncated_repr(self.tasks)} (one of {TASKS})")
        if self.depth_transform not in DEPTH_TRANSFORMS:
            problems.append(f"depth_transform {truncated_repr(self.depth_transform)} (one of {DEPTH_TRANSFORMS})")
        if self.grid not in GRIDS:
            problems.append(f"grid {truncated_repr(self.grid)} (one of {GRIDS})")
        if not (math.isfinite(self.depth_focal_length) and self.depth_focal_length >= 0):
            problems.append(f"depth_focal_length {self.depth_focal_length} (pixels, or 0)")
        if not (_are_finite(self.depth_range, 2) and 0 <= self.depth_range[0] < self.depth_range[1]):
            problems.append(f"depth_range {truncated_repr(self.depth_range)}")
        if not (_are_finite(self.mean, 3) and _are_finite(self.std, 3) and all(s > 0 for s in self.std)):
            problems.append(f"mean {truncated_repr(self.mean)}, std {truncated_repr(self.std)} (three each, std above 0)")
        if self.camera and not (
            _are_finite([self.camera.get(name, math.nan) for name in _CAMERA], len(_CAMERA))
            and all(self.camera[name] > 0 for name in _CAMERA[:4])
        ):
            problems.append(f"camera {truncated_repr(self.camera)} (needs {', '.join(_CAMERA)})")
        if problems:
            raise WeightsError(f"model description {truncated_repr(self.name)}: " + "; ".join(problems))

    def class_set(self, group: str = "") -> tuple[ClassSet, int]:
        """Return the classes of a group and the id of its first class in the network's output.

        Args:
            group: One of `groups`; empty for the last one, or for all classes without groups.

        Raises:
            WeightsError: `group` is not one of `groups`.
        """
        if not self.groups and group in ("", self.name):
            return ClassSet(self.name, self.classes, self.colors), 0
        if not group:
            group = list(self.groups)[-1]
        if group not in self.groups:
            known = ", ".join(self.groups) or "none: leave the parameter empty"
            raise WeightsError(f"weights {self.name!r} have no class group {group!r} (known: {known})")
        first, count = self.groups[group]
        return ClassSet(group, self.classes[first : first + count], self.colors[first : first + count]), first

    def normalization(self) -> tuple[np.ndarray, np.ndarray]:
        """Return scale and offset, 3 float32 each: an RGB level of 0 to 255 is normalized to `level * scale + offset`.

        That is (level / 255 - mean) / std as one multiplication and one addition.
        """
        mean, std = (np.array(values, np.float32) for values in (self.mean, self.std))
        return 1 / (np.float32(255) * std), -mean / std

    def to_json(self) -> str:
        """Return the description as a JSON object."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Description:
        """Parse the output of `to_json`.

        Raises:
            WeightsError: The text is not JSON, or an entry is missing, unknown, or of a wrong type.
        """
        try:
            data = json.loads(text)
            unknown = set(data) - {f.name for f in fields(cls)}
            if unknown:
                raise WeightsError(
                    f"model description has unknown entries {truncated_repr(sorted(unknown))}; written by a newer version?"
                )
            data["classes"] = tuple(str(name) for name in data["classes"])
            data["colors"] = tuple((int(r), int(g), int(b)) for r, g, b in data["colors"])
            for key in ("mean", "std", "depth_range"):
                if key in data:
                    data[key] = tuple(float(value) for value in data[key])
            if "depth_focal_length" in data:
                data["depth_focal_length"] = float(data["depth_focal_length"])
            if "tasks" in data:
                data["tasks"] = tuple(data["tasks"])
            if "groups" in data:
                data["groups"] = {name: (int(a), int(b)) for name, (a, b) in data["groups"].items()}
            if "camera" in data:
                data["camera"] = {name: float(value) for name, value in data["camera"].items()}
            if "certified" in data:
                data["certified"] = {str(name): Certificate.from_mapping(one) for name, one in data["certified"].items()}
            for key, kind in (("name", str), ("license", str), ("card", dict), ("quantization", dict)):
                if not isinstance(data.get(key, kind()), kind):
                    raise TypeError(f"{key} is a {type(data[key]).__name__}, not a {kind.__name__}")
            return cls(**data)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise WeightsError(f"model description cannot be read: {type(error).__name__}: {one_line(error)}") from error


def _are_finite(values: Sequence[float], count: int) -> bool:
    return len(values) == count and all(map(math.isfinite, values))


_PUBLISHED_LICENSE = "BSD 2-clause for academic use; commercial use by arrangement with the authors"
_PUBLISHED_SOURCE = "Nekrasov et al., ICRA 2019, github.com/DrSleep/multi-task-refinenet"
KITTI_CAMERA = {"width": 1242, "height": 375, "fx": 721.5377, "fy": 721.5377, "cx": 609.5593, "cy": 172.854}
"""KITTI's rectified camera 02, from its calibration files of 2011-09-26."""
# Color camera of NYUDv2's Kinect, from the data set's toolbox (camera_params.m).
NYUD_CAMERA = {"width": 640, "height": 480, "fx": 518.8579, "fy": 519.4696, "cx": 325.5824, "cy": 253.7362}


def published_description(classes: int, tasks: int) -> Description:
    """Return the description of a published network, identified by its numbers of classes and tasks.

    Raises:
        WeightsError: No published network has these numbers.
    """
    card = {"source": _PUBLISHED_SOURCE}
    if (classes, tasks) == (6, 2):
        card["limits"] = "has no person, pole, sign and fence classes: it does not detect pedestrians"
        return Description("kitti", KITTI6.names, KITTI6.colors, camera=KITTI_CAMERA, license=_PUBLISHED_LICENSE, card=card)
    if (classes, tasks) in ((40, 2), (40, 3)):
        return Description(
            "nyud" if tasks == 2 else "nyud-normals",
            NYUD40.names,
            NYUD40.colors,
            tasks=TASKS[tasks - 2],
            depth_range=(0.0, 8.0),
            camera=NYUD_CAMERA,
            license=_PUBLISHED_LICENSE,
            card=card,
        )
    if (classes, tasks) == (46, 2):
        return Description(
            "nyud-kitti",
            NYUD40.names + KITTI6.names,
            NYUD40.colors + KITTI6.colors,
            groups={"nyud40": (0, 40), "kitti6": (40, 6)},
            camera=KITTI_CAMERA,
            license=_PUBLISHED_LICENSE,
            card=card,
        )
    raise WeightsError(
        f"no published network has {classes} classes and {tasks} tasks (known: 6, 40 or 46 classes with 2 tasks, 40 with 3); "
        "own networks are stored as safetensors with their description (weights convert)"
    )
