"""Downloading published weights: resumable, verified, whole or not at all. Only `weights fetch` comes here."""

from __future__ import annotations

import fcntl
import http.client
import ipaddress
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import IO, Any

from mtl_perception.errors import WeightsError
from mtl_perception.progress import progress_bar
from mtl_perception.weights.private import make_private_folder, writing
from mtl_perception.weights.registry import Published, known_names, published, unknown_name

URL_VARIABLE = "MTL_PERCEPTION_WEIGHTS_URL"
"""Environment variable: address of a folder that holds the published files under their own names, in place of theirs."""
MAX_BYTES = 200_000_000
"""No published file has a tenth of it: a larger answer is not what was asked for."""
TIMEOUT_S = 30.0
RETRY_WAITS_S = (1.0, 2.0, 4.0)
"""Pauses before the second and later attempts."""
CHUNK_BYTES = 1 << 16


class _Interrupted(Exception):
    """The download stopped half way for a reason that may pass."""


def fetch(name: str, announce: Callable[[str], None] = lambda line: None) -> Path:
    """The published weights `name` in the user's cache, downloaded if they are not there yet.

    An interrupted download is resumed by the next call. The file appears under its name only once it is verified.

    Args:
        name: One of `PUBLISHED` or of their `ALIASES`.
        announce: Gets the license and the address, one line each, before a download begins.

    Raises:
        WeightsError: Unknown name, no network, the server lacks the file, wrong bytes, or the cache cannot be written, or
            another user can write to it.
    """
    entry = published(name)
    if entry is None:
        raise unknown_name(name, known_names(encoders=True))
    path = entry.path
    url = f"{os.environ.get(URL_VARIABLE, '').rstrip('/') or entry.folder}/{entry.file}"
    with _locked(path.parent):
        if path.is_file() and entry.checksum.fits(path):
            return path
        part = path.with_name(f"{path.name}.part")
        # A part may be complete: the process ended between the last byte and the check.
        if not (part.is_file() and entry.checksum.fits(part)):
            _check_address(url)
            announce(f"{name}: license: {entry.license}")
            announce(f"{name}: from {url}")
            _download(url, part, by_hand=f"the file may also be put by hand at {path}")
        _verify(part, entry, url)
        with writing(path):
            os.replace(part, path)
    return path


def _verify(part: Path, entry: Published, url: str) -> None:
    want, got = entry.checksum, entry.checksum.of(part)
    if got == want.digits:
        return
    size = part.stat().st_size
    part.unlink()
    raise WeightsError(
        f"{url}: wrong bytes: expected {want.kind} {want.digits}, got {got} ({size} bytes); they were deleted, so that "
        "fetching again starts anew"
    )


def _download(url: str, part: Path, by_hand: str) -> None:
    """Fill `part`, going on from what it holds, in a bounded number of attempts."""
    reason = ""
    for wait in (0.0, *RETRY_WAITS_S):
        time.sleep(wait)
        try:
            _receive(url, part)
            return
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise WeightsError(f"{url}: the server answers {error.code} {error.reason}; {by_hand}") from error
            reason = f"the server answers {error.code} {error.reason}"
        except urllib.error.URLError as error:
            raise WeightsError(f"{url}: cannot be reached: {error.reason}; {by_hand}") from error
        except _Interrupted as error:
            reason = str(error)
    kept = part.stat().st_size if part.exists() else 0
    raise WeightsError(
        f"{url}: gave up after {len(RETRY_WAITS_S) + 1} attempts: {reason}; {kept} bytes are kept, and fetching again "
        f"resumes there; {by_hand}"
    )


def _receive(url: str, part: Path) -> None:
    """One attempt: ask for what `part` lacks and append it."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with _open(request) as response:
            resumed = have > 0 and response.status == 206
            if resumed and not str(response.headers.get("Content-Range")).startswith(f"bytes {have}-"):
                _discard(part)
                raise _Interrupted(f"the server sent another range than asked for: {response.headers.get('Content-Range')}")
            _append(response, part, start=have if resumed else 0, url=url)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            _discard(part)
            raise _Interrupted("the file on the server is shorter than what was kept of it") from error
        raise
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise _Interrupted(f"no connection within {TIMEOUT_S:.0f} s") from error
        raise
    except http.client.InvalidURL as error:
        raise WeightsError(f"{url}: not a valid address: {error}; see {URL_VARIABLE}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(_cut(error)) from error


def _append(response: http.client.HTTPResponse, part: Path, start: int, url: str) -> None:
    """Write the body of `response` to `part` from byte `start` on, whatever lay there before."""
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdecimal() else None
    received = start
    with writing(part), part.open("r+b" if start else "wb") as file:
        file.seek(start)
        with progress_bar(
            total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, file=sys.stderr, disable=None
        ) as progress:
            for chunk in _chunks(response):
                received += len(chunk)
                if max(received, total or 0) > MAX_BYTES:
                    _discard(part)
                    raise WeightsError(f"{url}: more than {MAX_BYTES} bytes: not the weights file; nothing was kept")
                file.write(chunk)
                progress.update(len(chunk))
    if total is not None and received < total:
        raise _Interrupted(f"the connection was cut after {received} of {total} bytes")


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body in pieces; what goes wrong here is the network's fault, not the disk's."""
    while True:
        try:
            chunk = response.read(CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _Interrupted(_cut(error)) from error
        if not chunk:
            return
        yield chunk


def _cut(error: Exception) -> str:
    return f"the connection was cut: {str(error) or type(error).__name__}"


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to addresses that might have been asked for in the first place."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _open(request: urllib.request.Request) -> Any:
    handlers: list[urllib.request.BaseHandler] = [_CheckedRedirects()]
    if _is_loopback(request.full_url):
        # A proxy's loopback is not ours.
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT_S)


def _check_address(url: str) -> None:
    """Raises WeightsError unless `url` is HTTPS, or HTTP on this machine."""
    scheme = url.partition(":")[0].lower()
    if scheme == "https" or (scheme == "http" and _is_loopback(url)):
        return
    raise WeightsError(f"{url}: only https addresses are fetched from (http only on this machine); see {URL_VARIABLE}")


def _is_loopback(url: str) -> bool:
    try:
        host = urllib.parse.urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make the cache folder and keep other processes out of it meanwhile: two writers would spoil one part."""
    make_private_folder(folder, "the weights")
    with writing(folder):
        lock = (folder / ".lock").open("a")
    with lock:
        with writing(folder):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise WeightsError(f"{folder}: another process is fetching weights now: wait for it") from error
        yield


def _discard(part: Path) -> None:
    with writing(part):
        part.unlink(missing_ok=True)
