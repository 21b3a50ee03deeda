"""Folders that only the user can write."""

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
    """Create a cache folder and its missing parents, and check that no other user can write there.

    Args:
        folder: A folder of the cache.
        what: Content of the folder, for the message.

    Raises:
        WeightsError: The folder cannot be created, or a user other than this one and root can create or delete files in it.
    """
    with writing(folder):
        # Path.mkdir(parents=True) would create the upper levels with the umask's permissions.
        for level in (*reversed(folder.parents), folder):
            level.mkdir(mode=0o700, exist_ok=True)
    # The parent may be a shared sticky folder such as /tmp. In the folder itself, another user could create the part that is
    # then completed and verified, and change it afterwards.
    _check_private(folder.parent, what, may_be_sticky=True)
    _check_private(folder, what, may_be_sticky=False)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert OSError to WeightsError.

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
        raise WeightsError(f"{folder} is not trusted: it belongs to user {found.st_uid}, who could change {what}; {hint}")
    if may_be_sticky and found.st_mode & stat.S_ISVTX:
        return
    by_group = found.st_mode & stat.S_IWGRP and not _is_own_group(found.st_gid)
    if by_group or found.st_mode & stat.S_IWOTH:
        raise WeightsError(
            f"{folder} is not trusted: other users can write there (mode {stat.S_IMODE(found.st_mode):04o}) and change {what}; "
            f"chmod go-w {folder}, or {hint}"
        )


def _is_own_group(gid: int) -> bool:
    """Return whether this user is the group's only member; with umask 002 each user has such a group of the same name."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
