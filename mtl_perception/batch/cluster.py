"""Workers that are actors of a Ray cluster."""

from __future__ import annotations

import itertools
import logging
import os
import platform
import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtl_perception.batch.plan import Task
from mtl_perception.batch.results import SourceResult
from mtl_perception.batch.schedule import Death, Event, Ready
from mtl_perception.batch.settings import Settings
from mtl_perception.errors import ConfigError, PerceptionError, SourceError, one_line, require
from mtl_perception.visualization.files import WriteLock, is_locked

LOCAL = "local"
"""Address of a cluster that is started on this machine, for this run only."""

MEMORY_GIB = 1.3
"""Memory of a worker on a CPU for images of about 1242 x 375, GiB."""

REPORT_INTERVAL_S = 0.5
"""Minimum time between two reports of a worker's progress."""

OBJECT_STORE_BYTES = 80 * 2**20
"""Shared memory of a local cluster: about the minimum that Ray accepts; frames and results do not pass through it."""

LOCAL_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Servers listen on 127.0.0.1.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
"""Environment variables of a local cluster."""

LOCAL_DEFAULTS = {
    # The default of Ray 2.59 and later, which warns of it unless it is given.
    "RAY_AUTH_MODE": "token",
    # Ray adds 15 to the nice value of workers. With other work on the machine they get a few percent of a core then.
    "RAY_worker_niceness": "0",
    # `ray.init` waits for workers that are started in advance, without end if one of them exceeds the time to register.
    "RAY_prestart_worker_first_driver": "0",
    # Ray kills a worker that has not registered within 60 s, and gives up after five more. Imports can take longer on a slow
    # machine.
    "RAY_worker_register_timeout_seconds": "600",
}
"""Environment variables of a local cluster, unless the user has set them."""

LOCAL_ATTEMPTS = 3
"""Number of attempts to start a local cluster: a node of Ray ends if its agents need more than 15 s, as on a loaded machine."""

MARKER_PREFIX = ".ray-"
"""Beginning of the name of the file by which workers recognize the folder of the outputs."""


@dataclass(frozen=True)
class Cluster:
    """Which cluster to use, and what a worker needs.

    Attributes:
        address: HOST:PORT of the head node, auto (the cluster of this machine) or local (start one).
        memory_gib: Memory to request for a worker, GiB.

    Raises:
        ConfigError: The address or the memory is invalid.
    """

    address: str = LOCAL
    memory_gib: float = MEMORY_GIB

    def __post_init__(self) -> None:
        if self.address.startswith("ray://"):
            raise ConfigError(f"--ray {self.address}: Ray Client is not supported; run the command on a node of the cluster")
        if not re.fullmatch(r"auto|local|[^\s/]+:\d+", self.address):
            raise ConfigError(f"--ray {self.address!r} is neither HOST:PORT nor auto nor local; give the sources before --ray")
        if not 0.1 <= self.memory_gib <= 1000:
            raise ConfigError(f"--worker-memory {self.memory_gib:g} is outside 0.1 to 1000 GiB")


class RayPool:
    """Actors of a Ray cluster; each requests the threads of the parameter cpu_threads (default 1) as CPUs.

    Where the cluster has GPUs and the device is auto or cuda, each requests one.

    Args:
        settings: What is the same for all sources.
        folder: Folder of the outputs, at the same path on all nodes.
        cluster: Which cluster to use.

    Attributes:
        capacity: Number of workers that the present nodes have room for, at least 1.

    Raises:
        DependencyError: Ray is not installed.
        SourceError: The cluster cannot be reached or started.
    """

    attempts = 4
    """As many as Ray's default of three retries: nodes are preempted and run out of memory."""

    def __init__(self, settings: Settings, folder: Path, cluster: Cluster) -> None:
        self._ray = connect(cluster.address)
        config = settings.config
        threads = config.cpu_threads or 1
        camera = settings.camera_file
        # Workers have another working folder.
        self._settings = replace(
            settings, config=replace(config, cpu_threads=threads), camera_file=camera and camera.expanduser().absolute()
        )
        self._marker, self._lock = _create_marker(folder.absolute())
        available = self._ray.cluster_resources()
        memory = int(cluster.memory_gib * 2**30)
        room = [available.get("CPU", 0) / threads, available.get("memory", 0) / memory]
        gpus = int(config.device != "cpu" and (config.device != "auto" or available.get("GPU", 0) >= 1))
        if gpus:
            room.append(available.get("GPU", 0))
        self.capacity = max(1, int(min(room)))
        self._actor_class = self._ray.remote(num_cpus=threads, num_gpus=gpus, memory=memory, max_restarts=0)(Worker)
        self._numbers = itertools.count()
        self._actors: dict[int, Any] = {}
        self._streams: dict[Any, int] = {}

    def start(self) -> int:
        """Start an actor; it waits until the cluster has room for it."""
        worker = next(self._numbers)
        self._actors[worker] = self._actor_class.remote(self._settings, self._marker)
        self._call(worker, "start")
        return worker

    def send(self, worker: int, task: Task) -> None:
        """Send a source to an actor."""
        self._call(worker, "process", replace(task, output=task.output.absolute()))

    def wait(self) -> Iterator[tuple[int, Event]]:
        """Wait for events of actors."""
        from ray.exceptions import RayError

        ready, _ = self._ray.wait(list(self._streams))
        for stream in ready:
            worker = self._streams[stream]
            try:
                event = self._ray.get(next(stream))
            except RayError as error:
                event = Death(_describe_death(error))
                self._ray.kill(self._actors.pop(worker))
            if not isinstance(event, float):
                del self._streams[stream]
            yield worker, event

    def stop(self, worker: int) -> None:
        """Release an actor, which ends it."""
        del self._actors[worker]

    def close(self) -> None:
        """Kill the actors, and disconnect."""
        self._marker.unlink(missing_ok=True)
        self._lock.close()
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        self._streams.clear()
        self._ray.shutdown()

    def _call(self, worker: int, method: str, *arguments: object) -> None:
        stream = getattr(self._actors[worker], method).options(num_returns="streaming").remote(*arguments)
        self._streams[stream] = worker


