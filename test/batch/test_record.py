"""Settings that outputs were made with."""

from __future__ import annotations

import json

import pytest
import yaml

from mtl_perception.batch.record import KEY, Record, describe_settings, read_record
from mtl_perception.batch.settings import Settings
from mtl_perception.config import Config
from mtl_perception.sources.bag.mcap import McapFile
from mtl_perception.sources.bag.scan import DamageError
from mtl_perception.sources.bag.writer import BagWriter
from mtl_perception.weights.registry import sha256


def settings(weights, topics=("depth/image",), **parameters) -> Settings:
    return Settings(Config.from_mapping({"weights": str(weights), **parameters}), topics)


def test_settings_are_what_the_content_depends_on(weights_file, tmp_path):
    described = describe_settings(settings(weights_file))
    assert described["weights"] == sha256(weights_file)
    assert (described["topics"], described["max_depth"], described["class_groups"]) == (["depth/image"], 0.0, [])
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights_file.read_bytes())
    assert describe_settings(settings(copy, device="cpu", cpu_threads=1, warm_up=False)) == described
    calibration = tmp_path / "camera.yaml"
    calibration.write_text("a")
    with_camera = Settings(Config.from_mapping({"weights": str(weights_file)}), ("depth/image",), camera_file=calibration)
    first = describe_settings(with_camera)
    calibration.write_text("b")
    assert len({str(values) for values in (described, first, describe_settings(with_camera))}) == 3


def test_difference_names_the_settings(weights_file):
    record = Record({**describe_settings(settings(weights_file)), "weights": "a" * 64, "removed": 1}, 3)
    wanted = describe_settings(settings(weights_file, max_depth=40.0))
    assert (
        record.difference(wanted)
        == f"weights {'a' * 12} -> {sha256(weights_file)[:12]}, max_depth 0.0 -> 40.0, removed 1 -> (none)"
    )
    assert record.difference(record.settings) == ""


def test_record_is_read_from_the_bag_and_its_metadata(tmp_path):
    record = Record({"weights": "ü", "topics": ["a", "b"], "max_depth": 40.0}, 7, "1.0")
    for name in ("file.mcap", "folder"):
        with BagWriter(tmp_path / name) as bag:
            bag.add_topic("/t", "std_msgs/msg/Header")
            bag.set_custom_data(KEY, record.to_json())
    assert read_record(tmp_path / "file.mcap") == record
    metadata = yaml.safe_load((tmp_path / "folder" / "metadata.yaml").read_text())
    assert json.loads(metadata["rosbag2_bagfile_information"]["custom_data"][KEY]) == vars(record)


@pytest.mark.parametrize("custom", [None, "", "{}", "[1]", '{"settings": 1, "frames": 2, "version": ""}'])
def test_other_bags_have_no_record(tmp_path, custom):
    with BagWriter(tmp_path / "a.mcap") as bag:
        bag.add_topic("/t", "std_msgs/msg/Header")
        if custom is not None:
            bag.set_custom_data(KEY, custom)
    assert read_record(tmp_path / "a.mcap") is None


def test_other_files_have_no_record(tmp_path):
    (tmp_path / "empty.mcap").touch()
    (tmp_path / "text.mcap").write_text("x" * 100)
    (tmp_path / "folder.mcap").mkdir()
    assert [read_record(path) for path in tmp_path.iterdir()] == [None] * 3


def test_damaged_metadata_is_no_record(tmp_path):
    with BagWriter(tmp_path / "a.mcap") as bag:
        bag.add_topic("/t", "std_msgs/msg/Header")
        bag.set_custom_data(KEY, Record({}, 1).to_json())
    data = (tmp_path / "a.mcap").read_bytes()
    position = data.index(b"serialized_metadata") - 4
    for value in (b"\xff\xff\xff\xff", b"\x01\x00\x00\x00"):
        (tmp_path / "a.mcap").write_bytes(data[:position] + value + data[position + 4 :])
        assert read_record(tmp_path / "a.mcap") is None
    with pytest.raises(DamageError, match="invalid record"):
        (tmp_path / "a.mcap").write_bytes(data[:position] + b"\xff\xff\xff\xff" + data[position + 4 :])
        McapFile(tmp_path / "a.mcap").metadata("rosbag2")
