"""Log lines about findings of diagnostics."""

from __future__ import annotations

from mtl_perception.runtime.diagnostics import Finding, Level, Status
from mtl_perception.runtime.finding_log import FindingLog


def status(*findings: Finding, name: str = "frames") -> Status:
    return Status(name, findings, "processing", dict)


SILENCE = Finding(Level.WARN, "no image yet", "no image received yet: /image has no publisher")
SILENT = (Level.WARN, f"frames: {SILENCE.text}")
OVER = (Level.OK, "frames: processing")


def test_finding_that_lasts_is_logged_once_and_so_is_its_end() -> None:
    log = FindingLog()
    lines = {now: log.update([status(SILENCE)], now) for now in (0.0, 1.9, 2.0, 2.1, 100.0)}
    assert {now: found for now, found in lines.items() if found} == {2.0: [SILENT]}
    assert log.update([status()], 100.1) == [OVER]
    assert log.update([status()], 100.2) == []


def test_short_finding_is_not_logged() -> None:
    log = FindingLog()
    for now in range(0, 20, 2):
        assert log.update([status(SILENCE)], now) == log.update([status()], now + 1.0) == []


def test_recurrent_finding_is_logged_every_30_seconds() -> None:
    log, lines = FindingLog(), {}
    for tenth in range(900):
        now = tenth / 10
        is_silent = now % 10 < 5
        if found := log.update([status(SILENCE) if is_silent else status()], now):
            lines[now] = found
    assert lines == {2.0: [SILENT], 5.0: [OVER], 32.0: [SILENT], 35.0: [OVER], 62.0: [SILENT], 65.0: [OVER]}


def test_new_text_is_logged_but_new_numbers_are_not() -> None:
    def stale(seconds: float, reason: str) -> list[Status]:
        return [status(Finding(Level.STALE, "silence", f"no image for {seconds} s: {reason}"))]

    log = FindingLog()
    lines = [log.update(stale(now, "/image has no publisher"), now) for now in (1.0, 3.0, 5.0, 7.5)]
    assert lines == [[], [(Level.STALE, "frames: no image for 3.0 s: /image has no publisher")], [], []]
    hint = "/image has no publisher; remap image (published: /cam/image)"
    lines = [log.update(stale(now, hint), now) for now in (8.0, 10.0, 12.0)]
    assert lines == [[(Level.STALE, f"frames: no image for 8.0 s: {hint}")], [], []]


def test_text_that_alternates_is_logged() -> None:
    log, lines = FindingLog(), {}
    for tenth in range(310):
        change = "rgb8 to bgr8" if tenth % 2 else "bgr8 to rgb8"
        finding = Finding(Level.WARN, "size or encoding", f"images changed from {change}")
        if found := log.update([status(finding)], tenth / 10):
            lines[tenth / 10] = [text for _, text in found]
    assert lines == {2.0: ["frames: images changed from bgr8 to rgb8"], 4.1: ["frames: images changed from rgb8 to bgr8"]}


def test_end_of_a_finding_by_deactivation_is_not_logged() -> None:
    log = FindingLog()
    assert [log.update([status(SILENCE)], now) for now in (0.0, 2.0)] == [[], [SILENT]]
    assert log.update([status()], 3.0, is_active=False) == log.update([status()], 4.0) == []


def test_findings_that_are_not_to_be_logged_are_left_out() -> None:
    log = FindingLog()
    dropped = Finding(Level.ERROR, "device", "frames dropped: device cpu failed", log=False)
    assert [log.update([status(dropped)], now) for now in (0.0, 3.0)] == [[], []]
    assert log.update([status()], 4.0) == []


def test_cameras_are_logged_separately() -> None:
    log = FindingLog()
    statuses = [status(SILENCE, name="front: frames"), status(name="rear: frames")]
    log.update(statuses, 0.0)
    assert log.update(statuses, 2.0) == [(Level.WARN, f"front: frames: {SILENCE.text}")]
    both = [status(SILENCE, name="front: frames"), status(SILENCE, name="rear: frames")]
    log.update(both, 3.0)
    assert log.update(both, 5.0) == [(Level.WARN, f"rear: frames: {SILENCE.text}")]
