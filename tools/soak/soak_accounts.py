"""Whether each picture of a soak is accounted for: what the camera sent, the node counted, and the subscribers got.

The node counts from one configuration to the next. What was sent while it was connected for certain bounds from below what it
received, what was sent while it may have been bounds it from above: between the two lie the pictures around an activation, a
deactivation and a camera's restart, of which nobody outside can tell.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from soak_camera import BROKEN

SECOND = 1_000_000_000
SETTLING_NS = SECOND
"""After the first output by a camera's picture: within it, the subscription takes on the camera's reliability."""
PARTING_NS = SECOND
"""Before a deactivation or a camera's end: a picture on its way then may be lost, and a busy machine is slow to take it."""
UNSEEN_PER_CONFIGURATION = 15
"""Processed pictures that the steady subscriber, which finds the new publishers first, may miss."""
LOSS_ALLOWED = 0.001
"""Share of pictures or outputs that the middleware may lose, though both sides are reliable."""
IN_WORK = 2
"""Received pictures that are in no other count yet: one is computed, one waits."""
GRAVE = ("device", "internal")
"""Reasons of rejection that no picture gives cause for."""
PARTS = ("processed", "replaced", "rejected", "without subscriber")


@dataclass(frozen=True)
class Check:
    """Something that was asked for."""

    name: str
    holds: bool
    text: str


@dataclass(frozen=True)
class Picture:
    """What the journal says of one. Times in ns; `run` counts the camera's starts."""

    number: int
    sent_ns: int
    stamp_ns: int
    broken: str
    run: int


@dataclass(frozen=True)
class Output:
    """What a subscriber got: of which picture, and how large."""

    subscriber: int
    topic: str
    number: int
    stamp_ns: int
    size: tuple[int, int]


@dataclass
class Window:
    """The node was active: for certain from `activated` to `leaving`, at most from `activating` to `left` (ns)."""

    activating: int
    activated: int
    leaving: int
    left: int


@dataclass
class Configuration:
    """From one configuration of the node to the next."""

    windows: list[Window] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    is_final: bool = False
    most_in_work: int = 0
    least_in_work: int = 0


def configurations(events: list[dict[str, Any]], started_ns: int) -> list[Configuration]:
    """The node's configurations by what the checker wrote down; active from the start, and to the end where none is told."""
    endless = max((event["t_ns"] for event in events if event["event"] == "diagnostics"), default=started_ns)
    found = [Configuration([Window(started_ns, started_ns, endless, endless)])]
    for event in events:
        current = found[-1]
        if event["event"] == "transition" and event["done"]:
            begun, done = event["begun_ns"], event["t_ns"]
            if event["name"] == "configure":
                found.append(Configuration())
            elif event["name"] == "activate":
                current.windows.append(Window(begun, done, endless, endless))
            elif event["name"] == "deactivate":
                current.windows[-1].leaving, current.windows[-1].left = begun, done
        elif event["event"] == "final":
            current.counts, current.is_final = event["counts"], True
        # Between a configuration's last count and the next, the old one's counts are still told.
        elif event["event"] == "diagnostics" and not current.is_final and event["state"] in ("active", "inactive"):
            current.counts = event["counts"]
            pending = in_work(event["counts"])
            current.most_in_work = max(current.most_in_work, pending)
            current.least_in_work = min(current.least_in_work, pending)
    return found


def in_work(counts: dict[str, int]) -> int:
    """Received, but in no other count."""
    return counts["received"] - sum(counts[part] for part in PARTS)


def sent_bounds(pictures: list[Picture], windows: list[Window], seen: set[int]) -> tuple[list[Picture], list[Picture]]:
    """The pictures that reached the node for certain, unless lost, and those that may have."""
    certain, possible = [], []
    ends = {picture.run: picture.sent_ns for picture in pictures}
    last_run = max(ends, default=0)
    for window in windows:
        inside = [picture for picture in pictures if window.activating <= picture.sent_ns <= window.left]
        possible += inside
        connected: dict[int, int] = {}
        for picture in inside:
            if picture.number in seen:
                connected.setdefault(picture.run, picture.sent_ns + SETTLING_NS)
        for picture in inside:
            end = window.leaving if picture.run == last_run else min(window.leaving, ends[picture.run])
            if connected.get(picture.run, picture.sent_ns + 1) <= picture.sent_ns <= end - PARTING_NS:
                certain.append(picture)
    return certain, possible


