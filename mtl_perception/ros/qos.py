"""Quality of service: profiles, and matching of those that publishers offer."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo


def keep_last(queue_size: int, reliable: bool, latched: bool = False) -> QoSProfile:
    """Return a profile that keeps the last messages.

    Args:
        queue_size: Number of messages.
        reliable: Reliable instead of best effort.
        latched: Transient local durability, which also serves late subscribers.
    """
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=queue_size,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def matching_profile(publishers: list[TopicEndpointInfo], queue_size: int, reliability: str) -> QoSProfile | None:
    """Return the best profile that all publishers of a topic are compatible with.

    On Fast DDS a best-effort subscription loses images of megabytes that a reliable camera publishes, and a reliable
    subscription is incompatible with a best-effort camera. So it is reliable if all publishers are, and transient local if all
    are, to receive what was published before: a still image or a calibration may be published only once.

    Args:
        publishers: Publishers of the topic.
        queue_size: History depth.
        reliability: auto, reliable or best_effort.

    Returns:
        None if there are no publishers and `reliability` is auto.
    """
    offers = [info.qos_profile for info in publishers]
    latched = bool(offers) and all(o.durability == DurabilityPolicy.TRANSIENT_LOCAL for o in offers)
    if reliability != "auto":
        return keep_last(queue_size, reliability == "reliable", latched)
    if not offers:
        return None
    return keep_last(queue_size, all(o.reliability == ReliabilityPolicy.RELIABLE for o in offers), latched)
