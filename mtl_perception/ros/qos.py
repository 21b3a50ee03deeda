"""Quality of service: what the publishers of a topic offer, and what to ask for."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo

from mtl_perception.config import Config


def keep_last(depth: int, reliable: bool, latched: bool = False) -> QoSProfile:
    """A profile that keeps the last `depth` messages; `latched`: for late subscribers, too (transient local)."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def output_profile(config: Config) -> QoSProfile:
    """For what the node publishes."""
    return keep_last(config.output_queue_size, config.output_reliability == "reliable")


def matching_profile(
    publishers: list[TopicEndpointInfo], depth: int, reliability: str, may_latch: bool = False
) -> QoSProfile | None:
    """The best profile that every one of a topic's publishers can serve.

    A best-effort reader of a reliable camera loses pictures of megabytes on Fast DDS, and a reliable reader of a
    best-effort camera gets none: so reliable when all publishers are.

    Args:
        publishers: As the graph knows them.
        depth: History depth.
        reliability: auto, reliable or best_effort.
        may_latch: Ask for transient local durability when all publishers offer it.

    Returns:
        None when there is no publisher to look at and reliability is auto.
    """
    offers = [info.qos_profile for info in publishers]
    latched = may_latch and bool(offers) and all(o.durability == DurabilityPolicy.TRANSIENT_LOCAL for o in offers)
    if reliability != "auto":
        return keep_last(depth, reliability == "reliable", latched)
    if not offers:
        return None
    return keep_last(depth, all(o.reliability == ReliabilityPolicy.RELIABLE for o in offers), latched)


def same_contract(a: QoSProfile, b: QoSProfile) -> bool:
    """Whether two profiles ask for the same reliability and durability."""
    return bool(a.reliability == b.reliability and a.durability == b.durability)
