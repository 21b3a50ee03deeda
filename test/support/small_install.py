"""A Python process that lacks every package that a robot does not install."""

from __future__ import annotations

import os
from pathlib import Path

OPTIONAL_MODULES = (
    "av", "h5py", "imagesize", "matplotlib", "mcap", "onnx", "onnxruntime", "open3d", "openvino", "pooch", "pydantic",
    "ray", "rerun", "rosbags", "scipy", "torchmetrics", "tqdm",
)  # fmt: skip

SITE_CUSTOMIZE = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL_MODULES}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def small_install(folder: Path) -> dict[str, str]:
    """Write a sitecustomize module into a folder and return the environment variables that make Python load it."""
    site = folder / "small_install"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE_CUSTOMIZE)
    root = str(Path(__file__).resolve().parents[2])
    return {"PYTHONPATH": os.pathsep.join([str(site), root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
