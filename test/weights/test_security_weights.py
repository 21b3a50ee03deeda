"""Security of weights: no code of a file runs, claimed sizes are not allocated, and only the user can write the cache."""

from __future__ import annotations

import ast
import grp
import io
import json
import os
import pickle
import pwd
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mtl_perception import Pipeline
from mtl_perception.__main__ import main
from mtl_perception.errors import WeightsError
from mtl_perception.weights import download as fetching
from mtl_perception.weights.download import fetch
from mtl_perception.weights.encoders import load_encoder
from mtl_perception.weights.files import load_network
from mtl_perception.weights.registry import PUBLISHED, Checksum

ROOT = Path(__file__).resolve().parents[2]


# Weights files that contain code


class Hostile:
    """Object whose unpickling creates a file."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.sentinel}'",)


@pytest.fixture
def sentinel(tmp_path: Path) -> Path:
    return tmp_path / "executed"


@pytest.fixture(params=["plain", "legacy", "zip"])
def hostile(request: pytest.FixtureRequest, tmp_path: Path, sentinel: Path) -> Path:
    """Hostile file in each PyTorch format; test_weights_files.py shows that an unsafe load runs its code."""
    buffer = io.BytesIO()
    if request.param == "plain":
        buffer.write(pickle.dumps(Hostile(sentinel), protocol=2))
    else:
        content = {"state_dict": {"segm.weight": torch.zeros(6, 256, 3, 3), "more": Hostile(sentinel)}}
        torch.save(content, buffer, _use_new_zipfile_serialization=request.param == "zip")
    path = tmp_path / "hostile.ckpt"
    path.write_bytes(buffer.getvalue())
    return path


@pytest.mark.parametrize("read", [load_network, load_encoder, lambda path: Pipeline(weights=str(path))])
def test_python_api_does_not_run_code_in_a_checkpoint(hostile: Path, sentinel: Path, read) -> None:
    with pytest.raises(WeightsError, match=r"cannot be read safely|not a checkpoint that can be read"):
        read(hostile)
    assert not sentinel.exists()


@pytest.mark.parametrize("command", [("info",), ("convert", "out.safetensors")], ids=lambda command: command[0])
def test_command_does_not_run_code_in_a_checkpoint(
    hostile: Path, sentinel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    action, *out = command
    assert main(["weights", action, str(hostile), *(str(tmp_path / name) for name in out)]) == 1
    assert "cannot be read safely" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile.ckpt"]


def test_node_does_not_run_code_in_a_checkpoint(hostile: Path, sentinel: Path) -> None:
    rclpy = pytest.importorskip("rclpy", reason="needs rclpy")
    from rclpy.lifecycle import TransitionCallbackReturn

    from mtl_perception.ros.node import PerceptionNode

    context = rclpy.Context()
    rclpy.init(context=context)
    overrides = [rclpy.Parameter("weights", value=str(hostile))]
    node = PerceptionNode(context=context, parameter_overrides=overrides)
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert "cannot be read safely" in node.failure
        assert not sentinel.exists()
    finally:
        node.destroy_node()
        context.try_shutdown()


def test_package_contains_no_unsafe_loads() -> None:
    """No call that could run code from a file exists, and each `torch.load` passes `weights_only=True`."""
    banned = {"eval", "exec", "os.system", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "torch.jit.load"}
    found, loads = set(), 0
    for path in [*ROOT.glob("mtl_perception/**/*.py"), *ROOT.glob("launch/*.py")]:
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            options = {option.arg: ast.unparse(option.value) for option in call.keywords}
            unsafe = options.get("shell", "False") != "False" or options.get("allow_pickle", "False") != "False"
            if name == "torch.load":
                loads += 1
                unsafe = options.get("weights_only") != "True"
            if name in banned or unsafe:
                found.add(f"{path.name}:{call.lineno}: {name}")
    assert found == set()
    assert loads >= 1


# Weights files that claim huge sizes

MEASURE = """
import json, resource, sys, time
from mtl_perception.errors import WeightsError
from mtl_perception.weights.files import load_network
load_network(sys.argv[1])
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (256 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
reasons = []
for path in sys.argv[2:]:
    try:
        load_network(path)
        reasons.append("")
    except WeightsError as error:
        reasons.append(str(error))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"reasons": reasons, "grown": grown}))
