"""Number of threads in containers and under systemd."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtl_perception import threads

CASES = {
    "no control groups": ({}, math.inf),
    "docker run --cpus 2.5": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "250000 100000"}, 2.5),
    "no limit": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, math.inf),
    "systemd slice with a smaller CPUQuota than its service": (
        {
            "proc/self/cgroup": "0::/robot.slice/perception.service",
            "sys/fs/cgroup/robot.slice/cpu.max": "150000 100000",
            "sys/fs/cgroup/robot.slice/perception.service/cpu.max": "400000 100000",
        },
        1.5,
    ),
    "version 1, in a container that sees the path of its host": (
        {
            "proc/self/cgroup": "5:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n0::/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000",
        },
        6.0,
    ),
    "version 1, no limit": (
        {
            "proc/self/cgroup": "1:cpu:/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        math.inf,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_cpu_quota_is_the_smallest_of_the_control_groups(tmp_path: Path, case: str) -> None:
    files, expected = CASES[case]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert threads.cpu_quota(tmp_path) == expected


@pytest.mark.parametrize(("quota", "cores"), [(math.inf, 16), (2.5, 2), (0.5, 1), (32.0, 16)])
def test_available_cores_are_those_of_affinity_and_quota(monkeypatch: pytest.MonkeyPatch, quota: float, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert threads.available_cores() == cores


def test_network_uses_no_more_threads_than_the_quota() -> None:
    """PyTorch itself starts a thread per core of the machine."""
    code = """
import torch
from mtl_perception import threads
torch.set_num_threads(8)
threads.available_cores = lambda: 3
from mtl_perception.inference.torch import engine
print(engine.ALL_THREADS)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3"]
