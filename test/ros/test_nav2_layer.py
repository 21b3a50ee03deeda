"""The node's messages as Nav2's semantic segmentation layer reads them, with config/nav2.yaml and config/nav2_costmap.yaml."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="needs rclpy")
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from support.images import noise_image
from support.node_process import node_process
from support.ros_client import Client, profile
from support.ros_messages import camera_info, cloud_of, colors_of, image, labels_of, put_header, stamp_of

from mtl_perception import Frame, Pipeline
from mtl_perception.config import Config
from mtl_perception.messages.decode import decode_camera_info
from tools.figures.costmap import SemanticLayer

ROOT = Path(__file__).resolve().parents[2]
FAKE = str(ROOT / "test/support/fake_ros")
IS_FAKE = importlib.util.find_spec("vision_msgs") is None
if IS_FAKE:
    from support.fake_ros.vision_msgs.msg import LabelInfo
else:
    from vision_msgs.msg import LabelInfo

PRESET = yaml.safe_load((ROOT / "config/nav2.yaml").read_text())["/**"]["ros__parameters"]
# The depth of random weights has edges everywhere.
SETTINGS = {**PRESET, "device": "cpu", "points_edge_filter": 0.0}
COSTMAP = yaml.safe_load((ROOT / "config/nav2_costmap.yaml").read_text())["local_costmap"]["local_costmap"]["ros__parameters"]
SOURCE = COSTMAP["semantic_layer"]["camera"]
GROUPS = ("drivable", "walkable", "dynamic", "sky", "obstacle")
HEIGHT, WIDTH = 120, 400
PIXELS = noise_image(HEIGHT, WIDTH)
INFO = camera_info(WIDTH, HEIGHT, fx=280.0, fy=280.0)
CAMERA_HEIGHT = 1.5


class Layer:
    """Subscriptions, synchronization and lookup of the layer, in a node of its own."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.layer = SemanticLayer(SOURCE, COSTMAP["resolution"])
        self.infos: list[Any] = []
        self.complete: dict[int, tuple[Image, Image, PointCloud2]] = {}
        self._parts: dict[int, dict[str, Any]] = {}
        for key, kind in (("segmentation_topic", Image), ("confidence_topic", Image), ("pointcloud_topic", PointCloud2)):
            # Sensor data QoS with a depth of 50.
            keep = profile(reliable=False, depth=50)
            client.node.create_subscription(kind, SOURCE[key], lambda message, key=key: self._on_part(key, message), keep)
        client.node.create_subscription(LabelInfo, SOURCE["labels_topic"], self._on_info, profile(latched=True, depth=5))

    def _on_info(self, message: Any) -> None:
        info = LabelInfo.of(message) if IS_FAKE else message
        self.infos.append(info)
        self.layer.set_classes({entry.class_id: entry.class_name for entry in info.class_map})

    def _on_part(self, key: str, message: Any) -> None:
        """Collect the messages of one stamp, as the exact time policy does."""
        parts = self._parts.setdefault(stamp_of(message), {})
        parts[key] = message
        if len(parts) == 3:
            self.complete[stamp_of(message)] = tuple(
                parts[name] for name in ("segmentation_topic", "confidence_topic", "pointcloud_topic")
            )

    def update(self, stamp: int) -> int:
        mask, confidence, cloud = self.complete[stamp]
        points = in_costmap(cloud_of(cloud))
        origin = np.array([0.0, 0.0, CAMERA_HEIGHT])
        return self.layer.update(points, pixels_of(mask), pixels_of(confidence), origin, stamp / 1e9)


def pixels_of(message: Image) -> np.ndarray:
    """Return the pixels as the layer indexes them: by width, not by step."""
    assert message.encoding == "mono8"
    return np.frombuffer(message.data, np.uint8)[: message.width * message.height].reshape(message.height, message.width)


def in_costmap(cloud: np.ndarray) -> np.ndarray:
    """Rotate points of the optical frame to x forward, y left, z up, with the camera above the origin."""
    return np.stack([cloud["z"], -cloud["x"], CAMERA_HEIGHT - cloud["y"]], axis=-1).astype(np.float64)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, weights_file: Path) -> Iterator[Client]:
    log = tmp_path_factory.mktemp("nav2") / "node.log"
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), FAKE if IS_FAKE else ""]))
    changes = {"weights": weights_file, **{name: value for name, value in SETTINGS.items() if PRESET.get(name) != value}}
    arguments = [word for name, value in changes.items() for word in ("-p", f"{name}:={value}")]
    arguments = ["--params-file", str(ROOT / "config/nav2.yaml"), *arguments]
    with node_process(log, *arguments, environment={"PYTHONPATH": path}, forked=False):
        client = Client()
        yield client
        client.close()


@pytest.fixture(scope="module")
def layer(client: Client) -> Layer:
    return Layer(client)


@pytest.fixture(scope="module")
def send(client: Client, layer: Layer) -> Any:
    """Publish an image until the layer has all three messages of it, and return its stamp."""
    images, infos = (
        client.node.create_publisher(Image, "/image", profile()),
        client.node.create_publisher(CameraInfo, "/camera_info", profile()),
    )
    client.spin_until(lambda: images.get_subscription_count() and infos.get_subscription_count(), "the node's subscriptions")

    def send(pixels: np.ndarray = PIXELS) -> int:
        sent: set[int] = set()
        for _ in range(20):
            stamp, message = client.next_stamp(), image(pixels)
            sent.add(stamp)
            put_header(INFO, stamp, "camera_optical")
            infos.publish(INFO)
            put_header(message, stamp, "camera_optical")
            images.publish(message)
            until = time.monotonic() + 2.0
            while time.monotonic() < until:
                client.spin_for(0.02)
                if done := layer.complete.keys() & sent:
                    return max(done)
        raise AssertionError("no synchronized mask, confidence and cloud")

    return send


