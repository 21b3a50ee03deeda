"""MkDocs hook: links from docs/ to other files of the repository become links to its web page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(\.\./([^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Rewrite `](../FILE)`; a file that does not exist is left for the strict link check."""

    def rewritten(match: re.Match[str]) -> str:
        path, anchor = match.group(1), match.group(2) or ""
        target = ROOT / path
        if not target.exists():
            return match.group()
        kind = "tree" if target.is_dir() else "blob"
        return f"]({config['repo_url'].rstrip('/')}/{kind}/main/{path}{anchor})"

    return LINK.sub(rewritten, markdown)
