"""`bench --compare`: all implementations that run here, against the published one."""

from __future__ import annotations

import gc
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtl_perception.benchmark.inputs import example_camera
from mtl_perception.benchmark.published import PublishedPipeline, RawOutputs, eager, published_network
from mtl_perception.benchmark.stages import forward_pass
from mtl_perception.benchmark.timing import PeakMemory, summarize, time_interleaved
from mtl_perception.camera.model import CameraModel
from mtl_perception.config import Config
from mtl_perception.errors import PerceptionError, require
from mtl_perception.pipeline import Pipeline
from mtl_perception.types import Frame
from mtl_perception.weights.files import load_network

OUTPUTS = ("labels", "depth", "cloud")
PUBLISHED = "published (PyTorch eager, NCHW)"
ONNX_RUNTIME = "ONNX Runtime, plain export"
OURS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ours: torch, fp32", {"device": "cpu", "backend": "torch", "precision": "fp32"}),
    ("ours: openvino, fp32", {"device": "cpu", "backend": "openvino", "precision": "fp32"}),
    ("ours: openvino, bf16", {"device": "cpu", "backend": "openvino", "precision": "bf16"}),
    ("ours: openvino, int8", {"device": "cpu", "backend": "openvino", "precision": "int8"}),
    ("ours: cuda, fp32", {"device": "cuda", "precision": "fp32"}),
    ("ours: cuda, fp16", {"device": "cuda", "precision": "fp16"}),
    ("ours: cuda, bf16", {"device": "cuda", "precision": "bf16"}),
)


