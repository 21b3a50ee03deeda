"""Malformed, missing and too frequent images and calibrations."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from sensor_msgs.msg import CameraInfo, CompressedImage
from support.images import noise_image
from support.node_fixtures import node_and_client
from support.ros_client import Camera, Client, profile
from support.ros_messages import (
    OUTPUTS,
    assert_same,
    camera_info,
    cloud_of,
    colors_of_cloud,
    image,
    put_header,
    set_data,
    values_of,
)

WIDTH, HEIGHT = 96, 64
PIXELS = noise_image(HEIGHT, WIDTH)
INFO = camera_info(WIDTH, HEIGHT)


# As users start it, because its memory is measured.
node, client = node_and_client(forked=False)


@pytest.fixture
def fresh(client: Client):
    """Configure the node again, so that it has received no image and no camera_info."""
    assert client.change_state("deactivate")
    assert client.change_state("cleanup")
    assert client.change_state("configure")
    assert client.change_state("activate")


@pytest.fixture(scope="module")
def connected(client: Client):
    camera = Camera(client)
    camera.publish_info(INFO)
    camera.connect(image(PIXELS))
    yield camera
    camera.close()


@pytest.fixture
def camera(connected: Camera):
    connected.publish_info(INFO)
    return connected


@pytest.fixture(scope="module")
def good(connected: Camera):
    connected.publish_info(INFO)
    return connected.exchange(image(PIXELS))


def cut(message, count: int):
    return set_data(message, bytes(message.data)[:count])


def wait_for_rejections(client: Client, reason: str, count: int):
    return client.wait_status("frames", lambda s: values_of(s).get(f"rejected: {reason}") == str(count))


BAD = {
    "data too short": ("data_length", lambda: cut(image(PIXELS), 100)),
    "data too long": ("data_length", lambda: set_data(image(PIXELS), bytes(3 * WIDTH * HEIGHT + 1))),
    "no data": ("data_length", lambda: cut(image(PIXELS), 0)),
    "height that is not the data's": ("data_length", lambda: image(PIXELS, height=HEIGHT + 1)),
    "zero width": ("size", lambda: image(PIXELS, width=0)),
    "zero height": ("size", lambda: image(PIXELS, height=0)),
    "nothing at all": ("size", lambda: image(PIXELS, width=0, height=0, step=0, encoding="")),
    "absurd width": ("size", lambda: image(PIXELS, width=2**32 - 1, step=2**32 - 1)),
    "absurd size": ("size", lambda: image(PIXELS, width=2**31, height=2**31)),
    "step too small": ("step", lambda: image(PIXELS, step=3 * WIDTH - 1)),
    "zero step": ("step", lambda: image(PIXELS, step=0)),
    "unknown encoding": ("encoding", lambda: image(PIXELS, "hyperspectral8")),
    "empty encoding": ("encoding", lambda: image(PIXELS, "")),
    "depth": ("encoding", lambda: image(np.ones((HEIGHT, WIDTH), np.float32), "32FC1")),
    "encoding in capitals": ("encoding", lambda: image(PIXELS, "RGB8")),
    "odd width in YUV": ("size", lambda: image(np.zeros((HEIGHT, 95, 2), np.uint8), "yuv422_yuy2")),
    "Bayer of one row": ("size", lambda: image(np.zeros((1, WIDTH), np.uint8), "bayer_rggb8")),
}


def test_malformed_images_are_dropped_and_counted_by_reason(camera: Camera, client: Client, good) -> None:
    before = client.counts()
    expected = {name: count for name, count in before.items() if name.startswith("rejected: ")}
    for name, (reason, make) in BAD.items():
        bad = camera.publish(make())
        key = f"rejected: {reason}"
        expected[key] = expected.get(key, 0) + 1
        status = wait_for_rejections(client, reason, expected[key])
        assert status.level == status.WARN, name
        assert "frames dropped" in status.message, name
        outputs = camera.exchange(image(PIXELS))
        assert_same(outputs, good)
        assert all(bad not in camera.received[topic] for topic in OUTPUTS), name
    camera.wait_until_idle()
    after = client.counts()
    assert {name: count for name, count in after.items() if name.startswith("rejected: ")} == expected
    assert after["rejected"] - before["rejected"] == len(BAD)
    assert after["processed"] - before["processed"] == len(BAD)


def test_dropped_frames_are_logged_with_throttling(camera: Camera, client: Client, node) -> None:
    def named() -> int:
        return sum("hyperspectral8" in line for line in node.output.splitlines() if "dropped:" in line)

    before, sent = named(), 0
    while named() == before and sent < 1000:
        camera.publish(image(PIXELS, "hyperspectral8"))
        client.spin_for(0.02)
        sent += 1
    for _ in range(50):
        camera.publish(image(PIXELS, "hyperspectral8"))
        client.spin_for(0.01)
    camera.wait_until_idle()
    assert 1 <= named() - before < 10
    assert "Traceback" not in node.output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": [0.0] * 9, "p": [0.0] * 12}, "uncalibrated"),
        ({"k": [0.0, 0.0, 47.0, 0.0, 60.0, 31.0, 0.0, 0.0, 1.0]}, "uncalibrated"),
        ({"p": [float("nan")] * 12}, "non-finite"),
        ({"k": [60.0, 0.0, float("inf"), 0.0, 60.0, 30.0, 0.0, 0.0, 1.0]}, "non-finite"),
        ({"d": [float("nan")] * 5}, "non-finite"),
        ({"p": [-60.0, 0.0, 47.0, 0.0, 0.0, 60.0, 31.0, 0.0, 0.0, 0.0, 1.0, 0.0]}, "focal length"),
        ({"p": [60.0, 0.0, 47.0, 0.0, 0.0, 0.0, 31.0, 0.0, 0.0, 0.0, 1.0, 0.0]}, "focal length"),
        ({"width": 0, "height": 0}, "no image size"),
        ({"binning_x": 1000, "binning_y": 1000}, "binning"),
    ],
)
def test_unusable_calibration_drops_the_cloud_only(camera: Camera, client: Client, good, change, words) -> None:
    camera.publish_info(camera_info(WIDTH, HEIGHT, **change) if "width" not in change else _resized(change))
    topics = [topic for topic in OUTPUTS if topic not in ("points", "depth/camera_info")]
    stamp = camera.publish(image(PIXELS))
    outputs = camera.answers(stamp, *topics)
    for topic in topics:
        assert outputs[topic].data == good[topic].data, topic
    status = client.wait_status("camera", lambda s: words in s.message)
    assert status.level == status.ERROR
    assert "no point cloud" in status.message
    camera.wait_until_idle()
    client.spin_for(0.1)
    assert stamp not in camera.received["points"]
    camera.publish_info(INFO)
    assert_same(camera.exchange(image(PIXELS)), good)
    status = client.status("camera")
    assert (status.level, status.message) == (status.OK, "using camera_info")


def _resized(change) -> CameraInfo:
    info = camera_info(WIDTH, HEIGHT)
    info.width, info.height = change["width"], change["height"]
    return info


def test_different_frame_id_of_camera_info_is_reported(camera: Camera, client: Client) -> None:
    camera.publish_info(INFO, frame_id="right_optical")
    camera.exchange(image(PIXELS), frame_id="left_optical")
    status = client.wait_status("camera", lambda s: s.level == s.WARN)
    assert "right_optical" in status.message
    assert "left_optical" in status.message


def test_fast_camera_keeps_order_and_the_last_image_is_processed(camera: Camera, client: Client) -> None:
    """30 images at 30 Hz, which is faster than the node processes them."""
    width, height = 1280, 720
    large = noise_image(height, width)
    camera.publish_info(camera_info(width, height, fx=600.0, fy=620.0))
    camera.wait_until_idle()
    before = client.counts()
    for topic in OUTPUTS:
        camera.order[topic].clear()
    sent = []
    message = image(large)
    for _ in range(30):
        sent.append(camera.publish(message))
        client.spin_for(1 / 30)
    camera.answers(sent[-1])
    camera.wait_until_idle()
    after = client.counts()
    gained = {name: after[name] - before.get(name, 0) for name in after}
    assert gained["received"] == gained["processed"] + gained["replaced"] + gained["rejected"] + gained["without subscriber"]
    assert gained["processed"] >= len(camera.order["segmentation/labels"])
    assert gained["replaced"] > 0
    assert gained["rejected"] == 0
    for topic in OUTPUTS:
        stamps = camera.order[topic]
        assert stamps == sorted(set(stamps)), topic
        assert stamps[-1] == sent[-1], topic
        assert set(stamps) <= set(sent), topic


def test_missing_camera_info_drops_the_cloud_only(client: Client, fresh, connected: Camera, good) -> None:
    status = client.wait_status("frames", lambda s: s.level == s.WARN)
    assert "no image received yet" in status.message
    connected.wait_until_heard()
    topics = [topic for topic in OUTPUTS if topic not in ("points", "depth/camera_info")]
    outputs = connected.connect(image(PIXELS), *topics)
    for topic in topics:
        assert outputs[topic].data == good[topic].data, topic
    status = client.wait_status("camera", lambda s: s.level == s.WARN)
    assert "no camera_info" in status.message
    assert client.status("frames").level == status.OK


def test_camera_info_is_evaluated_before_the_first_image(client: Client, fresh, connected: Camera) -> None:
    """Diagnostics do not report it as missing."""
    connected.wait_until_heard()
    client.wait_status("camera", lambda s: "no camera_info" in s.message)
    connected.publish_info(INFO)
    client.wait_status("camera", lambda s: s.level == s.OK)


def test_silence_is_reported(camera: Camera, client: Client) -> None:
    assert client.set(image_timeout=0.3)[0].successful
    camera.connect(image(PIXELS))
    status = client.wait_status("frames", lambda s: s.level == s.STALE)
    assert "no image for" in status.message
    camera.exchange(image(PIXELS))
    assert client.set(image_timeout=2.0)[0].successful


def test_outputs_without_subscribers_are_not_computed(camera: Camera, client: Client) -> None:
    for topic in OUTPUTS:
        camera.unsubscribe(topic)
    try:
        node = client.node
        client.spin_until(lambda: not any(node.count_subscribers(f"/mtl_perception/{topic}") for topic in OUTPUTS))
        client.spin_for(0.3)  # Until the node has discovered it, too.
        camera.wait_until_idle()
        before = client.counts()
        for _ in range(5):
            camera.publish(image(PIXELS))
            client.spin_for(0.05)
        camera.wait_until_idle()
        after = client.counts()
        assert after["without subscriber"] > before["without subscriber"]
        assert after["processed"] == before["processed"]
    finally:
        for topic, kind in OUTPUTS.items():
            camera.subscribe(topic, kind)
    camera.connect(image(PIXELS))


# Transports and QoS, with a new configuration for each.


def reconfigure(client: Client, **parameters) -> None:
    assert client.change_state("deactivate")
    assert client.change_state("cleanup")
    results = client.set(**parameters)
    assert all(result.successful for result in results), results
    assert client.change_state("configure")
    assert client.change_state("activate")


def compressed(pixels: np.ndarray, suffix: str) -> CompressedImage:
    data = cv2.imencode(suffix, pixels[..., ::-1])[1].tobytes()
    return set_data(CompressedImage(format=f"rgb8; {suffix[1:]} compressed bgr8"), data)


@pytest.fixture(scope="class")
def compressed_camera(client: Client, connected: Camera):
    reconfigure(client, image_transport="compressed")
    camera = Camera(client, "/image/compressed", "/camera_info", CompressedImage)
    camera.publish_info(INFO)
    camera.connect(compressed(PIXELS, ".png"))
    yield camera
    camera.close()
    reconfigure(client, image_transport="raw")
    connected.wait_until_heard()


class TestCompressedTransport:
    def test_png_equals_raw(self, good, compressed_camera: Camera) -> None:
        assert_same(compressed_camera.exchange(compressed(PIXELS, ".png")), good)

    def test_jpeg_is_close_to_raw(self, compressed_camera: Camera) -> None:
        smooth = cv2.GaussianBlur(PIXELS, (0, 0), 3)
        outputs = compressed_camera.exchange(compressed(smooth, ".jpg"))
        seen = colors_of_cloud(cloud_of(outputs["points"])).astype(float)
        assert np.abs(seen - smooth).mean() < 5

    def test_damaged_images_are_dropped(self, good, compressed_camera: Camera, client: Client) -> None:
        jpeg, png = bytes(compressed(PIXELS, ".jpg").data), bytes(compressed(PIXELS, ".png").data)
        bad = [
            ("compressed", "jpeg", jpeg[: len(jpeg) // 2]),
            ("compressed", "jpeg", jpeg[:-2]),
            ("compressed", "png", png[: len(png) // 2]),
            ("compressed", "jpeg", b"not an image"),
            ("data_length", "jpeg", b""),
            ("encoding", "16UC1; compressedDepth png", png),
        ]
        for reason, name, data in bad:
            before = client.counts().get(f"rejected: {reason}", 0)
            compressed_camera.publish(set_data(CompressedImage(format=name), data))
            wait_for_rejections(client, reason, before + 1)
            assert_same(compressed_camera.exchange(compressed(PIXELS, ".png")), good)


def test_subscription_follows_a_best_effort_camera(client: Client, connected: Camera, good) -> None:
    """Even if it appears after the node, and after a reliable one."""
    other = Client("second", start_ns=1_800_000_000_000_000_000)
    try:
        camera = Camera(other, reliable=False)
        # Only best effort is compatible with both cameras.
        assert client.wait_status("camera", lambda s: values_of(s)["reliability"] == "best effort")
        camera.publish_info(INFO)
        assert_same(camera.connect(image(PIXELS)), good)
        camera.close()
        client.wait_status("camera", lambda s: values_of(s)["reliability"] == "reliable")
        connected.wait_until_heard()
        assert_same(connected.connect(image(PIXELS)), good)
    finally:
        other.close()


def test_latched_camera_info_is_used(client: Client, connected: Camera, good) -> None:
    """As published once by a calibration server, before the node is activated."""
    connected.client.node.destroy_publisher(connected.infos)
    latched = client.node.create_publisher(CameraInfo, "/camera_info", profile(latched=True, depth=1))
    info = camera_info(WIDTH, HEIGHT)
    put_header(info, 1, "camera_optical")
    latched.publish(info)
    assert client.change_state("deactivate")
    client.spin_for(0.5)
    assert client.change_state("activate")
    connected.infos = None
    connected.wait_until_heard()
    assert_same(connected.connect(image(PIXELS)), good)
    client.node.destroy_publisher(latched)


def test_memory_stays_flat(client: Client, connected: Camera, node) -> None:
    """For 700 images with all outputs, within 10 kB an image."""
    connected.infos = client.node.create_publisher(CameraInfo, "/camera_info", profile())
    connected.wait_until_heard()
    small = image(noise_image(48, 64))
    connected.publish_info(camera_info(64, 48))
    connected.connect(small)

    def flow(count: int) -> int:
        for _ in range(count):
            connected.exchange(small, "points", "depth/image", "segmentation/labels")
            for kept in connected.received.values():
                kept.clear()
        return node.resident_bytes()

    warm = flow(300)
    assert flow(700) - warm < 700 * 10e3


def test_log_has_no_internal_errors(node) -> None:
    assert "Traceback" not in node.output
    # Fast DDS names functions such as open_port_internal where ports of ended processes are left.
    assert not [line for line in node.output.splitlines() if "internal" in line and "RTPS_TRANSPORT" not in line]
