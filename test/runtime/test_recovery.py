"""What the node's answer to a failing device is made of: pauses, a pipeline made anew, errors told apart."""

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
PICTURE = noise_image(HEIGHT, WIDTH)
FRAME = Frame(PICTURE, CameraModel(WIDTH, HEIGHT, 60.0, 62.0, WIDTH / 2 - 1.25, HEIGHT / 2 + 0.75))
LARGE = Frame(noise_image(4 * HEIGHT, 4 * WIDTH))


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    return faulty_gpu(monkeypatch)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Patient:
    """A pipeline that fails as long as it is `ill`, and with LARGE where that is too large for it.

    `renewals` are the times at which it was made anew.
    """

    device, precision, config = torch.device("cuda", 0), "fp16", SimpleNamespace(min_confidence=0.0, min_depth=0.0)

    def __init__(self, clock: Clock) -> None:
        self.clock, self.ill, self.incurable, self.too_large = clock, False, False, False
        self.renewals: list[float] = []
        self.calls = 0

    def batch(self, frames, outputs):
        return [self._infer(frame, requested) for frame, requested in zip(frames, outputs, strict=True)]

    def _infer(self, frame, outputs):
        self.calls += 1
        if self.ill or (self.too_large and frame is LARGE):
            raise DeviceError("lost")
        return self.compute(frame, outputs)

    def compute(self, frame, outputs):
        return SimpleNamespace(labels=None, cloud=None, confidence=None, depth=None)

    def rebuild(self, device=""):
        self.renewals.append(self.clock.now)
        if self.incurable:
            raise DeviceError("still lost")


@pytest.fixture
def patient(monkeypatch) -> Patient:
    clock = Clock()
    monkeypatch.setattr(recovery, "time", clock)
    return Patient(clock)


def _recovery(policy: str = "retry") -> tuple[Recovery, list[str]]:
    given_up: list[str] = []
    return Recovery(policy, given_up.append, SimpleNamespace(error=print, warning=print)), given_up


def _try(found: Recovery, patient: Patient, *frames: Frame) -> bool:
    frames = frames or (FRAME,)
    try:
        found.run(patient, frames, [set()] * len(frames))
    except DeviceError:
        return False
    return True


def test_rebuild_attempts_back_off_exponentially(patient: Patient) -> None:
    found, _ = _recovery()
    assert _try(found, patient)
    patient.ill = patient.incurable = True
    start = patient.clock.now
    for _ in range(1200):
        assert not _try(found, patient)
        patient.clock.now += 0.125
    assert [round(at - start) for at in patient.renewals] == [0, 1, 3, 7, 15, 31, 61, 91, 121]
    assert patient.calls == 3, "once well, and twice before it was taken for failed"
    assert found.failures == 2 + len(patient.renewals)
    patient.incurable = False
    patient.clock.now += 30
    assert not _try(found, patient), "made anew, it fails at the frame"
    assert patient.calls == 4
    patient.ill = False
    patient.clock.now += 30
    assert _try(found, patient) and (found.trouble, found.recoveries) == ("", 1)
    patient.ill = True
    renewals = len(patient.renewals)
    for _ in range(3):
        assert not _try(found, patient)
    assert len(patient.renewals) == renewals + 1, "the next time it begins at once again"


def test_single_failures_do_not_rebuild(patient: Patient) -> None:
    found, given_up = _recovery("stop")
    for _ in range(20):
        patient.ill = not patient.ill
        assert _try(found, patient) != patient.ill
    assert (patient.renewals, given_up, found.failures, found.recoveries, found.trouble) == ([], [], 10, 0, "")


@pytest.mark.parametrize("policy", ["retry", "cpu", "stop"])
def test_oversized_image_of_one_camera_does_not_drop_the_other(patient: Patient, policy: str) -> None:
    found, given_up = _recovery(policy)
    assert _try(found, patient)
    patient.too_large = True
    for tick in range(1800):
        patient.clock.now += 1 / 30
        assert not _try(found, patient, LARGE)
        if tick % 3 == 0:
            assert _try(found, patient)
    assert (patient.renewals, given_up, found.failures, found.trouble, found.note) == ([], [], 1800, "", "")


def test_oversized_first_images_do_not_block_other_sizes(patient: Patient) -> None:
    found, _ = _recovery()
    patient.too_large = True
    for _ in range(3):
        assert not _try(found, patient, LARGE)
    assert len(patient.renewals) == 1 and found.trouble
    calls = patient.calls
    assert not _try(found, patient, LARGE) and patient.calls == calls, "of its size one failed since: that one waits"
    assert _try(found, patient), "of this size none did"
    assert (found.trouble, found.recoveries) == ("", 1)


