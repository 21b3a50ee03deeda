"""`eval --precision` and `--certify`: precisions side by side, the certificate in the weights, and what `auto` makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.data import write_dataset
from support.images import noise_image

from mtl_perception import Frame, Pipeline
from mtl_perception.__main__ import main
from mtl_perception.inference.openvino import arithmetic
from mtl_perception.inference.openvino.arithmetic import cpu_arithmetic
from mtl_perception.network import certificate
from mtl_perception.network.digest import certified_losses, network_digest
from mtl_perception.weights.files import load_network, save_weights

pytest.importorskip("torchmetrics", reason="needs torchmetrics")
pytest.importorskip("openvino", reason="needs openvino")
needs_bf16 = pytest.mark.skipif(cpu_arithmetic("bf16")[0] != "bf16", reason="needs a processor with bfloat16 instructions")
FRAME = Frame(noise_image(96, 160))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "own")


@pytest.fixture
def run(data, capsys):
    """Return a function that runs `eval` and returns the exit code and what it printed."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["eval", "--data", str(data), "--cpu-threads", "1", "--worst", "0", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def generous(monkeypatch):
    """Accept any loss: a random network may lose more than the limits."""
    monkeypatch.setattr(certificate, "MIOU_LIMIT", 1.0)
    monkeypatch.setattr(certificate, "ABS_REL_LIMIT", 9.0)


