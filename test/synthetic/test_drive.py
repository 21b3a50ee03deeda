"""Synthetic drive: exact labels and depth, reproducibility, motion, and classes that occur."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

from mtl_perception.camera.model import CameraModel
from mtl_perception.errors import DependencyError, SourceError
from mtl_perception.labels import STREET
from mtl_perception.synthetic.appearance.light import Light
from mtl_perception.synthetic.drive import CAMERA_HEIGHT, SyntheticDrive, kitti_camera
from mtl_perception.synthetic.geometry.mesh import Material, Surface, srgb
from mtl_perception.synthetic.geometry.solids import box
from mtl_perception.synthetic.render import raycasting
from mtl_perception.synthetic.render.renderer import render
from mtl_perception.types import Sample

SIZE = (208, 64)
ROAD, SKY = STREET.names.index("road"), STREET.names.index("sky")


def skip_without_open3d() -> None:
    try:
        raycasting.require_open3d()
    except DependencyError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def drive() -> SyntheticDrive:
    skip_without_open3d()
    return SyntheticDrive(30, *SIZE, seed=6)


@pytest.fixture(scope="module")
def samples(drive: SyntheticDrive) -> list[Sample]:
    return [drive.sample(i) for i in range(0, len(drive), 3)]


def test_frames_have_the_intrinsics_of_a_kitti_like_camera(drive: SyntheticDrive, samples: list[Sample]) -> None:
    frame = samples[0].frame
    width, height = SIZE
    assert (frame.image.shape, frame.image.dtype) == ((height, width, 3), np.uint8)
    assert frame.camera is drive.camera
    assert frame.frame_id == "camera_optical_frame"
    assert frame.camera.fx == frame.camera.fy == pytest.approx(721.5377 * width / 1242)
    assert abs(frame.camera.cx - width / 2) < 0.05 * width
    assert abs(frame.camera.cy - height / 2) < 0.05 * height
    assert kitti_camera(1242, 375).fx == pytest.approx(721.5377)


def test_iteration_yields_every_frame_with_equidistant_stamps() -> None:
    skip_without_open3d()
    drive = SyntheticDrive(4, 48, 16, seed=1, rate_hz=30.0)
    frames = list(drive)
    assert len(frames) == len(drive) == 4
    assert (drive.name, drive.rate_hz) == ("synthetic-1", 30.0)
    stamps = np.array([frame.stamp_ns for frame in frames])
    assert np.abs(stamps - stamps[0] - np.arange(4) * 1e9 / 30).max() <= 0.5
    assert not np.array_equal(frames[0].image, frames[3].image)
    assert np.array_equal(frames[2].image, drive.sample(2).frame.image)


def test_drive_is_reproducible_by_its_seed(drive: SyntheticDrive, samples: list[Sample]) -> None:
    state = np.random.get_state()[1].copy()
    again = SyntheticDrive(30, *SIZE, seed=6).sample(6)
    for name in ("labels", "depth"):
        assert getattr(again, name).tobytes() == getattr(samples[2], name).tobytes()
    assert again.frame.image.tobytes() == samples[2].frame.image.tobytes()
    other = SyntheticDrive(30, *SIZE, seed=4).sample(6)
    assert (other.labels != again.labels).mean() > 0.1
    assert np.array_equal(np.random.get_state()[1], state), "the global random state was used"


def test_depth_is_infinite_in_the_sky_only(samples: list[Sample]) -> None:
    for sample in samples:
        assert sample.labels.shape == sample.depth.shape == SIZE[::-1]
        assert (sample.labels.dtype, sample.depth.dtype) == (np.uint8, np.float32)
        assert sample.labels.max() < len(STREET)
        assert np.array_equal(sample.labels == SKY, np.isposinf(sample.depth))
        seen = sample.depth[np.isfinite(sample.depth)]
        assert seen.min() > 0.3
        assert np.median(seen) < 40


def test_every_class_occurs(samples: list[Sample]) -> None:
    pixels = np.sum([np.bincount(sample.labels.ravel(), minlength=len(STREET)) for sample in samples], axis=0)
    assert {name for name, count in zip(STREET.names, pixels, strict=True) if count < 5} == set()


def test_the_road_lies_on_the_ground_plane(drive: SyntheticDrive, samples: list[Sample]) -> None:
    camera = drive.camera
    for sample in samples:
        v, _ = np.nonzero(sample.labels == ROAD)
        assert len(v) > 0.1 * sample.labels.size
        expected = CAMERA_HEIGHT * camera.fy / (v - camera.cy)
        assert np.abs(sample.depth[sample.labels == ROAD] / expected - 1).max() < 1e-3


def test_sky_is_above_the_horizon_and_brighter_than_the_road(drive: SyntheticDrive, samples: list[Sample]) -> None:
    for sample in samples:
        rows, _ = np.nonzero(sample.labels == SKY)
        assert rows.max() <= np.ceil(drive.camera.cy)
        assert sample.frame.image[sample.labels == SKY].mean() > sample.frame.image[sample.labels == ROAD].mean() + 30


def test_static_objects_come_closer_as_the_camera_drives(drive: SyntheticDrive) -> None:
    """Buildings come closer by about 4.5 m in 0.5 s, at a speed of about 9 m/s."""
    camera = drive.camera
    before, after = drive.sample(0), drive.sample(5)
    v, u = np.nonzero(before.labels == STREET.names.index("building"))
    z = before.depth[v, u].astype(np.float64)
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(len(u))], -1)
    agree = {}
    for step in (-4.5, 0.0, 4.5):
        points = rays * z[:, None] - (0, 0, step)
        ahead = points[points[:, 2] > 2]
        pixels = np.round(camera.project(ahead)).astype(int)
        inside = ((pixels >= 0) & (pixels < SIZE)).all(axis=1)
        found = after.depth[pixels[inside, 1], pixels[inside, 0]]
        agree[step] = np.mean(np.abs(found / ahead[inside, 2] - 1) < 0.02)
    # House fronts parallel to the street look the same after any step, so some points agree for every step.
    assert agree[4.5] > 0.75, agree
    assert agree[4.5] > max(agree[0.0], agree[-4.5]) + 0.25, agree


@pytest.mark.parametrize("heading", [0.0, 0.2])
def test_depth_of_a_box_is_exact_along_the_optical_axis(heading: float) -> None:
    skip_without_open3d()
    surface = Surface("building", Material.PLAIN, srgb(200, 180, 160))
    wall = box(surface, (-2.0, 10.0, 0.0), (2.0, 12.0, 3.0))
    camera = CameraModel(64, 48, 40.0, 40.0, 31.5, 23.5)
    scene = raycasting.RayCaster(wall).scene([])
    eye = np.array([0.0, 0.0, 1.5])
    rng = np.random.default_rng(0)
    _, labels, depth = render(scene, Light(rng), camera, eye, heading, rng)
    # In the optical frame, the front face is the plane x sin(heading) + z cos(heading) = 10.
    u, v = np.meshgrid(np.arange(64), np.arange(48))
    x, y = (u - 31.5) / 40, (v - 23.5) / 40
    z = 10 / (x * np.sin(heading) + np.cos(heading))
    world_x = z * (x * np.cos(heading) - np.sin(heading))
    face = (np.abs(world_x) < 1.98) & (np.abs(y * z) < 1.48)
    assert face.sum() > 100
    assert np.abs(depth[face] / z[face] - 1).max() < 1e-5
    assert (labels[face] == STREET.names.index("building")).all()
    outside = (np.abs(world_x) > 2.6) & (y * z < -1.6)
    assert outside.sum() > 100
    assert np.isposinf(depth[outside]).all()
    assert (labels[outside] == SKY).all()


@pytest.mark.parametrize("arguments", [{"frames": 0}, {"width": 4}, {"height": 0}, {"rate_hz": 0.0}, {"seed": -1}])
def test_arguments_out_of_range_are_rejected(arguments: dict[str, float]) -> None:
    with pytest.raises(SourceError, match=r"synthetic drive: .* needs at least 1 frame"):
        SyntheticDrive(**arguments)  # type: ignore[arg-type]


def test_index_past_the_end_raises_index_error(drive: SyntheticDrive) -> None:
    with pytest.raises(IndexError, match="no image 30 of 30"):
        drive.sample(30)


@pytest.mark.parametrize("failure", [ImportError("libusb-1.0.so.0: cannot open shared object file"), OSError("libGL.so.1")])
def test_missing_open3d_error_names_the_packages(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    real = importlib.import_module

    def broken(name: str, package: str | None = None) -> ModuleType:
        if name == "open3d":
            raise failure
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(
        DependencyError, match=r"pip install 'mtl_perception\[synthetic\]'.* libusb-1\.0-0 libgl1 libgomp1"
    ) as caught:
        SyntheticDrive(1, *SIZE)
    assert str(failure) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_import_does_not_load_open3d() -> None:
    code = "import sys, mtl_perception.synthetic.drive; print('open3d' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