def test_failures_of_all_sizes_rebuild_the_pipeline(patient: Patient) -> None:
    found, _ = _recovery()
    assert _try(found, patient) and _try(found, patient, LARGE)
    patient.ill = True
    for _ in range(2):
        assert not _try(found, patient, LARGE)
    assert not found.trouble, "pictures of the other size may still work"
    assert not _try(found, patient)
    assert found.trouble
    patient.ill = False
    assert _try(found, patient, LARGE)
    assert len(patient.renewals) == 1


def test_corrupt_weights_are_reloaded_although_another_size_works(patient: Patient) -> None:
    found, _ = _recovery()
    void = np.full((HEIGHT, WIDTH), np.nan, np.float32)

    def spoilt(frame, outputs):
        depth = None if frame is LARGE or patient.renewals else void
        return SimpleNamespace(labels=None, cloud=None, confidence=None, depth=depth)

    patient.compute = spoilt
    assert _try(found, patient, LARGE)
    for _ in range(2):
        assert not _try(found, patient)
    assert _try(found, patient)
    assert (len(patient.renewals), found.recoveries) == (1, 1)


def test_failing_size_rebuilds_once_no_other_size_has_worked_recently(patient: Patient) -> None:
    found, _ = _recovery()
    assert _try(found, patient)
    patient.ill = True
    for _ in range(2):
        assert not _try(found, patient, LARGE)
    patient.clock.now += recovery.WORKING_TIME
    for _ in range(2):
        assert not _try(found, patient, LARGE)
    assert len(patient.renewals) == 1


def test_failed_batch_and_its_retries_count_as_one_failure(patient: Patient) -> None:
    found, given_up = _recovery("stop")
    patient.ill = True
    for tries in ([FRAME, FRAME, FRAME], [FRAME], [FRAME], [FRAME]):
        assert not _try(found, patient, *tries)
    assert (given_up, found.trouble) == ([], "")
    patient.ill = False
    assert _try(found, patient, FRAME, FRAME, FRAME)
    patient.ill = True
    for tries in ([FRAME, FRAME], [FRAME], [FRAME], [FRAME, FRAME], [FRAME]):
        assert not _try(found, patient, *tries)
    assert given_up == ["lost"], "the second time it is the device"


def test_frame_error_after_a_rebuild_does_not_rebuild_again(patient: Patient) -> None:
    found, _ = _recovery()
    patient.ill = True
    for _ in range(2):
        assert not _try(found, patient)
    patient.ill = False

    def refuse(frame, outputs):
        raise FrameError("not a picture")

    patient.compute = refuse
    for _ in range(2):
        with pytest.raises(FrameError):
            _try(found, patient)
    del patient.compute
    assert _try(found, patient)
    assert len(patient.renewals) == 1 and not found.trouble


def test_any_error_during_a_rebuild_is_reported_and_retried(patient: Patient) -> None:
    found, _ = _recovery()
    patient.ill = True
    for _ in range(2):
        assert not _try(found, patient)
    patient.rebuild = lambda device="": 1 // 0
    assert not _try(found, patient)
    assert (
        found.trouble.startswith("ZeroDivisionError: ")
        and "rebuild attempt 1 failed; retrying on the next image after 1 s" in found.trouble
    )
    del patient.rebuild
    patient.ill = False
    patient.clock.now += 1
    assert _try(found, patient) and not found.trouble


def test_policy_can_change_while_the_device_fails(patient: Patient) -> None:
    found, given_up = _recovery("retry")
    patient.ill = patient.incurable = True
    for _ in range(3):
        _try(found, patient)
    assert given_up == []
    found.policy = "stop"
    assert not _try(found, patient)
    assert given_up == ["still lost"]
    assert len(patient.renewals) == 1


def test_rebuilt_pipeline_has_equal_results_and_current_parameters(weights_file: Path) -> None:
    pipe = Pipeline(weights=weights_file, device="cpu", warm_up=False)
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
def test_change_of_min_depth_during_inference_is_no_failure(patient: Patient, before, after) -> None:
    def near(frame, outputs):
        patient.config = SimpleNamespace(min_confidence=0.0, min_depth=after)
        return SimpleNamespace(labels=None, cloud=None, confidence=None, depth=np.full((HEIGHT, WIDTH), np.nan, np.float32))

    patient.config = SimpleNamespace(min_confidence=0.0, min_depth=before)
    patient.compute = near
    found, _ = _recovery()
    assert _try(found, patient)
    assert found.failures == 0
