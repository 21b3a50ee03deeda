"""Choice between PyTorch's operators and Triton kernels on a GPU, with a fake GPU."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from mtl_perception import load_network
from mtl_perception.inference.cuda import prepare

CUDA = torch.device("cuda", 0)


class Operators:
    uses_kernels = False

    def __init__(self, network, device, dtype) -> None: ...


class Kernels(Operators):
    uses_kernels = True


@pytest.fixture
def machine(monkeypatch):
    """A GPU of compute capability 9.0 with Triton, whose networks hold nothing."""
    machine = SimpleNamespace(capability=(9, 0), triton=object(), kernels=Kernels)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: machine.capability)
    monkeypatch.setattr(prepare, "find_spec", lambda name: machine.triton)
    monkeypatch.setattr(prepare, "AtenNetwork", Operators)
    fused = SimpleNamespace(FusedNetwork=lambda *given: machine.kernels(*given))
    monkeypatch.setitem(sys.modules, "mtl_perception.inference.cuda.fused_network", fused)
    return machine


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_kernels_run_16_bit_types_on_a_recent_gpu(machine, dtype):
    network, note = prepare.prepare_network(None, CUDA, dtype)
    assert network.uses_kernels and note == ""


@pytest.mark.parametrize(
    ("device", "dtype", "capability"),
    [(CUDA, torch.float32, (9, 0)), (CUDA, torch.float16, (7, 5)), (torch.device("cpu"), torch.bfloat16, (9, 0))],
    ids=["fp32", "old GPU", "CPU"],
)
def test_operators_run_the_rest_without_a_note(machine, device, dtype, capability):
    machine.capability = capability
    network, note = prepare.prepare_network(None, device, dtype)
    assert not network.uses_kernels and note == ""


def test_missing_triton_is_a_note_that_names_the_extra(machine):
    machine.triton = None
    network, note = prepare.prepare_network(None, CUDA, torch.float16)
    assert not network.uses_kernels
    assert note.endswith('Triton is not installed; pip install "mtl_perception[triton]"')


def test_kernels_that_do_not_compile_are_a_note_with_the_reason(machine):
    def without_compiler(*_):
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nmore")

    machine.kernels = without_compiler
    network, note = prepare.prepare_network(None, CUDA, torch.float16)
    assert not network.uses_kernels
    assert "cannot be compiled here: Failed to find C compiler" in note and "\n" not in note


def test_out_of_memory_is_not_mistaken_for_kernels_that_do_not_compile(machine):
    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    machine.kernels = full
    with pytest.raises(torch.cuda.OutOfMemoryError):
        prepare.prepare_network(None, CUDA, torch.float16)


def test_note_reaches_the_user(weights_file, monkeypatch):
    from mtl_perception.inference.cuda import backend
    from mtl_perception.inference.cuda.runtime import HostRuntime

    monkeypatch.setattr(backend, "prepare_network", lambda *given: (prepare.AtenNetwork(*given), "slower: no Triton"))
    found = backend.CudaBackend(load_network(weights_file), HostRuntime(), "fp32", (0, 12))
    assert found.notes == ["slower: no Triton"] and found.name == "cpu eager"
