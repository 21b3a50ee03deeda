"""Use of the network as stated in docs/security.md: DDS only, and as the SROS 2 policy allows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import pytest
from support.images import noise_image
from support.node_process import PATIENCE

from mtl_perception.messages.topics import NODE_NAME, OUTPUT_TOPICS

ROOT = Path(__file__).resolve().parents[2]
POLICY = ROOT / "config/sros2/policy.xml"


# Network access.


def run(command: list[object]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.fixture(scope="module")
def without_network() -> list[str]:
    """Prefix of a command that runs it without any network, including loopback."""
    prefix = ["unshare", "--map-root-user", "--net"]
    connect = "import socket; socket.create_connection(('127.0.0.1', 9))"
    try:
        tried = run([*prefix, sys.executable, "-c", connect])
    except OSError as error:
        pytest.skip(f"no unshare on this machine: {error}")
    if "Network is unreachable" not in tried.stderr:
        pytest.skip(f"a namespace without network is not available here: {tried.stderr.strip().splitlines()[-1:]}")
    return prefix


def test_infer_works_without_network_access(without_network: list[str], tmp_path: Path, weights_file: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), noise_image(48, 64))
    command = [sys.executable, "-m", "mtl_perception", "infer", tmp_path / "a.png", "--out", tmp_path / "out"]
    done = run([*without_network, *command, "--weights", weights_file, "--device", "cpu"])
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(tmp_path / "out" / "a.labels.png"), cv2.IMREAD_UNCHANGED).shape == (48, 64)


def test_node_opens_only_the_sockets_of_dds(without_network: list[str], tmp_path: Path, weights_file: Path) -> None:
    """In a network namespace in which every socket belongs to the node."""
    pytest.importorskip("rclpy", reason="needs rclpy")
    log = tmp_path / "node.log"
    command = [sys.executable, "-m", "mtl_perception", "node", "--ros-args", "-p", f"weights:={weights_file}"]
    with log.open("wb") as file:
        child = subprocess.Popen([*without_network, *command], stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + PATIENCE
        while "waiting for images" not in log.read_text():
            assert child.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        tables = {name: sockets(child.pid, name) for name in ("tcp", "tcp6", "udp", "udp6")}
    finally:
        child.send_signal(signal.SIGINT)
        ended = child.wait(PATIENCE)
    assert ended == 0, log.read_text()
    assert (tables["tcp"], tables["tcp6"]) == ([], [])
    # RTPS uses ports from 7400 + 250 x domain on; replies arrive there, so no socket is connected to a peer.
    first = 7400 + 250 * int(os.environ["ROS_DOMAIN_ID"])
    local = [port for port, _ in tables["udp"] + tables["udp6"]]
    assert all(peer == 0 for _, peer in tables["udp"] + tables["udp6"])
    assert any(first <= port < first + 250 for port in local), local


def sockets(pid: int, table: str) -> list[tuple[int, int]]:
    """Return the local and remote port of each socket in the network namespace of a process."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]]
    return [(int(row[1].rpartition(":")[2], 16), int(row[2].rpartition(":")[2], 16)) for row in rows]


RECORD = """
import sys
seen = []
def hook(event, args):
    if event.partition(".")[0] in ("socket", "urllib", "http", "ftplib", "smtplib"):
        seen.append(event)
sys.addaudithook(hook)
import numpy as np
from mtl_perception import CameraModel, Frame, Pipeline
pipe = Pipeline(weights=sys.argv[1], device="cpu")
pipe(Frame(np.zeros((48, 64, 3), np.uint8), CameraModel(width=64, height=48, fx=50.0, fy=50.0, cx=32.0, cy=24.0)))
print("pipeline:", *seen)
import socket
socket.socket().connect_ex(("127.0.0.1", 9))
print("by hand:", *seen)
"""


def test_pipeline_opens_no_socket(weights_file: Path) -> None:
    done = run([sys.executable, "-c", RECORD, weights_file])
    assert done.returncode == 0, done.stderr
    pipeline, by_hand = done.stdout.splitlines()
    assert pipeline == "pipeline:"
    assert "socket.connect" in by_hand  # The check itself detects sockets.


# The SROS 2 policy.


def policy_names(kind: str, permission: str, space: str = "") -> set[str]:
    """Return the full names that the policy allows the node, with its namespace replaced by `space`."""
    names: list[str] = []
    for profile in ElementTree.parse(POLICY).getroot().findall("enclaves/enclave/profiles/profile"):
        assert (profile.get("ns"), profile.get("node")) == ("/", NODE_NAME)
        for group in profile.findall(f"{kind}s"):
            assert set(group.attrib.values()) == {"ALLOW"} and len(group.attrib) == 1
            names += [str(entry.text) for entry in group.findall(kind) if permission in group.attrib]
    assert len(names) == len(set(names))
    return {full_name(name, space) for name in names}


def full_name(name: str, space: str = "") -> str:
    return name if name.startswith("/") else f"{space}/{name}".replace("/~", f"/{NODE_NAME}")


def test_policy_allows_every_output() -> None:
    assert ElementTree.parse(POLICY).getroot().get("version") == "0.2.0"
    own = {name for name in policy_names("topic", "publish") if name.startswith(f"/{NODE_NAME}/")}
    assert own == {full_name(f"~/{row.name}") for row in OUTPUT_TOPICS} | {full_name("~/transition_event")}


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_policy_allows_exactly_the_topics_of_the_running_node(weights_file: Path, transport: str) -> None:
    rclpy = pytest.importorskip("rclpy", reason="needs rclpy")
    from mtl_perception.ros import bond
    from mtl_perception.ros.convert import MESSAGE_TYPES
    from mtl_perception.ros.node import PerceptionNode

    context = rclpy.Context()
    rclpy.init(context=context)
    values = {"weights": str(weights_file), "warm_up": False, "image_transport": transport, "use_sim_time": True}
    overrides = [rclpy.Parameter(name, value=value) for name, value in values.items()]
    # A separate namespace, because the graph still contains earlier nodes of the same full name.
    space = f"/{transport}"
    node = PerceptionNode(context=context, parameter_overrides=overrides, namespace=space)
    absent = {full_name(f"~/{row.name}", space) for row in OUTPUT_TOPICS if MESSAGE_TYPES[row.type] is None}
    absent |= {full_name("bond", space)} if bond.Status is None else set()
    other = full_name({"raw": "image/compressed", "compressed": "image"}[transport], space)

    def names(ask, expected: set[str]) -> set[str]:
        """Wait until the graph has the expected entries of the node; return its entries."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = {name for name, _ in ask(node.get_name(), node.get_namespace())}
            if found == expected or time.monotonic() > deadline:
                return found
            time.sleep(0.05)

    try:
        node.trigger_configure()
        node.trigger_activate()
        expected = policy_names("topic", "publish", space) - absent
        assert names(node.get_publisher_names_and_types_by_node, expected) == expected
        expected = policy_names("topic", "subscribe", space) - {other}
        assert names(node.get_subscriber_names_and_types_by_node, expected) == expected
        # Distributions before Jazzy have one less.
        newer = node.has_parameter("start_type_description_service")
        missing = set() if newer else {full_name("~/get_type_description", space)}
        expected = policy_names("service", "reply", space) - missing
        assert names(node.get_service_names_and_types_by_node, expected) == expected
        assert names(node.get_client_names_and_types_by_node, set()) == set()
    finally:
        node.close()
        node.destroy_node()
        context.try_shutdown()