@pytest.fixture(scope="module")
def expected(weights_file: Path) -> Any:
    """The pipeline's result for the image."""
    pipe = Pipeline(config=Config.from_mapping({**SETTINGS, "weights": str(weights_file)}))
    return pipe(Frame(PIXELS, decode_camera_info(INFO).camera(rectified=True)))


def test_late_subscriber_gets_the_groups_and_knows_all_of_them(client: Client, layer: Layer, send: Any) -> None:
    send()
    client.spin_until(lambda: layer.infos, "label_info")
    info = layer.infos[-1]
    assert [(entry.class_id, entry.class_name) for entry in info.class_map] == list(enumerate(GROUPS))
    assert layer.layer.ignored == []


def test_mask_confidence_and_cloud_have_one_stamp_frame_and_size(layer: Layer, send: Any) -> None:
    messages = layer.complete[send()]
    assert len({stamp_of(message) for message in messages}) == 1
    assert {message.header.frame_id for message in messages} == {"camera_optical"}
    assert {(message.height, message.width) for message in messages} == {(36, 120)}, "output_scale"
    for mask in messages[:2]:
        assert (mask.encoding, mask.step, len(mask.data)) == ("mono8", mask.width, 36 * 120)
    np.testing.assert_array_equal(cloud_of(messages[2])["label"], labels_of(messages[0]))


def test_node_publishes_the_groups_of_the_pipeline(layer: Layer, send: Any, expected: Any) -> None:
    mask, confidence, cloud = layer.complete[send()]
    np.testing.assert_array_equal(labels_of(mask), expected.labels)
    assert len(np.unique(expected.labels)) >= 3
    np.testing.assert_array_equal(pixels_of(confidence), expected.confidence)
    assert bytes(cloud.data) == expected.cloud.tobytes()


def test_segmentation_image_has_the_colors_of_the_groups(client: Client, send: Any, expected: Any) -> None:
    received: list[Image] = []
    topic = SOURCE["segmentation_topic"].replace("labels", "image")
    subscription = client.node.create_subscription(Image, topic, received.append, profile())
    client.spin_until(lambda: send() and received, "the segmentation image")
    client.node.destroy_subscription(subscription)
    np.testing.assert_array_equal(colors_of(received[-1]), expected.class_set.palette()[expected.labels])


def test_costs_are_those_of_the_groups(layer: Layer, send: Any, expected: Any) -> None:
    layer.layer = SemanticLayer(SOURCE, COSTMAP["resolution"])
    layer.layer.set_classes(dict(enumerate(GROUPS)))
    cost_of = {name: SOURCE[kind] for kind in SOURCE["class_types"] for name in SOURCE[kind]["classes"]}
    points, labels = in_costmap(expected.cloud).reshape(-1, 3), expected.labels.ravel()
    cells: dict[tuple[int, int], tuple[int, int, int]] = {}
    for pixel in np.flatnonzero(np.isfinite(points[:, 2])):
        distance = np.linalg.norm(points[pixel] - (0, 0, CAMERA_HEIGHT))
        if SOURCE["min_obstacle_distance"] < distance < SOURCE["max_obstacle_distance"]:
            cell = tuple(np.floor(points[pixel, :2] / COSTMAP["resolution"]).astype(int).tolist())
            entry = (cost_of[GROUPS[labels[pixel]]]["max_cost"], -int(pixel), int(pixel))
            cells[cell] = max(cells.get(cell, (-1, 0, 0)), entry)
    assert len(cells) > 50
    costs = {}
    for count in (1, 2, 3):
        assert layer.update(send()) == len(cells)
        costs[count] = layer.layer.costs()
        for cell, (_, _, pixel) in cells.items():
            cost = cost_of[GROUPS[labels[pixel]]]
            sure = count >= cost["samples_to_max_cost"] and expected.confidence.ravel()[pixel] > cost["mark_confidence"]
            assert costs[count][cell] == cost["max_cost" if sure else "base_cost"]
    assert {cost for found in costs.values() for cost in found.values()} <= {0, 60, 120, 254}


def test_unlabeled_pixels_make_no_observation(client: Client, layer: Layer, send: Any) -> None:
    count = layer.update(send())
    (result,) = client.set(min_confidence=0.2)
    assert result.successful, result.reason
    client.spin_until(lambda: layer.infos[-1].threshold > 0, "the new threshold")
    assert layer.infos[-1].threshold == pytest.approx(0.2)
    stamp = send()
    mask = labels_of(layer.complete[stamp][0])
    assert 0.01 < (mask == 255).mean() < 1
    assert 0 < layer.update(stamp) < count
    assert client.set(min_confidence=0.0)[0].successful


def test_layer_refuses_a_cloud_of_another_size(layer: Layer, expected: Any) -> None:
    points = in_costmap(expected.cloud)
    with pytest.raises(ValueError, match="4320 labels for 1080 points"):
        layer.layer.update(points[::2, ::2], expected.labels, expected.confidence, np.zeros(3), 0.0)


def test_layer_needs_label_info(expected: Any) -> None:
    with pytest.raises(ValueError, match="no LabelInfo"):
        SemanticLayer(SOURCE, 0.1).update(in_costmap(expected.cloud), expected.labels, expected.confidence, np.zeros(3), 0.0)
