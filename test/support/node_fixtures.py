"""Fixtures of a test module: a node in another process, and its client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.node_process import node_process
from support.ros_client import Client


def node_and_client(*settings: str, forked: bool = True) -> tuple[Any, Any]:
    """Return the fixtures `node` and `client` for a test module.

    Args:
        settings: ROS arguments besides the weights and a short diagnostics period.
        forked: See `Process`.
    """

    @pytest.fixture(scope="module")
    def node(tmp_path_factory: pytest.TempPathFactory, weights_file: Path) -> Any:
        log = tmp_path_factory.mktemp("node") / "node.log"
        arguments = ["-p", f"weights:={weights_file}", "-p", "diagnostics_period:=0.1", *settings]
        with node_process(log, *arguments, forked=forked) as process:
            yield process

    @pytest.fixture(scope="module")
    def client(node: Any) -> Any:
        client = Client()
        yield client
        client.close()

    return node, client
