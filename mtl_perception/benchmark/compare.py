"""`bench --compare`: every way there is here to run the network, side by side with the published one."""

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

from mtl_perception.benchmark.published import PublishedWay, Raw, eager, published_network
from mtl_perception.benchmark.stages import forward_pass
from mtl_perception.benchmark.timing import PeakMemory, summary, time_in_turn
from mtl_perception.camera.model import CameraModel
from mtl_perception.config import Config
from mtl_perception.errors import PerceptionError
from mtl_perception.inference.onnx.export import need
from mtl_perception.pipeline import Pipeline
from mtl_perception.types import Frame
from mtl_perception.weights.files import load_network

OUTPUTS = ("labels", "depth", "cloud")
PUBLISHED = "published (PyTorch eager, NCHW)"
OURS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ours: torch, fp32", {"device": "cpu", "backend": "torch", "precision": "fp32"}),
    ("ours: openvino, fp32", {"device": "cpu", "backend": "openvino", "precision": "fp32"}),
    ("ours: openvino, bf16", {"device": "cpu", "backend": "openvino", "precision": "bf16"}),
    ("ours: cuda, fp32", {"device": "cuda", "precision": "fp32"}),
    ("ours: cuda, fp16", {"device": "cuda", "precision": "fp16"}),
    ("ours: cuda, bf16", {"device": "cuda", "precision": "bf16"}),
)


