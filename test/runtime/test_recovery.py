"""Recovery from device failures: backoff, rebuilds and kinds of errors."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from support.faulty_gpu import LOST, Gpu, faulty_gpu
from support.images import noise_image

from mtl_perception import CameraModel, Frame, Pipeline
from mtl_perception.errors import DeviceError, FrameError
from mtl_perception.inference.device import device_errors
from mtl_perception.inference.torch.engine import TorchEngine
from mtl_perception.runtime import recovery
from mtl_perception.runtime.recovery import Recovery

WIDTH, HEIGHT = 64, 48
PIXELS = noise_image(HEIGHT, WIDTH)
FRAME = Frame(PIXELS, CameraModel(WIDTH, HEIGHT, 60.0, 62.0, WIDTH / 2 - 1.25, HEIGHT / 2 + 0.75))
LARGE = Frame(noise_image(4 * HEIGHT, 4 * WIDTH))


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    return faulty_gpu(monkeypatch)


class Clock:
    """Replacement of the module `time`, with a clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class FakePipeline:
    """A pipeline that fails as long as it is `failing`, and for LARGE if that is `too_large`.

    `rebuilds` are the times of its rebuilds.
    """

    device, precision, config = torch.device("cuda", 0), "fp16", SimpleNamespace(min_confidence=0.0, min_depth=0.0)

    def __init__(self, clock: Clock) -> None:
        self.clock, self.failing, self.rebuild_fails, self.too_large = clock, False, False, False
        self.rebuilds: list[float] = []
        self.calls = 0

    def batch(self, frames, outputs):
        return [self._infer(frame, requested) for frame, requested in zip(frames, outputs, strict=True)]

    def _infer(self, frame, outputs):
        self.calls += 1
        if self.failing or (self.too_large and frame is LARGE):
            raise DeviceError("lost")
        return self.compute(frame, outputs)

    def compute(self, frame, outputs):
        return SimpleNamespace(labels=None, cloud=None, confidence=None, depth=None)

    def rebuild(self, device=""):
        self.rebuilds.append(self.clock.now)
        if self.rebuild_fails:
            raise DeviceError("still lost")


@pytest.fixture
def fake(monkeypatch) -> FakePipeline:
    clock = Clock()
    monkeypatch.setattr(recovery, "time", clock)
    return FakePipeline(clock)


def _create_recovery(policy: str = "retry") -> tuple[Recovery, list[str]]:
    stop_reasons: list[str] = []
    return Recovery(policy, stop_reasons.append, SimpleNamespace(error=print, warning=print)), stop_reasons


def _try(found: Recovery, fake: FakePipeline, *frames: Frame) -> bool:
    frames = frames or (FRAME,)
    try:
        found.run(fake, frames, [set()] * len(frames))
    except DeviceError:
        return False
    return True


def test_rebuild_attempts_back_off_exponentially(fake: FakePipeline) -> None:
    found, _ = _create_recovery()
    assert _try(found, fake)
    fake.failing = fake.rebuild_fails = True
    start = fake.clock.now
    for _ in range(1200):
        assert not _try(found, fake)
        fake.clock.now += 0.125
    assert [round(at - start) for at in fake.rebuilds] == [0, 1, 3, 7, 15, 31, 61, 91, 121]
    assert fake.calls == 3, "once well, and twice before it was taken for failed"
    assert found.failures == 2 + len(fake.rebuilds)
    fake.rebuild_fails = False
    fake.clock.now += 30
    assert not _try(found, fake), "rebuilt, but the frame fails again"
    assert fake.calls == 4
    fake.failing = False
    fake.clock.now += 30
    assert _try(found, fake) and (found.trouble, found.recoveries) == ("", 1)
    fake.failing = True
    rebuilds = len(fake.rebuilds)
    for _ in range(3):
        assert not _try(found, fake)
    assert len(fake.rebuilds) == rebuilds + 1, "the next time it begins at once again"


def test_single_failures_do_not_rebuild(fake: FakePipeline) -> None:
    found, stop_reasons = _create_recovery("stop")
    for _ in range(20):
        fake.failing = not fake.failing
        assert _try(found, fake) != fake.failing
    assert (fake.rebuilds, stop_reasons, found.failures, found.recoveries, found.trouble) == ([], [], 10, 0, "")


