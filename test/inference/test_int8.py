"""int8 on a CPU: the command `quantize`, agreement with float32, the disk cache, and the fallback."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("openvino", reason="needs openvino")
from support.training import road_sample, write_road_dataset

from mtl_perception import Frame, Pipeline, load_network
from mtl_perception.__main__ import main
from mtl_perception.errors import WeightsError
from mtl_perception.inference.openvino import engine as openvino_engine
from mtl_perception.inference.openvino import graph as openvino_graph
from mtl_perception.inference.openvino.arithmetic import cpu_arithmetic
from mtl_perception.inference.openvino.cache import ModelCache
from mtl_perception.inference.openvino.convolutions import Int8Convolutions
from mtl_perception.inference.openvino.engine import STORED_AT, OpenVinoEngine
from mtl_perception.inference.openvino.graph import openvino_model
from mtl_perception.inference.torch.engine import TorchEngine
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.network.quantization import Quantization, quantized_convolutions
from mtl_perception.weights.files import read_weights, save_weights
from mtl_perception.weights.registry import resolve

IMAGE = road_sample(7).frame.image
INT8 = cpu_arithmetic("int8")[0]
needs_vnni = pytest.mark.skipif(INT8 == "fp32", reason="needs a processor with int8 instructions (avx512_vnni or avx_vnni)")


@pytest.fixture(scope="module")
def quantized_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shipped weights, because int8 disturbs those with random values, with a table for the scenes of the tests."""
    folder = tmp_path_factory.mktemp("quantized")
    data, out = write_road_dataset(folder / "scenes", 5), folder / "int8.safetensors"
    assert main(["quantize", "--weights", "street", "--data", str(data), "--out", str(out), "--samples", "4"]) == 0
    return out


@pytest.fixture(scope="module")
def network(quantized_file: Path) -> MultiTaskRefineNet:
    return load_network(quantized_file)


@pytest.fixture(scope="module")
def exact(network: MultiTaskRefineNet) -> tuple[torch.Tensor, ...]:
    """Outputs for IMAGE in float32."""
    return TorchEngine(network).forward(IMAGE)


@pytest.fixture(scope="module")
def int8_engine(network: MultiTaskRefineNet, tmp_path_factory: pytest.TempPathFactory) -> OpenVinoEngine:
    """An engine for tests that do not change it."""
    return OpenVinoEngine(network, "int8-fp32", cache=ModelCache(tmp_path_factory.mktemp("engine") / "compiled"))


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "compiled")


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).square().mean().sqrt() / expected.std())


class TestCommand:
    def test_weights_stay_the_same_and_get_a_table(self, quantized_file):
        network = load_network(quantized_file)
        for name, value in load_network("street").state_dict().items():
            assert torch.equal(network.state_dict()[name], value), name
        table = network.description.quantization
        assert (table["data"], table["images"]) == (["scenes"], 4)
        assert list(Quantization.of(network).ranges) == quantized_convolutions(network)
        assert quantized_file.stat().st_size - resolve("street").stat().st_size < 10_000

    def test_ranges_cover_what_pytorch_computes(self, quantized_file, tmp_path):
        """Of one image, the range of a convolution is that of its input in PyTorch, to two levels."""
        data, out = write_road_dataset(tmp_path / "scene", 1), tmp_path / "one.safetensors"
        assert main(["quantize", "--weights", str(quantized_file), "--data", str(data), "--out", str(out)]) == 0
        network = load_network(out)
        seen: dict[str, tuple[float, float]] = {}
        for name in ("layer4.1.output.0.0", "layer5.0.output.1.0", "crp3.0.2_outvar_dimred", "conv_adapt2", "conv5"):
            network.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, name=name: seen.update({name: (float(inputs[0].min()), float(inputs[0].max()))})
            )
        from mtl_perception.training.data.open import open_datasets

        image = open_datasets(data)[0][0].frame.image
        mean, std = (torch.tensor(values) for values in (network.description.mean, network.description.std))
        network(((torch.from_numpy(image) / 255 - mean) / std).permute(2, 0, 1)[None])
        ranges = Quantization.of(network).ranges
        for name, (low, high) in seen.items():
            level = (ranges[name][1] - ranges[name][0]) / 255
            assert ranges[name][0] == pytest.approx(min(low, 0), abs=2 * level), name
            assert ranges[name][1] == pytest.approx(high, abs=2 * level), name

    def test_wrong_arguments_are_refused(self, weights_file, tmp_path, capsys):
        data = str(write_road_dataset(tmp_path / "scenes", 1))
        command = ["quantize", "--weights", str(weights_file), "--data", data, "--out"]
        assert main([*command, str(tmp_path / "new.safetensors"), "--samples", "0"]) == 2
        assert "--samples 0 is below 1" in capsys.readouterr().err
        assert main([*command, str(weights_file)]) == 1
        assert "already exists; choose another name, or replace it with --force" in capsys.readouterr().err
        state, description = read_weights(weights_file)
        description = replace(description, card={"held_out": ["scenes: another camera"]})
        save_weights(tmp_path / "card.safetensors", state, description, half=False)
        command[2] = str(tmp_path / "card.safetensors")
        assert main([*command, str(tmp_path / "new.safetensors")]) == 2
        assert "cannot be quantized on scenes: its card names it as held out" in capsys.readouterr().err


