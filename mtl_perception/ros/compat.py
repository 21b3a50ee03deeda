"""All uses of private members of rclpy and its messages."""

from __future__ import annotations

import array
from functools import cache
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from sensor_msgs.msg import Image


def answer_invalid_transitions(node: LifecycleNode) -> None:
    """Let the node refuse requests for transitions that are invalid in its state.

    rclpy raises the error out of the executor instead, which ends the process: a lifecycle manager that configures a node
    which has already configured itself would kill it.
    """
    service: Any = node._service_change_state
    change_state = service.callback

    def answer(request: Any, response: Any) -> Any:
        try:
            return change_state(request, response)
        except Exception as error:  # Its class is private to rclpy.
            transition = request.transition.label or request.transition.id
            node.get_logger().warning(f"transition {transition} refused: {error}")
            response.success = False
            return response

    service.callback = answer


def destroy_state_machine(node: LifecycleNode) -> None:
    """Destroy what `destroy_node` of rclpy leaves of a lifecycle node.

    Its state machine keeps the DDS participant and its threads until the garbage collector runs.
    """
    node._state_machine.destroy_when_not_in_use()


def parameter_override_names(node: Node) -> list[str]:
    """Return the sorted names of all parameters given to the node at startup, by arguments, files and code."""
    return sorted(getattr(node, "_parameter_overrides", {}))


def fill_data(message: Any, data: np.ndarray) -> None:
    """Set the uint8[] field `data` of a message.

    The public setter checks an array byte by byte (hundreds of milliseconds for an image) unless it is an array.array, which
    costs a copy. Setting the private attribute costs nothing; that is done only if rclpy serializes the same message.

    Args:
        message: A message with a field `data`.
        data: One-dimensional uint8 array; not copied if possible, so publish the message before it changes.
    """
    if can_fill_privately():
        message._data = data
    else:
        copy = array.array("B")
        copy.frombytes(data.tobytes())
        message.data = copy


@cache
def can_fill_privately() -> bool:
    """Return whether rclpy serializes an array in the private attribute of `data` correctly."""
    from rclpy.serialization import deserialize_message, serialize_message

    expected = bytes(range(256))
    message = Image()
    try:
        message._data = np.frombuffer(expected, np.uint8)
        read = deserialize_message(serialize_message(message), Image)
    except Exception:
        return False
    return bytes(read.data) == expected
