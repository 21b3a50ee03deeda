"""Frame -> Result: the only place that composes network, engine and geometry."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

import numpy as np
import torch

from mtl_perception.camera.model import CameraModel
from mtl_perception.config import LIVE, Config, by_name, parameters
from mtl_perception.errors import CameraError, ConfigError, DeviceError, FrameError
from mtl_perception.inference.backend import make_engine
from mtl_perception.inference.cuda.path import DevicePath
from mtl_perception.inference.cuda.runtime import CudaRuntime
from mtl_perception.inference.host.path import HostPath
from mtl_perception.inference.host.postprocess import needed_tasks
from mtl_perception.inference.request import Job, scaled_size
from mtl_perception.inference.torch.engine import Engine, device_errors
from mtl_perception.labels import ClassSet
from mtl_perception.network.description import KITTI_CAMERA as DEFAULT_CAMERA
from mtl_perception.types import OUTPUTS, Frame, Result
from mtl_perception.weights.files import load_network


class Pending:
    """A frame under way.

    Args:
        finish: Waits for its result.
    """

    def __init__(self, finish: Callable[[], Result]) -> None:
        self._finish = finish

    def result(self) -> Result:
        """Wait for it, and give it; with `reuse_outputs` it is valid as long as that of a call.

        Raises:
            DeviceError: The device failed.
        """
        return self._finish()


class Pipeline:
    """Segmentation, depth and a labeled cloud of a picture, in one forward pass.

        pipe = Pipeline(weights="street", device="auto")
        result = pipe(Frame(image, camera))

    Args:
        weights: A name or a file; see `load_network`.
        device: auto, cpu, cuda or cuda:N.
        config: All parameters at once, instead of the others.
        reuse_outputs: Give the same arrays again, without a copy: a result is valid until the next call, and where
            `result_sets` is more than 1, until that many calls later.
        **others: Any parameter of `Config`.

    Raises:
        WeightsError: The weights cannot be used.
        DeviceError: The device is absent or has no room.
        ConfigError: A parameter is wrong.
    """

    def __init__(
        self,
        weights: str = "street",
        device: str = "auto",
        *,
        config: Config | None = None,
        reuse_outputs: bool = False,
        **others: Any,
    ) -> None:
        if config is not None and others:
            raise ConfigError(f"give either config or single parameters ({', '.join(others)}), not both")
        self.config = config or Config.from_mapping({"weights": str(weights), "device": device, **others})
        self._network = load_network(self.config.weights)
        self.description = self._network.description
        self._max_depth(self.config)
        self.class_set: ClassSet
        self.class_set, first = self.description.class_set(self.config.classes)
        self._classes = (first, len(self.class_set))
        self._copies = not reuse_outputs
        self._engine: Engine
        self._host: HostPath
        self._path: HostPath | DevicePath
        self._scored: Job | None = None
        self._settle_on(self.config.device, self.config.precision)

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self._engine.device

    @property
    def precision(self) -> str:
        """The network's arithmetic: fp32, fp16 or bf16."""
        return self._engine.precision

    @property
    def backend(self) -> str:
        """What runs the network, for people."""
        return self._path.backend

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the network is run, such as why it is slower than it could be; mostly empty."""
        return tuple(self._path.notes)

    @property
    def result_sets(self) -> int:
        """How many calls' results are valid at a time where outputs are reused."""
        return self._path.result_sets

    @property
    def batch_limit(self) -> int:
        """How many frames `batch` gains by taking together; 1 on a CPU, whose cores one frame keeps busy."""
        return self._path.batch_limit

    @property
    def max_depth(self) -> float:
        """Meters beyond which depth is +Inf: the parameter, or the weights' own range."""
        return self._max_depth(self.config)

    def update(self, **changes: Any) -> None:
        """Change parameters that can change at any time, all or none.

        Raises:
            ConfigError: A wrong value, or a parameter that needs a new pipeline.
        """
        for name in changes:
            if by_name(name).when != LIVE:
                raise ConfigError(f"parameter {name} can change {by_name(name).when}")
        values = {parameter.name: getattr(self.config, parameter.name) for parameter in parameters()}
        config = Config.from_mapping({**values, **changes})
        self._max_depth(config)
        self.config = config

    def renew(self, device: str = "") -> None:
        """Make all that lies on the device anew, as after it failed, of the same weights and parameters.

        Args:
            device: Another one instead; a precision that it lacks is chosen as by auto. Empty: the same.

        Raises:
            DeviceError: The device is absent, has no room, or failed again; `renew` may be tried again.
        """
        precision = self.precision
        if device:
            precision = "auto" if device == "cpu" and self.config.precision == "fp16" else self.config.precision
        # A device that has failed may refuse even this.
        with suppress(RuntimeError, DeviceError):
            self._path.free()
        # Not auto again, which takes the CPU where it sees no GPU any more.
        self._settle_on(device or str(self.device), precision)

    def __call__(self, frame: Frame, outputs: Collection[str] = OUTPUTS) -> Result:
        """Labels, confidence, depth and cloud of a frame.

        Args:
            frame: The picture, and its camera if there is to be a cloud.
            outputs: Which of types.OUTPUTS to compute; the others are None in the result and cost nothing.

        Raises:
            FrameError: The picture is not H x W x 3 uint8.
            CameraError: The camera is not for a picture of this size.
            ConfigError: An output that there is not.
            DeviceError: The device failed or has no room.
        """
        return self.batch([frame], [outputs])[0]

    def batch(self, frames: Sequence[Frame], outputs: Sequence[Collection[str]]) -> list[Result]:
        """The results of several frames, as of several cameras; on a GPU those of one size go through the network together.

        Args:
            frames: Of any sizes.
            outputs: For each frame, which of types.OUTPUTS to compute.

        Returns:
            One result a frame, all valid as long as that of one call.

        Raises:
            As a call does, for whichever frame it is, and then there is no result.
        """
        # The configuration of these frames: another thread may change that of the next.
        config = self.config
        sizes: dict[tuple[int, ...], list[int]] = {}
        for index, frame in enumerate(frames):
            sizes.setdefault(self._checked(frame).shape, []).append(index)
        groups = list(sizes.values())
        jobs = [self._job([frames[i] for i in group], [outputs[i] for i in group], config) for group in groups]
        if jobs:
            self._remember(jobs[-1])
        done = chain.from_iterable(self._path.run_all(jobs))
        results = dict(zip(chain.from_iterable(groups), done, strict=True))
        return [results[index] for index in range(len(frames))]

    def submit(self, frame: Frame, outputs: Collection[str] = OUTPUTS) -> Pending:
        """Begin with a frame while the one before it is under way: on a GPU their copies and work overlap.

        On a CPU the frame is done when this returns. Two frames can be under way; arguments and errors as those of a call.
        """
        if not isinstance(self._path, DevicePath):
            result = self(frame, outputs)
            return Pending(lambda: result)
        self._checked(frame)
        job = self._job([frame], [outputs], self.config)
        self._remember(job)
        ticket = self._path.submit(job)
        return Pending(lambda: ticket.result()[0])

    def labels_among(self, ids: Sequence[int]) -> np.ndarray:
        """Labels of the last frame, had the network known only these classes: for evaluation.

        Args:
            ids: Of `class_set`; the answer for a pixel is the one whose score is greatest.

        Returns:
            H x W uint8 positions in `ids`, 255 where there is no score.

        Raises:
            RuntimeError: Its labels were not asked for, or confidence was, too, which uses up the scores.
        """
        if self._path is not self._host:
            # It keeps no scores: only here are they wanted, and nothing here is in a hurry.
            if self._scored is None:
                raise RuntimeError("labels_among needs a frame with labels and without confidence before it")
            self._host.score(self._scored)
        return self._host.labels_among(ids)

    def stages(self, frame: Frame) -> dict[str, Callable[[], Any]]:
        """The parts of a call for a frame with a camera, each to be called alone, for `bench`; see `HostPath.stages`."""
        self._checked(frame)
        return self._host.stages(self._job([frame], [OUTPUTS], self.config))

    def _settle_on(self, device: str, precision: str) -> None:
        """Make what computes; where that fails, what there was before stays."""
        engine = make_engine(self._network, device, precision, self.config.cpu_threads, self.config.backend)
        host = HostPath(engine, self._classes, self._copies)
        path = self._device_path(engine) if engine.device.type == "cuda" else host
        if self.config.warm_up:
            self._warm_up(path)
        self._engine, self._host, self._path, self._scored = engine, host, path, None

    def _device_path(self, engine: Engine) -> DevicePath:
        config, precision = self.config, engine.precision
        with device_errors(engine.device, "being made ready"):
            # Exact, lest fp32 be less than that.
            runtime = CudaRuntime(engine.device, config.cudnn_benchmark, exact=precision == "fp32")
        return DevicePath(self._network, runtime, precision, self._classes, use_graphs=config.cuda_graph, copies=self._copies)

    def _job(self, frames: Sequence[Frame], outputs: Sequence[Collection[str]], config: Config) -> Job:
        """Frames of one size, checked, as the paths take them."""
        height, width = frames[0].image.shape[:2]
        return Job(
            frames,
            [_checked_outputs(wanted) for wanted in outputs],
            [self._depth_factor(frame.camera, width, config.input_scale) for frame in frames],
            scaled_size(height, width, config.output_scale),
            self.description.grid,
            config.input_scale,
            config.upsampling,
            config.min_depth,
            self._max_depth(config),
            config.min_confidence,
        )

    def _remember(self, job: Job) -> None:
        """Where its scores may be wanted later: a device's path keeps none."""
        if self._path is not self._host:
            scored = "labels" in (needed := needed_tasks(job.outputs(-1))) and "confidence" not in needed
            self._scored = job if scored and not job.min_confidence else None

    def _warm_up(self, path: HostPath | DevicePath) -> None:
        """Black frames of the training camera's size through everything, so that kernels are chosen and memory is there."""
        camera = CameraModel.from_intrinsics(self.description.camera or DEFAULT_CAMERA)
        job = self._job([Frame(np.zeros((camera.height, camera.width, 3), np.uint8), camera)], [OUTPUTS], self.config)
        for _ in range(path.warm_up_jobs):
            path.run_all([job])

    def _depth_factor(self, camera: CameraModel | None, width: int, input_scale: float) -> float:
        """Meters over transformed depth: the focal length of the picture as the network sees it over that of its training.

        Without a camera it is taken to be the training camera, for a picture of this width.
        """
        trained = self.description.depth_focal_length
        if not trained:
            return 1.0
        if camera is not None:
            focal_length = camera.fx
        else:
            intrinsics = self.description.camera or DEFAULT_CAMERA
            focal_length = intrinsics["fx"] * width / intrinsics["width"]
        return focal_length * input_scale / trained

    def _max_depth(self, config: Config) -> float:
        max_depth = config.max_depth or self.description.depth_range[1]
        if config.min_depth >= max_depth:
            raise ConfigError(f"parameter min_depth: {config.min_depth} is not below max_depth {max_depth}: no depth is valid")
        return max_depth

    def _checked(self, frame: Frame) -> np.ndarray:
        image = frame.image
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            found = f"{getattr(image, 'shape', type(image).__name__)} {getattr(image, 'dtype', '')}".rstrip()
            raise FrameError(f"a picture must be H x W x 3 uint8 RGB, not {found}", "format")
        if image.size == 0:
            raise FrameError(f"a picture of {image.shape[1]}x{image.shape[0]} pixels is empty", "size")
        camera = frame.camera
        if camera is not None and (camera.height, camera.width) != image.shape[:2]:
            raise CameraError(
                f"the camera is for {camera.width}x{camera.height}, the picture has {image.shape[1]}x{image.shape[0]}: "
                "use camera.scaled or camera.cropped, as the picture was"
            )
        return image


def _checked_outputs(outputs: Collection[str]) -> frozenset[str]:
    unknown = set(outputs) - set(OUTPUTS)
    if isinstance(outputs, str) or unknown:
        raise ConfigError(f"outputs {outputs!r}: give a collection of names from {', '.join(OUTPUTS)}")
    return frozenset(outputs)
