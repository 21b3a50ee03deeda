"""The parameter table as ROS parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from mtl_perception import config
from mtl_perception.errors import ConfigError


def declare(node: Node) -> config.Config:
    """Declare every row of the table with its descriptor; what the user gave at start takes effect.

    Returns:
        The values, checked.

    Raises:
        ConfigError: A value of a wrong type or out of bounds.
    """
    for row in config.parameters():
        try:
            node.declare_parameter(row.name, ros_default(row), descriptor(row))
        except Exception as error:  # rclpy raises one kind for the type, another for the bounds
            raise ConfigError(f"parameter {row.name}: {error}") from error
    for name in unknown_overrides(node):
        try:
            config.by_name(name)
        except ConfigError as error:
            node.get_logger().warning(f"{error} is ignored")
    return read(node)


def read(node: Node) -> config.Config:
    """The present values.

    Raises:
        ConfigError: One does not fit.
    """
    return config.Config.from_mapping({row.name: node.get_parameter(row.name).value for row in config.parameters()})


def ros_default(row: config.Parameter) -> Any:
    """The default as a ROS parameter: a list of names is never empty, as an empty one has no type."""
    return (list(row.default) or [""]) if row.type is tuple else row.default


def descriptor(row: config.Parameter) -> ParameterDescriptor:
    """What `ros2 param describe` tells of a parameter."""
    unit = f" [{row.unit}]" if row.unit else ""
    result = ParameterDescriptor(
        name=row.name,
        description=f"{row.doc}{unit}. Can change {row.when}.",
        additional_constraints=f"One of: {', '.join(row.choices)}" if row.choices else "",
        read_only=row.when == config.START,
        # A whole number is welcome where a float is due (`max_depth:=50`); `Config` checks the type instead.
        dynamic_typing=row.type is float,
    )
    if row.low is not None and row.high is not None:
        if row.type is float:
            result.floating_point_range = [FloatingPointRange(from_value=row.low, to_value=row.high, step=0.0)]
        else:
            result.integer_range = [IntegerRange(from_value=int(row.low), to_value=int(row.high), step=1)]
    return result


def unknown_overrides(node: Node) -> list[str]:
    """Names that the user gave at start and nothing declared: typing errors, most likely."""
    known = {"use_sim_time", "start_type_description_service"}
    overrides = getattr(node, "_parameter_overrides", {})
    return [name for name in overrides if not node.has_parameter(name) and name not in known and "." not in name]


class ChangeGuard:
    """Decides on every change: applied, or refused with the reason.

    Args:
        node: Its parameters are guarded.
        is_unconfigured: Tells whether parameters that need a new configuration may change now.
        apply: Takes the changes that have an effect at once; may raise ConfigError.
    """

    def __init__(self, node: Node, is_unconfigured: Callable[[], bool], apply: Callable[[dict[str, Any]], None]) -> None:
        self._node = node
        self._is_unconfigured = is_unconfigured
        self._apply = apply
        node.add_on_set_parameters_callback(self._decide)

    def _decide(self, changes: Iterable[RosParameter]) -> SetParametersResult:
        ours = {row.name: row for row in config.parameters()}
        values = {change.name: change.value for change in changes if change.name in ours}
        try:
            present = {name: self._node.get_parameter(name).value for name in ours}
            wanted = config.Config.from_mapping({**present, **values})
            live = {}
            for name in values:
                row, value = ours[name], getattr(wanted, name)
                if row.when == config.CONFIGURE and not self._is_unconfigured():
                    if value != row.convert(present[name]):
                        raise ConfigError(
                            f"parameter {name} can change only while the node is unconfigured: deactivate and clean it up first"
                        )
                elif row.when == config.LIVE:
                    live[name] = value
            if live:
                self._apply(live)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)