@dataclass(frozen=True)
class Implementation:
    """One way to run the network on a fixed image.

    Attributes:
        network: Runs the network alone: from the prepared input, or for ours from the image, to the raw outputs.
        total: Runs image to labels, depth and cloud.
    """

    network: Callable[[], RawOutputs]
    total: Callable[[], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Agreement:
    """Differences between the outputs of an implementation and the published one for one image.

    Attributes:
        network: Maximum difference of the raw outputs, relative to their maximum.
        labels: Fraction of pixels with the same label.
        depth_median: Relative difference of depth where both are valid, median; 0 without such pixels.
        depth_p99: The same, 99th percentile.
    """

    network: float
    labels: float
    depth_median: float
    depth_p99: float


def compare(config: Config, image: np.ndarray, runs: int) -> dict[str, Any]:
    """Measure all implementations on one image.

    Args:
        config: Weights, classes and threads; sizes and limits are those of the published implementation.
        image: H x W x 3 uint8 RGB.
        runs: Measured runs of each.

    Returns:
        By implementation: network and total (median_ms, iqr_ms, ratio to published), peak_mb and agreement; or skipped, the
        reason why it cannot run.
    """
    camera = example_camera(image.shape[1], image.shape[0])
    implementations: dict[str, Implementation] = {}
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, create in _implementations(config, image, camera, Path(folder)):
            gc.collect()
            try:
                with PeakMemory() as memory:
                    implementation = create()
                    implementation.total()
                implementations[name], rows[name] = implementation, {"peak_mb": memory.megabytes}
            except PerceptionError as error:
                rows[name] = {"skipped": str(error)}
        stages: dict[str, Callable[[], Any]] = {}
        for name, implementation in implementations.items():
            stages[f"network {name}"], stages[f"total {name}"] = implementation.network, implementation.total
        times = {stage: summarize(milliseconds) for stage, milliseconds in time_interleaved(stages, runs).items()}
    expected = _outputs(implementations[PUBLISHED])
    for name, implementation in implementations.items():
        for part in ("network", "total"):
            row = times[f"{part} {name}"]
            ratio = row["median_ms"] / times[f"{part} {PUBLISHED}"]["median_ms"]
            rows[name][part] = {**row, "ratio": round(ratio, 4)}
        rows[name]["agreement"] = asdict(_agreement(_outputs(implementation), expected))
    return rows


def format_table(rows: Mapping[str, Any]) -> str:
    """Return the result of `compare` as text."""
    head = f"  {'':<34}{'network':>9}{'iqr':>8}{'ratio':>7}{'total':>9}{'iqr':>8}{'ratio':>7}{'peak MB':>9}"
    lines = [f"{head}{'outputs':>10}{'labels':>10}{'depth':>9}{'p99':>9}"]
    for name, row in rows.items():
        if "skipped" in row:
            lines.append(f"  {name:<34}skipped: {row['skipped']}")
            continue
        times = "".join(
            f"{row[part]['median_ms']:>9.1f}{row[part]['iqr_ms']:>8.1f}{row[part]['ratio']:>7.3f}"
            for part in ("network", "total")
        )
        agreement = Agreement(**row["agreement"])
        memory = "-" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        lines.append(
            f"  {name:<34}{times}{memory:>9}{agreement.network:>10.1e}{agreement.labels:>10.3%}"
            f"{agreement.depth_median:>9.1e}{agreement.depth_p99:>9.1e}"
        )
    return "\n".join(lines)


def _implementations(
    config: Config, image: np.ndarray, camera: CameraModel, folder: Path
) -> Iterator[tuple[str, Callable[[], Implementation]]]:
    """Yield the name and the constructor of each implementation."""
    network = load_network(config.weights)
    unmodified = published_network(network)

    def published(run: Callable[[np.ndarray], RawOutputs]) -> Implementation:
        pipeline = PublishedPipeline(network.description, run)
        prepared = pipeline.prepare(image)
        return Implementation(lambda: pipeline.raw(prepared), lambda: pipeline(image, camera))

    yield PUBLISHED, lambda: published(eager(unmodified))
    yield ONNX_RUNTIME, lambda: published(_onnx_runtime(unmodified, image.shape[:2], folder / "plain.onnx"))
    for name, parameters in OURS:
        if parameters["device"] == "cuda" and not torch.cuda.is_available():
            continue
        ours = replace(config, **parameters, warm_up=False, input_scale=1.0, output_scale=1.0, upsampling="bicubic")
        yield name, lambda ours=ours: _ours(ours, image, camera)  # type: ignore[misc]


def _ours(config: Config, image: np.ndarray, camera: CameraModel) -> Implementation:
    pipeline = Pipeline(config=config, reuse_outputs=True)
    frame = Frame(image, camera)
    if config.backend not in ("auto", pipeline.backend.partition(" ")[0]):
        raise PerceptionError("; ".join(pipeline.notes) or f"the pipeline used {pipeline.backend} instead")
    if not pipeline.precision.startswith(config.precision):
        raise PerceptionError("; ".join(pipeline.notes) or f"the pipeline used {pipeline.precision} instead")

    def total() -> dict[str, np.ndarray]:
        result = pipeline(frame, OUTPUTS)
        return {name: getattr(result, name) for name in OUTPUTS}

    return Implementation(forward_pass(pipeline, image), total)


def _onnx_runtime(module: torch.nn.Module, size: tuple[int, ...], path: Path) -> Callable[[np.ndarray], RawOutputs]:
    """Export the published network unchanged and return a function that runs it in ONNX Runtime.

    ONNX Runtime has its default options except for the number of threads.

    Raises:
        PerceptionError: onnx or onnxruntime is not installed.
    """
    for package in ("onnx", "onnxruntime"):
        require(package, extra="export", purpose="comparing with ONNX Runtime")
    import onnxruntime

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(1, 3, *size),), str(path), opset_version=17, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda prepared: tuple(session.run(None, {name: prepared}))


def _outputs(implementation: Implementation) -> dict[str, Any]:
    """Return copies of all outputs, because ours are overwritten by the next call."""
    raw = tuple(output.astype(np.float32) for output in implementation.network())
    return {"raw": raw, **{name: np.array(array) for name, array in implementation.total().items() if name != "cloud"}}


def _agreement(found: Mapping[str, Any], expected: Mapping[str, Any]) -> Agreement:
    raw = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found["raw"], expected["raw"], strict=True)]
    depth, reference = found["depth"], expected["depth"]
    valid = np.isfinite(depth) & np.isfinite(reference) & (reference > 0)
    relative = np.abs(depth[valid] / reference[valid] - 1) if valid.any() else np.zeros(1)
    return Agreement(
        network=float(max(raw)),
        labels=float(np.mean(found["labels"] == expected["labels"])),
        depth_median=float(np.median(relative)),
        depth_p99=float(np.quantile(relative, 0.99)),
    )
