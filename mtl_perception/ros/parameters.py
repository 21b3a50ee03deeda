"""The parameter table as ROS parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterUninitializedException
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from mtl_perception import config
from mtl_perception.errors import ConfigError, one_line, truncated_repr
from mtl_perception.ros.overrides import SLIP, Meant, Override, overrides

ALLOWED = ("use_sim_time", "start_type_description_service")
"""What rclpy declares, and in some distributions reads without declaring it."""
ALLOWED_PREFIX = "qos_overrides."
WAY_OUT = "what is another node's: give it under that node's name, or keep this one out of the scope of SetParameter"


def declare(node: Node, arguments: Sequence[str] = (), given: Iterable[RosParameter] | None = None) -> config.Config:
    """Declare every row of the table with its descriptor; what the user gave at start takes effect.

    Args:
        node: Where to.
        arguments: Those of the command line that are this node's, as rclpy took them.
        given: What Python code gave the node.

    Returns:
        The values, checked.

    Raises:
        ConfigError: A name that is none of ours was given to this node, or a value of a wrong type or out of bounds.
    """
    by_arguments = list(overrides(arguments, node.get_fully_qualified_name(), node.get_logger().warning))
    by_code = [Override(parameter.name, "parameter_overrides", Meant.THIS) for parameter in given or ()]
    for row in config.parameters():
        try:
            node.declare_parameter(row.name, ros_default(row), descriptor(row))
        except Exception as error:  # rclpy raises one kind for the type, another for the bounds
            raise ConfigError(f"parameter {row.name}: {one_line(error)}") from error
    refuse_unknown(node, [*by_arguments, *by_code])
    return read(node)


def read(node: Node) -> config.Config:
    """The present values.

    Raises:
        ConfigError: One does not fit.
    """
    return config.Config.from_mapping({row.name: _value(node, row.name) for row in config.parameters()})


def _value(node: Node, name: str) -> Any:
    """The parameter's; None where a file gave it an empty list, which has no type in ROS."""
    try:
        return node.get_parameter(name).value
    except ParameterUninitializedException:
        return None


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


def refuse_unknown(node: Node, given: Sequence[Override]) -> None:
    """Names that nothing declared are typing errors, most likely.

    What was given without a node's name may be for another one: it is refused or warned of by how like one of ours it is.

    Raises:
        ConfigError: Some were given to this node; the message says which, where, and what may have been meant.
    """
    named = {override.name for override in given}
    merged = [Override(name, "", Meant.ALL) for name in sorted(getattr(node, "_parameter_overrides", {})) if name not in named]
    unknown = [override for override in [*given, *merged] if not _is_known(node, override.name)]
    if refused := [override for override in unknown if _is_refused(override)]:
        way_out = "" if all(override.meant is Meant.THIS for override in refused) else f" ({WAY_OUT})"
        raise ConfigError("; ".join(_unknown(override) for override in refused) + way_out)
    for override in unknown:
        if override.meant is Meant.LIKELY or config.nearest(override.name):
            node.get_logger().warning(_unknown(override, " is ignored"))


def _is_refused(override: Override) -> bool:
    if override.name in config.RENAMED:
        return True
    if override.meant is Meant.LIKELY:
        return bool(config.nearest(override.name, SLIP))
    return override.meant is Meant.THIS


def _is_known(node: Node, name: str) -> bool:
    return node.has_parameter(name) or name in ALLOWED or name.startswith(ALLOWED_PREFIX)


def _unknown(override: Override, fate: str = "") -> str:
    where = f"{override.place}: " if override.place else ""
    if override.name in config.RENAMED:
        return where + config.describe_unknown(override.name)
    near = config.nearest(override.name)
    hint = f"did you mean {near!r}?" if near else "`mtl_perception parameters` lists all"
    return f"{where}unknown parameter {truncated_repr(override.name)}{fate}; {hint}"


def refuse_undeclared(node: Node, changes: Iterable[RosParameter]) -> SetParametersResult | None:
    """Refuse to set unknown parameters; rclpy's own answer does not name them.

    Returns:
        The result to return; None if all parameters are declared.
    """
    unknown = [change.name for change in changes if not node.has_parameter(change.name)]
    if not unknown:
        return None
    return SetParametersResult(successful=False, reason="; ".join(config.describe_unknown(name) for name in unknown))


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
            present = {name: _value(self._node, name) for name in ours}
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
