"""ROS parameters of the node, declared from the parameter table."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, ParameterUninitializedException
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from mtl_perception import config
from mtl_perception.errors import ConfigError, PerceptionError, one_line, truncated_repr
from mtl_perception.ros.compat import parameter_override_names
from mtl_perception.ros.environment import without_source
from mtl_perception.ros.overrides import Override, find_overrides

RCLPY_NAMES = ("use_sim_time", "start_type_description_service")
"""Parameters that rclpy declares, or in some distributions reads without declaring them."""
QOS_PREFIX = "qos_overrides."
QOS_PARAMETERS = "image_reliability, image_queue_size, camera_info_reliability, output_reliability and output_queue_size"
CLIENT_TOPICS = ("/clock", "/parameter_events", "/rosout")
"""Topics of the client library, whose QoS a file for nodes of all kinds may set."""
TOPICS = ("image", "camera_info")
"""Topics that are easily taken for parameters."""
KINDS = {
    "BOOL": ("a boolean", "; write true or false, without quotes"),
    "INTEGER": ("an integer", "; write digits only, without quotes"),
    "DOUBLE": ("a float", ""),
    "STRING": ("a string", "; write it in quotes, and in a shell add an outer pair: -p NAME:='\"5\"'"),
    "BOOL_ARRAY": ("a list of booleans", ""),
    "INTEGER_ARRAY": ("a list of integers", ""),
    "DOUBLE_ARRAY": ("a list of floats", ""),
    "STRING_ARRAY": ("a list of strings", "; write a list, as in -p NAME:='[a, b]'"),
}
"""Names of the types of ROS parameters in messages, and how to write a value."""


def declare(node: Node, arguments: Sequence[str] = (), given: Iterable[RosParameter] | None = None) -> config.Config:
    """Declare all parameters, with the values given at startup.

    Args:
        node: Node to declare them on.
        arguments: Command line as given to rclpy.
        given: Parameter overrides given by Python code.

    Returns:
        The validated values.

    Raises:
        ConfigError: This node was given an unknown parameter or an invalid value.
    """
    overrides = list(find_overrides(arguments, node.get_fully_qualified_name(), node.get_logger().warning))
    overrides += [Override(parameter.name, "parameter_overrides", True) for parameter in given or ()]
    for row in config.parameters():
        place = next((f"{override.place}: " for override in reversed(overrides) if override.name == row.name), "")
        try:
            with type_errors(place):
                node.declare_parameter(row.name, ros_default(row), descriptor(row))
        except ConfigError:
            raise
        except Exception as error:  # rclpy raises different exceptions for the range.
            raise ConfigError(f"{place}parameter {row.name}: {one_line(error)}") from error
    check_names(node, overrides)
    return read(node)


@contextmanager
def creation_errors() -> Iterator[None]:
    """Convert rclpy's errors while a node is created to errors of this package with the reason on one line."""
    try:
        # rclpy also warns that it cannot finalize what it did not create.
        with type_errors(), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    except PerceptionError:
        raise
    except Exception as error:  # Most classes are private to rclpy.
        reason = without_source(error).removeprefix("error creating node: ")
        raise PerceptionError(f"ROS cannot create the node: {reason}") from error


@contextmanager
def type_errors(place: str = "") -> Iterator[None]:
    """Convert rclpy's error for a parameter of the wrong type to a ConfigError that states how to write the value.

    Args:
        place: Where the parameter is given, with a colon and a space; empty if that is unknown.
    """
    try:
        yield
    except InvalidParameterTypeException as error:
        pattern = r"Trying to set parameter '(.*)' to '(.*)' of type '(.*)', expecting type '(?:Type\.)?(\w*)'"
        if (found := re.match(pattern, str(error), re.DOTALL)) is None:
            raise ConfigError(f"{place}{one_line(error)}") from error
        name, value, given, wanted = found.groups()
        actual, (expected, hint) = KINDS.get(given, (given, ""))[0], KINDS.get(wanted, (wanted, ""))
        raise ConfigError(f"{place}parameter {name}: {truncated_repr(value)} is {actual}, not {expected}{hint}") from error


def read(node: Node) -> config.Config:
    """Return the current values.

    Raises:
        ConfigError: A value is invalid.
    """
    return config.Config.from_mapping({row.name: _value(node, row.name) for row in config.parameters()})


def _value(node: Node, name: str) -> Any:
    """Return a value; None for an empty list in a file, which has no type in ROS."""
    try:
        return node.get_parameter(name).value
    except ParameterUninitializedException:
        return None


