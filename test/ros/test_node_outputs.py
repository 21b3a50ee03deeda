"""Outputs of the node, decoded from the message definitions alone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from support.images import noise_image
from support.node_fixtures import node_and_client
from support.ros_client import Camera, Client
from support.ros_messages import (
    OUTPUTS,
    assert_same,
    camera_info,
    cloud_of,
    colors_of,
    colors_of_cloud,
    depth_of,
    image,
    labels_of,
    stamp_of,
)

WIDTH, HEIGHT = 160, 96
PIXELS = noise_image(HEIGHT, WIDTH)
INFO = camera_info(WIDTH, HEIGHT)
IMAGE_TOPIC, INFO_TOPIC = "/cam/front/image_raw", "/cam/front/camera_info"


# Nearly all depth of a random network is at edges.
node, client = node_and_client("-r", f"image:={IMAGE_TOPIC}", "-p", "points_edge_filter:=0.0")


@pytest.fixture(scope="module")
def connected(client: Client):
    camera = Camera(client, IMAGE_TOPIC, INFO_TOPIC)
    camera.publish_info(INFO)
    camera.connect(image(PIXELS))
    yield camera
    camera.close()


@pytest.fixture
def camera(connected: Camera, client: Client):
    """The camera, with its camera_info and default parameters."""
    connected.publish_info(INFO)
    yield connected
    results = client.set(output_scale=1.0, max_depth=0.0, min_confidence=0.0, overlay_opacity=0.5, input_rectified=True)
    results += client.set(points_edge_filter=0.0, points_stride=1)
    assert all(result.successful for result in results)


@pytest.fixture(scope="module")
def plain(connected: Camera):
    """Outputs for the rgb8 image."""
    connected.publish_info(INFO)
    return connected.exchange(image(PIXELS))


def test_every_output_has_the_header_of_the_image(camera: Camera) -> None:
    stamp = camera.publish(image(PIXELS), frame_id="left camera/optical é")
    outputs = camera.answers(stamp)
    assert set(outputs) == set(OUTPUTS)
    for topic, message in outputs.items():
        assert stamp_of(message) == stamp, topic
        assert message.header.frame_id == "left camera/optical é", topic
        assert (message.width, message.height) == (WIDTH, HEIGHT), topic


def test_labels_are_varied_and_colored_by_class(plain) -> None:
    labels, colors = labels_of(plain["segmentation/labels"]), colors_of(plain["segmentation/image"])
    overlay = colors_of(plain["segmentation/overlay"])
    found = np.unique(labels)
    assert len(found) >= 3
    palette = [np.unique(colors[labels == label], axis=0) for label in found]
    assert all(len(color) == 1 for color in palette)
    assert len({tuple(color[0]) for color in palette}) == len(found)
    blended = (colors.astype(float) + PIXELS) / 2
    assert np.abs(overlay - blended).max() <= 1


def test_depth_is_infinite_beyond_the_range_of_the_weights_only(plain) -> None:
    depth = depth_of(plain["depth/image"])
    finite = np.isfinite(depth)
    assert 0.05 < finite.mean() < 0.99
    assert (depth[finite] > 0).all()
    assert (depth[finite] <= 80).all()
    assert np.isposinf(depth[~finite]).all()


def test_cloud_is_the_back_projected_depth(plain) -> None:
    cloud, depth = cloud_of(plain["points"]), depth_of(plain["depth/image"])
    u, v = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    fx, cx, fy, cy = INFO.p[0], INFO.p[2], INFO.p[5], INFO.p[6]
    finite = np.isfinite(depth)
    np.testing.assert_array_equal(cloud["z"][finite], depth[finite])
    np.testing.assert_allclose(cloud["x"][finite], ((u - cx) * depth.astype(float) / fx)[finite], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(cloud["y"][finite], ((v - cy) * depth.astype(float) / fy)[finite], rtol=1e-5, atol=1e-5)
    assert all(np.isnan(cloud[axis][~finite]).all() for axis in "xyz")
    assert plain["points"].is_dense is False


def test_cloud_carries_labels_and_colors(plain) -> None:
    cloud = cloud_of(plain["points"])
    np.testing.assert_array_equal(cloud["label"], labels_of(plain["segmentation/labels"]))
    np.testing.assert_array_equal(colors_of_cloud(cloud), PIXELS)


def test_cloud_without_gaps_is_dense(camera: Camera, client: Client) -> None:
    client.set(max_depth=1000.0)
    # Depth exceeds the limit in the middle of this image, but not in a dark one.
    outputs = camera.exchange(image(np.zeros_like(PIXELS)))
    depth = depth_of(outputs["depth/image"])
    assert np.isfinite(depth).all()
    assert outputs["points"].is_dense is True


def test_depth_camera_info_matches_the_camera(plain) -> None:
    info = plain["depth/camera_info"]
    assert (info.width, info.height, info.distortion_model) == (WIDTH, HEIGHT, "plumb_bob")
    for name in "dkrp":
        np.testing.assert_array_equal(getattr(info, name), getattr(INFO, name))


@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", PIXELS),
        ("bgr8", PIXELS[..., ::-1]),
        ("rgba8", np.dstack([PIXELS, np.full((HEIGHT, WIDTH), 7, np.uint8)])),
        ("bgra8", np.dstack([PIXELS[..., ::-1], np.full((HEIGHT, WIDTH), 7, np.uint8)])),
        ("8UC3", PIXELS[..., ::-1]),
        ("rgb16", PIXELS.astype(np.uint16) * 257),
        ("bgr16", PIXELS[..., ::-1].astype(np.uint16) * 257),
    ],
)
def test_all_encodings_of_an_image_have_equal_outputs(camera: Camera, plain, encoding: str, pixels: np.ndarray) -> None:
    for padding in (0, 13):
        for is_bigendian in (False, True):
            assert_same(camera.exchange(image(pixels, encoding, padding, is_bigendian)), plain)


def test_gray_image_equals_its_rgb_conversion(camera: Camera) -> None:
    gray = PIXELS[..., 1]
    expected = camera.exchange(image(np.dstack([gray] * 3)))
    assert_same(camera.exchange(image(gray, "mono8")), expected)
    assert_same(camera.exchange(image(gray, "mono8", padding=5)), expected)
    wide = gray.astype(np.uint16) * 257
    assert_same(camera.exchange(image(wide, "mono16")), expected)
    assert_same(camera.exchange(image(wide, "mono16", padding=3, is_bigendian=True)), expected)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns(camera: Camera, pattern: str, kind: type) -> None:
    ramp = np.linspace(0, 30, WIDTH).astype(np.uint8)[None].repeat(HEIGHT, 0)
    scene = np.dstack([200 + ramp, 100 + ramp, 20 + ramp])
    mosaic = np.empty((HEIGHT, WIDTH), kind)
    for place, channel in enumerate(pattern):
        rows, columns = slice(place // 2, None, 2), slice(place % 2, None, 2)
        mosaic[rows, columns] = scene[rows, columns, "rgb".index(channel)]
    if kind is np.uint16:
        mosaic *= 257
    outputs = camera.exchange(image(mosaic, f"bayer_{pattern}{8 * mosaic.itemsize}"))
    seen = colors_of_cloud(cloud_of(outputs["points"]))
    # Interpolation along a ramp differs by at most one step, and by two at the border.
    assert np.abs(seen.astype(int) - scene)[1:-1, 1:-1].max() <= 1
    assert np.abs(seen.astype(int) - scene).max() <= 2


def test_yuv_encodings_carry_color(camera: Camera) -> None:
    """With one color, so that only the order of the four bytes matters."""
    y, u, v = 120, 90, 200  # BT.601, studio range.
    gray, u_off, v_off = 1.164 * (y - 16), u - 128, v - 128
    red, green, blue = gray + 1.596 * v_off, gray - 0.813 * v_off - 0.391 * u_off, gray + 2.018 * u_off
    uyvy, yuyv = (u, y, v, y), (y, u, y, v)
    for encoding, quad in {"yuv422": uyvy, "uyvy": uyvy, "yuv422_yuy2": yuyv, "yuyv": yuyv}.items():
        pixels = np.tile(np.array(quad, np.uint8), (HEIGHT, WIDTH // 2)).reshape(HEIGHT, WIDTH, 2)
        outputs = camera.exchange(image(pixels, encoding))
        seen = colors_of_cloud(cloud_of(outputs["points"])).astype(float)
        assert np.abs(seen - (red, green, blue)).max() < 2.5, encoding


def test_image_size_can_change_between_frames(camera: Camera, plain) -> None:
    width, height = 122, 75
    pixels = noise_image(height, width, seed=3)
    info = camera_info(width, height, fx=40.0, fy=43.0)
    camera.publish_info(info)
    outputs = camera.exchange(image(pixels))
    cloud, depth = cloud_of(outputs["points"]), depth_of(outputs["depth/image"])
    assert cloud.shape == depth.shape == labels_of(outputs["segmentation/labels"]).shape == (height, width)
    np.testing.assert_array_equal(colors_of_cloud(cloud), pixels)
    u = np.broadcast_to(np.arange(width), depth.shape)
    finite = np.isfinite(depth)
    assert finite.any()
    np.testing.assert_allclose(cloud["x"][finite], ((u - info.p[2]) * depth / 40.0)[finite], rtol=1e-5, atol=1e-5)
    camera.publish_info(INFO)
    assert_same(camera.exchange(image(PIXELS)), plain)


def test_resized_image_uses_scaled_intrinsics(camera: Camera) -> None:
    small = cv2.resize(PIXELS, (WIDTH // 2, HEIGHT // 2))
    outputs = camera.exchange(image(small))
    info = outputs["depth/camera_info"]
    assert (info.width, info.height) == (WIDTH // 2, HEIGHT // 2)
    np.testing.assert_allclose(np.reshape(info.p, (3, 4))[:2], np.reshape(INFO.p, (3, 4))[:2] / 2)
    cloud, depth = cloud_of(outputs["points"]), depth_of(outputs["depth/image"])
    v = np.broadcast_to(np.arange(HEIGHT // 2)[:, None], depth.shape)
    finite = np.isfinite(depth)
    assert finite.any()
    expected = (v - INFO.p[6] / 2) * depth / (INFO.p[5] / 2)
    np.testing.assert_allclose(cloud["y"][finite], expected[finite], rtol=1e-5, atol=1e-5)


def test_image_with_another_aspect_ratio_has_no_cloud(camera: Camera, client: Client) -> None:
    other = noise_image(HEIGHT, HEIGHT)
    topics = [topic for topic in OUTPUTS if topic not in ("points", "depth/camera_info")]
    stamp = camera.publish(image(other))
    outputs = camera.answers(stamp, *topics)
    assert labels_of(outputs["segmentation/labels"]).shape == depth_of(outputs["depth/image"]).shape == (HEIGHT, HEIGHT)
    status = client.wait_status("camera", lambda s: "no point cloud" in s.message)
    assert "160x96" in status.message
    assert "96x96" in status.message
    camera.wait_until_idle()
    client.spin_for(0.2)
    assert stamp not in camera.received["points"]
    assert stamp not in camera.received["depth/camera_info"]
    camera.exchange(image(PIXELS))
    client.wait_status("camera", lambda s: s.level == s.OK)


def test_output_scale_scales_the_intrinsics(camera: Camera, client: Client) -> None:
    assert client.set(output_scale=0.5)[0].successful
    outputs = camera.exchange(image(PIXELS))
    for topic, message in outputs.items():
        assert (message.width, message.height) == (WIDTH // 2, HEIGHT // 2), topic
    info = outputs["depth/camera_info"]
    for name, columns in (("k", 3), ("p", 4)):
        found, original = np.reshape(getattr(info, name), (3, columns)), np.reshape(getattr(INFO, name), (3, columns))
        np.testing.assert_allclose(found[:2], original[:2] / 2)
        np.testing.assert_array_equal(found[2], original[2])
    cloud, depth = cloud_of(outputs["points"]), depth_of(outputs["depth/image"])
    u = np.broadcast_to(np.arange(WIDTH // 2), depth.shape)
    finite = np.isfinite(depth)
    assert finite.any()
    expected = (u - info.p[2]) * depth / info.p[0]
    np.testing.assert_allclose(cloud["x"][finite], expected[finite], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(cloud["label"], labels_of(outputs["segmentation/labels"]))


def test_points_stride_and_edge_filter_change_the_cloud_only(camera: Camera, client: Client, plain) -> None:
    assert all(result.successful for result in client.set(points_stride=4, points_edge_filter=2.0))
    outputs = camera.exchange(image(PIXELS))
    cloud, dense = cloud_of(outputs["points"]), cloud_of(plain["points"])[::4, ::4]
    assert (outputs["points"].width, outputs["points"].height) == (WIDTH // 4, HEIGHT // 4)
    assert outputs["points"].row_step == 20 * WIDTH // 4
    assert not outputs["points"].is_dense
    removed = np.isnan(cloud["z"]) & np.isfinite(dense["z"])
    assert 0.05 < removed.mean() < 0.95
    assert cloud[~removed].tobytes() == dense[~removed].tobytes()
    for name in ("rgb", "label"):
        np.testing.assert_array_equal(cloud[name], dense[name])
    for topic in ("segmentation/labels", "segmentation/confidence", "depth/image"):
        assert outputs[topic].data == plain[topic].data, topic
    assert outputs["depth/camera_info"].width == WIDTH


@pytest.mark.parametrize(
    ("model", "coefficients"),
    [
        ("plumb_bob", [-0.25, 0.08, 0.001, -0.002, 0.01]),
        ("equidistant", [-0.05, 0.01, 0.002, -0.001]),
        ("rational_polynomial", [0.1, -0.05, 0.001, -0.002, 0.01, 0.2, -0.03, 0.02]),
    ],
)
def test_rays_of_raw_images_are_undistorted(camera: Camera, client: Client, model: str, coefficients: list[float]) -> None:
    assert client.set(input_rectified=False)[0].successful
    info = camera_info(WIDTH, HEIGHT, fx=110.0, fy=112.0, distortion_model=model, d=coefficients)
    camera.publish_info(info)
    outputs = camera.exchange(image(PIXELS))
    cloud, depth = cloud_of(outputs["points"]), depth_of(outputs["depth/image"])
    u, v = np.meshgrid(np.arange(WIDTH, dtype=float), np.arange(HEIGHT, dtype=float))
    pixels = np.stack([u, v], -1).reshape(-1, 1, 2)
    k, d = np.reshape(info.k, (3, 3)), np.array(coefficients)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-12)
    if model == "equidistant":
        rays = cv2.fisheye.undistortPoints(pixels, k, d, criteria=criteria)
    else:
        rays = cv2.undistortPoints(pixels, k, d, criteria=criteria)
    rays = rays.reshape(HEIGHT, WIDTH, 2)
    straight = (u - k[0, 2]) / k[0, 0]
    assert np.abs(rays[..., 0] - straight).max() > 0.01  # The distortion is not negligible.
    finite = np.isfinite(depth)
    np.testing.assert_array_equal(cloud["z"][finite], depth[finite])
    np.testing.assert_allclose(cloud["x"][finite], (rays[..., 0] * depth)[finite], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(cloud["y"][finite], (rays[..., 1] * depth)[finite], rtol=1e-4, atol=1e-4)
    passed_on = outputs["depth/camera_info"]
    assert passed_on.distortion_model == model
    np.testing.assert_array_equal(passed_on.d, coefficients)


def test_live_parameters_apply_to_the_next_image(camera: Camera, client: Client, plain) -> None:
    assert client.set(max_depth=20)[0].successful  # An integer for a float.
    depth, whole = depth_of(camera.exchange(image(PIXELS))["depth/image"]), depth_of(plain["depth/image"])
    np.testing.assert_array_equal(depth, np.where(whole > 20, np.inf, whole))
    assert np.isinf(depth).mean() > np.isinf(whole).mean()

    assert client.set(min_confidence=0.6)[0].successful
    outputs = camera.exchange(image(PIXELS))
    labels, confidence = labels_of(outputs["segmentation/labels"]), labels_of(outputs["segmentation/confidence"])
    assert (labels[confidence < 152] == 255).all()
    assert (labels[confidence > 154] == labels_of(plain["segmentation/labels"])[confidence > 154]).all()
    assert 0 < (labels == 255).mean() < 1

    for opacity, expected in ((0.0, PIXELS), (1.0, None)):
        assert client.set(overlay_opacity=opacity, min_confidence=0.0)[0].successful
        outputs = camera.exchange(image(PIXELS))
        wanted = colors_of(outputs["segmentation/image"]) if expected is None else expected
        np.testing.assert_array_equal(colors_of(outputs["segmentation/overlay"]), wanted)


def test_odd_image_sizes(camera: Camera) -> None:
    for height, width in ((1, 1), (2, 3), (1, 200), (131, 5)):
        pixels = noise_image(height, width)
        camera.publish_info(camera_info(width, height))
        outputs = camera.exchange(image(pixels))
        assert labels_of(outputs["segmentation/labels"]).shape == depth_of(outputs["depth/image"]).shape == (height, width)
        np.testing.assert_array_equal(colors_of_cloud(cloud_of(outputs["points"])), pixels)


def test_region_of_interest_is_applied(camera: Camera) -> None:
    """A region of interest with binning of two, as drivers publish it: K and P are those of the full resolution."""
    info = camera_info(400, 300, fx=200.0, fy=210.0, cx=190.0, cy=140.0, binning_x=2, binning_y=2)
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 40, 20, 2 * WIDTH, 2 * HEIGHT
    camera.publish_info(info)
    outputs = camera.exchange(image(PIXELS))
    found = outputs["depth/camera_info"]
    p = np.reshape(found.p, (3, 4))
    np.testing.assert_allclose((p[0, 0], p[1, 1], p[0, 2], p[1, 2]), (100, 105, 75, 60))
    assert (found.width, found.height, found.binning_x, found.roi.width) == (WIDTH, HEIGHT, 0, 0)
    cloud, depth = cloud_of(outputs["points"]), depth_of(outputs["depth/image"])
    u = np.broadcast_to(np.arange(WIDTH), depth.shape)
    finite = np.isfinite(depth)
    np.testing.assert_allclose(cloud["x"][finite], (u - 75.0)[finite] * depth[finite] / 100.0, rtol=1e-5, atol=1e-5)


def test_camera_info_is_the_sibling_of_the_image_topic(camera: Camera, client: Client) -> None:
    values = client.values("camera")
    assert values["image topic"] == IMAGE_TOPIC
    assert values["camera_info topic"] == INFO_TOPIC
    assert values["reliability"] == "reliable"


def test_best_effort_subscribers_are_served(camera: Camera, client: Client) -> None:
    other = Camera(client, IMAGE_TOPIC, INFO_TOPIC, outputs_reliable=False)
    try:
        outputs = other.connect(image(PIXELS))
        assert set(outputs) == set(OUTPUTS)
        assert len({stamp_of(message) for message in outputs.values()}) == 1
    finally:
        other.close()
