"""Exceptions raised by mtl_perception, and helpers that format their messages.

A message reads `<what failed>: <why>; <what to do>`. The command line prints it as one line.
"""

from __future__ import annotations

import difflib
import importlib
import re
import reprlib
import sys
from collections.abc import Iterable


class PerceptionError(Exception):
    """Base class of every exception that mtl_perception raises on purpose."""


class FrameError(PerceptionError):
    """An image or an image message is malformed, unsupported or unreadable.

    Args:
        message: What is wrong, with the offending values.
        reason: Short stable key under which diagnostics count the rejected frame.
    """

    def __init__(self, message: str, reason: str = "bad_frame") -> None:
        super().__init__(message)
        self.reason = reason


class CameraError(PerceptionError):
    """A calibration is missing, uncalibrated, non-finite, implausible or for a different image size."""


class WeightsError(PerceptionError):
    """A weights file is missing, damaged, does not fit the network, or could not be downloaded."""


class ConfigError(PerceptionError):
    """A parameter or configuration key has an unknown name, an invalid value, or cannot be changed now."""


class DeviceError(PerceptionError):
    """The requested compute device is absent, failed, or returned non-finite values.

    Args:
        message: What failed, on which device, and during which operation.
        reason: Short stable key under which diagnostics count the lost frames.
    """

    def __init__(self, message: str, reason: str = "device") -> None:
        super().__init__(message)
        self.reason = reason


class SourceError(PerceptionError):
    """A drive, an image folder, a video or a bag cannot be read, or an output cannot be written."""


class DependencyError(PerceptionError):
    """An optional Python package is not installed or cannot be imported."""


def require(module: str, *, extra: str, purpose: str, system_packages: str = "") -> None:
    """Check that an optional dependency can be imported; call it before the import statement.

    Args:
        module: Module to import, such as "rosbags".
        extra: Extra of mtl_perception that installs the package, such as "bags".
        purpose: What the package is needed for; the first words of the message, such as "reading bags".
        system_packages: Debian packages that the module loads libraries from, such as "libgl1 libgomp1".

    Raises:
        DependencyError: The import fails; the message names the reason and the pip command.
    """
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        package = module.partition(".")[0]
        message = (
            f"{purpose} needs {package}, which cannot be imported: {one_line(error)}; "
            f"install it with: pip install 'mtl_perception[{extra}]'"
        )
        if system_packages:
            message += f", and the libraries that it loads with: apt-get install {system_packages}"
        raise DependencyError(message) from error


ROS_MODULES = frozenset(
    (
        "ament_index_python",
        "diagnostic_msgs",
        "lifecycle_msgs",
        "rcl_interfaces",
        "rclpy",
        "rosgraph_msgs",
        "sensor_msgs",
        "std_msgs",
    )
)
"""Modules that come with a ROS installation."""
LIBRARIES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libgomp.so.1": "libgomp1",
}
"""Debian package by shared library that OpenCV and PyTorch load."""


def import_hint(error: ImportError) -> str:
    """Return what to do about a module that cannot be imported, with a semicolon before it; empty if that is unknown."""
    text = str(error)
    if "_rclpy" in text:
        return f"; ROS is built for another Python than {sys.executable}: use ROS's python3, and no conda environment"
    if re.search("GLIBCXX_|CXXABI_", text):
        return f"; the libstdc++ of {sys.executable} is too old: use ROS's python3, and no conda environment"
    if re.search("multiarray failed to import|_ARRAY_API", text):
        return "; a package is built for another NumPy: upgrade the package, such as opencv-python"
    if missing := re.search(r"(lib[^\s/:]+\.so[.\d]*): cannot open shared object file", text):
        package = LIBRARIES.get(missing[1])
        return f"; install it with: apt-get install {package}" if package else ""
    module = re.search(r"No module named '(\w+)", text)
    if module is None:
        return ""
    if module[1] in ROS_MODULES:
        return "; source ROS 2 in this shell first"
    return f"; install the requirements of mtl_perception for {sys.executable}, or use the Python that has them"


class _TruncatedRepr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxlong, self.maxother = 3, 80, 40, 80

    def repr_int(self, x: int, level: int) -> str:
        """Describe an integer that Python refuses to convert to decimal digits."""
        return f"an integer of {x.bit_length()} bits" if x.bit_length() > 1000 else super().repr_int(x, level)


_repr = _TruncatedRepr()


def truncated_repr(value: object) -> str:
    """Return the repr of an untrusted value on one line of at most 200 characters."""
    return _truncate(_repr.repr(value), 200)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return "; did you mean 'X'?" with the known name that resembles an untrusted one most; "" if none does."""
    # Only text: written out, a YAML value with aliases may take gigabytes.
    close = difflib.get_close_matches(name[:100], known, n=1) if isinstance(name, str) else []
    return f"; did you mean {close[0]!r}?" if close else ""


def one_line(error: object, limit: int = 200) -> str:
    """Return a text, or the message of another library's error, on one line of at most `limit` characters.

    An exception without a message is described by the name of its type.
    """
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in str(error)[: 10 * limit]).split())
    if not text and isinstance(error, BaseException):
        text = type(error).__name__
    return _truncate(text, limit)


def describe_error(error: BaseException) -> str:
    """Return the message of an error; an unexpected one is preceded by the name of its type."""
    return str(error) if isinstance(error, PerceptionError) else f"{type(error).__name__}: {error}"


def _truncate(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
