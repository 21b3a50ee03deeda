"""Names and properties of processors and GPUs."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or the processor's with its number of cores."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    processor = read_cpuinfo("model name") or platform.processor() or platform.machine()
    return f"{processor}, {os.cpu_count()} cores"


def read_cpuinfo(*keys: str) -> str:
    """Return the first value with one of these keys in Linux' list of processors; empty if there is none."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(keys)), "")


def read_cpu_flags() -> str:
    """Return the names of the first processor's instruction sets, separated by spaces; empty if they are unknown."""
    # On ARM they are called features.
    return read_cpuinfo("flags", "Features")
