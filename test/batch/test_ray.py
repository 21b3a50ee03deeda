"""`process --ray`: workers that are actors of a Ray cluster."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'mtl_perception[cluster]'")
from ray.cluster_utils import Cluster as NodeCluster
from support.bags import write_drive

from mtl_perception.__main__ import main
from mtl_perception.batch import cluster as cluster_module
from mtl_perception.batch.cluster import LOCAL_ATTEMPTS, LOCAL_DEFAULTS, Cluster, _create_marker, connect, remove_stale_markers
from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.visualization import files

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = textwrap.dedent("""
    import os
    import signal
    import sys
    from pathlib import Path
    from mtl_perception.__main__ import main
    from mtl_perception.batch import cluster

    killed = Path(sys.argv[1])

    class DeadlyWorker(cluster.Worker):
        def process(self, task):
            for event in cluster.Worker.process(self, task):
                yield event
                if task.output.name == "deadly.mcap" and not killed.exists():
                    killed.touch()
                    os.kill(os.getpid(), signal.SIGKILL)

    cluster.Worker = DeadlyWorker
    sys.exit(main(sys.argv[2:]))
""")


@pytest.fixture(scope="module")
def address():
    """The address of a cluster of two nodes with one CPU each, on this machine."""
    # Ray's sockets have paths of at most 107 bytes.
    folder = tempfile.mkdtemp(prefix="ray-test-", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("PYTHONPATH", str(ROOT))
        for name, value in LOCAL_DEFAULTS.items():
            if name != "RAY_AUTH_MODE":
                patch.setenv(name, value)
        node = {"num_cpus": 1, "memory": 2 * 2**30, "object_store_memory": 80 * 2**20}
        cluster = NodeCluster()
        try:
            # Neither the autoscaler nor the output of workers is needed.
            add_node(cluster, **node, include_dashboard=False, include_log_monitor=False, no_monitor=True)
            add_node(cluster, **node)
            yield cluster.address
        finally:
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def add_node(cluster: NodeCluster, **options: object) -> None:
    """Start a node, which ends if its agents need more than 15 s to start, as on a loaded machine."""
    for attempt in range(LOCAL_ATTEMPTS):
        try:
            cluster.add_node(**options)
            return
        except Exception:
            if attempt == LOCAL_ATTEMPTS - 1:
                raise


def results_of(folder: Path) -> list[dict]:
    path = folder / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
def test_ray_retries_sources_of_dead_workers_and_continues_after_kill_9(tmp_path, weights_file, address, capsys):
    counts = {"a": 3, "deadly": 4, "b": 5, "c": 6}
    sources = [write_drive(tmp_path / f"{name}.mcap", count) for name, count in counts.items()]
    options = ["--weights", str(weights_file), "--device", "cpu", "--backend", "torch", "--cpu-threads", "1"]
    assert main(["process", *map(str, sources), "--out", str(tmp_path / "undisturbed"), *options]) == 0
    capsys.readouterr()
    folder = tmp_path / "out"
    arguments = [str(tmp_path / "none.mcap"), *map(str, sources), "--out", str(folder), *options, "--ray", address]
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "killed"), "process", *arguments, "--worker-memory", "0.5"]

    # The main process is killed after the first output, a worker before.
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while first.poll() is None and not ((tmp_path / "killed").exists() and results_of(folder)):
        time.sleep(0.05)
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    finished = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.mcap") if ".partial" not in path.name}
    (tmp_path / "killed").unlink()

    second = subprocess.run([*command, "--jobs", "1"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert second.returncode == 1, second.stderr
    total = f"1 of {len(sources) + 1} sources failed; the reasons are in {folder / 'results.jsonl'}"
    assert second.stderr.splitlines()[-1] == f"mtl_perception process: {total}"
    deaths = [line for line in second.stderr.splitlines() if line.endswith("; it is tried again")]
    expected = [] if "deadly.mcap" in finished else [f"{tmp_path / 'deadly.mcap'}: the worker process died on node "]
    assert [line.partition(" on node ")[0] + " on node " for line in deaths] == expected
    results = results_of(folder)
    done = Counter(result["output"] for result in results if result["status"] == "done")
    assert done == {f"{name}.mcap": 1 for name in counts}, "nothing is done twice"
    failed = {result["output"]: result["error"] for result in results if result["status"] == "failed"}
    assert failed["none.mcap"].startswith(f"{tmp_path / 'none.mcap'} does not exist")
    assert list(failed) == ["none.mcap"]
    assert {path.name for path in folder.iterdir()} == {*done, "results.jsonl"}
    for name in done:
        assert (folder / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
    assert {name: (folder / name).stat().st_mtime_ns for name in finished} == finished


@pytest.mark.slow
def test_local_cluster_listens_on_the_loopback_interface_only_and_starts_no_more_than_needed(tmp_path, weights_file):
    pytest.importorskip("psutil", reason="psutil is not installed")
    folder = tempfile.mkdtemp(prefix="ray-test-", dir="/tmp")
    script = textwrap.dedent("""
        import sys
        import psutil
        from mtl_perception.__main__ import main
        from mtl_perception.batch.cluster import RayPool

        stop = RayPool.stop

        def list_processes(self, worker):
            for process in psutil.Process().children(recursive=True):
                print("process", process.nice() - psutil.Process().nice(), process.name())
                for socket in process.net_connections("inet"):
                    if socket.status == psutil.CONN_LISTEN:
                        print("socket", socket.laddr.ip.removeprefix("::ffff:"), process.name())
            stop(self, worker)

        RayPool.stop = list_processes
        sys.exit(main(["process", *sys.argv[1:]]))
    """)
    environment = {**os.environ, "RAY_TMPDIR": folder, "RAY_AUTH_TOKEN": "0" * 64, "PYTHONPATH": str(ROOT)}
    source, out = write_drive(tmp_path / "a.mcap", 1), tmp_path / "out"
    options = ["--weights", str(weights_file), "--device", "cpu", "--ray", "--worker-memory", "0.5"]
    try:
        command = [sys.executable, "-c", script, str(source), "--out", str(out), *options]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        usage = [path.read_text() for path in Path(folder).rglob("usage_stats.json")]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    *lines, summary = done.stdout.splitlines()
    assert summary == f"1 done, 0 skipped, 0 failed of 1 sources -> {out}"
    listed = [line.split(maxsplit=2) for line in lines]
    sockets = {(name, address) for kind, address, name in listed if kind == "socket"}
    assert {("gcs_server", "127.0.0.1"), ("raylet", "127.0.0.1")} <= sockets
    assert {address for _, address in sockets} == {"127.0.0.1"}
    assert usage == []
    # By default, Ray runs workers at a lower priority, and starts one for each core.
    niceness = [(name, added) for kind, added, name in listed if kind == "process"]
    assert {added for _, added in niceness} == {"0"}
    assert sorted(name for name, _ in niceness if name.startswith("ray::")) == [
        "ray::DashboardAgent",
        "ray::RuntimeEnvAgent",
        "ray::Worker",
    ]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://head:10001", "Ray Client is not supported; run the command on a node of the cluster"),
        ("a.mcap", "neither HOST:PORT nor auto nor local; give the sources before --ray"),
        ("/data/a:1", "neither HOST:PORT"),
    ],
)
def test_invalid_address_is_refused(address, message):
    with pytest.raises(ConfigError, match=message):
        Cluster(address)


def test_unreachable_cluster_is_one_line(tmp_path, weights_file, capsys):
    source = write_drive(tmp_path / "a.mcap", 1)
    arguments = ["process", str(source), "--out", f"{tmp_path}/out", "--weights", str(weights_file), "--ray", "127.0.0.1:1"]
    assert main(arguments) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    reason = "no connection to the Ray cluster 127.0.0.1:1: [Errno 111] Connection refused;"
    assert line.startswith(f"mtl_perception process: {reason}")


def test_local_cluster_that_does_not_start_in_time_is_started_again(monkeypatch):
    """Ray raises Exception itself then."""
    starts = []

    def init(**options):
        starts.append(options["address"])
        if len(starts) < needed:
            raise Exception("The current node timed out during startup.\n")

    monkeypatch.setattr(cluster_module, "import_ray", lambda address: SimpleNamespace(init=init))
    needed = LOCAL_ATTEMPTS
    connect("local")
    assert starts == ["local"] * LOCAL_ATTEMPTS
    needed = 100
    with pytest.raises(SourceError, match=r"no connection to the Ray cluster local: The current node timed out"):
        connect("local")
    assert len(starts) == 2 * LOCAL_ATTEMPTS


def test_markers_of_killed_runs_are_removed(tmp_path, monkeypatch):
    """Also those whose process id belongs to another process now, or that another machine or container left."""
    for name in (f".ray-{platform.node()}-{os.getpid()}", ".ray-other-node-1"):
        (tmp_path / name).touch()
    running, lock = _create_marker(tmp_path)
    remove_stale_markers(tmp_path)
    assert set(os.listdir(tmp_path)) == {running.name}
    lock.close()
    with monkeypatch.context() as without_locks:
        without_locks.setattr(files, "_flock", lambda descriptor, kind: None)
        remove_stale_markers(tmp_path)
    assert set(os.listdir(tmp_path)) == {running.name}, "it may be that of a run on another machine"
    remove_stale_markers(tmp_path)
    assert set(os.listdir(tmp_path)) == set()


def test_output_folder_that_a_node_does_not_see_is_an_error(tmp_path, weights_file):
    from mtl_perception.batch.cluster import Worker
    from mtl_perception.batch.settings import Settings
    from mtl_perception.config import Config

    worker = Worker(Settings(Config(weights=str(weights_file)), ()), tmp_path / "none" / ".ray")
    (error,) = worker.start()
    assert str(error).endswith(
        f" does not see the output folder {tmp_path / 'none'}: use storage that all nodes mount at the same path"
    )
