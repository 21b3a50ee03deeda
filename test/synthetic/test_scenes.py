"""Synthetic scenes: exact labels and depth, reproducibility, variation of cameras and light, frequency of classes."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mtl_perception.errors import DependencyError, SourceError
from mtl_perception.labels import STREET
from mtl_perception.synthetic.appearance.sensor import lens_effects
from mtl_perception.synthetic.appearance.textures import Hits, Textures
from mtl_perception.synthetic.geometry.mesh import Material, join
from mtl_perception.synthetic.layout.street import build_street
from mtl_perception.synthetic.layout.styles import scene_style
from mtl_perception.synthetic.parts.library import Library
from mtl_perception.synthetic.render import raycasting
from mtl_perception.synthetic.scenes import IMAGES_PER_STREET, SyntheticScenes, View
from mtl_perception.types import UNLABELED, Sample

SIZE = (208, 64)
COUNT = 24
KITTI_FOCAL_SHARE = 721.5377 / 1242
ROAD, SKY, PERSON, CYCLIST = (STREET.names.index(name) for name in ("road", "sky", "person", "cyclist"))


@pytest.fixture(scope="module")
def scenes() -> SyntheticScenes:
    try:
        raycasting.require_open3d()
    except DependencyError as error:
        pytest.skip(str(error))
    return SyntheticScenes(1000, *SIZE, seed=0)


@pytest.fixture(scope="module")
def views(scenes: SyntheticScenes) -> list[tuple[View, Sample]]:
    """Four images from each of six streets."""
    return [scenes.sample_with_view(i) for i in indices()]


def indices() -> list[int]:
    return [IMAGES_PER_STREET * street + i for street in range(COUNT // 4) for i in (0, 3, 4, 9)]


def identical(a: Sample, b: Sample) -> bool:
    arrays = ((a.frame.image, b.frame.image), (a.labels, b.labels), (a.depth, b.depth))
    return all(x.tobytes() == y.tobytes() for x, y in arrays) and a.frame.camera == b.frame.camera and a.name == b.name


def test_image_does_not_depend_on_the_order_of_access(scenes: SyntheticScenes, views: list[tuple[View, Sample]]) -> None:
    state = np.random.get_state()[1].copy()
    fresh = SyntheticScenes(1000, *SIZE, seed=0)
    # Request images in another order, from other streets first, and from a pickled copy as in a worker process.
    assert identical(fresh.sample(indices()[5]), views[5][1])
    assert identical(fresh[indices()[4]], views[4][1])
    assert identical(pickle.loads(pickle.dumps(scenes)).sample(indices()[1]), views[1][1])
    assert not identical(views[0][1], views[1][1])
    assert np.array_equal(np.random.get_state()[1], state), "the global random state was used"


def test_scenes_have_the_interface_of_a_dataset(scenes: SyntheticScenes, views: list[tuple[View, Sample]]) -> None:
    assert len(scenes) == len(scenes.keys) == len(set(scenes.keys)) == 1000
    assert (scenes.name, scenes.classes) == ("scenes-0-208x64", STREET)
    assert [sample.name for _, sample in views] == [scenes.keys[i] for i in indices()]
    for _, sample in views:
        assert (sample.frame.image.shape, sample.frame.image.dtype) == ((64, 208, 3), np.uint8)
        assert (sample.labels.shape, sample.labels.dtype) == ((64, 208), np.uint8)
        assert (sample.depth.shape, sample.depth.dtype) == ((64, 208), np.float32)


def test_depth_of_the_road_matches_the_camera_pose(views: list[tuple[View, Sample]]) -> None:
    """The road is the plane z = 0, so its depth follows from height, pitch and roll of the camera."""
    for view, sample in views:
        camera = sample.frame.camera
        v, u = np.nonzero(sample.labels == ROAD)
        x, y = (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
        down = np.cos(view.pitch) * (x * np.sin(view.roll) + y * np.cos(view.roll)) - np.sin(view.pitch)
        assert np.abs(sample.depth[v, u] * down / view.position[2] - 1).max() < 2e-3, sample.name
    assert sum((sample.labels == ROAD).sum() for _, sample in views) > 0.1 * COUNT * SIZE[0] * SIZE[1]


def test_depth_is_infinite_in_the_sky_only(views: list[tuple[View, Sample]]) -> None:
    for _, sample in views:
        assert np.array_equal(sample.labels == SKY, np.isposinf(sample.depth))
        assert not np.isnan(sample.depth).any()
        assert sample.depth.min() > 0.2
        known = sample.labels[sample.labels != UNLABELED]
        assert known.max() < len(STREET)


def test_window_shows_a_part_of_a_wider_image_at_its_focal_length(scenes: SyntheticScenes) -> None:
    """Of two images of the same width, the one that is half of a whole image has twice the focal length."""
    width, height = SIZE
    half = SyntheticScenes(40, width, height, seed=0, window=0.5)
    assert half.name == "scenes-0-208x64-window-0.5" and half.keys[3] == "scenes-0-208x64-window-0.5-000003"
    views = [half.sample_with_view(index) for index in (0, 1, 2, 3)]
    cameras = np.array([[view.camera.fx, view.camera.cx, view.camera.cy] for view, _ in views])
    assert [view.camera.fx for view, _ in views] == [2 * scenes.sample_with_view(i)[0].camera.fx for i in (0, 1, 2, 3)]
    # The principal point lies anywhere in the whole image of 416 x 126 pixels, so often outside the middle of the window.
    assert np.ptp(cameras[:, 1]) > 0.1 * width and (cameras[:, 1] < 416).all() and (cameras[:, 1] > -width).all()
    for view, sample in views:
        camera = view.camera
        v, u = np.nonzero(sample.labels == ROAD)
        x, y = (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
        down = np.cos(view.pitch) * (x * np.sin(view.roll) + y * np.cos(view.roll)) - np.sin(view.pitch)
        assert np.abs(sample.depth[v, u] * down / view.position[2] - 1).max(initial=0) < 2e-3, sample.name
    assert sum((sample.labels == ROAD).sum() for _, sample in views) > 100


def test_woods_are_walls_of_vegetation_next_to_the_road() -> None:
    """At eye level trees hide what is behind them: rays to the side hit vegetation within a few meters of the land's edge."""
    shares = {}
    for use in ("woods", "field"):
        rng = np.random.default_rng(3)
        style = replace(scene_style(rng), uses={use: 1.0})
        plan = build_street(rng, Library(0), style)
        mesh = join(plan.parts)
        eye = (mesh.points[..., 2] > 1.0).any(axis=1) & (mesh.points[..., 2] < 3.0).any(axis=1)
        across = np.abs(mesh.points[..., 0] - plan.road.offset(mesh.points[..., 1])).min(axis=1)
        edge = max(side.front for side in plan.sides.values())
        near = eye & (across < edge + 12) & (mesh.label == STREET.names.index("vegetation"))
        covered = {int(y // 2) for y in mesh.points[near][..., 1].ravel() if 0 < y < 60}
        shares[use] = len(covered) / 30
    assert shares["woods"] > 0.95 and shares["field"] < 0.7, shares


def test_lens_effects_are_reproducible_and_change_contrast_both_ways() -> None:
    v, u = np.mgrid[:48, :96]
    image = np.stack([20 + 2 * u, 40 + 3 * v, 60 + (u + v) % 120], -1).astype(np.uint8)
    results = [lens_effects(np.random.default_rng(seed), image) for seed in range(60)]
    assert all(result.shape == image.shape and result.dtype == np.uint8 for result in results)
    assert all(np.array_equal(lens_effects(np.random.default_rng(seed), image), results[seed]) for seed in (0, 7, 31))
    contrast = np.array([result.std() for result in results]) / image.std()
    assert contrast.min() < 0.9 and contrast.max() > 1.3
    clipped = np.array([np.mean((result == 0) | (result == 255)) for result in results])
    assert (clipped > 0.01).mean() > 0.1 and (clipped == 0).mean() > 0.3


def test_road_beyond_40_m_is_visible_in_most_views(views: list[tuple[View, Sample]]) -> None:
    far = [np.mean((sample.labels == ROAD) & (sample.depth > 40)) for _, sample in views]
    assert np.mean(np.array(far) > 0.0005) >= 0.9, far


def test_people_and_cyclists_are_frequent_and_every_class_occurs(views: list[tuple[View, Sample]]) -> None:
    shares = np.array([np.bincount(sample.labels.ravel(), minlength=256) for _, sample in views]) / (SIZE[0] * SIZE[1])
    mean, seen = shares.mean(axis=0), (shares > 0.0005).mean(axis=0)
    assert mean[PERSON] >= 0.005
    assert min(seen[PERSON], seen[CYCLIST]) >= 0.4
    assert {name for name, share in zip(STREET.names, mean, strict=False) if share < 0.0015} == set()
    assert mean[UNLABELED] < 0.02


def test_cameras_and_light_vary_within_bounds(views: list[tuple[View, Sample]]) -> None:
    width, height = SIZE
    focal = np.array([sample.frame.camera.fx for _, sample in views]) / width / KITTI_FOCAL_SHARE
    assert 0.6 <= focal.min() < 0.9 and 1.1 < focal.max() <= 1.4
    for view, sample in views:
        camera = sample.frame.camera
        assert view.camera == camera
        assert abs(camera.fy / camera.fx - 1) <= 0.01
        assert abs(camera.cx - (width - 1) / 2) <= 0.03 * width
        assert abs(camera.cy - 0.47 * (height - 1)) <= 0.06 * height
        assert 1.2 <= view.position[2] <= 2.2
        assert abs(np.rad2deg(view.pitch)) <= 3.01
        assert abs(np.rad2deg(view.roll)) <= 1.51
    assert len({(sample.frame.camera.fx, view.heading) for view, sample in views}) == COUNT
    assert np.ptp([view.position[2] for view, _ in views]) > 0.5
    assert np.ptp([view.pitch for view, _ in views]) > np.deg2rad(2)
    assert np.ptp([view.weather.overcast for view, _ in views]) == 1
    assert np.std([sample.frame.image.mean() for _, sample in views]) > 10


@pytest.mark.parametrize(("kind", "label", "tallest"), [("person", PERSON, 2.05), ("cyclist", CYCLIST, 2.15)])
def test_people_stand_on_the_ground_and_have_realistic_heights(kind: str, label: int, tallest: float) -> None:
    library, rng = Library(0), np.random.default_rng(0)
    shapes = [library.pick(kind, rng).mesh for _ in range(12)]
    heights = np.array([mesh.points[..., 2].max() for mesh in shapes])
    assert heights.min() > 0.9 and heights.max() < tallest
    assert 1.5 < np.median(heights) < 1.85
    for mesh in shapes:
        assert -0.08 < mesh.points[..., 2].min() < 0.03
        assert set(np.unique(mesh.label)) == {label}


@pytest.mark.parametrize(
    ("kind", "lengths", "heights"),
    [
        ("car", (3.2, 4.8), (1.4, 1.9)),
        ("van", (5.3, 5.6), (2.0, 2.6)),
        ("truck", (7.5, 8.5), (3.3, 3.6)),
        ("bus", (8.9, 12.2), (2.8, 3.3)),
        ("tram", (16, 31), (3.5, 4.0)),
    ],
)
def test_vehicles_have_realistic_sizes(kind: str, lengths: tuple[float, float], heights: tuple[float, float]) -> None:
    library, rng = Library(0), np.random.default_rng(0)
    for mesh in (library.pick(kind, rng).mesh for _ in range(12)):
        low, high = mesh.points.reshape(-1, 3).min(axis=0), mesh.points.reshape(-1, 3).max(axis=0)
        assert lengths[0] < high[1] - low[1] < lengths[1] and heights[0] < high[2] < heights[1] and -0.01 < low[2] < 0.2
        assert abs(low[1] + high[1]) < 0.8 and abs(low[0] + high[0]) < 0.05
        assert set(mesh.label) == {STREET.names.index("vehicle")}


def test_cabin_of_a_car_has_dark_windows_between_painted_pillars() -> None:
    # Shares of half the width, half the length and the height: side window, pillar, windshield, its frame, roof.
    places = np.array([[1, 0.2, 0.5], [1, -0.02, 0.5], [0, 0.3, 0.5], [0.9, 0.3, 0.5], [0, 0, 1]], np.float32)
    count, white = len(places), np.float32(0.7)
    rows = np.zeros((count, 3), np.float32)
    material = np.full(count, Material.CABIN, np.uint8)
    near = np.full(count, 0.005, np.float32)
    hits = Hits(rows, rows, rows, places, np.full((count, 3), white), material, near, near)
    albedo, gloss = Textures(np.random.default_rng(0)).evaluate(hits)
    dark = albedo.max(axis=1) < 0.1 * white
    assert dark.tolist() == [True, False, True, False, False] and (gloss > 0).all()


def test_library_shapes_do_not_depend_on_the_order_of_requests() -> None:
    one, two = Library(3), Library(3)
    for seed in (5, 6):
        one.pick("car", np.random.default_rng(seed))
    a, b = (library.pick("car", np.random.default_rng(7)) for library in (one, two))
    assert a.mesh.points.tobytes() == b.mesh.points.tobytes()
    assert one.pick("car", np.random.default_rng(7)) is a


def test_street_of_one_image_is_the_same_as_one_of_several(views: list[tuple[View, Sample]]) -> None:
    """Its first view is the same too, under another name."""
    single = SyntheticScenes(1000, *SIZE, seed=0, per_street=1).sample(0)
    assert single.frame.image.tobytes() == views[0][1].frame.image.tobytes()
    assert single.name != views[0][1].name


@pytest.mark.parametrize(
    "arguments",
    [
        {"count": 0},
        {"count": 1, "width": 4},
        {"count": 1, "seed": -1},
        {"count": 1, "window": 0.0},
        {"count": 1, "window": 1.5},
        {"count": 1, "per_street": 0},
    ],
)
def test_arguments_out_of_range_are_rejected(arguments: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match=r"synthetic scenes: .* needs at least 1 image of 8x8"):
        SyntheticScenes(**arguments)


def test_index_past_the_end_raises_index_error(scenes: SyntheticScenes) -> None:
    with pytest.raises(IndexError, match="no image 1000 of 1000"):
        scenes.sample(1000)
