"""A node in a process of its own, and a client of it, as fixtures of a test file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.node_process import node_process
from support.ros_client import Client


def node_and_client(*settings: str) -> tuple[Any, Any]:
    """Fixtures for the length of a file, to be named `node` and `client`.

    Args:
        settings: ROS arguments besides the weights and quick diagnostics.
    """

    @pytest.fixture(scope="module")
    def node(tmp_path_factory: pytest.TempPathFactory, weights_file: Path) -> Any:
        log = tmp_path_factory.mktemp("node") / "node.log"
        with node_process(log, "-p", f"weights:={weights_file}", "-p", "diagnostics_period:=0.1", *settings) as process:
            yield process

    @pytest.fixture(scope="module")
    def client(node: Any) -> Any:
        client = Client()
        yield client
        client.close()

    return node, client
