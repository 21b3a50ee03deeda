"""Accounting of every image of a soak run: published by the camera, counted by the node, received by subscribers.

The node counts per configuration. Images published while it was certainly connected are a lower bound of what it received;
images published while it may have been connected are an upper bound. Between the two lie the images around an activation, a
deactivation and a restart of the camera, whose fate cannot be known from outside.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tools.soak.camera import MALFORMED

SECOND = 1_000_000_000
CONNECT_NS = SECOND
"""Time after the first output of a camera's run during which the subscription adopts the camera's reliability."""
DISCONNECT_NS = SECOND
"""Time before a deactivation or the camera's exit during which an image in transit may be lost on a loaded machine."""
UNSEEN_PER_CONFIGURATION = 15
"""Processed images whose outputs the permanent subscriber may miss while it discovers the new publishers."""
LOSS_ALLOWED = 0.001
"""Fraction of images or outputs that the middleware may lose although both sides are reliable."""
MAX_IN_FLIGHT = 2
"""Images that may have been received but not yet counted otherwise: one in the network, one in the mailbox."""
INTERNAL_REASONS = ("device", "internal")
"""Reasons of rejection that no malformed image causes."""
COUNTS = ("processed", "replaced", "rejected", "without subscriber")


@dataclass(frozen=True)
class Check:
    """Result of one requirement."""

    name: str
    passed: bool
    text: str


@dataclass(frozen=True)
class SentImage:
    """One row of the camera's journal. Times in ns; `run` counts the camera's starts."""

    number: int
    sent_ns: int
    stamp_ns: int
    malformed: str
    run: int


@dataclass(frozen=True)
class ReceivedOutput:
    """An output that a subscriber received: the number of its image, and its size."""

    subscriber: int
    topic: str
    number: int
    stamp_ns: int
    size: tuple[int, int]


@dataclass
class ActiveWindow:
    """Times (ns) around the node's active state: certainly active from `activated` to `deactivating`."""

    activating: int
    activated: int
    deactivating: int
    deactivated: int


@dataclass
class Configuration:
    """The node from one `configure` transition to the next."""

    windows: list[ActiveWindow] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    is_final: bool = False
    max_in_flight: int = 0
    min_in_flight: int = 0


def configurations(events: list[dict[str, Any]], started_ns: int) -> list[Configuration]:
    """Return the node's configurations from the checker's events; the last one stays active unless an event says otherwise."""
    end = max((event["t_ns"] for event in events if event["event"] == "diagnostics"), default=started_ns)
    found = [Configuration([ActiveWindow(started_ns, started_ns, end, end)])]
    for event in events:
        current = found[-1]
        if event["event"] == "transition" and event["done"]:
            begun, done = event["begun_ns"], event["t_ns"]
            if event["name"] == "configure":
                found.append(Configuration())
            elif event["name"] == "activate":
                current.windows.append(ActiveWindow(begun, done, end, end))
            elif event["name"] == "deactivate":
                current.windows[-1].deactivating, current.windows[-1].deactivated = begun, done
        elif event["event"] == "final":
            current.counts, current.is_final = event["counts"], True
        # After the final counts, diagnostics repeat them until the next configuration.
        elif event["event"] == "diagnostics" and not current.is_final and event["state"] in ("active", "inactive"):
            current.counts = event["counts"]
            pending = in_flight(event["counts"])
            current.max_in_flight = max(current.max_in_flight, pending)
            current.min_in_flight = min(current.min_in_flight, pending)
    return found


def in_flight(counts: dict[str, int]) -> int:
    """Return the number of images that were received and are in no other count yet."""
    return counts["received"] - sum(counts[name] for name in COUNTS)


def sent_bounds(
    images: list[SentImage], windows: list[ActiveWindow], seen: set[int]
) -> tuple[list[SentImage], list[SentImage]]:
    """Return the images that certainly reached the node, unless lost, and those that may have reached it."""
    certain, possible = [], []
    ends = {image.run: image.sent_ns for image in images}
    last_run = max(ends, default=0)
    for window in windows:
        inside = [image for image in images if window.activating <= image.sent_ns <= window.deactivated]
        possible += inside
        connected: dict[int, int] = {}
        for image in inside:
            if image.number in seen:
                connected.setdefault(image.run, image.sent_ns + CONNECT_NS)
        for image in inside:
            end = window.deactivating if image.run == last_run else min(window.deactivating, ends[image.run])
            if connected.get(image.run, image.sent_ns + 1) <= image.sent_ns <= end - DISCONNECT_NS:
                certain.append(image)
    return certain, possible


