"""Pipelines on the device, and their input frames."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from mtl_perception import CameraModel, Frame, Pipeline, load_network
from mtl_perception.errors import ConfigError
from mtl_perception.inference.cuda.backend import CudaBackend
from mtl_perception.inference.cuda.runtime import HostRuntime
from mtl_perception.inference.onnx.check import synthetic_image
from mtl_perception.network.model import MultiTaskRefineNet

SIZES = ((375, 1242), (188, 621), (480, 640))
PRECISIONS = ("fp16", "bf16", "fp32")
BATCHES = (1, 2, 4, 8)
OUTPUTS = ("labels", "depth", "cloud")


class PretendedGraphs(HostRuntime):
    """Runtime on the CPU whose capture records nothing, to test the code that depends on graphs."""

    can_capture = True

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        work()
        return work


class Bench:
    """Pipelines and frames according to the command line."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.on_cpu = args.device == "cpu"
        self.is_small = args.small
        self.sizes = [(64, 96), (31, 53)] if self.is_small else list(SIZES)
        self.precisions = ("fp32", "bf16") if self.on_cpu else PRECISIONS
        self.best = self.precisions[0]
        self.runs = 2 if self.is_small else args.runs
        self.chain = 2 if self.is_small else 32
        self.batches = (1, 3) if self.is_small else BATCHES
        self.most = self.batches[-1]
        given = [cv2.imread(str(path)) for path in args.image]
        if any(image is None for image in given):
            raise ConfigError(f"--image: cannot read one of {', '.join(map(str, args.image))}")
        self._given = [np.ascontiguousarray(image[..., ::-1]) for image in given]

    @cached_property
    def network(self) -> MultiTaskRefineNet:
        """The network, which is not changed."""
        return load_network(self.args.weights)

    def pipeline(self, precision: str, **others: Any) -> Pipeline:
        options = {"warm_up": False, "reuse_outputs": True, "cudnn_benchmark": self.args.cudnn_benchmark, **others}
        pipe = Pipeline(self.args.weights, self.args.device, precision=precision, **options)
        if self.on_cpu:
            _, first = pipe.description.class_set()
            classes = first, len(pipe.class_set)
            graphs = bool(options.get("cuda_graph", True))
            pipe._backend = CudaBackend(self.network, PretendedGraphs(), precision, classes, use_graphs=graphs, copies=False)
        return pipe

    def frames(self, size: tuple[int, int], count: int = 2) -> list[Frame]:
        """Return different frames: the given images, resized, then synthetic ones; with KITTI's camera, scaled."""
        height, width = size
        camera = CameraModel(1242, 375, 721.5377, 721.5377, 609.5593, 172.854).scaled(width, height)
        synthetic = synthetic_image(height, width)
        images = [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in self._given]
        images += [np.ascontiguousarray(np.roll(synthetic, 37 * shift, axis=1)) for shift in range(max(count - len(images), 0))]
        return [Frame(image, camera) for image in images[:count]]


def size_text(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
