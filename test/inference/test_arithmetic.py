"""The arithmetic of the network on a CPU, by its instruction sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.images import noise_image

from mtl_perception.config import Config
from mtl_perception.errors import ConfigError
from mtl_perception.inference import backend, machine
from mtl_perception.inference.openvino import arithmetic
from mtl_perception.inference.openvino.arithmetic import certified_arithmetic, cpu_arithmetic, instruction_sets
from mtl_perception.network.certificate import Certificate, Score
from mtl_perception.network.digest import certificate_digest
from mtl_perception.network.quantization import VERSION, Quantization, quantized_convolutions
from mtl_perception.pipeline import Pipeline
from mtl_perception.types import Frame
from mtl_perception.weights.files import load_network

AVX2 = "flags\t\t: fpu sse4_2 avx avx2 fma"
AVX2_VNNI = f"{AVX2} avx_vnni"
AVX512 = f"{AVX2} avx512f avx512bw avx512dq avx512vl"
AVX512_VNNI = f"{AVX512} avx512_vnni"
AVX512_BF16 = f"{AVX512_VNNI} avx512_bf16"
AMX = f"{AVX512_BF16} avx_vnni amx_bf16 amx_tile amx_int8"
ARM = "Features\t: fp asimd fphp asimdhp asimddp i8mm bf16"
UNKNOWN = "processor\t: 0"
EVERY = ("fp32", "bf16", "int8")


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """Return a function that replaces the processor's instruction sets by those of a line of /proc/cpuinfo."""
    monkeypatch.delenv(arithmetic.ISA_VARIABLE, raising=False)

    def replaced(line: str) -> None:
        path = tmp_path / "cpuinfo"
        path.write_text(f"processor\t: 0\nmodel name\t: flags of a test\n{line}\nbugs\t\t: none\n\nprocessor\t: 1\n{UNKNOWN}\n")
        monkeypatch.setattr(machine, "CPUINFO", path)

    return replaced


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (AVX2, ("fp32", "fp32", "fp32")),
        (AVX2_VNNI, ("fp32", "fp32", "int8-fp32")),
        (AVX512, ("fp32", "fp32", "fp32")),
        (AVX512_VNNI, ("fp32", "fp32", "int8-fp32")),
        (AVX512_BF16, ("fp32", "bf16", "int8-bf16")),
        (AMX, ("fp32", "bf16", "int8-bf16")),
        (ARM, ("fp32", "fp32", "fp32")),
        (UNKNOWN, ("fp32", "fp32", "fp32")),
    ],
    ids=["avx2", "avx2 vnni", "avx512", "avx512 vnni", "avx512 bf16", "amx", "arm", "unknown"],
)
def test_arithmetic_is_what_the_instruction_sets_compute_fast(processor, line, expected):
    processor(line)
    found = [cpu_arithmetic(precision) for precision in EVERY]
    assert tuple(name for name, _ in found) == expected
    for precision, (name, note) in zip(EVERY, found, strict=True):
        assert bool(note) == (precision != "fp32" and name == "fp32")
        assert not note or note.startswith(f"precision {precision} runs as fp32: the processor has no ")


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("AVX2", ("fp32", "fp32")),
        ("AVX512_CORE", ("fp32", "fp32")),
        ("avx512_core_vnni", ("fp32", "int8-fp32")),
        ("AVX512_CORE_BF16", ("bf16", "int8-bf16")),
        ("AVX512_CORE_AMX", ("bf16", "int8-bf16")),
        ("DEFAULT", ("bf16", "int8-bf16")),
    ],
)
def test_limited_instruction_sets_of_onednn_are_respected(processor, monkeypatch, limit, expected):
    processor(AMX)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert tuple(cpu_arithmetic(precision)[0] for precision in ("bf16", "int8")) == expected


def test_a_machine_without_cpuinfo_has_no_known_instruction_sets(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    assert (instruction_sets(), cpu_arithmetic("bf16")[0]) == (frozenset(), "fp32")


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_bf16_without_its_instructions_gives_the_bytes_of_fp32_and_says_so(processor, weights_file, engine):
    frame = Frame(noise_image(96, 160))
    exact = Pipeline(weights_file, "cpu", precision="fp32", backend=engine, warm_up=False)
    processor(AVX512_VNNI)
    pipe = Pipeline(weights_file, "cpu", precision="bf16", backend=engine, warm_up=False)
    assert (exact.precision, pipe.precision) == ("fp32", "fp32")
    assert set(pipe.notes) - set(exact.notes) == {cpu_arithmetic("bf16")[1]}
    assert "no bfloat16 instructions (avx512_bf16 or amx_bf16)" in pipe.notes[0]
    found, expected = pipe(frame), exact(frame)
    assert np.array_equal(found.labels, expected.labels)
    assert np.array_equal(found.depth, expected.depth, equal_nan=True)
    pipe.rebuild()
    assert pipe.precision == "fp32"


def test_int8_without_a_table_is_refused_with_the_command_that_makes_one(processor, weights_file):
    processor(AMX)
    with pytest.raises(ConfigError, match="weights 'random' have no quantization table; make one with .*quantize"):
        Pipeline(weights_file, "cpu", precision="int8", warm_up=False)


@pytest.mark.parametrize(("version", "expected"), [(VERSION, "int8-bf16"), (VERSION + 1, "bf16")])
def test_auto_leaves_out_int8_whose_table_this_version_cannot_use(processor, weights_file, version, expected):
    processor(AMX)
    network = load_network(weights_file)
    ranges = Quantization(dict.fromkeys(quantized_convolutions(network), (0.0, 6.0)))
    table = {**ranges.describe(network, ["test"], 1), "version": version}
    network.description = replace(network.description, quantization=table)
    score = Score(1, {"street": 0.5}, 0.1, 4.0, 1.0)
    names = ("fp32", "bf16", "int8-bf16")
    certified = {name: Certificate(certificate_digest(network, name), "test", {"tiny": score}) for name in names}
    network.description = replace(network.description, certified=certified)
    assert certified_arithmetic(network) == expected
    processor(AVX2)
    assert certified_arithmetic(network) == "fp32"


class TestWithTable:
    @pytest.fixture
    def network(self, weights_file):
        network = load_network(weights_file)
        network.description = replace(network.description, quantization={"made": "by a test"})
        return network

    def test_int8_on_a_processor_without_vnni_is_fp32_with_a_note(self, processor, network):
        processor(AVX512)
        made = backend.create_backend(network, (0, 12), Config(device="cpu", precision="int8"))
        assert (made.precision, made.notes[0]) == (
            "fp32",
            "precision int8 runs as fp32: the processor has no int8 instructions (avx512_vnni or avx_vnni)",
        )

    def test_int8_in_pytorch_is_refused_when_requested_and_fp32_where_openvino_is_missing(
        self, processor, network, monkeypatch
    ):
        processor(AMX)
        with pytest.raises(ConfigError, match="precision int8 needs backend openvino, not torch"):
            backend.create_backend(network, (0, 12), Config(device="cpu", precision="int8", backend="torch"))

        def absent(*_: object) -> None:
            raise ConfigError("backend openvino cannot be loaded")

        monkeypatch.setattr(backend, "OpenVinoEngine", absent)
        made = backend.create_backend(network, (0, 12), Config(device="cpu", precision="int8"))
        assert (made.precision, "PyTorch runs the network" in made.notes[0]) == ("fp32", True)
