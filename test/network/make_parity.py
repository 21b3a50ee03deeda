"""Reference of the published network: plain functional calls over a dictionary of seeded random weights, in float64.

It shares no code with the package, so the parity test compares the package with the definition and not with itself.
`python test/network/make_parity.py` writes parity.npz: whole outputs, four channels of the encoder's features, and checksums
of the weights, which are generated from the seed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SEED = 20190520
HEIGHT, WIDTH = 101, 139
"""Neither is a multiple of 2, so that every map but the first is upsampled to an odd size."""
CASES = {"kitti": (6, False, False), "nyud-normals": (40, True, False), "exact-grid": (6, False, True)}
"""Number of classes, whether there is a head for normals, whether the grid is exact."""
FIXTURE = Path(__file__).with_name("parity.npz")

# Arguments of MobileNetV2's bottlenecks, table 2 of arXiv 1801.04381: expansion t, channels c, repetitions n, stride s.
BOTTLENECKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

State = dict[str, Tensor]


class _Weights:
    """Random weights by name; NumPy's generator yields the same numbers in every version."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(SEED)
        self.state: State = {}

    def convolution(self, name: str, outputs: int, inputs: int, size: int, gain: float = 1.0, bias: bool = False) -> None:
        scale = gain * (2 / (inputs * size * size)) ** 0.5
        self._put(f"{name}.weight", scale * self._random.standard_normal((outputs, inputs, size, size), np.float32))
        if bias:
            self._put(f"{name}.bias", self._random.standard_normal(outputs, np.float32))

    def batch_norm(self, name: str, channels: int) -> None:
        self._put(f"{name}.weight", self._random.uniform(0.6, 1.4, channels))
        self._put(f"{name}.bias", self._random.uniform(-0.3, 0.6, channels))
        self._put(f"{name}.running_mean", self._random.uniform(-0.3, 0.3, channels))
        self._put(f"{name}.running_var", self._random.uniform(0.5, 1.5, channels))
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(1)

    def _put(self, name: str, values: np.ndarray) -> None:
        self.state[name] = torch.from_numpy(values.astype(np.float32))


def random_state(classes: int, normals: bool) -> State:
    """Return weights under the published names, float32."""
    weights = _Weights()
    weights.convolution("layer1.0", 32, 3, 3)
    weights.batch_norm("layer1.1", 32)
    inputs = 32
    for layer, (t, c, n, _) in enumerate(BOTTLENECKS, start=2):
        for block in range(n):
            units = ((inputs * t, inputs, 1), (inputs * t, 1, 3), (c, inputs * t, 1))
            for unit, (outputs, group_inputs, size) in enumerate(units):
                weights.convolution(f"layer{layer}.{block}.output.{unit}.0", outputs, group_inputs, size)
                weights.batch_norm(f"layer{layer}.{block}.output.{unit}.1", outputs)
            inputs = c
    for number, (_, c, _, _) in enumerate(BOTTLENECKS[1:], start=3):
        weights.convolution(f"conv{number}", 256, c, 1, gain=0.7)
    for level in (4, 3, 2, 1):
        for stage in (1, 2, 3, 4):
            weights.convolution(f"crp{level}.0.{stage}_outvar_dimred", 256, 1 if level == 1 else 256, 1, gain=0.4)
        if level > 1:
            weights.convolution(f"conv_adapt{level}", 256, 256, 1, gain=0.5)
    for head, outputs in (("depth", 1), ("segm", classes), *((("normal", 3),) if normals else ())):
        weights.convolution(f"pre_{head}", 256, 1, 1)
        weights.convolution(head, outputs, 256, 3, bias=True)
    return weights.state