@pytest.fixture(scope="module")
def certified_file(data, weights_file, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("certified") / "certified.safetensors"
    arguments = ["--weights", weights_file, "--precision", "bf16", "fp32", "--certify", path]
    assert main(["eval", "--data", str(data), "--cpu-threads", "1", "--worst", "0", *map(str, arguments)]) == 0
    return path


@pytest.fixture
def certified(certified_file, tmp_path) -> Path:
    """A copy, which a test may change."""
    return Path(shutil.copy(certified_file, tmp_path))


@needs_bf16
def test_precisions_are_evaluated_side_by_side_with_their_agreement(run, weights_file, data, tmp_path):
    code, text, _ = run("--weights", weights_file, "--precision", "bf16", "fp32", "--out", tmp_path / "out")
    assert code == 0
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| own")]
    assert [row[1] for row in rows[:2]] == ["random-fp32", "random-bf16"]
    header = [cell.strip() for cell in text.splitlines()[0].strip("|").split("|")]
    runs = json.loads((tmp_path / "out/metrics.json").read_text())["runs"]
    assert [run["precision"] for run in runs] == ["fp32", "bf16"]
    shares = [run["datasets"][0]["agreement"] for run in runs]
    assert [row[header.index("as fp32 %")] for row in rows[:2]] == ["-", f"{100 * shares[1]:.2f}"]
    exact, rough = (Pipeline(weights_file, "cpu", precision=one, cpu_threads=1, warm_up=False) for one in ("fp32", "bf16"))
    images = sorted((data / "image").iterdir())
    assert shares == [None, pytest.approx(np.mean([exact(path).labels == rough(path).labels for path in images]), abs=1e-9)]


@needs_bf16
def test_auto_computes_as_certified_and_reports_the_loss(certified, weights_file, run, generous):
    network = load_network(certified)
    scores = {name: one.data["own"] for name, one in network.description.certified.items()}
    assert (set(scores), scores["fp32"].agreement, scores["fp32"].frames) == ({"fp32", "bf16"}, 1.0, 3)
    change = min(scores["bf16"].miou[name] - value for name, value in scores["fp32"].miou.items())
    assert certified_losses(network)["bf16"].miou == pytest.approx(change)
    assert network_digest(network) == network_digest(load_network(weights_file)), "the parameters are as before"
    pipe, explicit = (Pipeline(certified, "cpu", precision=one, warm_up=False) for one in ("auto", "bf16"))
    assert (pipe.precision, pipe.notes) == ("bf16", explicit.notes)
    assert str(pipe.certified_loss) == str(certified_losses(network)["bf16"])
    assert str(pipe.certified_loss).startswith("certified on own: mIoU ")
    assert np.array_equal(pipe(FRAME).depth, explicit(FRAME).depth, equal_nan=True)
    pipe.rebuild()
    assert pipe.precision == "bf16"


@needs_bf16
def test_auto_stays_in_fp32_where_the_certificate_does_not_hold(certified, weights_file, tmp_path, generous, monkeypatch):
    def chosen(path: Path, **options: object) -> str:
        pipe = Pipeline(path, "cpu", warm_up=False, **options)
        assert pipe.precision != "fp32" or pipe.certified_loss is None
        return pipe.precision

    assert chosen(weights_file) == "fp32", "not certified"
    assert chosen(certified, precision="fp32") == "fp32", "requested"
    assert chosen(certified, backend="torch") == "fp32", "measured in OpenVINO"
    network = load_network(certified)
    network.get_parameter("segm.bias").data[0] += 1e-3
    save_weights(tmp_path / "trained", network.state_dict(), network.description, half=False)
    assert chosen(tmp_path / "trained") == "fp32", "other parameters"
    monkeypatch.setattr(arithmetic, "is_installed", lambda: False)
    assert chosen(certified) == "fp32", "OpenVINO is missing"
    monkeypatch.undo()
    monkeypatch.setattr(certificate, "MIOU_LIMIT", -1.0)
    assert chosen(certified) == "fp32", "the loss is too large"
    monkeypatch.setattr(certificate, "MIOU_LIMIT", 1.0)
    monkeypatch.setattr(arithmetic, "instruction_sets", frozenset)
    assert chosen(certified) == "fp32", "no bfloat16 instructions"


@needs_bf16
def test_certifying_in_place_replaces_entries_and_drops_those_of_other_frames(certified, run):
    before = load_network(certified).description.certified
    size = certified.stat().st_size
    assert run("--weights", certified, "--precision", "fp32", "--certify", certified, "--limit", 2)[0] == 0
    after = load_network(certified).description.certified
    assert (set(after), after["fp32"].data["own"].frames) == ({"fp32"}, 2), "bf16 was measured on three frames"
    code, _, text = run("--weights", certified, "--precision", "fp32", "bf16", "--certify", certified)
    assert (code, f"{certified}: bf16, " in text) == (0, True)
    assert load_network(certified).description.certified == before
    assert certified.stat().st_size == size


@needs_bf16
def test_info_shows_the_certificates_and_whether_they_are_valid(certified, tmp_path, capsys):
    network = load_network(certified)

    def info(path: Path) -> list[str]:
        assert main(["weights", "info", str(path)]) == 0
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    lines = info(certified)
    score = network.description.certified["bf16"].data["own"]
    assert "fp32 reference" in lines
    assert any(line.startswith("bf16 ") and " on own: mIoU" in line for line in lines)
    assert any(f"3 frames, mIoU street {100 * score.miou['street']:.1f} %" in line for line in lines)
    network.get_parameter("segm.bias").data[0] += 1e-3
    save_weights(tmp_path / "trained", network.state_dict(), network.description, half=False)
    lines = info(tmp_path / "trained")
    assert "fp32 not valid" in lines
    assert any(line.startswith("bf16 not valid: measured with other parameters") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--precision", "bf16"], "fp32 among the values of --precision"),
        (["--precision", "fp32", "bf16", "--input-scale", "0.5"], "with input_scale 1"),
        (["--precision", "fp32", "bf16", "--median-scaling"], "the default options of depth metrics"),
        (["--precision", "fp32", "bf16", "--device", "cuda"], "measure on device cpu"),
        (["--precision", "fp32", "int8"], "have no quantization table"),
    ],
)
def test_what_would_not_measure_the_node_is_refused(run, weights_file, tmp_path, arguments, problem):
    code, _, text = run("--weights", weights_file, "--certify", tmp_path / "out", *arguments)
    assert (code, problem in text.replace("\n", " ")) == (2, True), text
    assert not (tmp_path / "out").exists()


def test_an_existing_file_is_not_replaced_by_the_certificate_of_another(run, weights_file, tmp_path):
    (tmp_path / "notes").write_text("mine")
    code, _, text = run("--weights", weights_file, "--precision", "fp32", "--certify", tmp_path / "notes")
    assert (code, "exists already and is not the weights file" in text) == (2, True)
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_precision_that_runs_as_fp32_here_cannot_be_certified(run, weights_file, tmp_path, monkeypatch):
    monkeypatch.setattr(arithmetic, "instruction_sets", frozenset)
    code, _, text = run("--weights", weights_file, "--precision", "fp32", "bf16", "--certify", tmp_path / "out")
    assert (code, "bf16 cannot be certified on this machine: precision bf16 runs as fp32" in text) == (2, True)
    assert not (tmp_path / "out").exists()
