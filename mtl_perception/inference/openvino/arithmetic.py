"""Arithmetic of the network on a CPU, by its instruction sets."""

from __future__ import annotations

import os

from mtl_perception.errors import ConfigError, WeightsError
from mtl_perception.inference.machine import read_cpu_flags
from mtl_perception.inference.openvino.runtime import is_installed
from mtl_perception.network.digest import certified_losses
from mtl_perception.network.model import MultiTaskRefineNet
from mtl_perception.network.quantization import Quantization

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
VNNI_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
ISA_VARIABLE = "ONEDNN_MAX_CPU_ISA"
"""Environment variable by which oneDNN, and so OpenVINO, uses fewer instruction sets than the processor has."""
ISAS_WITH_BF16 = ("BF16", "FP16", "AMX", "AVX10")
"""Parts of the names of its values that allow bfloat16 instructions, and with them VNNI."""
MISSING = "precision {} runs as fp32: the processor has no {} instructions ({}){}"


def select_arithmetic(network: MultiTaskRefineNet, precision: str, backend: str) -> tuple[str, str]:
    """Return the arithmetic for parameters, and a note for the user; see `cpu_arithmetic`.

    For auto, the fastest one that is certified for these weights; certificates are measured in OpenVINO.

    Args:
        network: What `load_network` returns.
        precision: auto, fp32, bf16 or int8.
        backend: auto, torch or openvino.

    Raises:
        ConfigError: int8 without a quantization table, or in PyTorch.
    """
    if precision == "auto":
        return ("fp32" if backend == "torch" or not is_installed() else certified_arithmetic(network)), ""
    if precision == "int8":
        name = network.description.name
        if not network.description.quantization:
            raise ConfigError(
                f"precision int8: weights {name!r} have no quantization table; make one with "
                "`mtl_perception quantize --weights W --data D --out FILE`, or use precision auto, fp32 or bf16"
            )
        if backend == "torch":
            raise ConfigError("precision int8 needs backend openvino, not torch; use backend auto, or precision fp32")
    return cpu_arithmetic(precision)


def cpu_arithmetic(precision: str) -> tuple[str, str]:
    """Return the arithmetic that this processor uses for a precision, and a note for the user if that is another one.

    Args:
        precision: fp32, bf16 or int8.

    Returns:
        fp32, bf16, int8-bf16 (convolutions in int8, the rest in bfloat16) or int8-fp32 (the rest in float32); and the note,
        empty if there is nothing to say.
    """
    has_bf16, has_vnni = (bool(instruction_sets() & flags) for flags in (BF16_FLAGS, VNNI_FLAGS))
    if precision == "bf16" and not has_bf16:
        # OpenVINO would emulate them on AVX-512: measured, twice the time of float32.
        slower = "; emulated bfloat16 can take twice the time of float32"
        return "fp32", MISSING.format(precision, "bfloat16", "avx512_bf16 or amx_bf16", slower)
    if precision == "int8":
        if not has_vnni:
            return "fp32", MISSING.format(precision, "int8", "avx512_vnni or avx_vnni", "")
        return ("int8-bf16" if has_bf16 else "int8-fp32"), ""
    return precision, ""


def certified_arithmetic(network: MultiTaskRefineNet) -> str:
    """Return the fastest arithmetic of this processor that these weights are certified for within the limits, else fp32."""
    losses = certified_losses(network)
    chosen = (name for name in fast_arithmetics() if name in losses and losses[name].within_limits)
    return next((name for name in chosen if not name.startswith("int8") or _has_table(network)), "fp32")


def _has_table(network: MultiTaskRefineNet) -> bool:
    """Return whether this version can use the quantization table, which another version may have made."""
    try:
        Quantization.of(network)
    except WeightsError:
        return False
    return True


def fast_arithmetics() -> tuple[str, ...]:
    """Return what this processor computes faster than fp32, the fastest first."""
    # Measured, relative to fp32, 1242 x 375: int8-bf16 0.44, bf16 0.54; with VNNI only int8-fp32 0.64.
    found = (cpu_arithmetic(precision)[0] for precision in ("int8", "bf16"))
    return tuple(arithmetic for arithmetic in found if arithmetic != "fp32")


def instruction_sets() -> frozenset[str]:
    """Return the instruction sets of the processor that oneDNN may use; empty if they are unknown."""
    found, limit = frozenset(read_cpu_flags().split()), os.environ.get(ISA_VARIABLE, "").upper()
    if limit in ("", "ALL", "DEFAULT") or any(part in limit for part in ISAS_WITH_BF16):
        return found
    return found - BF16_FLAGS - (frozenset() if "VNNI" in limit else VNNI_FLAGS)
