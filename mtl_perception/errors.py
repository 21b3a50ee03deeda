"""Every error that mtl_perception raises on purpose.

Each message says what is wrong, where, and what to do about it; command lines print it as one line.
"""


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
