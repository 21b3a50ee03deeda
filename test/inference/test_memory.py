"""Settings of glibc's heap; each test runs a separate process, as they hold for its lifetime."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

if not hasattr(ctypes.CDLL(None), "malloc_trim"):
    pytest.skip("needs glibc: other C libraries have no settings for their heaps", allow_module_level=True)

BEGINNING = """
import ctypes, threading
from pathlib import Path
from mtl_perception.inference import memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
MIB = 2**20

def take(size):
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    return block

def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 // MIB
"""
# Every other block is freed: no heap can shrink at its end.
HOLES = """
blocks = [take(MIB // 2) for _ in range(200)]
full = resident()
for block in blocks[::2]:
    libc.free(block)
print(full - resident())
memory.trim_heap()
print(full - resident())
"""
HEAPS = """
def work():
    for size in (1000, 20_000, 300_000):
        libc.free(take(size))

threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fopen.restype, libc.malloc_info.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
file = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, file)
libc.fclose(file)
"""
LARGE = """
first = take(17 * MIB)
libc.free(first)
kept = [take(33 * MIB // 2), take(100_000)]
full = resident()
libc.free(kept[0])
print(full - resident())
"""


def run(script: str, **environment: str) -> str:
    """Return what a new process prints."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", BEGINNING + script], env={**bare, **environment}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_trim_heap_returns_memory_between_used_blocks():
    kept, returned = map(int, run("memory.configure_malloc()\n" + HOLES).split())
    assert kept < 20
    assert returned > 40


def test_a_configured_process_has_one_heap_for_all_threads():
    assert run("memory.configure_malloc()\n" + HEAPS).count("<heap nr=") == 1
    assert run(HEAPS).count("<heap nr=") > 1


def test_large_blocks_are_always_unmapped_when_freed():
    assert int(run("memory.configure_malloc()\n" + LARGE)) >= 16
    # By default, freeing the first block makes glibc allocate the second within the heap.
    assert int(run(LARGE)) < 5


@pytest.mark.parametrize("setting", [{"MALLOC_ARENA_MAX": "8"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=8"}])
def test_settings_of_the_user_are_kept(setting):
    assert run("memory.configure_malloc()\n" + HEAPS, **setting).count("<heap nr=") > 1