def check_outputs(images: list[SentImage], outputs: list[ReceivedOutput]) -> list[Check]:
    """Check order, headers and sizes of the received outputs."""
    by_number = {image.number: image for image in images}
    last: dict[int, int] = {}
    disordered, unknown, malformed = [], [], []
    sizes: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for output in outputs:
        if output.number <= last.get(output.subscriber, -1):
            disordered.append(output.number)
        last[output.subscriber] = output.number
        image = by_number.get(output.number)
        if image is None or image.stamp_ns != output.stamp_ns:
            unknown.append(output.number)
        elif image.malformed:
            malformed.append(output.number)
        sizes[output.number].add(output.size)
    unequal = [number for number, found in sizes.items() if len(found) > 1]
    return [
        Check("order", not disordered, f"{len(outputs)} outputs; out of order or duplicated: {_summarize(disordered)}"),
        Check("headers", not unknown, f"outputs without the header of a published image: {_summarize(unknown)}"),
        Check("no output of malformed images", not malformed, f"outputs of malformed images: {_summarize(malformed)}"),
        Check("sizes", not unequal, f"images whose outputs differ in size: {_summarize(unequal)}"),
    ]


def check_configuration(
    name: str, configuration: Configuration, images: list[SentImage], seen: set[int]
) -> tuple[list[Check], dict[str, int]]:
    """Check the node's counts against the published images and the received outputs.

    Returns:
        The checks, and figures for the report.
    """
    counts = configuration.counts
    if not counts:
        return [Check(f"{name}: counts", False, "the node published no counts")], {}
    certain, possible = sent_bounds(images, configuration.windows, seen)
    seen_here = len(seen & {image.number for image in possible})
    received, processed = counts["received"], counts["processed"]
    pending, slack = in_flight(counts), LOSS_ALLOWED * len(certain)
    lost = max(len(certain) - received, 0)
    unseen = processed - seen_here
    uncertain = counts["replaced"] + counts["without subscriber"] + pending + lost
    rejected = {key.removeprefix("rejected: "): value for key, value in counts.items() if key.startswith("rejected: ")}
    malformed = Counter(MALFORMED[image.malformed] for image in possible if image.malformed)
    min_malformed = sum(bool(image.malformed) for image in certain)
    min_valid, max_valid = len(certain) - min_malformed, len(possible) - malformed.total()
    excess = {key: f"{value} of {malformed[key]}" for key, value in rejected.items() if value > malformed[key]}
    internal = {key: rejected[key] for key in INTERNAL_REASONS if rejected.get(key)}
    # In an interrupted run, outputs may have arrived after the last counts.
    late = 0 if configuration.is_final else 2 * MAX_IN_FLIGHT
    checks = [
        Check(
            f"{name}: counts add up",
            (pending == 0 if configuration.is_final else 0 <= pending <= MAX_IN_FLIGHT)
            and configuration.min_in_flight >= 0
            and configuration.max_in_flight <= MAX_IN_FLIGHT,
            f"received {received} = "
            + " + ".join(f"{counts[count]} {count}" for count in COUNTS)
            + f" + {pending} in flight (maximum before: {configuration.max_in_flight})",
        ),
        Check(
            f"{name}: received matches published",
            lost <= slack and received <= len(possible),
            f"received {received}, published {len(certain)} to {len(possible)}; lost by the middleware: "
            f"{lost} to {len(possible) - received}",
        ),
        Check(
            f"{name}: processed matches outputs",
            -late <= unseen <= UNSEEN_PER_CONFIGURATION + LOSS_ALLOWED * processed,
            f"processed {processed}, of which subscribers received outputs: {seen_here}",
        ),
        Check(
            f"{name}: rejected matches malformed",
            not excess and not internal and min_malformed <= counts["rejected"] + uncertain,
            f"published {min_malformed} to {malformed.total()} malformed, rejected {counts['rejected']}, the rest replaced"
            + (f"; more rejected than published: {excess}" if excess else "")
            + (f"; internal errors: {internal}" if internal else ""),
        ),
        Check(
            f"{name}: processed matches valid",
            min_valid <= processed + uncertain and processed <= max_valid,
            f"published {min_valid} to {max_valid} valid, processed {processed}, "
            f"replaced {counts['replaced']}, without subscriber {counts['without subscriber']}",
        ),
    ]
    figures = {count: counts[count] for count in ("received", *COUNTS)}
    return checks, {
        **figures,
        "published, lower bound": len(certain),
        "published, upper bound": len(possible),
        "lost, lower bound": lost,
        "seen": seen_here,
    }


def check_events(events: list[dict[str, Any]]) -> list[Check]:
    """Check that the node accepted or refused each request as expected."""
    requests = Counter(event["event"] for event in events if "expected" in event)
    wrong = [
        f"{event['event']} {event.get('name', event.get('what'))}={event.get('value', '')}: {event.get('reason', '')}"
        for event in events
        if "expected" in event and event["expected"] != event["done"]
    ]
    kinds = ", ".join(f"{count} x {name}" for name, count in sorted(requests.items())) or "none"
    return [Check("requests", not wrong, f"{kinds}; unexpected answers: {_summarize(wrong)}")]


def _summarize(found: Sequence[Any]) -> str:
    return f"{len(found)} ({', '.join(map(str, found[:5]))}{', …' if len(found) > 5 else ''})" if found else "none"
