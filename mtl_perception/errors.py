"""Every error that mtl_perception raises on purpose.

Each message says what is wrong, where, and what to do about it; command lines print it as one line.
"""

from __future__ import annotations

import reprlib


class PerceptionError(Exception):
    """The root: catch this to catch every error that mtl_perception raises on purpose."""


class FrameError(PerceptionError):
    """A picture or an image message cannot be used.

    Args:
        message: What is wrong, with the offending values.
        reason: A short stable key, by which rejected frames are counted in diagnostics.
    """

    def __init__(self, message: str, reason: str = "bad_frame") -> None:
        super().__init__(message)
        self.reason = reason


class CameraError(PerceptionError):
    """A calibration cannot be used: missing, uncalibrated, not finite, or of another picture size."""


class WeightsError(PerceptionError):
    """A weights file is missing, damaged, of another shape, or could not be fetched."""


class ConfigError(PerceptionError):
    """A parameter has a wrong name, type or value, or cannot be changed now."""


class DeviceError(PerceptionError):
    """The compute device asked for is absent, failed, or gave no numbers.

    Args:
        message: What failed, where, and while doing what.
        reason: A short stable key, by which the frames it cost are counted in diagnostics.
    """

    def __init__(self, message: str, reason: str = "device") -> None:
        super().__init__(message)
        self.reason = reason


class SourceError(PerceptionError):
    """A drive, folder or bag cannot be read, or an output cannot be written."""


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxlong, self.maxother = 3, 80, 40, 80

    def repr_int(self, x: int, level: int) -> str:
        """Python refuses to write out an integer of thousands of digits."""
        return f"an integer of {x.bit_length()} bits" if x.bit_length() > 1000 else super().repr_int(x, level)


def shown(value: object) -> str:
    """A value in an error's text: one line of bounded length, whatever a stranger sent or wrote into a file."""
    return _cut(_short.repr(value), 200)


def said(error: object, limit: int = 200) -> str:
    """What an error of another library says, as a part of a text of ours: in one line of bounded length."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in str(error)[: 10 * limit]).split())
    text = text or type(error).__name__
    return _cut(text, limit)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


_short = _Short()
