"""Startup, parameters, lifecycle and shutdown of the node."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from sensor_msgs.msg import Image, PointCloud2
from support.images import noise_image
from support.node_process import PATIENCE, Process, node_process
from support.ros_client import Camera, Client
from support.ros_messages import camera_info, cloud_of, depth_of, image, labels_of, stamp_of, values_of

from mtl_perception.ros.signals import Answer, StopSignals

WIDTH, HEIGHT = 64, 48
PIXELS = noise_image(HEIGHT, WIDTH)
INFO = camera_info(WIDTH, HEIGHT)


# A node in a namespace that waits for a lifecycle manager, with simulated time that stands still.


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    folder = tmp_path_factory.mktemp("node")
    settings = folder / "settings.yaml"
    settings.write_text(
        "/**:\n  ros__parameters:\n    autostart: false\n    diagnostics_period: 0.1\n    max_depth: 50\n"
        "    use_sim_time: true\n    weights: /nowhere/at_all.safetensors\n    max_dept: 3.0\n"
        # Which makes it a file for many nodes: alone, a slip in it would be refused.
        "camera:\n  ros__parameters:\n    rate: 10.0\n"
    )
    remappings = ("-r", "__ns:=/veh", "-r", "image:=/cam/left/image_rect", "-r", "camera_info:=/calibration/left")
    with node_process(folder / "node.log", "--params-file", str(settings), *remappings, ready="") as process:
        yield process


@pytest.fixture(scope="module")
def client(node):
    client = Client(node_name="/veh/mtl_perception")
    client.wait_status("network", lambda s: True)
    yield client
    client.close()


def test_node_starts_unconfigured_without_autostart(client: Client) -> None:
    assert client.state() == "unconfigured"
    assert client.status("frames").message == "unconfigured"
    assert client.get("autostart", "max_depth", "use_sim_time") == [False, 50.0, True]


def test_misspelled_parameter_for_all_nodes_is_reported(node: Process) -> None:
    node.wait_for_output("unknown parameter 'max_dept' is ignored; did you mean 'max_depth'?")
    assert "use_sim_time" not in node.output


def test_every_parameter_is_described(client: Client) -> None:
    expected = {
        # By name: the range, or the choices.
        "weights": None,
        "classes": None,
        "class_groups": None,
        "device": None,
        "precision": "auto, fp32, fp16, bf16, int8",
        "cpu_threads": (0, 256),
        "warm_up": None,
        "input_scale": (0.1, 1.0),
        "output_scale": (0.05, 1.0),
        "upsampling": "bicubic, bilinear",
        "min_depth": (0.0, 1000.0),
        "max_depth": (0.0, 1000.0),
        "min_confidence": (0.0, 1.0),
        "overlay_opacity": (0.0, 1.0),
        "input_rectified": None,
        "cameras": None,
        "image_transport": "raw, compressed",
        "image_reliability": "auto, reliable, best_effort",
        "image_queue_size": (1, 100),
        "output_reliability": "reliable, best_effort",
        "output_queue_size": (1, 100),
        "diagnostics_period": (0.1, 60.0),
        "image_timeout": (0.1, 3600.0),
        "autostart": None,
    }
    for found in client.describe(*expected):
        assert len(found.description) > 20, found.name
        assert found.read_only == (found.name == "autostart")
        bounds = expected[found.name]
        ranges = [(r.from_value, r.to_value) for r in (*found.floating_point_range, *found.integer_range)]
        if isinstance(bounds, tuple):
            assert ranges == [pytest.approx(bounds)], found.name
        else:
            assert ranges == [], found.name
            assert found.additional_constraints == (f"One of: {bounds}" if bounds else ""), found.name


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("max_depth", -1.0, "max_depth"),
        ("max_depth", 5000, "max_depth"),
        ("max_depth", float("nan"), "max_depth"),
        ("max_depth", "far", "max_depth"),
        ("max_depth", True, "max_depth"),
        ("output_scale", 0.0, "output_scale"),
        ("overlay_opacity", 1.5, "overlay_opacity"),
        ("cpu_threads", -1, "cpu_threads"),
        # Refused by rclpy; Kilted's message has numbers for the types.
        ("cpu_threads", 2.0, "Wrong parameter type"),
        ("upsampling", "bilinaer", "did you mean 'bilinear'"),
        ("device", "tpu", "cuda:N"),
        ("weights", "", "weights"),
        ("autostart", True, "read-only"),
        ("min_depth", 60.0, "max_depth 50"),
    ],
)
def test_invalid_values_are_refused_with_the_reason(client: Client, name: str, value: object, words: str) -> None:
    before = client.get(name)
    result = client.set(**{name: value})[0]
    assert not result.successful
    assert words in result.reason
    assert client.get(name) == before


def test_unknown_and_former_names_are_refused_with_the_right_one(client: Client) -> None:
    results = client.set(image_depth=3, gpu_graph=False, max_dept=3.0)
    assert not any(result.successful for result in results)
    assert [result.reason for result in results] == [
        "parameter image_depth was renamed to image_queue_size",
        "parameter gpu_graph was renamed to cuda_graph",
        "unknown parameter 'max_dept'; did you mean 'max_depth'?",
    ]


def test_missing_weights_fail_configure_with_the_reason(client: Client, node: Process) -> None:
    assert not client.change_state("configure")
    assert client.state() == "unconfigured"
    status = client.wait_status("network", lambda s: s.level == s.ERROR)
    assert "/nowhere/at_all.safetensors" in status.message
    assert "Traceback" not in node.output
    assert "cannot configure" in node.output


def test_unknown_class_of_a_group_fails_configure_with_the_reason(client: Client, weights_file: Path) -> None:
    changes = client.set(weights=str(weights_file), class_groups=["drivable: rod", "other: *"])
    assert all(change.successful for change in changes)
    assert not client.change_state("configure")
    status = client.wait_status("network", lambda s: "class_groups" in s.message)
    assert (status.level, client.state()) == (status.ERROR, "unconfigured")
    assert "drivable: 'rod' is not a class of random; did you mean 'road'?" in status.message
    assert client.set(class_groups=[""])[0].successful


def test_node_configures_after_the_weights_are_corrected(client: Client, weights_file: Path) -> None:
    assert client.set(weights=str(weights_file))[0].successful
    assert client.change_state("configure")
    status = client.status("network")
    assert status.level == status.OK
    assert values_of(status)["weights"] == str(weights_file)
    assert values_of(status)["classes"] == "12"
    assert values_of(status)["backend"]


def test_weights_cannot_change_while_configured(client: Client, weights_file: Path) -> None:
    result = client.set(weights="street")[0]
    assert not result.successful
    assert "weights" in result.reason
    assert "unconfigured" in result.reason
    assert client.get("weights") == [str(weights_file)]
    assert client.set(weights=str(weights_file))[0].successful  # No change.


@pytest.fixture(scope="module")
def camera(client: Client):
    """Publish an image without waiting for the node."""
    wait, Camera.wait_until_heard = Camera.wait_until_heard, lambda self: None
    try:
        camera = Camera(client, "/cam/left/image_rect", "/calibration/left")
    finally:
        Camera.wait_until_heard = wait
    yield camera
    camera.close()


def test_lifecycle_can_be_repeated(client: Client, camera: Camera) -> None:
    for _ in range(2):
        assert client.state() == "inactive"
        silent = [camera.publish(image(PIXELS)) for _ in range(3)]
        client.spin_for(0.3)
        assert all(not received for received in camera.received.values()), "inactive nodes publish nothing"
        assert client.counts()["received"] == 0

        assert client.change_state("activate")
        assert client.state() == "active"
        camera.wait_until_heard()
        camera.publish_info(INFO)
        outputs = camera.connect(image(PIXELS))
        assert len({stamp_of(message) for message in outputs.values()}) == 1
        depth = depth_of(outputs["depth/image"])
        assert depth[np.isfinite(depth)].max() <= 50
        assert cloud_of(outputs["points"]).shape == (HEIGHT, WIDTH)
        assert values_of(client.status("camera"))["camera_info topic"] == "/calibration/left"
        assert client.status("frames").message == "processing"
        assert all(stamp not in received for stamp in silent for received in camera.received.values())

        assert client.change_state("deactivate")
        assert client.status("frames").message == "inactive"
        for received in camera.received.values():
            received.clear()
        camera.publish(image(PIXELS))
        client.spin_for(0.3)
        assert all(not received for received in camera.received.values())

        assert client.change_state("cleanup")
        assert client.state() == "unconfigured"
        assert client.node.count_publishers("/veh/mtl_perception/points") == 0
        assert client.change_state("configure")


def test_parameter_changes_in_every_state_apply_when_active(client: Client, camera: Camera) -> None:
    """Values set while unconfigured or inactive apply like those set while active."""
    assert client.set(output_scale=0.5)[0].successful
    assert client.change_state("activate")
    camera.wait_until_heard()
    camera.publish_info(INFO)
    assert labels_of(camera.connect(image(PIXELS))["segmentation/labels"]).shape == (HEIGHT // 2, WIDTH // 2)
    for step in ("deactivate", "cleanup"):
        assert client.change_state(step)
    assert client.set(output_scale=0.25, overlay_opacity=0.0, diagnostics_period=0.2)[0].successful
    for step in ("configure", "activate"):
        assert client.change_state(step)
    camera.wait_until_heard()
    labels = camera.connect(image(PIXELS), "segmentation/labels")["segmentation/labels"]
    assert labels_of(labels).shape == (HEIGHT // 4, WIDTH // 4)


def test_invalid_transitions_are_refused(client: Client, camera: Camera) -> None:
    assert client.state() == "active"
    for name in ("configure", "activate", "cleanup"):
        assert not client.change_state(name)
    assert not client.call(ChangeState, "change_state", transition=Transition(id=250)).success
    assert not client.call(ChangeState, "change_state", transition=Transition(label="fly")).success
    assert client.state() == "active"
    camera.connect(image(PIXELS), "segmentation/labels")


def test_shutdown_finalizes_the_node_and_sighup_ends_the_process(client: Client, camera: Camera, node: Process) -> None:
    assert client.change_state("active_shutdown")
    assert client.state() == "finalized"
    assert client.wait_status("frames", lambda s: s.message == "finalized")
    assert node.stop(signal.SIGHUP) == 0
    assert "Traceback" not in node.output


def test_hangup_that_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        StopSignals(Answer.NONE)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)


# Nodes in their own processes.


INVALID = {
    "range": (["-p", "max_depth:=-3.0"], "max_depth"),
    "type": (["-p", "max_depth:=far"], "max_depth"),
    "choice": (["-p", "upsampling:=cubic"], "upsampling"),
    "names": (["-p", "cameras:=[front, front]"], "'front' occurs 2 times"),
    "one name": (["-p", "cameras:=front,left"], "write a list, as in -p NAME:='[a, b]'"),
    "integer": (["-p", "cpu_threads:=many"], "cpu_threads"),
    "no file": (["--params-file", "/nowhere.yaml"], "/nowhere.yaml: No such file or directory"),
    "home": (
        ["--params-file", "~/my.yaml"],
        "invalid ROS arguments: ~/my.yaml: No such file or directory; give the whole path",
    ),
    "folder": (["--params-file", "/"], "/: Is a directory"),
    "tab": (["--params-file", "tab.yaml"], 'found character that cannot start any token in "tab.yaml", line 2, column 1'),
    "underscore": (
        ["--params-file", "underscore.yaml"],
        "underscore.yaml, line 2: ros_parameters has one underscore; write ros__parameters, with two",
    ),
    "no value": (["-p", "max_depth"], "max_depth"),
    "log level": (["--log-level", "loud"], "'--log-level loud'. Error: "),
    "relative namespace": (["-r", "__ns:=robot"], "__ns:=robot: Invalid namespace: namespace must be absolute"),
    "node name": (["-r", "__node:=a-b"], "__node:=a-b: Invalid node name: node name must not contain characters other than"),
    "topic": (["-r", "image:=/2cam/image"], "image:=/2cam/image: Invalid topic name: topic name token must not start with"),
    "unknown": (
        ["-p", "mtl_perception:max_dept:=3.0"],
        "-p mtl_perception:max_dept:=3.0: unknown parameter 'max_dept'; did you mean 'max_depth'?",
    ),
}
"""Arguments with an invalid value, and what the error names."""


@pytest.mark.parametrize("case", INVALID)
def test_invalid_value_at_startup_exits_with_one_line(tmp_path: Path, case: str) -> None:
    arguments, words = INVALID[case]
    (tmp_path / "tab.yaml").write_text("mtl_perception:\n\tros__parameters:\n")
    (tmp_path / "underscore.yaml").write_text("mtl_perception:\n  ros_parameters:\n    device: cpu\n")
    process = Process(["node", "--ros-args", *arguments], tmp_path / "node.log", folder=tmp_path)
    assert process.wait() == 2
    last = process.output.strip().splitlines()[-1]
    assert last.startswith("mtl_perception node: ")
    assert words in last
    assert "Traceback" not in process.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_working_ends_cleanly(tmp_path: Path, weights_file: Path, number: signal.Signals) -> None:
    """While an image that takes seconds is processed, and with a second signal immediately after the first."""
    with node_process(tmp_path / "node.log", "-p", f"weights:={weights_file}", "-p", "diagnostics_period:=0.1") as node:
        client = Client()
        camera = Camera(client, outputs={"segmentation/labels": Image, "points": PointCloud2})
        camera.connect(image(PIXELS), "segmentation/labels")
        large = image(noise_image(2160, 3840))
        camera.publish(large)
        client.wait_status("frames", lambda s: int(values_of(s)["frames received"]) > int(values_of(s)["frames processed"]))
        node.child.send_signal(number)
        for _ in range(3):
            time.sleep(0.15)
            if node.child.poll() is None:
                node.child.send_signal(number)
        assert node.wait(PATIENCE) == 0, node.output
        assert "Traceback" not in node.output
        assert "terminate" not in node.output
        client.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_during_startup_ends_cleanly(tmp_path: Path, weights_file: Path, number: signal.Signals) -> None:
    """While the network is loading."""
    process = Process(["node", "--ros-args", "-p", f"weights:={weights_file}"], tmp_path / "node.log", forked=False)
    deadline = time.monotonic() + PATIENCE
    # The library of the middleware is mapped when the context is initialized.
    while "librmw" not in Path(f"/proc/{process.child.pid}/maps").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)
    assert process.stop(number) == 0, process.output
    assert "Traceback" not in process.output
