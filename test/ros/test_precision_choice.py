"""The node says which arithmetic it chose, what that loses, and in diagnostics when it is not the requested one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from rclpy.impl.rcutils_logger import RcutilsLogger
from support.node_in_process import node_inside

from mtl_perception.inference.openvino import arithmetic
from mtl_perception.inference.openvino.arithmetic import cpu_arithmetic
from mtl_perception.network.certificate import Certificate, Score
from mtl_perception.network.digest import certificate_digest
from mtl_perception.runtime.diagnostics import Level, evaluate
from mtl_perception.weights.files import load_network, save_weights

pytestmark = pytest.mark.ros


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lines that nodes log."""
    found: list[str] = []
    for severity in ("info", "warning"):
        monkeypatch.setattr(RcutilsLogger, severity, lambda self, text, **_: found.append(text))
    return found


@pytest.mark.skipif(cpu_arithmetic("bf16")[0] != "bf16", reason="needs a processor with bfloat16 instructions")
def test_choice_of_auto_is_logged_with_its_certified_loss(weights_file: Path, tmp_path: Path, lines: list[str]) -> None:
    pytest.importorskip("openvino", reason="needs openvino")
    network = load_network(weights_file)
    scores = {"fp32": Score(24, {"street": 0.620}, 0.1, 4.0, 1.0), "bf16": Score(24, {"street": 0.619}, 0.1004, 4.0, 0.995)}
    certified = {name: Certificate(certificate_digest(network, name), "test", {"own": one}) for name, one in scores.items()}
    save_weights(tmp_path / "w", network.state_dict(), replace(network.description, certified=certified), half=False)
    with node_inside(tmp_path / "w", lambda pipeline: pipeline, device="cpu") as node:
        assert node.session is not None and node.session.pipeline.precision == "bf16"
        assert node.snapshot().network.values["precision"] == "bf16"
    assert "precision bf16, certified on own: mIoU -0.1 points, AbsRel +0.4 % compared with fp32" in lines


def test_precision_without_instructions_is_logged_and_reported(
    weights_file: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    monkeypatch.setattr(arithmetic, "instruction_sets", frozenset)
    with node_inside(weights_file, lambda pipeline: pipeline, device="cpu", precision="bf16") as node:
        [status] = [one for one in evaluate(node.snapshot()) if one.name == "network"]
    note = cpu_arithmetic("bf16")[1]
    assert lines.count(note) == 1
    assert [finding.level for finding in status.findings] == [Level.WARN]
    assert note in status.findings[0].text and status.values()["precision"] == "fp32"