def random_image() -> np.ndarray:
    """Return a normalized image, 1 x 3 x H x W float32: blobs of several sizes and noise."""
    random = np.random.default_rng(SEED + 1)
    image = 0.3 * random.standard_normal((3, HEIGHT, WIDTH))
    for size in (4, 16, 32):
        cells = random.standard_normal((3, -(-HEIGHT // size), -(-WIDTH // size)))
        image += cells.repeat(size, axis=1).repeat(size, axis=2)[:, :HEIGHT, :WIDTH]
    return image[None].astype(np.float32)


def checksum(state: State) -> str:
    """Return the SHA-256 over names and values."""
    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def reference(state: State, image: np.ndarray, normals: bool, exact: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Return the features of layer3 to layer8 and the outputs (logits, depth[, normals]) in float64."""
    w = {name: value.double() for name, value in state.items()}

    def unit(x: Tensor, name: str, stride: int = 1, groups: int = 1, relu: bool = True) -> Tensor:
        kernel = w[f"{name}.0.weight"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)
        mean, variance = w[f"{name}.1.running_mean"], w[f"{name}.1.running_var"]
        shape = (1, -1, 1, 1)
        x = (x - mean.view(shape)) / torch.sqrt(variance.view(shape) + 1e-5)
        x = x * w[f"{name}.1.weight"].view(shape) + w[f"{name}.1.bias"].view(shape)
        return x.clamp(0, 6) if relu else x

    def upsample(x: Tensor, like: Tensor) -> Tensor:
        height, width = like.shape[2:]
        size = (2 * x.shape[2], 2 * x.shape[3]) if exact else (height, width)
        return F.interpolate(x, size, mode="bilinear", align_corners=False)[:, :, :height, :width]

    def refine(x: Tensor, level: int) -> Tensor:
        total = top = x.clamp(0, 6)
        for stage in (1, 2, 3, 4):
            kernel = w[f"crp{level}.0.{stage}_outvar_dimred.weight"]
            top = F.conv2d(F.max_pool2d(top, 5, stride=1, padding=2), kernel, groups=256 // kernel.shape[1])
            total = total + top
        return F.conv2d(total, w[f"conv_adapt{level}.weight"]) if level > 1 else total

    x = unit(torch.from_numpy(image).double(), "layer1", stride=2)
    features = []
    for layer, (t, c, n, s) in enumerate(BOTTLENECKS, start=2):
        for block in range(n):
            name, entry = f"layer{layer}.{block}.output", x
            x = unit(x, f"{name}.0")
            x = unit(x, f"{name}.1", stride=s if block == 0 else 1, groups=entry.shape[1] * t)
            x = unit(x, f"{name}.2", relu=False)
            if block > 0 or (s == 1 and entry.shape[1] == c):
                x = entry + x
        features.append(x)
    features = features[1:]
    f3, f4, f5, f6, f7, f8 = (F.conv2d(f, w[f"conv{number}.weight"]) for number, f in enumerate(features, start=3))
    x = upsample(refine(f8 + f7, 4), f6)
    x = upsample(refine(f6 + f5 + x, 3), f4)
    x = upsample(refine(f4 + x, 2), f3)
    shared = refine(f3 + x, 1)
    outputs = []
    for head in ("segm", "depth", *(("normal",) if normals else ())):
        hidden = F.conv2d(shared, w[f"pre_{head}.weight"], groups=256).clamp(0, 6)
        outputs.append(F.conv2d(hidden, w[f"{head}.weight"], w[f"{head}.bias"], padding=1))
    return features, outputs


def main() -> None:
    """Write the fixture."""
    image = random_image()
    arrays: dict[str, np.ndarray] = {}
    for name, (classes, normals, exact) in CASES.items():
        state = random_state(classes, normals)
        features, outputs = reference(state, image, normals, exact)
        arrays[f"{name}/sha256"] = np.array(checksum(state))
        arrays |= {f"{name}/output{i}": output[0].numpy().astype(np.float32) for i, output in enumerate(outputs)}
        if name == "kitti":
            arrays |= {f"{name}/feature{i}": f[0, :4].numpy().astype(np.float32) for i, f in enumerate(features, start=3)}
    np.savez_compressed(FIXTURE, **arrays)
    print(f"{FIXTURE}: {FIXTURE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
