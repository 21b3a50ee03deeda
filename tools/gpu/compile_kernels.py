"""Compile every Triton kernel that the network uses, for GPUs that need not be installed, and report its resources.

    python tools/gpu/compile_kernels.py --capability 80 90

Each variant has a line: launches per frame, warps, registers and stack per thread, shared memory per program, and the matrix
instruction that it uses. Local memory other than 0 means that registers were spilled.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from mtl_perception import load_network
from mtl_perception.inference.cuda.fused_network import FusedNetwork
from mtl_perception.inference.cuda.program import LIMITS, DeviceProgram, ProgramSpec
from mtl_perception.network.grid import ResizeSpec, uncropped_size

TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.uint8: "u8",
    torch.int32: "i32",
}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass
class Variant:
    """A kernel with the types and constants that it is compiled for."""

    kernel: JITFunction[Any]
    signature: dict[str, str] = field(default_factory=dict)
    constants: dict[tuple[int, ...], Any] = field(default_factory=dict)
    attributes: dict[tuple[int, ...], list[list[Any]]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    launches: int = 0

    def key(self) -> str:
        return repr((self.kernel.__name__, self.signature, self.constants, self.options))


def record_launches(size: tuple[int, int], weights: str, outputs: Sequence[str]) -> list[Variant]:
    """Return the variants that a frame launches; nothing is computed."""
    variants: dict[str, Variant] = {}

    def record(kernel: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        values = dict(zip(kernel.arg_names, args, strict=False)) | {k: v for k, v in options.items() if k in kernel.arg_names}
        variant = Variant(kernel, options={k: v for k, v in options.items() if k not in kernel.arg_names})
        for index, (name, parameter) in enumerate(zip(kernel.arg_names, kernel.params, strict=True)):
            value = values[name]
            if parameter.is_constexpr:
                variant.signature[name] = "constexpr"
                variant.constants[index,] = value
            elif isinstance(value, torch.Tensor):
                variant.signature[name] = f"*{TYPES[value.dtype]}"
                variant.attributes[index,] = [["tt.divisibility", 16]]
            else:
                variant.signature[name] = "i32"
        variants.setdefault(variant.key(), variant).launches += 1

    run, JITFunction.run = JITFunction.run, record  # type: ignore[method-assign,assignment]
    try:
        network = FusedNetwork(load_network(weights), torch.device("cpu"), torch.float16)
        variants.clear()
        resize = ResizeSpec(size, uncropped_size(size, size, network.description.grid), "bicubic")
        program = DeviceProgram(
            network,
            (0, len(network.description.classes)),
            ProgramSpec(1, size, tuple(outputs), size, resize, filters_edges=True),
        )
        image, maps = torch.zeros(1, *size, 3, dtype=torch.uint8), program.allocate_maps()
        layout = program.spec.output_layout()
        out = layout.views(torch.zeros(layout.nbytes, dtype=torch.uint8))
        program.compute_maps(image, maps)
        program.write_outputs(maps, image, torch.zeros(1, len(LIMITS)), torch.zeros(1, *size, 2), out)
    finally:
        JITFunction.run = run  # type: ignore[method-assign]
    return list(variants.values())


def compile_variant(variant: Variant, capability: int) -> dict[str, Any]:
    """Compile for a compute capability such as 90, and return the resources of a launch."""
    source = ASTSource(variant.kernel, variant.signature, variant.constants, variant.attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=variant.options)
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run([CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage.stdout)
    if found is None:
        raise RuntimeError(f"cuobjdump reports no resources: {usage.stdout!r}")
    ptx = compiled.asm["ptx"]
    return {
        "kernel": variant.kernel.__name__,
        "capability": capability,
        "launches": variant.launches,
        "warps": variant.options["num_warps"],
        "registers": int(found[1]),
        "stack": int(found[2]),
        "local": int(found[3]),
        "shared": compiled.metadata.shared,
        "matrix": "wgmma" if "wgmma" in ptx else "mma" if "mma.sync" in ptx else "-",
        "shape": {
            variant.kernel.arg_names[index[0]]: value
            for index, value in variant.constants.items()
            if variant.kernel.arg_names[index[0]] in ("K", "N", "C", "P", "STRIDE", "BLOCK_M", "BLOCK_N", "BLOCK_K")
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capability", type=int, nargs="+", default=[90], help="compute capabilities, such as 80 89 90")
    parser.add_argument("--weights", default="street")
    parser.add_argument("--size", default="1242x375", help="width x height of the image; block sizes depend on it")
    parser.add_argument("--kernels", nargs="*", help="only these kernels, one variant of each")
    args = parser.parse_args(arguments)
    width, height = (int(side) for side in args.size.split("x"))
    variants = record_launches((height, width), args.weights, ("labels", "depth", "cloud"))
    print(f"{len(variants)} variants, {sum(variant.launches for variant in variants)} launches a frame")
    if args.kernels is not None:
        chosen = {variant.kernel.__name__: variant for variant in reversed(variants)}
        variants = [variant for name, variant in chosen.items() if not args.kernels or name in args.kernels]
    spilled = 0
    for capability in args.capability:
        for variant in variants:
            row = compile_variant(variant, capability)
            spilled += row["local"] > 0
            used = f"{row['warps']} warps, {row['registers']:>3} registers, stack {row['stack']}, local {row['local']}"
            print(
                f"sm_{capability} {row['kernel']:<17} x{row['launches']:<3}{used}, shared {row['shared']:>6}, "
                f"{row['matrix']:<6}{row['shape']}"
            )
    print(f"{spilled} variants spill registers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
