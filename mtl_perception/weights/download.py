"""Verified, resumable download of published weights; only `weights fetch` uses it."""

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
"""Environment variable with the URL of a mirror that has the published files under their original names."""
MAX_BYTES = 200_000_000
"""Limit of a download; the published files have less than a tenth of it."""
TIMEOUT_S = 30.0
RETRY_WAITS_S = (1.0, 2.0, 4.0)
"""Delays before the second and later attempts, seconds."""
CHUNK_BYTES = 1 << 16


class _Interrupted(Exception):
    """The download was interrupted for a reason that may be temporary."""


def fetch(name: str, announce: Callable[[str], None] = lambda line: None) -> Path:
    """Return the path of published weights in the user's cache; download them if necessary.

    The next call resumes an interrupted download. The file appears under its name once it is verified.

    Args:
        name: One of `PUBLISHED` or `ALIASES`.
        announce: Called with the license and the URL, one line each, before a download.

    Raises:
        WeightsError: The name is unknown, the server is not reachable or lacks the file, the checksum differs, or the cache
            cannot be written or is writable by other users.
    """
    entry = published(name)
    if entry is None:
        raise unknown_name(name, known_names(encoders=True))
    path = entry.path
    url = f"{os.environ.get(URL_VARIABLE, '').rstrip('/') or entry.folder}/{entry.file}"
    with _locked(path.parent):
        if path.is_file() and entry.checksum.matches(path):
            return path
        part = path.with_name(f"{path.name}.part")
        # The part may be complete if the process ended before the verification.
        if not (part.is_file() and entry.checksum.matches(part)):
            _check_address(url)
            announce(f"{name}: license: {entry.license}")
            announce(f"{name}: from {url}")
            _download(url, part, by_hand=f"or copy the file to {path} yourself")
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
        f"download of {url} failed verification: expected {want.kind} {want.digits}, got {got} ({size} bytes); the file was "
        "deleted, fetch it again"
    )


def _download(url: str, part: Path, by_hand: str) -> None:
    """Complete `part` in a limited number of attempts."""
    reason = ""
    for wait in (0.0, *RETRY_WAITS_S):
        time.sleep(wait)
        try:
            _receive(url, part)
            return
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise WeightsError(
                    f"download of {url} failed: the server answered {error.code} {error.reason}; try again later, {by_hand}"
                ) from error
            reason = f"the server answered {error.code} {error.reason}"
        except urllib.error.URLError as error:
            raise WeightsError(f"cannot reach {url}: {error.reason}; check the network, {by_hand}") from error
        except _Interrupted as error:
            reason = str(error)
    kept = part.stat().st_size if part.exists() else 0
    raise WeightsError(
        f"download of {url} failed after {len(RETRY_WAITS_S) + 1} attempts: {reason}; fetch again to resume after "
        f"{kept} bytes, {by_hand}"
    )


def _receive(url: str, part: Path) -> None:
    """Request the rest of `part` and append it."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with _open(request) as response:
            resumed = have > 0 and response.status == 206
            if resumed and not str(response.headers.get("Content-Range")).startswith(f"bytes {have}-"):
                _discard(part)
                raise _Interrupted(f"the server sent a range that was not requested: {response.headers.get('Content-Range')}")
            _append(response, part, start=have if resumed else 0, url=url)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            _discard(part)
            raise _Interrupted("the file on the server is shorter than the partial download") from error
        raise
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise _Interrupted(f"no connection within {TIMEOUT_S:.0f} s") from error
        raise
    except http.client.InvalidURL as error:
        raise WeightsError(f"invalid URL {url}: {error}; check {URL_VARIABLE}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(_cut(error)) from error


def _append(response: http.client.HTTPResponse, part: Path, start: int, url: str) -> None:
    """Write the body of `response` to `part`, starting at byte `start`."""
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
                    raise WeightsError(
                        f"download of {url} stopped: more than {MAX_BYTES} bytes, so not the weights file; nothing was kept"
                    )
                file.write(chunk)
                progress.update(len(chunk))
    if total is not None and received < total:
        raise _Interrupted(f"the connection was closed after {received} of {total} bytes")


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Return an iterator over the chunks of the body; errors here are the network's, not the disk's."""
    while True:
        try:
            chunk = response.read(CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _Interrupted(_cut(error)) from error
        if not chunk:
            return
        yield chunk


def _cut(error: Exception) -> str:
    return f"the connection failed: {str(error) or type(error).__name__}"


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to allowed URLs only."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _open(request: urllib.request.Request) -> Any:
    handlers: list[urllib.request.BaseHandler] = [_CheckedRedirects()]
    if _is_loopback(request.full_url):
        # A proxy would connect to its own loopback interface.
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT_S)


def _check_address(url: str) -> None:
    """Raise WeightsError unless the URL is HTTPS, or HTTP on this machine."""
    scheme = url.partition(":")[0].lower()
    if scheme == "https" or (scheme == "http" and _is_loopback(url)):
        return
    raise WeightsError(f"download of {url} refused: the URL must be https (http only on this machine); check {URL_VARIABLE}")


def _is_loopback(url: str) -> bool:
    try:
        host = urllib.parse.urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Create the cache folder and lock it, so that two processes do not write the same part."""
    make_private_folder(folder, "the weights")
    with writing(folder):
        lock = (folder / ".lock").open("a")
    with lock:
        with writing(folder):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise WeightsError(f"cannot lock {folder}: another process is fetching weights; wait for it") from error
        yield


def _discard(part: Path) -> None:
    with writing(part):
        part.unlink(missing_ok=True)
