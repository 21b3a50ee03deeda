"""The CPU backend: frames one by one through an engine, postprocessing on the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch

from mtl_perception.camera.model import CameraModel
from mtl_perception.inference.device import device_errors
from mtl_perception.inference.host.cloud import CloudPacker
from mtl_perception.inference.host.engine import Engine
from mtl_perception.inference.host.postprocess import Postprocessor
from mtl_perception.inference.host.preprocess import resize_area
from mtl_perception.inference.host.smoothing import smooth
from mtl_perception.inference.outputs import depth_edges, log_jump
from mtl_perception.inference.request import Request
from mtl_perception.network.grid import nearest_cells
from mtl_perception.threads import single_thread
from mtl_perception.types import Outputs


class CpuBackend:
    """Compute results on the CPU; see `Backend`. Not thread-safe.

    Args:
        engine: Runs the network.
        classes: First class and number of classes to choose among.
        copies: Results own their arrays; otherwise the next request overwrites them.
        note: A remark for `notes`; empty for none.
    """

    result_sets = batch_limit = warm_up_runs = 1

    def __init__(self, engine: Engine, classes: tuple[int, int], copies: bool, note: str = "") -> None:
        self.engine = engine
        self.device, self.precision = engine.device, engine.precision
        self._transform = engine.description.depth_transform
        self._postprocess = Postprocessor(self._transform, classes)
        self._copies = copies
        self._note = note
        # Outputs of two networks are not blended; the histories of frames may outlive this object.
        self._identity = object()
        self._clouds = CloudPacker()

    @property
    def name(self) -> str:
        """The library that runs the network, with its version."""
        return self.engine.name

    @property
    def notes(self) -> Sequence[str]:
        """Remarks for the user on how the network runs."""
        return tuple(filter(None, (self._note, *self.engine.notes)))

    def infer(self, requests: Sequence[Request]) -> list[list[Outputs]]:
        """Return the results of several requests, in order."""
        # All frames share the same buffers, so the results of several are copied.
        copies = self._copies or sum(len(request.frames) for request in requests) > 1
        return [self._process(request, copies) for request in requests]

    def stream(self, requests: Iterable[Request]) -> Iterator[list[Outputs]]:
        """Yield the results of each request in order."""
        for request in requests:
            yield self._process(request, self._copies or len(request.frames) > 1)

    def release(self) -> None:
        """Free what can be rebuilt on demand; results keep their own memory."""
        self.engine.release()
        self._clouds.release()

    @torch.inference_mode()
    def _process(self, request: Request, copies: bool) -> list[Outputs]:
        results = []
        height, width = request.image_size
        with device_errors(self.device, f"processing a {width}x{height} image"):
            for index, (frame, camera) in enumerate(zip(request.frames, request.cameras, strict=True)):
                outputs, values = request.outputs(index), self._predict(request, index)
                image = resize_area(frame.image, request.output_size) if outputs & {"cloud", "image"} else None
                if camera is not None and image is not None and "cloud" in outputs:
                    values["cloud"] = self._cloud(request, camera, image, values)
                arrays = {name: values[name].copy() if copies else values[name] for name in outputs if name in values}
                results.append(Outputs(**arrays, camera=camera, image=image if "image" in outputs else None))
        return results

    def _predict(self, request: Request, index: int) -> dict[str, np.ndarray]:
        """Compute what the outputs of a frame need from the network, by name."""
        needed, spec, post = request.predictions(index), request.resize_spec, self._postprocess
        if not needed:
            return {}
        frame, config = request.frames[index], request.config
        raw = self.engine.forward(frame.image, config.input_scale)
        if config.temporal_smoothing:
            source = self._identity, config.input_scale
            raw = smooth(frame, raw, config.temporal_smoothing, self._transform, source)
        values: dict[str, np.ndarray] = {}
        if "labels" in needed or "confidence" in needed:
            values["labels"], confidence = post.segmentation(raw[0], spec, config.min_confidence, "confidence" in needed)
            if confidence is not None:
                values["confidence"] = confidence
        if "depth" in needed:
            limits = config.min_depth, request.max_depth
            values["depth"] = post.depth(raw[1], spec, *limits, request.depth_factors[index])
            if config.points_edge_filter and "cloud" in request.outputs(index):
                jump = log_jump(config.points_edge_filter)
                with single_thread():
                    values["edges"] = depth_edges(raw[1][0], self._transform, jump).numpy()
        if "normals" in needed and len(raw) > 2:
            values["normals"] = post.normals(raw[2], spec)
        if "scores" in needed:
            values["scores"] = post.scores(raw[0], spec)
        return values

    def _cloud(self, request: Request, camera: CameraModel, image: np.ndarray, values: Mapping[str, np.ndarray]) -> np.ndarray:
        stride, edges = request.config.points_stride, None
        if "edges" in values:
            cells = values["edges"]
            rows, columns = nearest_cells(request.resize_spec, cells.shape, stride)
            edges = cells.take(columns, axis=1).take(rows, axis=0)
        return self._clouds.pack(camera, stride, values["depth"], image, values["labels"], edges)
