"""Composition of network, backend and geometry: from frames to results."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtl_perception.camera.model import CameraModel
from mtl_perception.config import LIVE, Config, by_name
from mtl_perception.errors import CameraError, ConfigError, DeviceError, FrameError
from mtl_perception.image.files import read_image_file
from mtl_perception.inference.backend import Backend, create_backend
from mtl_perception.inference.request import Request, scaled_size
from mtl_perception.labels import parse_groups
from mtl_perception.network.certificate import REFERENCE, Loss
from mtl_perception.network.description import KITTI_CAMERA as DEFAULT_CAMERA
from mtl_perception.network.digest import certified_losses
from mtl_perception.result import Result, relabel
from mtl_perception.types import ALL_OUTPUTS, OUTPUTS, Frame, History, Outputs
from mtl_perception.weights.files import load_network

FrameLike = Frame | str | os.PathLike[str] | np.ndarray
"""A frame, the path of an image file, or an image: H x W x 3 uint8 RGB. Files and arrays have no camera."""


class Pipeline:
    """Segmentation, depth and a labeled point cloud of an image, in one forward pass.

        pipe = Pipeline(weights="street", device="auto")
        result = pipe(Frame(image, camera))
        result.save("out")

    Args:
        weights: A name or a file; see `load_network`.
        device: auto, cpu, cuda or cuda:N.
        config: All parameters at once, instead of the others.
        reuse_outputs: Return the same arrays again, without a copy: a result is valid until the next call, and where
            `result_sets` is more than 1, until that many calls later.
        **others: Any parameter of `Config`.

    Raises:
        WeightsError: The weights cannot be used.
        DeviceError: The device is absent or out of memory.
        ConfigError: A parameter is invalid.
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
        self._check_depth_range(self.config)
        self.class_set, first = self.description.class_set(self.config.classes)
        self._classes = (first, len(self.class_set))
        self._group_of: np.ndarray | None = None
        if self.config.class_groups:
            mapping = parse_groups(self.config.class_groups, self.class_set)
            self.class_set, self._group_of = mapping.classes, mapping.table()
        self._copies = not reuse_outputs
        self._backend = self._create_backend(self.config)

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self._backend.device

    @property
    def precision(self) -> str:
        """Arithmetic of the network: fp32, fp16, bf16, int8-bf16 or int8-fp32."""
        return self._backend.precision

    @property
    def certified_loss(self) -> Loss | None:
        """What the current arithmetic loses compared with fp32, as certified for these weights; None for fp32 or if unknown."""
        return None if self.precision == REFERENCE else certified_losses(self._network).get(self.precision)

    @property
    def backend(self) -> str:
        """Human-readable name of what runs the network."""
        return self._backend.name

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user, such as why the network runs slower than it could; usually empty."""
        return tuple(self._backend.notes)

    @property
    def result_sets(self) -> int:
        """Number of calls whose results are valid at a time with `reuse_outputs`."""
        return self._backend.result_sets

    @property
    def batch_limit(self) -> int:
        """Number of frames up to which `batch` is faster than single calls; 1 on a CPU, which one frame keeps busy."""
        return self._backend.batch_limit

    @property
    def max_depth(self) -> float:
        """Meters beyond which depth is +Inf: the parameter, or the weights' own range."""
        return self._max_depth(self.config)

    def update(self, **changes: Any) -> None:
        """Change parameters that can change at any time, all or none.

        Raises:
            ConfigError: An invalid value, or a parameter that needs a new pipeline.
        """
        for name in changes:
            if by_name(name).when != LIVE:
                raise ConfigError(f"parameter {name} can change {by_name(name).when}")
        config = Config.from_mapping({**vars(self.config), **changes})
        self._check_depth_range(config)
        self.config = config

    def rebuild(self, device: str = "") -> None:
        """Rebuild everything on the device, as after a failure, with the same weights and parameters.

        Args:
            device: Move to this device; a precision that it lacks is replaced as by auto. Empty: stay on the same.

        Raises:
            DeviceError: The device is absent, out of memory, or failed again; the pipeline stays as it was.
        """
        # The device by its name: auto falls back to the CPU where PyTorch sees no GPU any more.
        device = device or str(self.device)
        precision = "auto" if device == "cpu" and self.config.precision == "fp16" else self.config.precision
        # A device that has failed may refuse even this.
        with suppress(RuntimeError, DeviceError):
            self._backend.release()
        self._backend = self._create_backend(replace(self.config, device=device, precision=precision))

    def __call__(self, frame: FrameLike, outputs: Collection[str] = OUTPUTS) -> Result:
        """Compute labels, confidence, depth and point cloud of a frame.

        Args:
            frame: A frame, the path of an image file, or H x W x 3 uint8 RGB. Only a frame has a camera, which a cloud needs;
                without one, depth is that of the weights' training camera, scaled to the image.
            outputs: Which of types.ALL_OUTPUTS to compute; the others are None in the result and cost nothing.

        Raises:
            FrameError: The image is not H x W x 3 uint8, or the file cannot be read.
            CameraError: The camera's size differs from the image's.
            ConfigError: An unknown output.
            DeviceError: The device failed or is out of memory.
        """
        return self.batch([frame], [outputs])[0]

    def batch(self, frames: Sequence[FrameLike], outputs: Sequence[Collection[str]]) -> list[Result]:
        """Compute the results of several frames, as of several cameras; a GPU processes those of one size together.

        Args:
            frames: As for a call, of any sizes.
            outputs: For each frame, which of types.ALL_OUTPUTS to compute.

        Returns:
            One result a frame, all valid as long as that of one call.

        Raises:
            PerceptionError: As for a call; an error of one frame leaves no results.
        """
        # Another thread may change the configuration of the next frames meanwhile.
        config = self.config
        valid = [_to_frame(frame) for frame in _check_several(frames)]
        if len(outputs) != len(valid):
            raise ConfigError(f"outputs: give one collection for each of the {len(valid)} frames, not {len(outputs)}")
        sizes: dict[tuple[int, ...], list[int]] = {}
        for index, frame in enumerate(valid):
            sizes.setdefault(frame.image.shape, []).append(index)
        groups = list(sizes.values())
        requests = [self._request([valid[i] for i in group], [outputs[i] for i in group], config) for group in groups]
        computed = chain.from_iterable(self._backend.infer(requests))
        by_index = dict(zip(chain.from_iterable(groups), computed, strict=True))
        return [self._result(by_index[index], frame, config) for index, frame in enumerate(frames)]

    def stream(self, frames: Iterable[FrameLike], outputs: Collection[str] = OUTPUTS) -> Iterator[Result]:
        """Yield the results of frames in order; a GPU overlaps their copies with its work.

        With `temporal_smoothing`, frames without a history are smoothed as those of one camera.
        On a GPU one frame is read ahead of the result. With `reuse_outputs`, a result is valid until the next one is taken.

        Args:
            frames: As for a call; read one by one, as results are taken.
            outputs: As for a call.

        Raises:
            PerceptionError: As for a call; raised after the results of the frames before.
        """
        pending: deque[tuple[FrameLike, Config]] = deque()
        history = History()

        def requests() -> Iterator[Request]:
            for frame in _check_several(frames):
                config = self.config
                valid = _to_frame(frame)
                if valid.history is None:
                    valid = replace(valid, history=history)
                request = self._request([valid], [outputs], config)
                pending.append((frame, config))
                yield request

        for computed in self._backend.stream(requests()):
            yield self._result(computed[0], *pending.popleft())

    def _create_backend(self, config: Config) -> Backend:
        backend = create_backend(self._network, self._classes, config, copies=self._copies)
        if config.warm_up:
            self._warm_up(backend)
        return backend

    def _request(self, frames: Sequence[Frame], outputs: Sequence[Collection[str]], config: Config) -> Request:
        """Build the request for validated frames of one size."""
        height, width = frames[0].image.shape[:2]
        # Not input_scale itself, because the network's input has a whole number of pixels.
        scale = scaled_size(height, width, config.input_scale)[1] / width
        return Request(
            frames,
            [_validated_outputs(wanted) for wanted in outputs],
            [self._depth_factor(frame.camera, width, scale) for frame in frames],
            self.description.grid,
            self._max_depth(config),
            config,
        )

    def _result(self, outputs: Outputs, frame: FrameLike, config: Config) -> Result:
        stem = Path(frame).stem if isinstance(frame, (str, os.PathLike)) else Result.stem
        if self._group_of is not None:
            outputs = relabel(outputs, self._group_of)
        return Result(**vars(outputs), class_set=self.class_set, overlay_opacity=config.overlay_opacity, stem=stem)

    def _warm_up(self, backend: Backend) -> None:
        """Process black frames of the training camera's size, so that kernels are chosen and memory is allocated."""
        camera = CameraModel.from_intrinsics(self.description.camera or DEFAULT_CAMERA)
        frame = Frame(np.zeros((camera.height, camera.width, 3), np.uint8), camera)
        for _ in range(backend.warm_up_runs):
            backend.infer([self._request([frame], [OUTPUTS], self.config)])

    def _depth_factor(self, camera: CameraModel | None, width: int, scale: float) -> float:
        """Return meters per unit of transformed depth: the focal length that the network sees over that of its training.

        An image of this width without a camera is taken to be from the training camera. `scale` is the width of the network's
        input relative to the image's.
        """
        trained = self.description.depth_focal_length
        if not trained:
            return 1.0
        if camera is not None:
            focal_length = camera.fx
        else:
            intrinsics = self.description.camera or DEFAULT_CAMERA
            focal_length = intrinsics["fx"] * width / intrinsics["width"]
        return focal_length * scale / trained

    def _max_depth(self, config: Config) -> float:
        return config.max_depth or self.description.depth_range[1]

    def _check_depth_range(self, config: Config) -> None:
        max_depth = self._max_depth(config)
        if config.min_depth >= max_depth:
            raise ConfigError(f"parameter min_depth: {config.min_depth} is not below max_depth {max_depth}: no depth is valid")


