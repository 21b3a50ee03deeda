"""Fields of each output topic, byte by byte."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mtl_perception.camera.model import Calibration, CameraModel
from mtl_perception.labels import KITTI6
from mtl_perception.messages.encode import MessageEncoder, image_fields
from mtl_perception.messages.topics import OUTPUT_TOPICS, needed_results
from mtl_perception.types import CLOUD_DTYPE, Outputs

K = (30.0, 0.0, 1.5, 0.0, 31.0, 0.5, 0.0, 0.0, 1.0)
P = (28.0, 0.0, 1.4, -15.4, 0.0, 29.0, 0.6, 0.2, 0.0, 0.0, 1.0, 0.003)
D = (0.1, -0.2, 0.0, 0.001, 0.0)
R = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
ROWS = {row.name: row for row in OUTPUT_TOPICS}
ALL = set(ROWS)


def result_of(depth: list[list[float]], labels: list[list[int]]) -> Outputs:
    meters = np.array(depth, np.float32)
    cloud = np.zeros(meters.shape, CLOUD_DTYPE)
    cloud["x"] = cloud["y"] = cloud["z"] = np.where(np.isfinite(meters), meters, np.nan)
    cloud["rgb"], cloud["label"] = 0x102030, labels
    image = np.arange(meters.size * 3, dtype=np.uint8).reshape(*meters.shape, 3)
    camera = Calibration(3, 2, K, D, "plumb_bob", R, P).camera(rectified=True)
    confidence = np.array(labels, np.uint8) // 2
    return Outputs(np.array(labels, np.uint8), confidence, meters, None, cloud, camera, image)


@pytest.fixture
def result() -> Outputs:
    return result_of([[1, 2, np.nan], [4, np.inf, 80]], [[0, 1, 255], [5, 2, 3]])


def encode(topic: str, result: Outputs, opacity: float = 0.5) -> dict:
    fields = ROWS[topic].encode(MessageEncoder(KITTI6, opacity), result)
    assert fields is not None
    return fields


def pixels(fields: dict, dtype: str = "u1", channels: int = 1) -> np.ndarray:
    assert fields["data"].dtype == np.uint8
    assert fields["data"].ndim == 1
    shape = (fields["height"], fields["width"], channels)[: 2 if channels == 1 else 3]
    assert len(fields["data"]) == fields["height"] * fields["step"]
    return np.frombuffer(fields["data"].tobytes(), dtype).reshape(shape)


class TestImages:
    @pytest.mark.parametrize(
        ("topic", "encoding", "step"),
        [
            ("segmentation/image", "bgr8", 9),
            ("segmentation/overlay", "bgr8", 9),
            ("segmentation/labels", "mono8", 3),
            ("segmentation/confidence", "mono8", 3),
            ("depth/image", "32FC1", 12),
        ],
    )
    def test_image_has_no_padding(self, result, topic, encoding, step):
        fields = encode(topic, result)
        assert set(fields) == {"height", "width", "encoding", "is_bigendian", "step", "data"}
        assert (fields["height"], fields["width"], fields["is_bigendian"]) == (2, 3, 0)
        assert (fields["encoding"], fields["step"], len(fields["data"])) == (encoding, step, 2 * step)

    def test_labels_confidence_and_depth_are_unchanged(self, result):
        assert pixels(encode("segmentation/labels", result)).tolist() == [[0, 1, 255], [5, 2, 3]]
        assert pixels(encode("segmentation/confidence", result)).tolist() == [[0, 0, 127], [2, 1, 1]]
        np.testing.assert_array_equal(pixels(encode("depth/image", result), "<f4"), result.depth)

    def test_colors_are_bgr(self, result):
        bgr = pixels(encode("segmentation/image", result), channels=3)
        assert bgr[0].tolist() == [[128, 128, 128], [0, 0, 128], [0, 0, 0]], "sky, building, unlabeled"
        assert bgr[1].tolist() == [[128, 0, 64], [128, 64, 128], [192, 0, 0]], "car, road, sidewalk"

    def test_overlay_blends_the_image(self, result):
        bgr = pixels(encode("segmentation/overlay", result, 0.25), channels=3)
        assert bgr[0, 2].tolist() == result.image[0, 2, ::-1].tolist(), "unlabeled: the image"
        car = 0.75 * result.image[1, 0, ::-1].astype(float) + 0.25 * np.array([128, 0, 64])
        assert np.abs(bgr[1, 0] - car).max() <= 0.5

    def test_view_of_a_larger_array_is_copied(self):
        fields = image_fields(np.arange(24, dtype=np.uint8).reshape(4, 6)[1:3, 2:5], "mono8")
        assert fields["step"] == 3
        assert fields["data"].tolist() == [8, 9, 10, 14, 15, 16]


class TestCloud:
    def test_point_fields_and_data(self, result):
        fields = encode("points", result)
        assert [(f["name"], f["offset"], f["datatype"], f["count"]) for f in fields["fields"]] == [
            ("x", 0, 7, 1),
            ("y", 4, 7, 1),
            ("z", 8, 7, 1),
            ("rgb", 12, 7, 1),
            ("label", 16, 6, 1),
        ]
        assert (fields["height"], fields["width"], fields["point_step"], fields["row_step"]) == (2, 3, 20, 60)
        assert fields["is_bigendian"] is False
        assert fields["data"].tobytes() == result.cloud.tobytes()

    def test_class_colored_cloud_differs_only_in_rgb(self, result):
        before = result.cloud.tobytes()
        fields = encode("segmentation/points", result)
        cloud = fields["data"].view(result.cloud.dtype).reshape(2, 3)
        sky, building, road, sidewalk, car = 0x808080, 0x800000, 0x804080, 0x0000C0, 0x400080
        assert cloud["rgb"].tolist() == [[sky, building, 0], [car, road, sidewalk]], "0: unlabeled"
        for name in ("x", "y", "z", "label"):
            assert cloud[name].tobytes() == result.cloud[name].tobytes()
        assert result.cloud.tobytes() == before
        assert {**fields, "data": None} == {**encode("points", result), "data": None}

    def test_cloud_with_nan_is_not_dense(self, result):
        assert encode("points", result)["is_dense"] is False
        assert encode("points", result_of([[1, 2]], [[0, 0]]))["is_dense"] is True
        assert encode("points", result_of([[1, np.inf]], [[0, 0]]))["is_dense"] is False


class TestCameraInfo:
    def test_calibration_is_passed_on(self, result):
        fields = encode("depth/camera_info", result)
        assert (fields["height"], fields["width"], fields["distortion_model"]) == (2, 3, "plumb_bob")
        for name, values in (("k", K), ("d", D), ("r", R), ("p", P)):
            assert fields[name].dtype == np.float64
            assert fields[name].tolist() == list(values)
        assert (fields["binning_x"], fields["binning_y"]) == (0, 0)
        assert fields["roi"] == {"x_offset": 0, "y_offset": 0, "height": 0, "width": 0, "do_rectify": False}

    def test_scaled_calibration_keeps_the_baseline(self, result):
        fields = encode("depth/camera_info", replace(result, camera=result.camera.scaled(6, 6)))
        assert (fields["height"], fields["width"]) == (6, 6)
        assert fields["k"].tolist() == pytest.approx([60, 0, 3, 0, 93, 1.5, 0, 0, 1])
        assert fields["p"].tolist() == pytest.approx([56, 0, 2.8, -30.8, 0, 87, 1.8, 0.6, 0, 0, 1, 0.003])
        assert fields["d"].tolist() == list(D)

    @pytest.mark.parametrize("p", [(), (0.0,) * 12])
    def test_missing_projection_is_made_from_k(self, result, p):
        """With a P of zeros a subscriber's cloud would be infinite."""
        camera = Calibration(3, 2, K, D, "plumb_bob", R, p).camera(rectified=True)
        fields = encode("depth/camera_info", replace(result, camera=camera))
        assert fields["p"].tolist() == [30, 0, 1.5, 0, 0, 31, 0.5, 0, 0, 0, 1, 0]

    def test_camera_info_from_intrinsics(self, result):
        fields = encode("depth/camera_info", replace(result, camera=CameraModel(3, 2, 9.0, 8.0, 1.0, 0.5)))
        assert fields["k"].tolist() == [9, 0, 1, 0, 8, 0.5, 0, 0, 1]
        assert fields["p"].tolist() == [9, 0, 1, 0, 0, 8, 0.5, 0, 0, 0, 1, 0]
        assert fields["r"].tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1]


