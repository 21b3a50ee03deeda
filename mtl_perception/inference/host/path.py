"""Frames through an engine one by one, with what comes after it done on the host or step by step on the engine's device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from mtl_perception.camera.model import CameraModel
from mtl_perception.camera.projection import CLOUD_FLOATS, pack_cloud
from mtl_perception.inference.host.postprocess import Postprocessor, needed_tasks
from mtl_perception.inference.host.workspace import Workspace
from mtl_perception.inference.request import Job
from mtl_perception.inference.torch.engine import Engine, device_errors
from mtl_perception.types import CLOUD_DTYPE, Result

CACHED_CAMERAS = 32


class HostPath:
    """Everything between frames and results where one frame keeps the device busy, as on a CPU. Not for two threads at once.

    Args:
        engine: Runs the network.
        classes: First class and number of classes to choose among.
        copies: Results own their arrays; without it the next job overwrites them.

    Attributes:
        result_sets: How many calls' results are valid at a time where they are not copied.
        batch_limit: How many frames it gains by taking together.
        warm_up_jobs: How many jobs it takes until each is as fast as the next.
    """

    result_sets = batch_limit = warm_up_jobs = 1

    def __init__(self, engine: Engine, classes: tuple[int, int], copies: bool) -> None:
        self._engine = engine
        self._postprocess = Postprocessor(engine.device, engine.description.depth_transform, classes)
        self._copies = copies
        self._clouds = Workspace(engine.device)
        self._rays: dict[CameraModel, Tensor] = {}

    @property
    def backend(self) -> str:
        """What runs the network, with its version."""
        return self._engine.backend

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the network is run."""
        return self._engine.notes

    def free(self) -> None:
        """Let go of what can be made again when it is needed; results keep their own memory."""
        self._engine.free()
        self._rays.clear()

    @torch.inference_mode()
    def run_all(self, jobs: Sequence[Job]) -> list[list[Result]]:
        """The results of several jobs, one a frame, in order.

        Raises:
            DeviceError: The device failed or has no room.
        """
        # All go through the same buffers: of several frames each result is copied.
        copies = self._copies or sum(len(job.frames) for job in jobs) > 1
        return [[self._run(job, index, copies) for index in range(len(job.frames))] for job in jobs]

    @torch.inference_mode()
    def labels_among(self, ids: Sequence[int]) -> np.ndarray:
        """See `Postprocessor.labels_among`: of the last frame, H x W uint8."""
        return np.asarray(self._postprocess.labels_among(ids).cpu().numpy())

    @torch.inference_mode()
    def score(self, job: Job) -> None:
        """Compute the scores of a job's last frame, for `labels_among`."""
        logits = self._engine.forward(job.frames[-1].image, job.input_scale)[0]
        self._postprocess.segmentation(logits, job.growth, 0.0, False)

    def stages(self, job: Job) -> dict[str, Callable[[], Any]]:
        """The parts of `run_all` for a job of one frame with a camera, each to be called alone, for `bench`.

        Returns:
            By name, in order: forward (which gives the network's own outputs), labels, labels and confidence, depth, cloud.
        """
        image, camera = job.frames[0].image, job.cameras[0]
        assert camera is not None
        raw = self._engine.forward(image, job.input_scale)
        growth = job.growth

        def labels(confidence: bool) -> Tensor:
            return self._postprocess.segmentation(raw[0], growth, job.min_confidence, confidence)[0]

        def depth() -> Tensor:
            return self._postprocess.depth(raw[1], growth, job.min_depth, job.max_depth, job.depth_factors[0])

        with torch.inference_mode():
            made = labels(False), depth()
        parts: dict[str, Callable[[], Any]] = {
            "forward": lambda: self._engine.forward(image, job.input_scale),
            "resize, argmax": lambda: labels(False),
            "resize, argmax, confidence": lambda: labels(True),
            "depth": depth,
            "cloud": lambda: self._cloud(made[1], camera, resized(image, job.output_size), made[0]),
        }
        return {name: torch.inference_mode()(part) for name, part in parts.items()}

    def _run(self, job: Job, index: int, copies: bool) -> Result:
        height, width = job.frames[index].image.shape[:2]
        with device_errors(self._engine.device, f"processing a picture of {width}x{height}"):
            return self._compute(job, index, copies)

    def _compute(self, job: Job, index: int, copies: bool) -> Result:
        frame, camera = job.frames[index], job.cameras[index]
        wanted = job.outputs(index)
        needed = needed_tasks(wanted)
        raw = self._engine.forward(frame.image, job.input_scale) if needed else ()
        growth = job.growth
        values: dict[str, Any] = {}
        self._postprocess.forget()
        if "labels" in needed or "confidence" in needed:
            values["labels"], values["confidence"] = self._postprocess.segmentation(
                raw[0], growth, job.min_confidence, "confidence" in needed
            )
        if "depth" in needed:
            values["depth"] = self._postprocess.depth(raw[1], growth, job.min_depth, job.max_depth, job.depth_factors[index])
        if "normals" in needed and len(raw) > 2:
            values["normals"] = self._postprocess.normals(raw[2], growth)
        small = resized(frame.image, job.output_size) if wanted & {"cloud", "image"} else None
        if camera is not None and small is not None and "cloud" in wanted:
            values["cloud"] = self._cloud(values["depth"], camera, small, values["labels"])
        arrays = {name: values[name].to("cpu", copy=copies).numpy() for name in wanted if values.get(name) is not None}
        if "cloud" in arrays:
            arrays["cloud"] = arrays["cloud"].view(CLOUD_DTYPE)[..., 0]
        return Result(**arrays, camera=camera, image=small if "image" in wanted else None)

    def _cloud(self, depth: Tensor, camera: CameraModel, image: np.ndarray, labels: Tensor) -> Tensor:
        device = self._engine.device
        rays = self._rays.pop(camera, None)
        if rays is None:
            while len(self._rays) >= CACHED_CAMERAS:
                self._rays.pop(next(iter(self._rays)))
            rays = torch.from_numpy(camera.rays()).to(device)
        # Last again: the one that was not used for the longest time is first.
        self._rays[camera] = rays
        shape = (*depth.shape, CLOUD_FLOATS)
        out = self._clouds.get("cloud", shape, torch.float32)
        # A view of the message's memory may be read-only, which PyTorch does not take: only then is it copied.
        pixels = image if image.flags.writeable and image.flags.c_contiguous else np.array(image)
        return pack_cloud(depth, rays, torch.from_numpy(pixels).to(device), labels, out)


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture at another height and width, colors averaged; itself where the size is its own."""
    if size == image.shape[:2]:
        return image
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA))
