"""Certificates: the measured accuracy of a network in an arithmetic, stored in the description of its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REFERENCE = "fp32"
"""Arithmetic with which the others are compared."""
MIOU_LIMIT = 0.003
"""Largest loss of mIoU, 0..1, with which `precision: auto` chooses an arithmetic."""
ABS_REL_LIMIT = 0.015
"""Largest relative increase of AbsRel with which `precision: auto` chooses an arithmetic."""


@dataclass(frozen=True)
class Score:
    """Accuracy on a data set, as `eval` defines it.

    Attributes:
        frames: Number of frames.
        miou: mIoU, 0..1, by class set; empty without ground truth of labels.
        abs_rel: Mean relative depth error; None without ground truth of depth.
        rmse: Root mean square depth error, m; None without ground truth of depth.
        agreement: Share of pixels with the same label as in float32.
    """

    frames: int
    miou: dict[str, float]
    abs_rel: float | None
    rmse: float | None
    agreement: float

    def __post_init__(self) -> None:
        values = [self.frames, *self.miou.values(), self.agreement, *(v for v in (self.abs_rel, self.rmse) if v is not None)]
        if not all(math.isfinite(value) and value >= 0 for value in values):
            raise ValueError(f"score {self} has a negative or non-finite value")


@dataclass(frozen=True)
class Certificate:
    """Accuracy of a network in an arithmetic.

    Attributes:
        digest: `certificate_digest` of the network that was measured.
        processor: Name of the processor that computed it.
        data: Scores by data set.
    """

    digest: str
    processor: str
    data: dict[str, Score]

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Certificate:
        """Build a certificate from plain values, as JSON holds them.

        Raises:
            TypeError: An entry is missing, unknown or of a wrong type.
            ValueError: A number is negative or non-finite.
        """
        data = {}
        for name, score in values["data"].items():
            miou = {str(classes): float(value) for classes, value in score["miou"].items()}
            abs_rel, rmse = (None if score[key] is None else float(score[key]) for key in ("abs_rel", "rmse"))
            data[str(name)] = Score(int(score["frames"]), miou, abs_rel, rmse, float(score["agreement"]))
        return cls(str(values["digest"]), str(values["processor"]), data)


@dataclass(frozen=True)
class Loss:
    """The most that an arithmetic loses on any data set compared with float32.

    Attributes:
        data: Names of the data sets.
        miou: Change of mIoU, 0..1; negative is a loss. 0 without labels.
        abs_rel: Relative change of AbsRel; positive is a loss. 0 without depth.
    """

    data: tuple[str, ...]
    miou: float
    abs_rel: float

    @property
    def within_limits(self) -> bool:
        """Whether `precision: auto` may choose the arithmetic."""
        return self.miou >= -MIOU_LIMIT and self.abs_rel <= ABS_REL_LIMIT

    def __str__(self) -> str:
        data = " and ".join(filter(None, (", ".join(self.data[:-1]), self.data[-1])))
        losses = f"mIoU {100 * self.miou:+.1f} points, AbsRel {100 * self.abs_rel:+.1f} % compared with {REFERENCE}"
        return f"{'certified' if self.within_limits else 'beyond the limits'} on {data}: {losses}"


def loss(found: Certificate, reference: Certificate) -> Loss | None:
    """Compare an arithmetic with float32; None unless both were measured on the same frames of the same data sets."""
    frames = [{name: (s.frames, *s.miou) for name, s in one.data.items()} for one in (found, reference)]
    if not found.data or frames[0] != frames[1]:
        return None
    pairs = [(score, reference.data[name]) for name, score in found.data.items()]
    miou = [score.miou[name] - value for score, expected in pairs for name, value in expected.miou.items()]
    depth = [
        score.abs_rel / expected.abs_rel - 1 for score, expected in pairs if score.abs_rel is not None and expected.abs_rel
    ]
    return Loss(tuple(found.data), min(miou, default=0.0), max(depth, default=0.0))