"""


def test_sizes_claimed_by_a_header_are_not_allocated(tmp_path: Path, weights_file: Path) -> None:
    """A header of 100 GB, a tensor of 100 GB and a header longer than the file, in a process limited to 256 MiB more."""
    huge = 100 * 10**9
    header = json.dumps({"segm.weight": {"dtype": "F32", "shape": [huge // 4], "data_offsets": [0, huge]}}).encode()
    contents = {
        "header": struct.pack("<Q", huge) + b"{" + b" " * 1000,
        "tensor": struct.pack("<Q", len(header)) + header + bytes(1000),
        "longer": struct.pack("<Q", 90_000_000) + b"{" + b" " * 1000,
    }
    paths = [tmp_path / f"{name}.safetensors" for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_bytes(content)
    command = [sys.executable, "-c", MEASURE, weights_file, *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    for path, reason in zip(paths, seen["reasons"], strict=True):
        assert reason.startswith(f"{path}: damaged, or neither a safetensors file nor a PyTorch checkpoint")
    assert seen["grown"] < 32 * 1024  # KiB


# Cache of fetched weights

CONTENT = b"content of the kitti file in these tests"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of the weights cache, not created yet; no server is reachable."""
    monkeypatch.setenv("MTL_PERCEPTION_CACHE", str(tmp_path / "new" / "cache"))
    monkeypatch.setenv("MTL_PERCEPTION_WEIGHTS_URL", "http://127.0.0.1:9")
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    checksum = Checksum("git blob", Checksum("git blob", "0" * 40).of(path))
    monkeypatch.setitem(PUBLISHED, "kitti", replace(PUBLISHED["kitti"], checksum=checksum))
    return tmp_path / "new" / "cache" / "weights"


def prepared(cache: Path) -> Path:
    """Create the cache with a complete partial download, which needs no server to finish."""
    cache.mkdir(parents=True)
    for folder in (cache, cache.parent):
        folder.chmod(0o700)
    (cache / "ExpKITTI_joint.ckpt.part").write_bytes(CONTENT)
    return cache


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022])
def test_created_folders_have_mode_0700_for_any_umask(cache: Path, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with fetching._locked(cache):
            modes = [folder.stat().st_mode & 0o777 for folder in (cache, cache.parent, tmp_path / "new")]
    finally:
        os.umask(before)
    assert modes == [0o700, 0o700, 0o700]


@pytest.mark.parametrize(
    ("level", "mode", "private_group", "accepted"),
    [
        ("weights", 0o755, False, True),
        ("weights", 0o777, True, False),
        ("weights", 0o1777, True, False),  # others could place a partial file and change it after verification
        ("weights", 0o775, True, True),  # umask 002 with private user groups
        ("weights", 0o775, False, False),
        ("cache", 0o1777, False, True),  # such as /tmp
        ("cache", 0o777, True, False),
        ("cache", 0o770, False, False),
    ],
)
def test_folder_that_others_can_write_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch, level: str, mode: int, private_group: bool, accepted: bool
) -> None:
    user = SimpleNamespace(pw_name="ada", pw_gid=cache.parents[2].stat().st_gid)
    group = SimpleNamespace(gr_name="ada" if private_group else "lab", gr_mem=[])
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: user)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: group)
    folder = prepared(cache) if level == "weights" else prepared(cache).parent
    folder.chmod(mode)
    if accepted:
        assert fetch("kitti").read_bytes() == CONTENT
        return
    with pytest.raises(WeightsError) as caught:
        fetch("kitti")
    assert f"{folder} is not trusted: other users can write there (mode {mode:04o})" in str(caught.value)
    assert f"chmod go-w {folder}, or set MTL_PERCEPTION_CACHE to a folder of your own" in str(caught.value)
    assert not (cache / "ExpKITTI_joint.ckpt").exists()


@pytest.mark.parametrize("level", ["weights", "cache"])
def test_folder_of_another_user_is_refused(cache: Path, level: str) -> None:
    folder = prepared(cache) if level == "weights" else prepared(cache).parent
    try:
        os.chown(folder, os.getuid() + 1, -1)
    except PermissionError:
        pytest.skip("only root can change the owner of a folder")
    if os.geteuid() != 0:
        pytest.skip("the folder of another user cannot be read")
    with pytest.raises(
        WeightsError, match=rf"{folder} is not trusted: it belongs to user {os.getuid() + 1}, who could change the weights"
    ):
        fetch("kitti")