def ros_default(row: config.Parameter) -> Any:
    """Return the default for ROS, in which an empty list has no type: a list with one empty name."""
    return (list(row.default) or [""]) if row.type is tuple else row.default


def descriptor(row: config.Parameter) -> ParameterDescriptor:
    """Return the descriptor, as shown by `ros2 param describe`."""
    unit = f" [{row.unit}]" if row.unit else ""
    result = ParameterDescriptor(
        name=row.name,
        description=f"{row.doc}{unit}. Can change {row.when}.",
        additional_constraints=f"One of: {', '.join(row.choices)}" if row.choices else "",
        read_only=row.when == config.START,
        # Accept integers for floats (`max_depth:=50`); Config checks the type instead.
        dynamic_typing=row.type is float,
    )
    if row.low is not None and row.high is not None:
        if row.type is float:
            result.floating_point_range = [FloatingPointRange(from_value=row.low, to_value=row.high, step=0.0)]
        else:
            result.integer_range = [IntegerRange(from_value=int(row.low), to_value=int(row.high), step=1)]
    return result


def check_names(node: Node, overrides: Sequence[Override]) -> None:
    """Check for unknown parameter names, which are probably misspelled.

    A name given to all nodes may belong to another node, so it is only reported if it resembles one of this node.

    Args:
        node: Node with all parameters declared.
        overrides: Parameters given at startup.

    Raises:
        ConfigError: An unknown name was given under the name of this node, or a former name of a parameter was given.
    """
    found = {override.name for override in overrides}
    # From files that could not be parsed.
    overrides = [*overrides, *(Override(name, "", False) for name in parameter_override_names(node) if name not in found)]
    unknown = [override for override in overrides if not _is_known(node, override.name)]
    if refused := [override for override in unknown if override.names_node or override.name in config.RENAMED]:
        raise ConfigError("; ".join(_describe(override) for override in refused))
    for override in overrides:
        topic = override.name.removeprefix(QOS_PREFIX)
        if topic != override.name and override.names_node and not topic.startswith(CLIENT_TOPICS):
            node.get_logger().warning(f"{override.place}: {override.name} has no effect; use {QOS_PARAMETERS}")
    for override in unknown:
        if config.suggest(override.name) or override.name in TOPICS:
            node.get_logger().warning(_describe(override, " is ignored"))


def _is_known(node: Node, name: str) -> bool:
    return node.has_parameter(name) or name in RCLPY_NAMES or name.startswith(QOS_PREFIX)


def _describe(override: Override, consequence: str = "") -> str:
    place = f"{override.place}: " if override.place else ""
    if override.name in config.RENAMED:
        return place + config.describe_unknown(override.name)
    if override.name in TOPICS:
        hint = f"; {override.name} is a topic: remap it with -r {override.name}:=TOPIC"
    else:
        hint = config.suggest(override.name) or "; see `mtl_perception parameters`"
    return f"{place}unknown parameter {truncated_repr(override.name)}{consequence}{hint}"


def refuse_undeclared(node: Node, changes: Iterable[RosParameter]) -> SetParametersResult | None:
    """Refuse to set unknown parameters; rclpy's own answer does not name them.

    Returns:
        The result to return; None if all parameters are declared.
    """
    unknown = [change.name for change in changes if not node.has_parameter(change.name)]
    if not unknown:
        return None
    return SetParametersResult(successful=False, reason="; ".join(config.describe_unknown(name) for name in unknown))


def validate_changes(node: Node, changes: Iterable[RosParameter], is_unconfigured: bool) -> dict[str, Any]:
    """Validate changes of parameters, together with the values of all others.

    Args:
        node: Node with the parameters.
        changes: New values; those of parameters that are not in the table are ignored.
        is_unconfigured: Whether parameters that need a new configuration may change.

    Returns:
        The new values that take effect immediately, by name.

    Raises:
        ConfigError: A value is invalid, or cannot change now.
    """
    rows = {row.name: row for row in config.parameters()}
    values = {change.name: change.value for change in changes if change.name in rows}
    current = {name: _value(node, name) for name in rows}
    new = config.Config.from_mapping({**current, **values})
    for name in values:
        row = rows[name]
        if row.when == config.CONFIGURE and not is_unconfigured and getattr(new, name) != row.convert(current[name]):
            raise ConfigError(f"parameter {name} can change only while the node is unconfigured; deactivate and clean up first")
    return {name: getattr(new, name) for name in values if rows[name].when == config.LIVE}
