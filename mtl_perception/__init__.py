"""Semantic segmentation, metric depth and a labeled point cloud from one network in one forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mtl_perception.version import __version__ as __version__

if TYPE_CHECKING:
    from mtl_perception.camera.model import CameraModel
    from mtl_perception.pipeline import Pipeline
    from mtl_perception.result import Result
    from mtl_perception.types import Frame
    from mtl_perception.weights.files import load_network

__all__ = ["CameraModel", "Frame", "Pipeline", "Result", "load_network"]

_MODULES = {
    "CameraModel": "mtl_perception.camera.model",
    "Frame": "mtl_perception.types",
    "Pipeline": "mtl_perception.pipeline",
    "Result": "mtl_perception.result",
    "load_network": "mtl_perception.weights.files",
}


def __getattr__(name: str) -> Any:
    # Lazy, because importing PyTorch takes seconds and not every command needs it.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES[name]), name)