@pytest.mark.parametrize(("limit", "parts"), [(2**28, 0), (2**18, 2)])
def test_the_chosen_convolutions_have_int8_weights_at_every_size(quantized_file, monkeypatch, limit, parts):
    # The second limit divides blocks into groups of channels, as for large images.
    monkeypatch.setattr(openvino_graph, "GROUP_BYTES", limit)
    network = load_network(quantized_file)
    operators = openvino_model(network, 61, 90, Int8Convolutions(Quantization.of(network))).get_ops()
    constants = [op for op in operators if op.get_type_name() == "Constant" and op.get_element_type().get_type_name() == "i8"]
    modules = [network.get_submodule(name) for name in quantized_convolutions(network)]
    # conv8 is merged with a convolution of 960 inputs.
    expected = sum(module.weight.numel() for module in modules) + 256 * (960 - 320)
    assert sum(np.prod(op.get_output_shape(0)) for op in constants) == expected
    assert len(constants) == len(modules) + parts


@needs_vnni
def test_shipped_weights_in_int8_agree_with_float32_on_a_rendered_scene(cache):
    pytest.importorskip("open3d", reason="needs open3d: pip install 'mtl_perception[synthetic]'")
    from mtl_perception.synthetic.drive import SyntheticDrive

    image = np.ascontiguousarray(SyntheticDrive(1, 621, 188, seed=5).sample(0).frame.image)
    network = load_network("street")
    expected = TorchEngine(network).forward(image)
    for arithmetic in dict.fromkeys(("int8-fp32", INT8)):
        found = OpenVinoEngine(network, arithmetic, cache=cache).forward(image)
        assert float((found[0].argmax(0) == expected[0].argmax(0)).float().mean()) > 0.965, arithmetic
        # Depth is exp(raw).
        assert float((found[1] - expected[1]).abs().median()) < 0.02, arithmetic


