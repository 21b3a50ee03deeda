"""Folders that are the user's alone: what lies in one is as trustworthy as the user."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtl_perception.errors import WeightsError
from mtl_perception.weights.registry import CACHE_VARIABLE


def make_private_folder(folder: Path, what: str) -> None:
    """Make a cache folder, its missing parents included, and see that nobody else can write there.

    Args:
        folder: A folder of the cache.
        what: What is kept there, for the message.

    Raises:
        WeightsError: It cannot be made, or another user than this one and root can put files into it, or take them away.
    """
    with writing(folder):
        # Each level that is missing, whatever the umask: mkdir's own `parents` would leave the upper ones to it.
        for level in (*reversed(folder.parents), folder):
            level.mkdir(mode=0o700, exist_ok=True)
    # The upper one may be a place for everybody's files, such as /tmp. The lower one is ours alone: in a shared folder, another
    # user could lay down the part that is then filled and verified, and change it afterwards.
    _check_private(folder.parent, what, may_be_sticky=True)
    _check_private(folder, what, may_be_sticky=False)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the disk's errors into ours.

    Raises:
        WeightsError: `path` cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written: {error.strerror or error}") from error


def _check_private(folder: Path, what: str, may_be_sticky: bool) -> None:
    with writing(folder):
        found = folder.stat()
    hint = f"set {CACHE_VARIABLE} to a folder of your own"
    if found.st_uid not in (os.geteuid(), 0):
        raise WeightsError(f"{folder}: belongs to user {found.st_uid}, who could change {what}: {hint}")
    if may_be_sticky and found.st_mode & stat.S_ISVTX:
        return
    by_group = found.st_mode & stat.S_IWGRP and not _is_own_group(found.st_gid)
    if by_group or found.st_mode & stat.S_IWOTH:
        raise WeightsError(
            f"{folder}: other users can write there (mode {stat.S_IMODE(found.st_mode):04o}), who could change {what}: "
            f"chmod go-w {folder}, or {hint}"
        )


def _is_own_group(gid: int) -> bool:
    """Whether the group is this user's alone: where the umask is 002, each user has one of their own name."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
