"""Locks of files that are being written."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mtl_perception.visualization import files
from mtl_perception.visualization.files import WriteLock, is_locked

HOLD = textwrap.dedent("""
    import sys
    import time
    from pathlib import Path
    from mtl_perception.visualization.files import WriteLock
    lock = WriteLock(Path(sys.argv[1]))
    print("locked", flush=True)
    time.sleep(60)
""")


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "file"
    path.write_text("content")
    return path


def test_lock_of_another_process_ends_when_it_is_killed(file):
    with subprocess.Popen([sys.executable, "-c", HOLD, file], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        assert is_locked(file) is True
        with pytest.raises(BlockingIOError):
            WriteLock(file)
        process.kill()
    assert is_locked(file) is False
    WriteLock(file).close()
    assert file.read_text() == "content"


def test_lock_follows_a_renamed_file_and_not_its_successor(file, tmp_path):
    lock = WriteLock(file)
    file.rename(tmp_path / "moved")
    assert (lock.is_at(tmp_path / "moved"), lock.is_at(file)) == (True, False)
    file.touch()
    assert (is_locked(file), lock.is_at(file)) == (False, False)
    lock.close()


def test_lock_holds_on_nfs(file, monkeypatch):
    """NFS locks files for writing only if they are open for it, and for reading likewise: flock(2)."""
    flock = fcntl.flock

    def nfs_flock(descriptor, operation):
        access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        if access == (os.O_RDONLY if operation & fcntl.LOCK_EX else os.O_WRONLY):
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(descriptor, operation)

    monkeypatch.setattr(files.fcntl, "flock", nfs_flock)
    lock = WriteLock(file)
    assert is_locked(file) is True
    lock.close()
    assert is_locked(file) is False


def test_file_system_without_locks_is_told_from_an_unlocked_file(file, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    WriteLock(file).close()
    assert is_locked(file) is None
