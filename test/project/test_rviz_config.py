"""The RViz configurations, checked against the keys and the window state that RViz reads.

RViz ignores unknown keys silently. The keys are those of the properties in rviz_common and rviz_default_plugins (ros2/rviz):
visualization_frame.cpp, display.cpp, ros_topic_property.cpp, qos_profile_property.cpp, view_controller.cpp and the sources of
each class.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mtl_perception.messages.topics import OUTPUT_TOPICS

ROOT = Path(__file__).resolve().parents[2]
OPTICAL, Z_UP = "perception.rviz", "perception_z_up.rviz"

DISPLAY = {"Class", "Name", "Enabled", "Value"}
QOS = {"Depth", "History Policy", "Reliability Policy", "Durability Policy"}
DISPLAY_KEYS = {
    "rviz_default_plugins/Image": {"Topic", "Normalize Range", "Min Value", "Max Value", "Median window"},
    "rviz_default_plugins/PointCloud2": {
        *("Topic", "Selectable", "Style", "Size (m)", "Size (Pixels)", "Alpha", "Decay Time"),
        *("Position Transformer", "Color Transformer"),
    },
    "rviz_default_plugins/Axes": {"Reference Frame", "Length", "Radius"},
    "rviz_default_plugins/Grid": {
        *("Reference Frame", "Plane Cell Count", "Normal Cell Count", "Cell Size", "Line Style", "Color", "Alpha"),
        *("Plane", "Offset"),
    },
    "rviz_default_plugins/TF": {
        *("Show Names", "Show Axes", "Show Arrows", "Marker Scale", "Update Interval", "Frame Timeout", "Frames", "Tree"),
    },
}
TOPIC_KEYS = {
    "rviz_default_plugins/Image": {"Value", *QOS},
    "rviz_default_plugins/PointCloud2": {"Value", "Filter size", *QOS},
}
VALUES = {
    "History Policy": {"Keep Last", "Keep All", "System Default"},
    "Reliability Policy": {"Reliable", "Best Effort", "System Default"},
    "Durability Policy": {"Volatile", "Transient Local", "System Default"},
    "Style": {"Points", "Squares", "Flat Squares", "Spheres", "Boxes", "Tiles"},
    "Color Transformer": {"RGB8", "RGBF32", "Intensity", "AxisColor", "FlatColor"},
    "Position Transformer": {"XYZ"},
    "Plane": {"XY", "XZ", "YZ"},
}
VIEW_KEYS = {
    *("Class", "Name", "Value", "Near Clip Distance", "Invert Z Axis", "Enable Stereo Rendering", "Target Frame"),
    *("Distance", "Yaw", "Pitch", "Focal Point", "Focal Shape Size", "Focal Shape Fixed Size"),
}
WINDOW_KEYS = {"X", "Y", "Width", "Height", "QMainWindow State", "Hide Left Dock", "Hide Right Dock"}
PANELS = {"rviz_common/Displays", "rviz_common/Views", "rviz_common/Time", "rviz_common/Tool Properties"}
TOOLS = {f"rviz_default_plugins/{name}" for name in ("MoveCamera", "Select", "FocusCamera", "Measure", "Interact")}


@pytest.fixture(params=[OPTICAL, Z_UP])
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "config" / name).read_text())


def displays(config: dict[str, Any]) -> list[dict[str, Any]]:
    return config["Visualization Manager"]["Displays"]


def test_rviz_reads_every_key(config: dict[str, Any]) -> None:
    assert set(config) == {"Panels", "Visualization Manager", "Window Geometry"}
    manager = config["Visualization Manager"]
    assert set(manager) == {"Class", "Global Options", "Displays", "Tools", "Views"}
    assert set(manager["Global Options"]) <= {"Background Color", "Fixed Frame", "Frame Rate"}
    for display in displays(config):
        assert set(display) <= DISPLAY | DISPLAY_KEYS[display["Class"]], display["Name"]
        assert set(display.get("Topic", {})) <= TOPIC_KEYS.get(display["Class"], set()), display["Name"]
        for name, value in {**display, **display.get("Topic", {})}.items():
            assert name not in VALUES or value in VALUES[name], display["Name"]
    assert {tool["Class"] for tool in manager["Tools"]} <= TOOLS
    assert {panel["Class"] for panel in config["Panels"]} <= PANELS
    (view,) = manager["Views"].values()
    assert view["Class"] == "rviz_default_plugins/Orbit"
    assert set(view) <= VIEW_KEYS


def test_topics_are_outputs_of_the_node(config: dict[str, Any]) -> None:
    types = {f"/mtl_perception/{row.name}": row.type.rpartition("/")[2] for row in OUTPUT_TOPICS}
    shown = {display["Topic"]["Value"]: display for display in displays(config) if "Topic" in display}
    assert {topic: types[topic] for topic in shown} == {
        topic: display["Class"].rpartition("/")[2] for topic, display in shown.items()
    }
    clouds = {topic: display["Color Transformer"] for topic, display in shown.items() if types[topic] == "PointCloud2"}
    assert clouds == {"/mtl_perception/points": "RGB8", "/mtl_perception/segmentation/points": "RGB8"}


def test_both_files_differ_only_in_the_view_and_its_frames() -> None:
    one, other = load(OPTICAL), load(Z_UP)
    assert one["Window Geometry"] == other["Window Geometry"]
    assert one["Panels"] == other["Panels"]
    assert one["Visualization Manager"]["Tools"] == other["Visualization Manager"]["Tools"]
    topics = [[display for display in displays(config) if "Topic" in display] for config in (one, other)]
    assert topics[0] == topics[1]


def read_docks(state: bytes) -> dict[str, Any]:
    """Return the dock areas of a QMainWindow's state, as written by Qt 5 and 6 (qmainwindowlayout.cpp, qdockarealayout.cpp).

    An area is a list of panels, or of nested lists, which are tabs. A panel is (name, visible, extent in pixels).
    """
    stream = io.BytesIO(state)

    def number(kind: str) -> int:
        return struct.unpack(f">{kind}", stream.read(struct.calcsize(f">{kind}")))[0]

    def area(marker: int) -> list[Any]:
        assert marker in (0xFA, 0xFC), "tabs or a sequence"
        if marker == 0xFA:
            number("i")
        number("B")
        items: list[Any] = []
        for _ in range(number("i")):
            if number("B") == 0xFC:
                stream.read(16)
                items.append(area(number("B")))
                continue
            name = stream.read(number("I")).decode("utf-16-be")
            flags, _, size, *_ = (number("B"), *(number("i") for _ in range(4)))
            assert flags in (0, 1), "visible or hidden, not floating"
            items.append((name, bool(flags), size))
        return items

    assert (number("i"), number("i"), number("B")) == (0xFF, 0, 0xFD)
    areas: dict[str, Any] = {}
    for _ in range(number("i")):
        side = ("left", "right", "top", "bottom")[number("i")]
        size = number("i"), number("i")
        areas[side] = (size, area(number("B")))
    areas["center"] = number("i"), number("i")
    return areas


def test_window_shows_a_large_cloud_and_legible_images(config: dict[str, Any]) -> None:
    window = config["Window Geometry"]
    areas = read_docks(bytes.fromhex(window["QMainWindow State"]))
    assert set(areas) == {"left", "bottom", "center"}
    _, (tabs,) = areas["left"]
    assert [(name, visible) for name, visible, _ in tabs] == [("Displays", True), ("Views", True)]
    (width, height), images = areas["bottom"]
    assert width == window["Width"]
    assert height >= 270
    for name, visible, extent in images:
        assert not visible or extent >= 700, name
    assert areas["center"][0] * areas["center"][1] > 0.45 * window["Width"] * window["Height"]


def test_image_panels_have_a_place_and_disabled_displays_stay_disabled(config: dict[str, Any]) -> None:
    """The panel of an image display enables or disables it when it is shown or hidden."""
    window = config["Window Geometry"]
    _, images = read_docks(bytes.fromhex(window["QMainWindow State"]))["bottom"]
    shown = {display["Name"]: display["Enabled"] for display in displays(config) if display["Class"].endswith("/Image")}
    assert {name: visible for name, visible, _ in images} == shown
    assert False in shown.values()
    assert set(window) - WINDOW_KEYS == {*shown, *(panel["Name"] for panel in config["Panels"])}
    # RViz leaves them uninitialized otherwise.
    assert window["Hide Left Dock"] is window["Hide Right Dock"] is False


def orbit(view: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return position and rotation (rows: right, up, backward) of the eye, as in orbit_view_controller.cpp."""
    pitch, yaw, focal = view["Pitch"], view["Yaw"], np.array([view["Focal Point"][axis] for axis in "XYZ"], float)
    backward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    right = np.cross([0.0, 0.0, 1.0], backward)
    right /= np.linalg.norm(right)
    return focal + view["Distance"] * backward, np.array([right, np.cross(backward, right), backward])


@pytest.mark.parametrize(
    ("name", "right", "up", "forward"),
    [(OPTICAL, [1, 0, 0], [0, -1, 0], [0, 0, 1]), (Z_UP, [0, -1, 0], [0, 0, 1], [1, 0, 0])],
)
def test_view_is_upright_and_includes_the_origin(name: str, right: list, up: list, forward: list) -> None:
    position, rotation = orbit(load(name)["Visualization Manager"]["Views"]["Current"])
    assert rotation[0] @ right > 0.99
    assert rotation[1] @ up > 0.9
    assert rotation[2] @ forward < -0.9
    assert position @ up > 3
    assert position @ forward < -3
    limit = np.tan(np.radians(45 / 2))  # Half of Ogre's default vertical field of view.
    for point in (np.zeros(3), 20 * np.array(forward, float)):
        x, y, z = rotation @ (point - position)
        assert abs(y / z) < limit
        assert abs(x / z) < limit
