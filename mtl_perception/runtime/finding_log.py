"""Log lines about what diagnostics report."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from mtl_perception.runtime.diagnostics import Level, Status

LOG_DELAY = 2.0
"""Seconds that a finding lasts before it is logged: at startup, publishers and the first messages take a moment to appear.
Less than the time for which a single anomaly is reported. Also the minimum between two lines about the same finding."""
REPEAT_PERIOD = 30.0
"""Minimum seconds between two log lines with the same text, if the finding ended and appeared again."""


class FindingLog:
    """Selects what to log, for users who do not look at diagnostics: findings that last, and the end of those of a status.

    A finding is logged again if its text changes, except in its numbers: there may be a new hint in it.
    """

    def __init__(self) -> None:
        # By names of status and finding: when current findings appeared, and when there was a line about them.
        self._since: dict[tuple[str, str], float] = {}
        self._logged_at: dict[tuple[str, str], float] = {}
        # By name of the status and text.
        self._text_logged_at: dict[tuple[str, str], float] = {}
        self._logged_statuses: set[str] = set()

    def update(self, statuses: Sequence[Status], now: float, is_active: bool = True) -> list[tuple[Level, str]]:
        """Return the lines to log.

        Args:
            statuses: All statuses of the node.
            now: Monotonic time, seconds.
            is_active: Whether the node is active; otherwise the end of findings is not logged.

        Returns:
            Level and text of each line; OK if all findings of a status have ended.
        """
        found = [(status.name, finding) for status in statuses for finding in status.findings if finding.log]
        names = {(status, finding.name) for status, finding in found}
        self._since = {name: self._since.get(name, now) for name in names}
        self._logged_at = {name: at for name, at in self._logged_at.items() if name in names}
        texts = {(status, _without_numbers(finding.text)) for status, finding in found}
        self._text_logged_at = {
            text: at for text, at in self._text_logged_at.items() if text in texts or now - at < REPEAT_PERIOD
        }
        lines = []
        for status, finding in found:
            name, text = (status, finding.name), (status, _without_numbers(finding.text))
            since, text_logged_at = self._since[name], self._text_logged_at.get(text)
            if now - max(since, self._logged_at.get(name, -math.inf)) < LOG_DELAY:
                continue
            if text_logged_at is None or (text_logged_at < since and now - text_logged_at >= REPEAT_PERIOD):
                self._logged_at[name] = self._text_logged_at[text] = now
                self._logged_statuses.add(status)
                lines.append((finding.level, f"{status}: {finding.text}"))
        for one in statuses:
            if not one.findings and one.name in self._logged_statuses:
                self._logged_statuses.remove(one.name)
                if is_active:
                    lines.append((Level.OK, f"{one.name}: {one.summary}"))
        return lines


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+", "", text)
