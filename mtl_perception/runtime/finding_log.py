"""Log lines about what diagnostics report."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mtl_perception.runtime.diagnostics import Finding, Level, Status

LOG_DELAY = 2.0
"""Seconds that a finding lasts before it is logged: at startup, publishers and the first messages take a moment to appear.
Less than the time for which a single anomaly is reported."""
REPEAT_PERIOD = 30.0
"""Minimum seconds between two log lines about the same finding, if it ended and appears again."""


class FindingLog:
    """Selects what to log, for users who do not look at diagnostics: findings that last, and the end of those of a status.

    A finding whose text changes, except in its numbers, counts as another one: there may be a new hint in it.
    """

    def __init__(self) -> None:
        # When current findings appeared, and when findings were logged last.
        self._since: dict[tuple[str, str], float] = {}
        self._logged_at: dict[tuple[str, str], float] = {}
        self._logged_statuses: set[str] = set()

    def update(self, statuses: Sequence[Status], now: float) -> list[tuple[Level, str]]:
        """Return the lines to log.

        Args:
            statuses: All statuses of the node.
            now: Monotonic time, seconds.

        Returns:
            Level and text of each line; OK if all findings of a status have ended.
        """
        found = [(status, finding) for status in statuses for finding in status.findings if finding.log]
        keys = {_key(status, finding) for status, finding in found}
        self._since = {key: self._since.get(key, now) for key in keys}
        self._logged_at = {key: at for key, at in self._logged_at.items() if key in keys or now - at < REPEAT_PERIOD}
        lines = []
        for status, finding in found:
            if self._is_due(key := _key(status, finding), now):
                self._logged_at[key] = now
                self._logged_statuses.add(status.name)
                lines.append((finding.level, f"{status.name}: {finding.text}"))
        for status in statuses:
            if not status.findings and status.name in self._logged_statuses:
                self._logged_statuses.remove(status.name)
                lines.append((Level.OK, f"{status.name}: {status.summary}"))
        return lines

    def _is_due(self, key: tuple[str, str], now: float) -> bool:
        since, logged_at = self._since[key], self._logged_at.get(key)
        if now - since < LOG_DELAY:
            return False
        return logged_at is None or (logged_at < since and now - logged_at >= REPEAT_PERIOD)


def _key(status: Status, finding: Finding) -> tuple[str, str]:
    return status.name, re.sub(r"\d+", "", finding.text)