class Worker:
    """An actor that keeps a pipeline.

    Args:
        settings: What is the same for all sources.
        marker: File that the main process has created in the folder of the outputs.
    """

    def __init__(self, settings: Settings, marker: Path) -> None:
        self._settings, self._marker = settings, marker

    def start(self) -> Iterator[Event]:
        """Create the pipeline."""
        from mtl_perception.batch.processor import Processor  # With PyTorch, which the main process does not need.

        try:
            if not self._marker.exists():
                raise SourceError(
                    f"node {platform.node()} does not see the output folder {self._marker.parent}: "
                    "use storage that all nodes mount at the same path"
                )
            self._processor = Processor(self._settings)
            yield Ready(self._processor.pipeline.notes)
        except PerceptionError as error:
            yield error

    def process(self, task: Task) -> Iterator[float | SourceResult]:
        """Process a source."""
        reported = 0.0
        for event in self._processor.process(task):
            now = time.monotonic()
            if isinstance(event, SourceResult) or now - reported >= REPORT_INTERVAL_S:
                reported = now
                yield event


def import_ray(address: str) -> Any:
    """Import Ray for the connection to a cluster, and return the module.

    Raises:
        DependencyError: Ray is not installed.
    """
    if address == LOCAL:
        # Ray reads them when it is imported.
        os.environ.update(LOCAL_VARIABLES)
        for name, value in LOCAL_DEFAULTS.items():
            os.environ.setdefault(name, value)
    require("ray", extra="cluster", purpose="process --ray")
    import ray

    return ray


def connect(address: str) -> Any:
    """Connect to a cluster, or start one that listens on the loopback interface only; return the module."""
    ray = import_ray(address)
    options: dict[str, Any] = {}
    attempts = 1
    if address == LOCAL:
        options = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        attempts = LOCAL_ATTEMPTS
    else:
        _check_reachable(address)
    for remaining in reversed(range(attempts)):
        try:
            ray.init(address=address, logging_level=logging.WARNING, **options)
            break
        except Exception as error:  # Ray raises Exception itself if a node does not start in time.
            if not remaining:
                raise SourceError(f"no connection to the Ray cluster {address}: {one_line(error, limit=500)}") from error
    return ray


def _check_reachable(address: str) -> None:
    """Raise SourceError if nothing listens at HOST:PORT, which Ray would notice only after a minute."""
    host, _, port = address.rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise SourceError(f"no connection to the Ray cluster {address}: {error}; give the address of its head node") from error


def remove_stale_markers(folder: Path) -> None:
    """Remove the files by which workers recognize a folder, of runs that were killed.

    On a file system without locks they stay, because they may be those of runs on other machines.
    """
    for marker in folder.glob(f"{MARKER_PREFIX}*"):
        # Another process may remove it first, or it may be of another user.
        with suppress(OSError):
            if is_locked(marker) is False:
                marker.unlink()


def _create_marker(folder: Path) -> tuple[Path, WriteLock]:
    marker = folder / f"{MARKER_PREFIX}{uuid.uuid4().hex}"
    try:
        marker.touch()
        return marker, WriteLock(marker)
    except OSError as error:
        raise SourceError(f"output folder {folder} cannot be written: {error.strerror}") from error


def _describe_death(error: Exception) -> str:
    from ray.exceptions import RayTaskError

    if isinstance(error, RayTaskError):
        return f"failed with {one_line(error.cause or error)}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    node = next((f" on node {line[4:]}" for line in lines if line.startswith("ip: ")), "")
    return f"died{node} ({one_line(lines[-1] if lines else type(error).__name__)})"
