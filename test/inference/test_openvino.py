"""The OpenVINO engine: agreement with PyTorch, the disk cache, and the fallback."""

from __future__ import annotations

import copy
import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

openvino = pytest.importorskip("openvino", reason="needs openvino")
from openvino import opset13
from support.images import noise_image

from mtl_perception import Frame, Pipeline, load_network
from mtl_perception.config import Config
from mtl_perception.errors import ConfigError, DeviceError
from mtl_perception.inference.backend import create_backend, create_engine
from mtl_perception.inference.openvino import cache as cache_module
from mtl_perception.inference.openvino import engine as openvino_engine
from mtl_perception.inference.openvino import graph as openvino_graph
from mtl_perception.inference.openvino.cache import ModelCache
from mtl_perception.inference.openvino.engine import KEPT_SIZES, STORED_AT, OpenVinoEngine
from mtl_perception.inference.openvino.runtime import shared_core
from mtl_perception.inference.torch.engine import TorchEngine
from mtl_perception.network.description import published_description
from mtl_perception.network.model import MultiTaskRefineNet

SIZES = [(1, 1), (2, 3), (33, 47), (61, 90), (3, 200), (129, 64)]
IMAGE = noise_image(33, 47)


def random_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def assert_same(found: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == torch.float32
        # A hundredth of the documented tolerance: the arithmetic is float32.
        assert float((one - other).abs().max()) <= 1e-5 * float(other.abs().max())


@pytest.fixture(scope="module")
def network(weights_file: Path) -> MultiTaskRefineNet:
    return load_network(weights_file)


@pytest.fixture(scope="module")
def exact(network: MultiTaskRefineNet) -> TorchEngine:
    return TorchEngine(network)


@pytest.fixture(scope="module")
def engine(network: MultiTaskRefineNet, tmp_path_factory: pytest.TempPathFactory) -> OpenVinoEngine:
    """An engine for tests that do not change it: it compiles an image size once."""
    return OpenVinoEngine(network, cache=ModelCache(tmp_path_factory.mktemp("engine") / "compiled"))


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "cache" / "compiled")


@pytest.fixture
def simple_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the network in OpenVINO by an addition, for tests of what surrounds it: it is compiled in milliseconds."""

    def build(network: MultiTaskRefineNet, height: int, width: int, convolutions: object) -> object:
        image = opset13.parameter([1, height, width, 3], np.uint8, name="image")
        offset = opset13.constant(network.get_parameter("depth.bias").numpy())
        total = opset13.add(opset13.convert(image, np.float32), offset)
        return openvino.Model([opset13.result(total)], [image], "addition")

    monkeypatch.setattr(openvino_graph, "openvino_model", build)


def simple_outputs(network: MultiTaskRefineNet, image: np.ndarray) -> tuple[torch.Tensor, ...]:
    """Return what `simple_graph` computes."""
    return (torch.from_numpy(image).float() + network.get_parameter("depth.bias"),)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Sizes that were compiled instead of loaded from disk."""
    sizes: list[tuple[int, int]] = []
    build = openvino_graph.openvino_model

    def counting(network: MultiTaskRefineNet, height: int, width: int, convolutions: object) -> object:
        sizes.append((height, width))
        return build(network, height, width, convolutions)

    monkeypatch.setattr(openvino_graph, "openvino_model", counting)
    return sizes


def files(cache: ModelCache) -> list[Path]:
    assert cache._folder is not None
    return sorted(cache._folder.iterdir())


def run_until_stored(engine: OpenVinoEngine, image: np.ndarray = IMAGE) -> list[torch.Tensor]:
    """Run until the compiled network is stored, and return the last outputs."""
    for _ in range(STORED_AT):
        outputs = engine.forward(image)
    return [output.clone() for output in outputs]