@pytest.mark.parametrize("policy", ["retry", "cpu", "stop"])
def test_oversized_image_of_one_camera_does_not_drop_the_other(fake: FakePipeline, policy: str) -> None:
    found, stop_reasons = _create_recovery(policy)
    assert _try(found, fake)
    fake.too_large = True
    for tick in range(1800):
        fake.clock.now += 1 / 30
        assert not _try(found, fake, LARGE)
        if tick % 3 == 0:
            assert _try(found, fake)
    assert (fake.rebuilds, stop_reasons, found.failures, found.trouble, found.note) == ([], [], 1800, "", "")


def test_oversized_first_images_do_not_block_other_sizes(fake: FakePipeline) -> None:
    found, _ = _create_recovery()
    fake.too_large = True
    for _ in range(3):
        assert not _try(found, fake, LARGE)
    assert len(fake.rebuilds) == 1 and found.trouble
    calls = fake.calls
    assert not _try(found, fake, LARGE) and fake.calls == calls, "of its size one failed since: that one waits"
    assert _try(found, fake), "of this size none did"
    assert (found.trouble, found.recoveries) == ("", 1)


def test_failures_of_all_sizes_rebuild_the_pipeline(fake: FakePipeline) -> None:
    found, _ = _create_recovery()
    assert _try(found, fake) and _try(found, fake, LARGE)
    fake.failing = True
    for _ in range(2):
        assert not _try(found, fake, LARGE)
    assert not found.trouble, "images of the other size may still work"
    assert not _try(found, fake)
    assert found.trouble
    fake.failing = False
    assert _try(found, fake, LARGE)
    assert len(fake.rebuilds) == 1


def test_corrupt_weights_are_reloaded_although_another_size_works(fake: FakePipeline) -> None:
    found, _ = _create_recovery()
    void = np.full((HEIGHT, WIDTH), np.nan, np.float32)

    def spoilt(frame, outputs):
        depth = None if frame is LARGE or fake.rebuilds else void
        return SimpleNamespace(labels=None, cloud=None, confidence=None, depth=depth)

    fake.compute = spoilt
    assert _try(found, fake, LARGE)
    for _ in range(2):
        assert not _try(found, fake)
    assert _try(found, fake)
    assert (len(fake.rebuilds), found.recoveries) == (1, 1)


def test_failing_size_rebuilds_once_no_other_size_has_worked_recently(fake: FakePipeline) -> None:
    found, _ = _create_recovery()
    assert _try(found, fake)
    fake.failing = True
    for _ in range(2):
        assert not _try(found, fake, LARGE)
    fake.clock.now += recovery.WORKING_TIME
    for _ in range(2):
        assert not _try(found, fake, LARGE)
    assert len(fake.rebuilds) == 1


def test_failed_batch_and_its_retries_count_as_one_failure(fake: FakePipeline) -> None:
    found, stop_reasons = _create_recovery("stop")
    fake.failing = True
    for tries in ([FRAME, FRAME, FRAME], [FRAME], [FRAME], [FRAME]):
        assert not _try(found, fake, *tries)
    assert (stop_reasons, found.trouble) == ([], "")
    fake.failing = False
    assert _try(found, fake, FRAME, FRAME, FRAME)
    fake.failing = True
    for tries in ([FRAME, FRAME], [FRAME], [FRAME], [FRAME, FRAME], [FRAME]):
        assert not _try(found, fake, *tries)
    assert stop_reasons == ["lost"], "the second time it is the device"


def test_frame_error_after_a_rebuild_does_not_rebuild_again(fake: FakePipeline) -> None:
    found, _ = _create_recovery()
    fake.failing = True
    for _ in range(2):
        assert not _try(found, fake)
    fake.failing = False

    def refuse(frame, outputs):
        raise FrameError("not an image")

    fake.compute = refuse
    for _ in range(2):
        with pytest.raises(FrameError):
            _try(found, fake)
    del fake.compute
    assert _try(found, fake)
    assert len(fake.rebuilds) == 1 and not found.trouble


def test_any_error_during_a_rebuild_is_reported_and_retried(fake: FakePipeline) -> None:
    found, _ = _create_recovery()
    fake.failing = True
    for _ in range(2):
        assert not _try(found, fake)
    fake.rebuild = lambda device="": 1 // 0
    assert not _try(found, fake)
    assert (
        found.trouble.startswith("ZeroDivisionError: ")
        and "rebuild attempt 1 failed; retrying on the next image after 1 s" in found.trouble
    )
    del fake.rebuild
    fake.failing = False
    fake.clock.now += 1
    assert _try(found, fake) and not found.trouble


def test_policy_can_change_while_the_device_fails(fake: FakePipeline) -> None:
    found, stop_reasons = _create_recovery("retry")
    fake.failing = fake.rebuild_fails = True
    for _ in range(3):
        _try(found, fake)
    assert stop_reasons == []
    found.policy = "stop"
    assert not _try(found, fake)
    assert stop_reasons == ["still lost"]
    assert len(fake.rebuilds) == 1


