"""What rclpy's lifecycle nodes lack."""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode


def refuse_impossible_transitions(node: LifecycleNode) -> None:
    """Let the node answer a request for a transition that its state does not have: no success, and it lives on.

    rclpy raises out of the executor instead, which ends the process: a lifecycle manager that configures a node which has
    configured itself would kill it.
    """
    service: Any = node._service_change_state
    change_state = service.callback

    def answer(request: Any, response: Any) -> Any:
        try:
            return change_state(request, response)
        except Exception as error:  # the kind is one of rclpy's private module
            node.get_logger().warning(f"transition {request.transition.label or request.transition.id} refused: {error}")
            response.success = False
            return response

    service.callback = answer
