"""Accounting of a soak run, with fabricated records."""

from __future__ import annotations

import pytest

from tools.soak import accounts

SECOND = 1_000_000_000


def records(count: int = 100, malformed: dict[int, str] | None = None):
    """Return images at 10 Hz and a configuration that is active throughout."""
    images = [
        accounts.SentImage(n, 10 * SECOND + n * SECOND // 10, 5 * SECOND + n, (malformed or {}).get(n, ""), 0)
        for n in range(count)
    ]
    end = 10 * SECOND + count * SECOND
    configuration = accounts.Configuration([accounts.ActiveWindow(0, SECOND, end, end)], is_final=True)
    return images, configuration


def counts(processed: int = 0, replaced: int = 0, unsubscribed: int = 0, **rejected: int) -> dict[str, int]:
    total = sum(rejected.values())
    named = {f"rejected: {reason}": count for reason, count in rejected.items()}
    parts = {"processed": processed, "replaced": replaced, "rejected": total, "without subscriber": unsubscribed}
    return {"received": processed + replaced + unsubscribed + total, **parts, **named}


def failures(images, configuration, seen) -> set[str]:
    checks, _ = accounts.check_configuration("c", configuration, images, set(seen))
    return {check.name.removeprefix("c: ") for check in checks if not check.passed}


def test_consistent_counts_pass():
    malformed = {5: "step", 50: "step", 60: "short", 61: "short"}
    images, configuration = records(malformed=malformed)
    configuration.counts = counts(processed=90, replaced=7, step=2, data_length=1)
    good = [n for n in range(100) if n not in malformed]
    assert failures(images, configuration, good[:90]) == set()


@pytest.mark.parametrize(
    ("change", "seen", "failed"),
    [
        ({"received": 101}, 96, {"counts add up", "received matches published"}),
        ({"received": 60, "processed": 56}, 56, {"received matches published"}),
        ({"processed": 70, "replaced": 26}, 40, {"processed matches outputs"}),
        ({"processed": 70, "replaced": 26}, 75, {"processed matches outputs"}),
        ({"rejected": 8, "rejected: step": 8, "processed": 92}, 92, {"rejected matches malformed"}),
        ({"rejected": 0, "rejected: step": 0, "processed": 100}, 96, {"rejected matches malformed", "processed matches valid"}),
        ({"rejected: step": 3, "rejected: internal": 1}, 96, {"rejected matches malformed"}),
    ],
)
def test_inconsistent_counts_fail(change, seen, failed):
    malformed = dict.fromkeys((50, 60, 70, 80), "step")
    images, configuration = records(malformed=malformed)
    configuration.counts = counts(processed=96, step=4) | change
    good = [n for n in range(100) if n not in malformed]
    assert failures(images, configuration, good[:seen]) == failed


def test_too_many_images_in_flight_fail_although_the_final_counts_are_consistent():
    images, configuration = records()
    configuration.counts = counts(processed=100)
    configuration.max_in_flight = 3
    assert failures(images, configuration, range(100)) == {"counts add up"}


def test_configuration_without_counts_fails():
    images, configuration = records()
    assert failures(images, configuration, range(100)) == {"counts"}


def test_only_images_around_activation_and_restart_may_be_lost():
    # The camera runs twice at 10 Hz, from 10 to 20 s and from 25 to 35 s; the node deactivates from 34 to 34.5 s.
    times = [10 + n / 10 for n in range(100)] + [25 + n / 10 for n in range(100)]
    images = [accounts.SentImage(n, round(at * SECOND), 0, "", n // 100) for n, at in enumerate(times)]
    window = accounts.ActiveWindow(9 * SECOND, 10 * SECOND, 34 * SECOND, 34 * SECOND + SECOND // 2)
    seen = set(range(3, 190)) - set(range(100, 105))
    certain, possible = accounts.sent_bounds(images, [window], seen)
    # Certain: from 1 s after the first output of a run to 1 s before its end.
    assert {p.number for p in certain} == set(range(13, 90)) | set(range(115, 181))
    assert {p.number for p in possible} == set(range(196))


def test_configurations_are_derived_from_events():
    def transition(name: str, begun: int, done: int) -> dict:
        return {"event": "transition", "name": name, "begun_ns": begun, "t_ns": done, "expected": True, "done": True}

    def diagnostics(t: int, state: str, values: dict) -> dict:
        return {"event": "diagnostics", "t_ns": t, "state": state, "counts": values}

    first, second = counts(processed=7), counts(processed=1, replaced=2)
    pending = first | {"received": 9}
    events = [
        diagnostics(5, "active", pending),
        transition("deactivate", 10, 11),
        {"event": "final", "t_ns": 12, "counts": first},
        transition("cleanup", 13, 14),
        diagnostics(15, "unconfigured", first),
        transition("configure", 16, 17),
        transition("activate", 18, 19),
        diagnostics(30, "active", second),
    ]
    before, after = accounts.configurations(events, 1)
    window = accounts.ActiveWindow
    assert (before.windows, before.counts, before.is_final, before.max_in_flight) == ([window(1, 1, 10, 11)], first, True, 2)
    assert (after.windows, after.counts, after.is_final) == ([window(18, 19, 30, 30)], second, False)


def output(number: int, subscriber: int = 1, topic: str = "points", stamp: int | None = None, size=(160, 96)):
    stamp = 5 * SECOND + number if stamp is None else stamp
    return accounts.ReceivedOutput(subscriber, topic, number, stamp, size)


@pytest.mark.parametrize(
    ("make", "failed"),
    [
        (lambda o: [o(1), o(2), o(1, subscriber=2), o(4)], set()),
        (lambda o: [o(2), o(1)], {"order"}),
        (lambda o: [o(2), o(2)], {"order"}),
        (lambda o: [o(1), o(2, stamp=7)], {"headers"}),
        (lambda o: [o(1), o(1000)], {"headers"}),
        (lambda o: [o(1), o(3)], {"no output of malformed images"}),
        (lambda o: [o(1), o(1, subscriber=2, size=(80, 48))], {"sizes"}),
    ],
)
def test_wrong_outputs_fail(make, failed):
    images, _ = records(malformed={3: "step"})
    checks = accounts.check_outputs(images, make(lambda *a, **k: output(*a, **k)))
    assert {check.name for check in checks if not check.passed} == failed


def test_unexpected_answers_to_requests_fail():
    good = {"event": "parameter", "name": "input_scale", "value": 0.5, "expected": True, "done": True, "reason": ""}
    taken = good | {"value": 7.0, "expected": False}
    assert accounts.check_events([good])[0].passed
    check = accounts.check_events([good, taken])[0]
    assert not check.passed
    assert "input_scale=7.0" in check.text