@dataclass(frozen=True)
class Contender:
    """One way to run it.

    Attributes:
        raw: The network alone: a prepared input, or for ours the picture, to its own outputs.
        whole: Picture in; labels, depth and cloud out.
    """

    raw: Callable[[], Raw]
    whole: Callable[[], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Agreement:
    """How a contender's outputs compare with the published way's, on one picture.

    Attributes:
        network: Largest difference of the network's own outputs, as a share of the largest of their values.
        labels: Share of the pixels with the same label.
        depth_median: Relative difference of depth where both have one (0 where neither has): the median, and
        depth_p99: the 99th percentile.
    """

    network: float
    labels: float
    depth_median: float
    depth_p99: float


def compare(config: Config, image: np.ndarray, runs: int) -> dict[str, Any]:
    """Measure all contenders on one picture.

    Args:
        config: Gives weights, classes, threads; sizes and bounds are those of the published way.
        image: H x W x 3 uint8, RGB.
        runs: Counted runs of each.

    Returns:
        By contender: network and whole (median_ms, iqr_ms, ratio to the published way), peak_mb, agreement; or skipped: why.
    """
    height, width = image.shape[:2]
    camera = CameraModel(width, height, 0.58 * width, 0.58 * width, width / 2, height / 2)
    contenders: dict[str, Contender] = {}
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in _makers(config, image, camera, Path(folder)):
            gc.collect()
            try:
                with PeakMemory() as memory:
                    made = make()
                    made.whole()
                contenders[name], rows[name] = made, {"peak_mb": memory.megabytes}
            except PerceptionError as error:
                rows[name] = {"skipped": str(error)}
        stages: dict[str, Callable[[], Any]] = {}
        for name, contender in contenders.items():
            stages[f"network {name}"], stages[f"whole {name}"] = contender.raw, contender.whole
        times = {stage: summary(milliseconds) for stage, milliseconds in time_in_turn(stages, runs).items()}
    expected = _outputs(contenders[PUBLISHED])
    for name, contender in contenders.items():
        for part in ("network", "whole"):
            row = times[f"{part} {name}"]
            ratio = row["median_ms"] / times[f"{part} {PUBLISHED}"]["median_ms"]
            rows[name][part] = {**row, "ratio": round(ratio, 4)}
        rows[name]["agreement"] = asdict(_agreement(_outputs(contender), expected))
    return rows


def table(rows: Mapping[str, Any]) -> str:
    """The rows of `compare` as text."""
    head = f"  {'':<34}{'network':>9}{'iqr':>8}{'ratio':>7}{'whole':>9}{'iqr':>8}{'ratio':>7}{'peak MB':>9}"
    lines = [f"{head}{'outputs':>10}{'labels':>10}{'depth':>9}{'p99':>9}"]
    for name, row in rows.items():
        if "skipped" in row:
            lines.append(f"  {name:<34}skipped: {row['skipped']}")
            continue
        times = "".join(
            f"{row[part]['median_ms']:>9.1f}{row[part]['iqr_ms']:>8.1f}{row[part]['ratio']:>7.3f}"
            for part in ("network", "whole")
        )
        agreement = Agreement(**row["agreement"])
        memory = "-" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        lines.append(
            f"  {name:<34}{times}{memory:>9}{agreement.network:>10.1e}{agreement.labels:>10.3%}"
            f"{agreement.depth_median:>9.1e}{agreement.depth_p99:>9.1e}"
        )
    return "\n".join(lines)


def _makers(
    config: Config, image: np.ndarray, camera: CameraModel, folder: Path
) -> Iterator[tuple[str, Callable[[], Contender]]]:
    network = load_network(config.weights)
    as_published = published_network(network)

    def published(call: Callable[[np.ndarray], Raw]) -> Contender:
        way = PublishedWay(network.description, call)
        prepared = way.prepare(image)
        return Contender(lambda: way.raw(prepared), lambda: way(image, camera))

    yield PUBLISHED, lambda: published(eager(as_published))
    yield "plain ONNX Runtime", lambda: published(_onnx_runtime(as_published, image.shape[:2], folder / "plain.onnx"))
    for name, parameters in OURS:
        if parameters["device"] == "cuda" and not torch.cuda.is_available():
            continue
        wanted = replace(config, **parameters, warm_up=False, input_scale=1.0, output_scale=1.0, upsampling="bicubic")
        yield name, lambda wanted=wanted: _ours(wanted, image, camera)  # type: ignore[misc]


def _ours(config: Config, image: np.ndarray, camera: CameraModel) -> Contender:
    if config.precision == "bf16" and config.backend == "openvino":
        _need_bfloat16()
    pipeline = Pipeline(config=config, reuse_outputs=True)
    frame = Frame(image, camera)
    if config.backend not in ("auto", pipeline.backend.partition(" ")[0]):
        raise PerceptionError("; ".join(pipeline.notes) or f"{pipeline.backend} ran instead")

    def whole() -> dict[str, np.ndarray]:
        result = pipeline(frame, OUTPUTS)
        return {name: getattr(result, name) for name in OUTPUTS}

    return Contender(forward_pass(pipeline, image), whole)


def _need_bfloat16() -> None:
    from mtl_perception.inference.openvino.engine import openvino

    if "BF16" not in openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise PerceptionError("this processor does not compute bfloat16")


def _onnx_runtime(module: torch.nn.Module, size: tuple[int, ...], path: Path) -> Callable[[np.ndarray], Raw]:
    """The published network exported as it is, in ONNX Runtime as it comes, but for the number of threads.

    Raises:
        PerceptionError: onnx or onnxruntime is not installed.
    """
    need("onnx")
    runtime = need("onnxruntime")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(1, 3, *size),), str(path), opset_version=17, dynamo=False)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda prepared: tuple(session.run(None, {name: prepared}))


def _outputs(contender: Contender) -> dict[str, Any]:
    """Copies, as what ours gives is valid until its next call."""
    raw = tuple(output.astype(np.float32) for output in contender.raw())
    return {"raw": raw, **{name: np.array(array) for name, array in contender.whole().items() if name != "cloud"}}


def _agreement(found: Mapping[str, Any], expected: Mapping[str, Any]) -> Agreement:
    raw = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found["raw"], expected["raw"], strict=True)]
    depth, truth = found["depth"], expected["depth"]
    both = np.isfinite(depth) & np.isfinite(truth) & (truth > 0)
    relative = np.abs(depth[both] / truth[both] - 1) if both.any() else np.zeros(1)
    return Agreement(
        network=float(max(raw)),
        labels=float(np.mean(found["labels"] == expected["labels"])),
        depth_median=float(np.median(relative)),
        depth_p99=float(np.quantile(relative, 0.99)),
    )