def check_outputs(pictures: list[Picture], outputs: list[Output]) -> list[Check]:
    """Order, headers and sizes of what came out."""
    by_number = {picture.number: picture for picture in pictures}
    last: dict[int, int] = {}
    disordered, foreign, broken = [], [], []
    sizes: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for output in outputs:
        if output.number <= last.get(output.subscriber, -1):
            disordered.append(output.number)
        last[output.subscriber] = output.number
        picture = by_number.get(output.number)
        if picture is None or picture.stamp_ns != output.stamp_ns:
            foreign.append(output.number)
        elif picture.broken:
            broken.append(output.number)
        sizes[output.number].add(output.size)
    unequal = [number for number, found in sizes.items() if len(found) > 1]
    return [
        Check("order", not disordered, f"{len(outputs)} outputs, out of order or twice: {_some(disordered)}"),
        Check("headers", not foreign, f"outputs whose header is not that of a picture sent: {_some(foreign)}"),
        Check("nothing of broken pictures", not broken, f"outputs of broken pictures: {_some(broken)}"),
        Check("sizes", not unequal, f"pictures whose outputs differ in size: {_some(unequal)}"),
    ]


def check_configuration(
    name: str, configuration: Configuration, pictures: list[Picture], seen: set[int]
) -> tuple[list[Check], dict[str, int]]:
    """The node's counts against what was sent and seen; the figures are for the report."""
    counts = configuration.counts
    if not counts:
        return [Check(f"{name}: counts", False, "the node told none")], {}
    certain, possible = sent_bounds(pictures, configuration.windows, seen)
    mine = seen & {picture.number for picture in possible}
    received, processed = counts["received"], counts["processed"]
    pending, slack = in_work(counts), LOSS_ALLOWED * len(certain)
    lost = max(len(certain) - received, 0)
    unseen = processed - len(mine)
    other = counts["replaced"] + counts["without subscriber"] + pending + lost
    rejected = {key.removeprefix("rejected: "): value for key, value in counts.items() if key.startswith("rejected: ")}
    sent_broken = Counter(BROKEN[picture.broken] for picture in possible if picture.broken)
    broken_for_certain = sum(bool(picture.broken) for picture in certain)
    whole_for_certain = len(certain) - broken_for_certain
    too_many = {key: f"{value} of {sent_broken[key]}" for key, value in rejected.items() if value > sent_broken[key]}
    grave = {key: rejected[key] for key in GRAVE if rejected.get(key)}
    # In a run that was cut off, pictures may have come out after the last count.
    late = 0 if configuration.is_final else 2 * IN_WORK
    checks = [
        Check(
            f"{name}: counts add up",
            (pending == 0 if configuration.is_final else 0 <= pending <= IN_WORK)
            and configuration.least_in_work >= 0
            and configuration.most_in_work <= IN_WORK,
            f"received {received} = "
            + " + ".join(f"{counts[part]} {part}" for part in PARTS)
            + f" + {pending} in work (at most {configuration.most_in_work} meanwhile)",
        ),
        Check(
            f"{name}: received what was sent",
            lost <= slack and received <= len(possible),
            f"received {received}, sent {len(certain)} to {len(possible)}; lost by the middleware: "
            f"at least {lost}, at most {len(possible) - received}",
        ),
        Check(
            f"{name}: processed came out",
            -late <= unseen <= UNSEEN_PER_CONFIGURATION + LOSS_ALLOWED * processed,
            f"processed {processed}, seen by subscribers {len(mine)}",
        ),
        Check(
            f"{name}: rejected what was broken",
            not too_many and not grave and broken_for_certain <= counts["rejected"] + other,
            f"sent broken {broken_for_certain} to {sent_broken.total()}, rejected {counts['rejected']}, the rest replaced"
            + (f"; more rejected than sent broken: {too_many}" if too_many else "")
            + (f"; for grave reasons: {grave}" if grave else ""),
        ),
        Check(
            f"{name}: processed what was whole",
            whole_for_certain <= processed + other and processed <= len(possible) - sent_broken.total(),
            f"sent whole {whole_for_certain} to {len(possible) - sent_broken.total()}, processed {processed}, "
            f"replaced {counts['replaced']}, without subscriber {counts['without subscriber']}",
        ),
    ]
    figures = {part: counts[part] for part in ("received", *PARTS)}
    return checks, {
        **figures,
        "sent at least": len(certain),
        "sent at most": len(possible),
        "lost at least": lost,
        "seen": len(mine),
    }


def check_events(events: list[dict[str, Any]]) -> list[Check]:
    """Each request was answered as it ought to be."""
    asked = Counter(event["event"] for event in events if "expected" in event)
    wrong = [
        f"{event['event']} {event.get('name', event.get('what'))}={event.get('value', '')}: {event.get('reason', '')}"
        for event in events
        if "expected" in event and event["expected"] != event["done"]
    ]
    told = ", ".join(f"{count} x {name}" for name, count in sorted(asked.items())) or "none"
    return [Check("requests", not wrong, f"{told}; answered wrongly: {_some(wrong)}")]


def _some(found: list[Any]) -> str:
    return f"{len(found)} ({', '.join(map(str, found[:5]))}{', …' if len(found) > 5 else ''})" if found else "none"
