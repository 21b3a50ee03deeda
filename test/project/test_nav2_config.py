"""config/nav2.yaml, config/nav2_costmap.yaml and launch/nav2.launch.py against the sources of Nav2 and its semantic layer.

The lists are facts taken from the commits in SOURCES, which docs/nav2.md names, too.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtl_perception.config import Config
from mtl_perception.labels import STREET, parse_groups
from mtl_perception.messages.topics import IMAGE, LABEL_INFO, NODE_NAME, OUTPUT_TOPICS, POINT_CLOUD

ROOT = Path(__file__).resolve().parents[2]
COSTMAP = yaml.safe_load((ROOT / "config/nav2_costmap.yaml").read_text())["local_costmap"]["local_costmap"]["ros__parameters"]
SETTINGS = yaml.safe_load((ROOT / "config/nav2.yaml").read_text())["/**"]["ros__parameters"]
LAYERS = {name: COSTMAP[name] for name in COSTMAP["plugins"]}

SOURCES = {
    "kiwicampus/semantic_segmentation_layer": {
        "rolling": "a70cf6ec8a44d0903209b6f433d9f8c40dbca0db",
        "jazzy": "274c713b78c80f2cb2fa9ef2700dcc0bd63bcaef",
        "humble": "ed010950a26257a511363dd40b49f8af4297dfd4",
    },
    "ros-navigation/semantic_segmentation_layer": {"main": "b269885415ac92d049f75c98b98734cd7f2a6f67"},
    "ros-navigation/navigation2": {
        "main": "a3a97043ee93d92fe8d70ec56d183933169beb1c",
        "jazzy": "f4108e5b1c2bce804a1aa0c7be6673a8eb4a1501",
        "humble": "3c3db59d6969d8ecee8e68468693d006397f4a0c",
    },
}

# Type of each declared parameter. rclcpp refuses a value of another type, such as 20 for a double.
CLASS_TYPE = {
    "classes": [str],
    "base_cost": int,
    "max_cost": int,
    "mark_confidence": int,
    "samples_to_max_cost": int,
    "dominant_priority": bool,
}
SEMANTIC_SOURCE = {
    "segmentation_topic": str,
    "confidence_topic": str,
    "labels_topic": str,
    "pointcloud_topic": str,
    "observation_persistence": float,
    "expected_update_rate": float,
    "class_types": [str],
    "max_obstacle_distance": float,
    "min_obstacle_distance": float,
    "tile_map_decay_time": float,
    "visualize_tile_map": bool,
    "use_cost_selection": bool,
}
SEMANTIC_LAYER = {
    "enabled": bool,
    "combination_method": int,
    "observation_sources": str,
    "publish_debug_topics": bool,
    "use_approximate_time_sync": bool,
}
VOXEL_SOURCE = {
    "topic": str,
    "sensor_frame": str,
    "observation_persistence": float,
    "expected_update_rate": float,
    "data_type": str,
    "min_obstacle_height": float,
    "max_obstacle_height": float,
    "inf_is_valid": bool,
    "marking": bool,
    "clearing": bool,
    "obstacle_max_range": float,
    "obstacle_min_range": float,
    "raytrace_max_range": float,
    "raytrace_min_range": float,
}
VOXEL_LAYER = {
    "enabled": bool,
    "footprint_clearing_enabled": bool,
    "min_obstacle_height": float,
    "max_obstacle_height": float,
    "z_voxels": int,
    "origin_z": float,
    "z_resolution": float,
    "unknown_threshold": int,
    "mark_threshold": int,
    "combination_method": int,
    "publish_voxel_map": bool,
    "observation_sources": str,
}
INFLATION_LAYER = {
    "enabled": bool,
    "inflation_radius": float,
    "cost_scaling_factor": float,
    "inflate_unknown": bool,
    "inflate_around_unknown": bool,
}
COSTMAP_PARAMETERS = {
    "always_send_full_costmap": bool,
    "footprint": str,
    "footprint_padding": float,
    "global_frame": str,
    "height": int,
    "width": int,
    "lethal_cost_threshold": int,
    "origin_x": float,
    "origin_y": float,
    "plugins": [str],
    "publish_frequency": float,
    "resolution": float,
    "robot_base_frame": str,
    "robot_radius": float,
    "rolling_window": bool,
    "track_unknown_space": bool,
    "transform_tolerance": float,
    "update_frequency": float,
}
# Plugin names as exported by the packages.
PLUGINS = {
    "semantic_segmentation_layer::SemanticSegmentationLayer": (SEMANTIC_LAYER, SEMANTIC_SOURCE),
    "nav2_costmap_2d::VoxelLayer": (VOXEL_LAYER, VOXEL_SOURCE),
    "nav2_costmap_2d::InflationLayer": (INFLATION_LAYER, {}),
}


def check(values: dict[str, Any], known: dict[str, Any], where: str) -> None:
    for name, value in values.items():
        assert name in known, f"{where}: {name} is not a parameter"
        kind = known[name]
        if isinstance(kind, list):
            assert isinstance(value, list)
            assert {type(entry) for entry in value} == set(kind), f"{where}.{name}"
        else:
            assert type(value) is kind, f"{where}.{name}: {value!r} is not a {kind.__name__}"


def test_costmap_parameters_exist_with_their_types() -> None:
    check({name: value for name, value in COSTMAP.items() if name not in LAYERS}, COSTMAP_PARAMETERS, "costmap")
    assert set(LAYERS) == {name for name, value in COSTMAP.items() if isinstance(value, dict)}, "every layer is a plugin"


@pytest.mark.parametrize("name", LAYERS)
def test_layer_parameters_exist_with_their_types(name: str) -> None:
    layer = dict(LAYERS[name])
    own, of_source = PLUGINS[layer.pop("plugin")]
    for source in layer.get("observation_sources", "").split():
        values = dict(layer.pop(source))
        for kind in values.get("class_types", ()):
            check(values.pop(kind), CLASS_TYPE, f"{name}.{source}.{kind}")
        check(values, of_source, f"{name}.{source}")
    check(layer, own, name)


@pytest.mark.parametrize(
    ("topic", "kind"),
    [
        (COSTMAP["semantic_layer"]["camera"]["segmentation_topic"], IMAGE),
        (COSTMAP["semantic_layer"]["camera"]["confidence_topic"], IMAGE),
        (COSTMAP["semantic_layer"]["camera"]["labels_topic"], LABEL_INFO),
        (COSTMAP["semantic_layer"]["camera"]["pointcloud_topic"], POINT_CLOUD),
        (COSTMAP["voxel_layer"]["points"]["topic"], POINT_CLOUD),
    ],
)
def test_topics_are_outputs_of_the_node(topic: str, kind: str) -> None:
    types = {f"/{NODE_NAME}/{row.name}": row.type for row in OUTPUT_TOPICS}
    assert types[topic] == kind


def test_each_group_has_exactly_one_cost() -> None:
    groups = parse_groups(SETTINGS["class_groups"], STREET).classes.names
    source = COSTMAP["semantic_layer"]["camera"]
    listed = [name for kind in source["class_types"] for name in source[kind]["classes"]]
    assert sorted(listed) == sorted(groups)


def test_costs_and_confidences_are_bytes() -> None:
    source = COSTMAP["semantic_layer"]["camera"]
    for kind in source["class_types"]:
        values = source[kind]
        # 255 is NO_INFORMATION.
        assert 0 <= values["base_cost"] <= values["max_cost"] <= 254
        assert 0 <= values["mark_confidence"] < 255, "an average above 255 is impossible"


def test_voxel_layer_keeps_points_and_can_clear() -> None:
    layer = COSTMAP["voxel_layer"]
    source = layer["points"]
    # The defaults are LaserScan, and 0 m for both heights.
    assert source["data_type"] == "PointCloud2"
    assert 0 < source["min_obstacle_height"] < source["max_obstacle_height"] <= layer["max_obstacle_height"]
    assert layer["z_voxels"] <= 16
    assert layer["origin_z"] + layer["z_voxels"] * layer["z_resolution"] >= source["max_obstacle_height"]
    assert source["raytrace_max_range"] >= source["obstacle_max_range"]
    assert 2 * source["obstacle_max_range"] <= min(COSTMAP["width"], COSTMAP["height"])


@pytest.mark.parametrize("size", [(1242, 375), (1280, 720), (640, 480), (1280, 960)])
def test_preset_has_a_small_mask_and_cloud_of_one_size(size: tuple[int, int]) -> None:
    config = Config.from_mapping(SETTINGS)
    assert config.output_scale**2 * size[0] * size[1] <= 400 * 300
    assert config.points_stride == 1, "mask and cloud would have different sizes"


def test_document_names_the_sources_and_what_was_not_run() -> None:
    text = (ROOT / "docs/nav2.md").read_text(encoding="utf-8")
    for repository, commits in SOURCES.items():
        assert repository in text
        for commit in commits.values():
            assert commit[:7] in text
    assert "not run" in text
    for kind in COSTMAP["semantic_layer"]["camera"]["class_types"]:
        assert f"`{kind}`" in text


def test_launch_file_starts_the_costmap_under_the_name_of_its_parameters() -> None:
    tree = ast.parse((ROOT / "launch/nav2.launch.py").read_text())
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    # Executables of nav2_costmap_2d and nav2_lifecycle_manager, and parameters of the latter.
    assert {
        "nav2_costmap_2d",
        "nav2_lifecycle_manager",
        "lifecycle_manager",
        "node_names",
        "autostart",
        "bond_timeout",
    } <= words
    assert {"local_costmap", "local_costmap/local_costmap"} <= words
