"""Frame -> Result: the only place that composes network, engine and geometry."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from mtl_perception.config import LIVE, Config, by_name, parameters
from mtl_perception.engine.device_path import CAPTURED_AT, SLOTS, DevicePath
from mtl_perception.engine.device_runtime import CudaRuntime
from mtl_perception.engine.device_slots import Job
from mtl_perception.engine.postprocess import Postprocessor, needed_tasks
from mtl_perception.engine.run import Engine, device_errors
from mtl_perception.engine.workspace import Workspace
from mtl_perception.errors import CameraError, ConfigError, FrameError
from mtl_perception.geometry.backproject import CLOUD_FLOATS, pack_cloud
from mtl_perception.geometry.camera import CameraModel
from mtl_perception.labels import ClassSet
from mtl_perception.net.description import KITTI_CAMERA as DEFAULT_CAMERA
from mtl_perception.net.weights import load_network
from mtl_perception.types import CLOUD_DTYPE, OUTPUTS, Frame, Result

CACHED_CAMERAS = 8


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
    """Segmentation, depth and a labelled cloud of a picture, in one forward pass.

        pipe = Pipeline(weights="street", device="auto")
        result = pipe(Frame(image, camera))

    Args:
        weights: A name or a file; see `load_network`.
        device: auto, cpu, cuda or cuda:N.
        config: All parameters at once, instead of the others.
        reuse_outputs: Give the same arrays again, without a copy: a result is valid until the next call, on a GPU until the
            next but one.
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
        network = load_network(self.config.weights)
        self.description = network.description
        self._max_depth(self.config)
        self.class_set: ClassSet
        self.class_set, first = self.description.class_set(self.config.classes)
        self._engine = Engine(network, self.config.device, self.config.precision, self.config.cpu_threads)
        self._postprocess = Postprocessor(self._engine.device, self.description.depth_transform, (first, len(self.class_set)))
        self._reuse_outputs = reuse_outputs
        self._host = Workspace(torch.device("cpu"))
        self._clouds = Workspace(self._engine.device)
        self._rays: dict[CameraModel, Tensor] = {}
        self._path: DevicePath | None = None
        self._scored: tuple[np.ndarray, Config] | None = None
        if self.device.type == "cuda":
            # Exact, lest fp32 be less than that.
            runtime = CudaRuntime(self.device, self.config.gpu_tuning, exact=self.precision == "fp32")
            self._path = DevicePath(
                network,
                runtime,
                self.precision,
                (first, len(self.class_set)),
                use_graphs=self.config.gpu_graph,
                copies=not reuse_outputs,
            )
        if self.config.warm_up:
            self._warm_up()

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
        return f"torch on {self.device.type}" if self._path is None else self._path.backend

    @property
    def notes(self) -> tuple[str, ...]:
        """What the device could not do as it should, and what is done instead, for diagnostics."""
        return () if self._path is None else tuple(self._path.notes)

    @property
    def max_depth(self) -> float:
        """Metres beyond which depth is +Inf: the parameter, or the weights' own range."""
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

    @torch.inference_mode()
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
        image = self._checked(frame)
        wanted = _checked_outputs(outputs) - (frozenset() if frame.camera else {"cloud"})
        if self._path is not None:
            return self._on_device([frame], [wanted])[0]
        with device_errors(self.device, f"processing a picture of {image.shape[1]}x{image.shape[0]}"):
            # The configuration of this frame: another thread may change that of the next.
            return self._run(image, frame.camera, wanted, self.config)

    def submit(self, frame: Frame, outputs: Collection[str] = OUTPUTS) -> Pending:
        """Begin with a frame while the one before it is under way: on a GPU their copies and work overlap.

        On a CPU the frame is done when this returns. Two frames can be under way; arguments and errors as those of a call.
        """
        if self._path is None:
            result = self(frame, outputs)
            return Pending(lambda: result)
        self._checked(frame)
        ticket = self._path.submit(self._job([frame], [_checked_outputs(outputs)], self.config))
        return Pending(lambda: ticket.result()[0])

    @torch.inference_mode()
    def labels_among(self, ids: Sequence[int]) -> np.ndarray:
        """Labels of the last frame whose labels were asked for, had the network known only these classes: for evaluation.

        Args:
            ids: Of `class_set`; the answer for a pixel is the one whose score is greatest.

        Returns:
            H x W uint8 positions in `ids`, 255 where there is no score.

        Raises:
            RuntimeError: There was no such frame, or confidence was asked for with it, which uses up the scores.
        """
        if self._path is not None:
            # It keeps no scores: only here are they wanted, and nothing here is in a hurry.
            if self._scored is None:
                raise RuntimeError("labels_among needs a frame with labels and without confidence before it")
            image, config = self._scored
            size = _output_size(image.shape[0], image.shape[1], config.output_scale)
            logits = self._engine.forward(image, config.input_scale)[0]
            self._postprocess.segmentation(logits, size, config.upsampling, 0.0, False)
        return np.asarray(self._postprocess.labels_among(ids).cpu().numpy())

    def _on_device(self, frames: Sequence[Frame], wanted: Sequence[frozenset[str]]) -> list[Result]:
        """Results of frames that were checked, in their order; those of one size go through the network together."""
        assert self._path is not None
        config = self.config
        sizes: dict[tuple[int, ...], list[int]] = {}
        for index, frame in enumerate(frames):
            sizes.setdefault(frame.image.shape, []).append(index)
        jobs = [self._job([frames[i] for i in group], [wanted[i] for i in group], config) for group in sizes.values()]
        results = dict(
            zip((i for group in sizes.values() for i in group), itertools.chain(*self._path.run_all(jobs)), strict=True)
        )
        return [results[index] for index in range(len(frames))]

    def _job(self, frames: Sequence[Frame], wanted: Sequence[frozenset[str]], config: Config) -> Job:
        """Frames of one size, checked, as the device path takes them."""
        height, width = frames[0].image.shape[:2]
        needed = needed_tasks(wanted[-1])
        if needed & {"labels", "confidence"}:
            keeps_scores = "confidence" not in needed and not config.min_confidence
            self._scored = (frames[-1].image, config) if keeps_scores else None
        return Job(
            frames,
            wanted,
            [self._depth_factor(frame.camera, width, config.input_scale) for frame in frames],
            _output_size(height, width, config.output_scale),
            _output_size(height, width, config.input_scale),
            config.upsampling,
            config.min_depth,
            self._max_depth(config),
            config.min_confidence,
        )

    def _run(self, image: np.ndarray, camera: CameraModel | None, wanted: frozenset[str], config: Config) -> Result:
        size = _output_size(image.shape[0], image.shape[1], config.output_scale)
        needed = needed_tasks(wanted)
        raw = self._engine.forward(image, config.input_scale) if needed else ()
        values: dict[str, Any] = {}
        if "labels" in needed or "confidence" in needed:
            values["labels"], values["confidence"] = self._postprocess.segmentation(
                raw[0], size, config.upsampling, config.min_confidence, "confidence" in needed
            )
        if "depth" in needed:
            max_depth = self._max_depth(config)
            factor = self._depth_factor(camera, image.shape[1], config.input_scale)
            values["depth"] = self._postprocess.depth(raw[1], size, config.upsampling, config.min_depth, max_depth, factor)
        if "normals" in needed and len(raw) > 2:
            values["normals"] = self._postprocess.normals(raw[2], size, config.upsampling)
        small = _resized(image, size) if wanted & {"cloud", "image"} else None
        if camera is not None:
            camera = camera.scaled(size[1], size[0])
            if small is not None and "cloud" in wanted:
                values["cloud"] = self._cloud(values["depth"], camera, small, values["labels"])
        arrays = {name: self._to_host(name, values[name]) for name in wanted if values.get(name) is not None}
        if "cloud" in arrays:
            arrays["cloud"] = arrays["cloud"].view(CLOUD_DTYPE)[..., 0]
        return Result(**arrays, camera=camera, image=small if "image" in wanted else None)

    def _warm_up(self) -> None:
        """A black frame of the training camera's size through everything, so that kernels are chosen and memory is there."""
        camera = CameraModel.from_intrinsics(self.description.camera or DEFAULT_CAMERA)
        for _ in range(1 if self._path is None else CAPTURED_AT * SLOTS):
            self(Frame(np.zeros((camera.height, camera.width, 3), np.uint8), camera))

    def _depth_factor(self, camera: CameraModel | None, width: int, input_scale: float) -> float:
        """Metres over transformed depth: the focal length of the picture as the network sees it over that of its training.

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

    def _cloud(self, depth: Tensor, camera: CameraModel, image: np.ndarray, labels: Tensor) -> Tensor:
        rays = self._rays.get(camera)
        if rays is None:
            while len(self._rays) >= CACHED_CAMERAS:
                self._rays.pop(next(iter(self._rays)))
            rays = self._rays[camera] = torch.from_numpy(camera.rays()).to(self.device)
        shape = (*depth.shape, CLOUD_FLOATS)
        out = self._clouds.get("cloud", shape, torch.float32)
        # A view of the message's memory may be read-only, which PyTorch does not take: only then is it copied.
        pixels = image if image.flags.writeable and image.flags.c_contiguous else np.array(image)
        return pack_cloud(depth, rays, torch.from_numpy(pixels).to(self.device), labels, out)

    def _to_host(self, name: str, tensor: Tensor) -> np.ndarray:
        """The output as an array: a kept one where outputs are reused, else one of its own."""
        if not self._reuse_outputs:
            return tensor.to("cpu", copy=True).numpy()
        if self.device.type == "cpu":
            return tensor.numpy()
        return self._host.get(name, tuple(tensor.shape), tensor.dtype).copy_(tensor).numpy()


def _output_size(height: int, width: int, scale: float) -> tuple[int, int]:
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if size == image.shape[:2]:
        return image
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA))


def _checked_outputs(outputs: Collection[str]) -> frozenset[str]:
    unknown = set(outputs) - set(OUTPUTS)
    if isinstance(outputs, str) or unknown:
        raise ConfigError(f"outputs {outputs!r}: give a collection of names from {', '.join(OUTPUTS)}")
    return frozenset(outputs)