def _check_several(frames: Iterable[FrameLike]) -> Iterable[FrameLike]:
    if isinstance(frames, (Frame, str, os.PathLike)):
        raise FrameError(f"frames cannot be used: a {type(frames).__name__} is not a list; call the pipeline with it", "format")
    return frames


def _to_frame(frame: FrameLike) -> Frame:
    """Return a validated frame; its image is read if it is a path."""
    if isinstance(frame, Frame):
        return _validated(frame)
    if isinstance(frame, (str, os.PathLike)):
        return Frame(read_image_file(Path(frame)))
    if isinstance(frame, np.ndarray):
        return _validated(Frame(frame))
    raise FrameError(
        f"frame cannot be used: type {type(frame).__name__} is not supported; give a Frame, a path, or H x W x 3 uint8 RGB",
        "format",
    )


def _validated(frame: Frame) -> Frame:
    image, camera = frame.image, frame.camera
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        found = f"{getattr(image, 'shape', type(image).__name__)} {getattr(image, 'dtype', '')}".rstrip()
        raise FrameError(f"image must be H x W x 3 uint8 RGB, not {found}", "format")
    height, width = image.shape[:2]
    if image.size == 0:
        raise FrameError(f"image of {width}x{height} pixels is empty", "size")
    if camera is not None and (camera.height, camera.width) != (height, width):
        raise CameraError(
            f"camera model is for {camera.width}x{camera.height} images, but the image is {width}x{height}; "
            "use camera.scaled or camera.cropped, as the image was resized or cropped"
        )
    return frame


def _validated_outputs(outputs: Collection[str]) -> frozenset[str]:
    if isinstance(outputs, str) or set(outputs) - set(ALL_OUTPUTS):
        raise ConfigError(f"outputs {outputs!r}: give a collection of names from {', '.join(ALL_OUTPUTS)}")
    return frozenset(outputs)
