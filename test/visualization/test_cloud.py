"""Point clouds as PLY files and as rendered images."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from support.clouds import SIDEWALK, make_cloud

from mtl_perception.errors import FrameError, SourceError
from mtl_perception.labels import STREET
from mtl_perception.types import CLOUD_DTYPE, UNLABELED
from mtl_perception.visualization.cloud import BACKGROUND, UNLABELED_COLOR, render_cloud, write_ply
from mtl_perception.visualization.files import replacing

# PLY


def test_ply_contains_exactly_the_finite_points(tmp_path: Path) -> None:
    cloud = make_cloud(
        [(1.5, -2.0, 3.25, 0x0A141E, 7), (np.nan, 0, 1, 0xFFFFFF, 1), (0, 0, np.inf, 0, 2), (-1, 0, 9, 0xFF0080, 255)]
    )
    path = tmp_path / "new" / "cloud.ply"
    assert write_ply(path, cloud) == 2
    header, body = path.read_bytes().split(b"end_header\n", 1)
    lines = header.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    assert "element vertex 2" in lines
    names = ["float x", "float y", "float z", "uchar red", "uchar green", "uchar blue", "int label"]
    assert [line for line in lines if line.startswith("property")] == [f"property {name}" for name in names]
    assert body == struct.pack("<3f3Bi", 1.5, -2, 3.25, 10, 20, 30, 7) + struct.pack("<3f3Bi", -1, 0, 9, 255, 0, 128, 255)


def test_ply_reads_back_in_open3d(tmp_path: Path) -> None:
    open3d = pytest.importorskip("open3d", reason="open3d is not installed")
    rng = np.random.default_rng(0)
    cloud = np.zeros((6, 9), CLOUD_DTYPE)
    for name in "xyz":
        cloud[name] = rng.normal(size=(6, 9))
    cloud["rgb"] = rng.integers(0, 1 << 24, (6, 9))
    cloud["label"] = rng.integers(0, 12, (6, 9))
    cloud["x"][2, 3] = np.nan
    kept = np.isfinite(cloud["x"])
    write_ply(tmp_path / "cloud.ply", cloud)
    read = open3d.t.io.read_point_cloud(str(tmp_path / "cloud.ply"))
    np.testing.assert_array_equal(read.point.positions.numpy(), np.stack([cloud[n][kept] for n in "xyz"], axis=-1))
    packed = cloud["rgb"][kept]
    np.testing.assert_array_equal(read.point.colors.numpy(), np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1))
    np.testing.assert_array_equal(read.point.label.numpy().ravel(), cloud["label"][kept])


def test_cloud_without_finite_points_writes_an_empty_ply(tmp_path: Path) -> None:
    assert write_ply(tmp_path / "empty.ply", make_cloud([(np.nan, np.nan, np.nan, 0, 0)])) == 0
    assert (tmp_path / "empty.ply").read_bytes().endswith(b"end_header\n")


def test_ply_rejects_other_dtypes_and_unwritable_paths(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="x y z rgb label"):
        write_ply(tmp_path / "cloud.ply", np.zeros((2, 3), np.float32))
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="cannot write .*cloud.ply"):
        write_ply(tmp_path / "file" / "cloud.ply", make_cloud([(0, 0, 1, 0, 0)]))


def test_failed_write_keeps_the_old_file_and_removes_the_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


# Rendering


def render(points: list[tuple[float, float, float, int, int]], **options: object) -> np.ndarray:
    """Render 200 x 100 pixels from the origin along z."""
    return render_cloud(make_cloud(points), (200, 100), eye=(0, 0, 0), target=(0, 0, 1), **options)  # type: ignore[arg-type]


def test_near_points_occlude_far_ones_in_any_order() -> None:
    near, far = (0.0, 0.0, 4.0, 0x00FF00, 0), (0.0, 0.0, 8.0, 0xFF0000, 0)
    for points in ([near, far], [far, near]):
        np.testing.assert_array_equal(render(points, point_size=0.3)[50, 100], (0, 255, 0))


def test_points_appear_at_their_projection() -> None:
    # Focal length 100 / tan(30 deg) = 173.2 pixels: 1 m to the right and 0.5 m up, at 10 m, is 17 right and 9 up.
    image = render([(1.0, -0.5, 10.0, 0xFFFFFF, 0)], point_size=0.3)
    v, u = np.nonzero((image == 255).all(axis=-1))
    assert (round(u.mean()), round(v.mean())) == pytest.approx((117, 41), abs=1)


def test_points_behind_the_viewer_and_non_finite_points_are_invisible() -> None:
    points = [(0.0, 0.0, -5.0, 0xFFFFFF, 0), (np.nan, 0.0, 5.0, 0xFFFFFF, 0)]
    assert not (render(points) == 255).any()


def test_points_have_class_colors_and_unlabeled_ones_are_gray() -> None:
    image = render([(-1.0, 0.0, 5.0, 0xFFFFFF, 1), (1.0, 0.0, 5.0, 0xFFFFFF, UNLABELED)], class_set=STREET, point_size=0.5)
    np.testing.assert_array_equal(image[50, 65], SIDEWALK)
    np.testing.assert_array_equal(image[50, 134], UNLABELED_COLOR)


def test_forward_is_up_in_a_top_view() -> None:
    cloud = make_cloud([(0.0, 0.0, 5.0, 0xFF0000, 0), (0.0, 0.0, -5.0, 0x0000FF, 0)])
    image = render_cloud(cloud, (100, 100), eye=(0, -20, 0), target=(0, 0, 0), point_size=1.0).astype(int)
    red = np.nonzero(image[..., 0] - image[..., 2] > 100)[0].mean()
    blue = np.nonzero(image[..., 2] - image[..., 0] > 100)[0].mean()
    assert red < 40 and blue > 60


def test_depth_discontinuities_are_shaded() -> None:
    wall = [(x / 20, y / 20, 10.0, 0xFFFFFF, 0) for x in range(-60, 61) for y in range(-40, 41)]
    post = [(0.0, y / 20, 5.0, 0xFF0000, 0) for y in range(-20, 21)]
    image = render(wall + post, point_size=0.2)
    beside_the_post = image[50, 92:109]
    assert (image[50, 70] == 255).all()
    assert beside_the_post[:, 1].max() == 255 and ((beside_the_post[:, 1] > 60) & (beside_the_post[:, 1] < 240)).any()


def test_empty_cloud_renders_the_background() -> None:
    np.testing.assert_array_equal(render([(np.nan, 0, 0, 0, 0)]), np.broadcast_to(np.uint8(BACKGROUND), (100, 200, 3)))