def test_label_info_lists_the_classes(result):
    fields = encode("segmentation/label_info", result)
    assert [(entry["class_id"], entry["class_name"]) for entry in fields["class_map"]] == list(enumerate(KITTI6.names))
    assert fields["threshold"] == 0
    assert MessageEncoder(KITTI6, min_confidence=0.25).label_info()["threshold"] == 0.25


@pytest.mark.parametrize("topic", sorted(ALL - {"segmentation/label_info"}))
def test_result_without_the_needed_part_encodes_to_none(topic):
    assert ROWS[topic].encode(MessageEncoder(KITTI6), Outputs()) is None


def test_needed_results_of_topics():
    assert needed_results([]) == frozenset()
    assert needed_results(["depth/image"]) == {"depth"}
    assert needed_results(["segmentation/overlay", "segmentation/confidence"]) == {"labels", "confidence", "image"}
    assert needed_results(["segmentation/points"]) == {"cloud"}
    assert needed_results(["points", "depth/camera_info", "segmentation/label_info"]) == {"cloud"}
    assert needed_results(ALL) == {"labels", "confidence", "depth", "cloud", "image"}


def test_topics_and_types_are_fixed():
    assert {row.name: (row.type, row.latched) for row in OUTPUT_TOPICS} == {
        "segmentation/image": ("sensor_msgs/msg/Image", False),
        "segmentation/overlay": ("sensor_msgs/msg/Image", False),
        "segmentation/labels": ("sensor_msgs/msg/Image", False),
        "segmentation/confidence": ("sensor_msgs/msg/Image", False),
        "segmentation/label_info": ("vision_msgs/msg/LabelInfo", True),
        "segmentation/points": ("sensor_msgs/msg/PointCloud2", False),
        "depth/image": ("sensor_msgs/msg/Image", False),
        "depth/camera_info": ("sensor_msgs/msg/CameraInfo", False),
        "points": ("sensor_msgs/msg/PointCloud2", False),
    }
