"""Recognition of files that stand where a download or a checkout should have put others."""

from __future__ import annotations

HEAD_BYTES = 512
"""Number of first bytes that are enough."""

_POINTERS = {
    b"version https://git-lfs.github.com/spec/": "a Git LFS pointer, not the file; install git-lfs and run git lfs pull",
    b"/annex/objects/": "a git-annex pointer, not the file; run git annex get",
    b"<!doctype html": "an HTML page, not the file: the download failed or needs a login",
    b"<html": "an HTML page, not the file: the download failed or needs a login",
}


def describe_placeholder(head: bytes) -> str:
    """Return what a file is instead of the expected one, as in "a Git LFS pointer, not the file; …"; "" for other content.

    Args:
        head: The first HEAD_BYTES bytes of the file, or all of it.
    """
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"<?xml") and b"<error>" in start:
        return "an error message of a download server, not the file"
    return next((text for pointer, text in _POINTERS.items() if start.startswith(pointer)), "")