@needs_vnni
class TestEngine:
    @pytest.mark.parametrize("arithmetic", ["int8-fp32", INT8])
    def test_outputs_are_near_float32(self, network, exact, int8_engine, cache, arithmetic):
        engine = int8_engine if arithmetic == "int8-fp32" else OpenVinoEngine(network, arithmetic, cache=cache)
        found = engine.forward(IMAGE)
        assert (engine.precision, engine.notes) == (arithmetic, ())
        # bfloat16 alone changes these depths, which are far from those that the weights know, by a fifth.
        for one, other, limit in zip(found, exact, (0.3, 0.6), strict=True):
            assert 1e-3 < relative_error(one, other) < limit

    def test_channel_groups_of_large_images_change_little(self, network, int8_engine, cache, monkeypatch):
        built, build = [], openvino_graph.openvino_model
        monkeypatch.setattr(openvino_graph, "openvino_model", lambda *args: built.append(build(*args)) or built[-1])
        monkeypatch.setattr(openvino_graph, "GROUP_BYTES", 2**17)
        parts = OpenVinoEngine(network, "int8-fp32", cache=cache).forward(IMAGE)
        monkeypatch.undo()
        whole = openvino_model(network, *IMAGE.shape[:2], Int8Convolutions(Quantization.of(network)))
        assert len(built[0].get_ops()) > 2 * len(whole.get_ops()), "there are groups"
        for one, other in zip(parts, int8_engine.forward(IMAGE), strict=True):
            assert relative_error(one, other) < 0.2

    def test_tables_and_arithmetics_are_cached_separately(self, quantized_file, tmp_path):
        network = load_network(quantized_file)
        folder = tmp_path / "compiled"

        def run(arithmetic: str) -> list[torch.Tensor]:
            engine = OpenVinoEngine(network, arithmetic, cache=ModelCache(folder))
            for _ in range(STORED_AT):
                outputs = engine.forward(IMAGE)
            return [output.clone() for output in outputs]

        first, exact = run("int8-fp32"), run("fp32")
        assert len(list(folder.iterdir())) == 2
        assert all(torch.equal(one, other) for one, other in zip(run("int8-fp32"), first, strict=True))
        assert len(list(folder.iterdir())) == 2
        table = network.description.quantization
        wide = {name: [8 * low, 8 * high] for name, (low, high) in table["ranges"].items()}
        network.description = replace(network.description, quantization={**table, "ranges": wide})
        coarse = run("int8-fp32")
        assert len(list(folder.iterdir())) == 3
        assert relative_error(coarse[0], exact[0]) > 1.3 * relative_error(first[0], exact[0])

    def test_pytorch_runs_fp32_where_openvino_fails_and_notes_say_so(self, network, exact, cache, monkeypatch):
        def fail(*args: object) -> None:
            raise RuntimeError("no such primitive")

        monkeypatch.setattr(openvino_graph, "openvino_model", fail)
        engine = OpenVinoEngine(network, INT8, cache=cache)
        assert all(torch.equal(one, other) for one, other in zip(engine.forward(IMAGE), exact, strict=True))
        assert "PyTorch runs the network in fp32, several times slower" in engine.notes[0]

    def test_a_table_of_other_weights_is_refused_only_for_int8(self, quantized_file, tmp_path):
        state, description = read_weights(quantized_file)
        state["segm.bias"] = state["segm.bias"] + 1
        save_weights(tmp_path / "changed.safetensors", state, description, half=False)
        weights = str(tmp_path / "changed.safetensors")
        with pytest.raises(WeightsError, match="cannot be used: the table was made for other weights; make a table with"):
            Pipeline(weights, "cpu", precision="int8", warm_up=False)
        assert Pipeline(weights, "cpu", precision="fp32", warm_up=False)(Frame(IMAGE)).labels.shape == IMAGE.shape[:2]

    def test_the_pipeline_states_the_arithmetic(self, quantized_file):
        pipe = Pipeline(str(quantized_file), "cpu", precision="int8", warm_up=False)
        exact = Pipeline(str(quantized_file), "cpu", precision="fp32", warm_up=False)
        assert (pipe.precision, pipe.notes) == (INT8, ())
        assert np.mean(pipe(Frame(IMAGE)).labels == exact(Frame(IMAGE)).labels) > 0.75


def test_graph_version_belongs_to_the_graph_in_int8(quantized_file):
    """After a change of the graph, increase GRAPH_VERSION, so that cached networks are not reused, and update the digest."""
    network = load_network(quantized_file)
    operators = openvino_model(network, 33, 47, Int8Convolutions(Quantization.of(network))).get_ops()
    lines = sorted(f"{op.get_type_name()} {op.get_output_partial_shape(0)}" for op in operators)
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert (openvino_engine.GRAPH_VERSION, digest) == (5, "388f7845d09fe943")
