"""Progress bars for long commands."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, overload

T = TypeVar("T")


@overload
def progress_bar(iterable: Iterable[T], **options: Any) -> Iterable[T]: ...
@overload
def progress_bar(iterable: None = None, **options: Any) -> Any: ...
def progress_bar(iterable: Iterable[Any] | None = None, **options: Any) -> Any:
    """Return a tqdm bar on stderr, or a silent replacement if tqdm is not installed.

    Args:
        iterable: Iterable to wrap; without one, call `update` on the bar.
        options: Options of tqdm. By default the bar is hidden if stderr is not a terminal.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        return _SilentBar(iterable)
    return tqdm(iterable, **{"disable": None, **options})


def print_above_bar(text: str) -> None:
    """Print a line on stderr without breaking the bars shown there."""
    try:
        from tqdm import tqdm
    except ImportError:
        print(text, file=sys.stderr)
    else:
        tqdm.write(text, file=sys.stderr)


class _SilentBar:
    def __init__(self, iterable: Iterable[Any] | None) -> None:
        self._iterable = iterable

    def __iter__(self) -> Iterator[Any]:
        return iter(() if self._iterable is None else self._iterable)

    def __enter__(self) -> _SilentBar:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def update(self, count: float = 1) -> None:
        pass

    def set_postfix_str(self, text: str = "", refresh: bool = True) -> None:
        pass