class TestAgreement:
    @pytest.mark.parametrize("size", SIZES)
    def test_labels_and_depth_agree_with_pytorch(self, engine, exact, size):
        image = random_image(*size)
        assert_same(engine.forward(image), exact.forward(image))

    @pytest.mark.parametrize("form", [(6, 2), (46, 2), (40, 3)])
    def test_published_networks_agree_with_pytorch(self, cache, form):
        torch.manual_seed(5)
        network = MultiTaskRefineNet(published_description(*form)).eval()
        assert_same(OpenVinoEngine(network, cache=cache).forward(IMAGE), TorchEngine(network).forward(IMAGE))

    @pytest.mark.parametrize("limit", [2**12, 2**16])
    def test_channel_groups_of_large_images_agree_with_pytorch(self, network, exact, cache, limit, monkeypatch):
        monkeypatch.setattr(openvino_graph, "GROUP_BYTES", limit)
        built, build = [], openvino_graph.openvino_model
        monkeypatch.setattr(openvino_graph, "openvino_model", lambda *args: built.append(build(*args)) or built[-1])
        image = random_image(61, 90)
        assert_same(OpenVinoEngine(network, cache=cache).forward(image), exact.forward(image))
        operators = built[0].get_ops()
        largest = max(np.prod(op.get_output_shape(0)) for op in operators if op.get_type_name() == "GroupConvolution")
        assert largest <= max(limit // 4, 16 * 31 * 45)

    @pytest.mark.parametrize(("size", "scale"), [((66, 94), 0.5), ((327, 474), 0.1)])
    def test_downsampled_input_agrees_with_pytorch(self, engine, exact, size, scale):
        image = random_image(*size)
        assert_same(engine.forward(image, scale), exact.forward(image, scale))
        assert list(engine._requests)[-1] == IMAGE.shape[:2], "the network's input has this size"

    def test_any_memory_layout_gives_the_same_outputs(self, engine):
        expected = [output.clone() for output in engine.forward(IMAGE)]
        for image in (np.ascontiguousarray(IMAGE[:, ::-1])[:, ::-1], np.asfortranarray(IMAGE)):
            assert all(torch.equal(a, b) for a, b in zip(engine.forward(image), expected, strict=True))

    def test_bf16_differs_from_fp32(self, network, exact, cache):
        if "BF16" not in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            pytest.skip("this processor does not compute bfloat16")
        found = OpenVinoEngine(network, "bf16", cache=cache).forward(IMAGE)[0]
        expected = exact.forward(IMAGE)[0]
        error = float((found - expected).abs().max() / expected.abs().max())
        assert 1e-4 < error < 0.2


class TestSizes:
    @pytest.mark.usefixtures("simple_graph")
    def test_the_least_recently_used_size_is_dropped(self, network, cache, compilations):
        engine = OpenVinoEngine(network, cache=cache)
        for width in range(8, 8 + KEPT_SIZES):
            engine.forward(random_image(8, width))
        engine.forward(random_image(8, 8))
        engine.forward(random_image(8, 99))
        assert list(engine._requests) == [(8, width) for width in (*range(10, 8 + KEPT_SIZES), 8, 99)]
        assert len(compilations) == KEPT_SIZES + 1

    @pytest.mark.usefixtures("simple_graph")
    def test_networks_of_large_images_are_dropped_earlier(self, network, cache, monkeypatch):
        monkeypatch.setattr(openvino_engine, "KEPT_PIXELS", 1000)
        engine = OpenVinoEngine(network, cache=cache)
        for size in ((20, 20), (10, 20), (20, 30), (40, 40)):
            engine.forward(random_image(*size))
            assert list(engine._requests)[-1] == size
            assert len(engine._requests) == 1 or sum(h * w for h, w in engine._requests) <= 1000
        assert list(engine._requests) == [(40, 40)]

    def test_other_sizes_in_between_do_not_change_outputs(self, engine):
        first = [output.clone() for output in engine.forward(IMAGE)]
        engine.forward(random_image(61, 90))
        assert all(torch.equal(a, b) for a, b in zip(engine.forward(IMAGE), first, strict=True))


class TestDisk:
    def test_networks_of_different_grids_are_cached_separately(self, network, cache, compilations):
        """Their parameters are the same, so only the grid in the key tells them apart."""
        run_until_stored(OpenVinoEngine(network, cache=cache))
        other = copy.deepcopy(network)
        other.description = replace(network.description, grid="stretched")
        outputs = OpenVinoEngine(other, cache=cache).forward(IMAGE)
        assert_same(outputs, TorchEngine(other).forward(IMAGE))
        assert compilations == [(33, 47)] * 2

    def test_a_second_start_loads_the_network_and_gives_the_same_outputs(self, network, cache, compilations):
        first = run_until_stored(OpenVinoEngine(network, cache=cache))
        second = OpenVinoEngine(network, cache=cache).forward(IMAGE)
        assert compilations == [(33, 47)]
        assert all(torch.equal(a, b) for a, b in zip(second, first, strict=True))

    @pytest.mark.usefixtures("simple_graph")
    @pytest.mark.parametrize(
        "corrupt",
        {
            "cut short": lambda content: content[: len(content) // 2],
            "empty": lambda content: b"",
            "one bit": lambda content: content[:-1000] + bytes([content[-1000] ^ 1]) + content[-999:],
            "another key": lambda content: content.replace(b'"image": "47x33"', b'"image": "48x33"'),
            "noise": lambda content: b"\x00\xff\n" * 1000,
        }.items(),
        ids=lambda item: item[0],
    )
    def test_a_corrupt_entry_is_compiled_again(self, network, cache, compilations, corrupt):
        expected = run_until_stored(OpenVinoEngine(network, cache=cache))
        (entry,) = files(cache)
        entry.write_bytes(corrupt[1](entry.read_bytes()))
        for _ in range(2):
            engine = OpenVinoEngine(network, cache=cache)
            assert all(torch.equal(a, b) for a, b in zip(run_until_stored(engine), expected, strict=True))
            assert engine.notes == ()
        assert compilations == [(33, 47)] * 2, "compiled again once, and then stored"

    @pytest.mark.usefixtures("simple_graph")
    def test_an_entry_that_openvino_rejects_is_compiled_again(self, network, cache, compilations):
        engine = OpenVinoEngine(network, cache=cache)
        cache.store({**engine._key, "image": "47x33"}, b"no model")
        assert_same(engine.forward(IMAGE), simple_outputs(network, IMAGE))
        assert (engine.notes, compilations) == ((), [(33, 47)])

    @pytest.mark.usefixtures("simple_graph")
    def test_weights_sizes_processors_and_versions_are_cached_separately(self, network, cache, compilations, monkeypatch):
        run_until_stored(OpenVinoEngine(network, cache=cache))
        network = copy.deepcopy(network)
        network.get_parameter("depth.bias").add_(0.25)
        changed = OpenVinoEngine(network, cache=cache)
        assert_same(run_until_stored(changed), simple_outputs(network, IMAGE))
        run_until_stored(changed, random_image(34, 47))
        monkeypatch.setattr(openvino_engine, "_cpu_flags", lambda: "another processor")
        run_until_stored(OpenVinoEngine(network, cache=cache))
        monkeypatch.setattr(openvino_engine, "GRAPH_VERSION", 0)
        run_until_stored(OpenVinoEngine(network, cache=cache))
        assert len(compilations) == len(files(cache)) == 5

    @pytest.mark.usefixtures("simple_graph")
    def test_a_size_that_comes_once_is_not_stored(self, network, cache):
        engine = OpenVinoEngine(network, cache=cache)
        for width in range(40, 44):
            engine.forward(random_image(33, width))
        assert files(cache) == []
        engine.forward(random_image(33, 43))
        assert len(files(cache)) == 1

    @pytest.mark.usefixtures("simple_graph")
    def test_a_network_that_cannot_be_stored_still_runs(self, network, cache, monkeypatch):
        def fail(*args: object) -> None:
            raise RuntimeError("export is not supported")

        engine = OpenVinoEngine(network, cache=cache)
        compiled = engine._compile

        def not_exportable(size: tuple[int, int]) -> object:
            found = compiled(size)
            engine._unstored[size] = (0, SimpleNamespace(export_model=fail))
            return found

        monkeypatch.setattr(engine, "_compile", not_exportable)
        assert_same(run_until_stored(engine), simple_outputs(network, IMAGE))
        assert engine.name.startswith("openvino ") and "export is not supported" in engine.notes[0]

    def test_the_number_of_entries_is_bounded(self, cache, monkeypatch):
        monkeypatch.setattr(cache_module, "MOST_ENTRIES", 3)
        for number in range(5):
            cache.store({"image": str(number)}, b"x")
            os.utime(max(files(cache), key=lambda path: path.stat().st_mtime_ns), (number + 1, number + 1))
        assert [cache.load({"image": str(number)}) for number in range(5)] == [None, None, b"x", b"x", b"x"]

    @pytest.mark.usefixtures("simple_graph")
    def test_a_folder_writable_by_others_is_not_used(self, network, tmp_path, compilations):
        folder = tmp_path / "cache" / "compiled"
        run_until_stored(OpenVinoEngine(network, cache=ModelCache(folder)))
        folder.chmod(0o777)
        engine = OpenVinoEngine(network, cache=ModelCache(folder))
        run_until_stored(engine)
        assert len(compilations) == 2
        assert "other users can write there" in engine.notes[0] and "each start compiles the network again" in engine.notes[0]
        assert engine.name.startswith("openvino ")


class TestFallback:
    def test_pytorch_runs_without_openvino(self, weights_file, monkeypatch):
        monkeypatch.setitem(sys.modules, "openvino", None)
        pipe = Pipeline(weights=weights_file, device="cpu", warm_up=False)
        assert pipe(Frame(IMAGE)).labels.shape == (33, 47)
        assert pipe.backend.startswith("torch ")
        assert pipe.notes[0].startswith("PyTorch runs the network, several times slower")
        assert "pip install 'mtl_perception[openvino]'" in pipe.notes[0]

    def test_openvino_requested_by_name_must_be_installed(self, network, monkeypatch):
        monkeypatch.setitem(sys.modules, "openvino", None)
        with pytest.raises(ConfigError, match=r"backend openvino cannot be loaded.*pip install 'mtl_perception\[openvino\]'"):
            create_engine(network, "fp32", backend="openvino")

    def test_openvino_is_refused_on_a_gpu(self, network, monkeypatch):
        monkeypatch.setattr("mtl_perception.inference.backend.select_device", torch.device)
        with pytest.raises(ConfigError, match="backend openvino runs on a CPU, not on device cuda"):
            create_backend(network, (0, 12), Config(device="cuda", backend="openvino"))

    def test_a_failed_compilation_falls_back_to_pytorch(self, weights_file, monkeypatch):
        def fail(*args: object) -> None:
            raise RuntimeError("no such operator\n on line 7")

        expected = Pipeline(weights=weights_file, device="cpu", backend="torch", warm_up=False)(Frame(IMAGE))
        monkeypatch.setattr(openvino_graph, "openvino_model", fail)
        monkeypatch.setattr(ModelCache, "load", lambda self, made_of: None)
        pipe = Pipeline(weights=weights_file, device="cpu", warm_up=False)
        result = pipe(Frame(IMAGE))
        assert (pipe.backend, len(pipe.notes)) == (f"torch {torch.__version__}", 1)
        assert "OpenVINO failed" in pipe.notes[0] and "no such operator on line 7" in pipe.notes[0]
        np.testing.assert_array_equal(result.labels, expected.labels)
        np.testing.assert_array_equal(result.depth, expected.depth)

    @pytest.mark.usefixtures("simple_graph")
    def test_a_single_failure_falls_back_for_one_image(self, network, exact, cache):
        engine = OpenVinoEngine(network, cache=cache)
        engine.forward(IMAGE)

        def fail(*args: object, **kwargs: object) -> None:
            raise RuntimeError("gone")

        engine._requests[(33, 47)] = SimpleNamespace(infer=fail)
        assert_same(engine.forward(IMAGE), exact.forward(IMAGE))
        assert "gone" in engine.notes[0] and engine.name.startswith("torch ")
        engine.forward(IMAGE)
        assert engine.name.startswith("openvino "), "OpenVINO is tried again after one failure"
        assert engine.notes == (), "and diagnostics do not report PyTorch any more"

    @pytest.mark.usefixtures("simple_graph")
    def test_a_size_that_cannot_be_compiled_falls_back_and_other_sizes_do_not(self, network, exact, cache, monkeypatch):
        engine = OpenVinoEngine(network, cache=cache)
        compiled, tried = engine._compile, []

        def small_only(size: tuple[int, int]) -> object:
            tried.append(size)
            if size[0] > 40:
                raise MemoryError("no room")
            return compiled(size)

        monkeypatch.setattr(engine, "_compile", small_only)
        large = random_image(61, 90)
        for _ in range(4):
            assert_same(engine.forward(large), exact.forward(large))
        assert tried == [(61, 90)] * 2
        engine.forward(IMAGE)
        assert engine.name.startswith("openvino ") and "61" in engine.notes[0]

    def test_pytorch_runs_where_openvino_is_broken(self, network, monkeypatch):
        def broken() -> None:
            raise RuntimeError("no plugin for CPU")

        monkeypatch.setattr(openvino_engine, "shared_core", broken)
        engine = create_engine(network, "fp32")
        assert engine.name.startswith("torch ") and "no plugin for CPU" in engine.notes[0]
        with pytest.raises(ConfigError, match="does not work here.*no plugin for CPU"):
            create_engine(network, "fp32", backend="openvino")


def test_signals_are_handled_after_engines_are_freed_in_any_order(weights_file):
    # A node that rebuilds its pipeline frees the older one first; Ctrl+C must then end it, not crash it.
    code = (
        "import os, signal, sys; from mtl_perception import Pipeline\n"
        "first = Pipeline(weights=sys.argv[1], device='cpu', backend='openvino', warm_up=False)\n"
        "second = Pipeline(weights=sys.argv[1], device='cpu', backend='openvino', warm_up=False)\n"
        "del first\n"
        "del second\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled'))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(weights_file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


class TestSelection:
    def test_openvino_is_the_default_on_a_cpu(self, network):
        assert create_engine(network, "fp32").name.startswith("openvino ")
        assert create_engine(network, "fp32", backend="openvino").name.startswith("openvino ")
        assert type(create_engine(network, "fp32", backend="torch")) is TorchEngine

    def test_an_absent_device_is_reported_first(self, network):
        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
        with pytest.raises(DeviceError):
            create_backend(network, (0, 12), Config(device="cuda", backend="openvino"))

    def test_cpu_threads_limits_the_threads_of_openvino(self, weights_file):
        before = torch.get_num_threads()
        try:
            pipe = Pipeline(weights=weights_file, device="cpu", cpu_threads=1, warm_up=False)
            pipe(Frame(IMAGE), {"labels"})
        finally:
            torch.set_num_threads(before)
        (request,) = pipe._backend.engine._requests.values()
        assert request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 1


def test_scores_agree_with_those_of_pytorch(weights_file):
    scores = [
        Pipeline(weights=weights_file, device="cpu", warm_up=False, backend=backend)(Frame(IMAGE), {"scores"}).scores
        for backend in ("openvino", "torch")
    ]
    assert np.abs(scores[0] - scores[1]).max() < 1e-4 * np.abs(scores[1]).max()


def test_fp32_does_not_use_bfloat16(weights_file):
    """OpenVINO would choose bfloat16 where the processor has it."""
    pipe = Pipeline(weights=weights_file, device="cpu", precision="fp32", warm_up=False)
    pipe(Frame(IMAGE), {"labels"})
    (request,) = pipe._backend.engine._requests.values()
    assert "float32" in str(request.get_compiled_model().get_property("INFERENCE_PRECISION_HINT"))


def test_graph_version_belongs_to_the_graph():
    """After a change of the graph, increase GRAPH_VERSION, so that cached networks are not reused, and update the digest."""
    network = MultiTaskRefineNet(published_description(40, 3)).eval()
    operators = openvino_graph.openvino_model(network, 33, 47).get_ops()
    lines = sorted(f"{op.get_type_name()} {op.get_output_partial_shape(0)}" for op in operators)
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert (openvino_engine.GRAPH_VERSION, digest) == (5, "59cf92faef60c00f")