def test_rebuilt_pipeline_has_equal_results_and_current_parameters(weights_file: Path) -> None:
    pipe = Pipeline(weights=weights_file, device="cpu", backend="torch", warm_up=False)
    expected = pipe(FRAME).cloud.tobytes()
    engine = pipe._backend
    pipe.rebuild()
    assert pipe._backend is not engine
    assert pipe(FRAME).cloud.tobytes() == expected
    pipe.update(output_scale=0.5)
    pipe.rebuild("cpu")
    assert pipe(FRAME).labels.shape == (HEIGHT // 2, WIDTH // 2)


def test_rebuild_that_fails_at_warm_up_keeps_the_old_backend(weights_file: Path, gpu: Gpu, monkeypatch) -> None:
    pipe = Pipeline(weights=weights_file, device="cuda", precision="fp16", backend="torch")
    expected = pipe(FRAME).labels

    def full(self, *arguments):
        raise MemoryError("Unable to allocate 8 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(TorchEngine, "forward", full)
        with pytest.raises(DeviceError, match="device cpu: out of memory while processing"):
            pipe.rebuild("cpu")
    assert str(pipe.device) == "cuda:0"
    np.testing.assert_array_equal(pipe(FRAME).labels, expected)


def test_rebuild_that_fails_keeps_the_old_backend(weights_file: Path, gpu: Gpu) -> None:
    pipe = Pipeline(weights=weights_file, device="cuda", precision="fp16", warm_up=False)
    expected = pipe(FRAME).labels
    gpu.fault = RuntimeError(LOST)
    with pytest.raises(DeviceError, match="device cuda:0 failed while loading the network: CUDA error"):
        pipe.rebuild()
    assert str(pipe.device) == "cuda:0"
    gpu.fault = None
    np.testing.assert_array_equal(pipe(FRAME).labels, expected)
    pipe.rebuild("cpu")
    assert (str(pipe.device), pipe.precision, pipe.result_sets) == ("cpu", "fp32", 1), "a CPU has no fp16"


OF_THE_GPU = (
    "CUDA error: device-side assert",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "NVML_SUCCESS == r INTERNAL ASSERT FAILED",
    "No CUDA GPUs are available",
)
OF_THE_PROGRAM = (
    "shapes do not fit",
    "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
    "Input type (torch.cuda.HalfTensor) and weight type (torch.cuda.FloatTensor) should be the same",
)


@pytest.mark.parametrize("text", OF_THE_GPU)
def test_gpu_errors_are_device_errors(text: str) -> None:
    with pytest.raises(DeviceError, match="device cuda failed while at it"), device_errors(torch.device("cuda"), "at it"):
        raise RuntimeError(text)


@pytest.mark.parametrize("text", OF_THE_PROGRAM)
def test_other_errors_are_not_device_errors(text: str) -> None:
    with pytest.raises(RuntimeError) as raised, device_errors(torch.device("cuda"), "at it"):
        raise RuntimeError(text)
    assert not isinstance(raised.value, DeviceError)


def _fill_memory(how: str) -> None:
    huge = 2**58
    if how == "torch":
        torch.empty(huge)
    elif how == "numpy":
        np.empty(huge, np.uint8)
    else:
        cv2.copyMakeBorder(np.zeros((1, 1), np.uint8), 0, 2**31 - 2, 0, 2**31 - 2, cv2.BORDER_CONSTANT)


@pytest.mark.parametrize("how", ["torch", "numpy", "opencv"])
def test_out_of_memory_on_the_cpu_is_a_device_error(how: str) -> None:
    with (
        pytest.raises(DeviceError, match="device cpu: out of memory while at it: "),
        device_errors(torch.device("cpu"), "at it"),
    ):
        _fill_memory(how)


@pytest.mark.parametrize(("before", "after"), [(2.0, 0.0), (0.0, 2.0)])
def test_change_of_min_depth_during_inference_is_no_failure(fake: FakePipeline, before, after) -> None:
    def near(frame, outputs):
        fake.config = SimpleNamespace(min_confidence=0.0, min_depth=after)
        return SimpleNamespace(labels=None, cloud=None, confidence=None, depth=np.full((HEIGHT, WIDTH), np.nan, np.float32))

    fake.config = SimpleNamespace(min_confidence=0.0, min_depth=before)
    fake.compute = near
    found, _ = _create_recovery()
    assert _try(found, fake)
    assert found.failures == 0
