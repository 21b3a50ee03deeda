"""`view`: a source, a bag with the node's outputs, a recording, or a running node in the Rerun viewer."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import signal
import sys
import webbrowser
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mtl_perception.cli.options import (
    add_parameters,
    add_rerun_options,
    config_from,
    print_license,
    print_notes,
    rerun_options,
)
from mtl_perception.config import Config
from mtl_perception.errors import ConfigError, DependencyError, PerceptionError, SourceError
from mtl_perception.messages.topics import NODE_NAME
from mtl_perception.progress import progress_bar
from mtl_perception.visualization.rerun import RerunLog, RerunOptions, require_rerun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add source, kind of viewer and topics."""
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE|BAG|FILE.rrd",
        help="source to process while it is shown; bag with the node's outputs, which are shown as they are; or recording",
    )
    parser.add_argument("--live", action="store_true", help="show the outputs of a running node; needs ROS 2")
    parser.add_argument("--web", action="store_true", help="show a page at http://127.0.0.1:PORT instead of a window")
    parser.add_argument(
        "--port", type=int, default=9090, metavar="PORT", help="port of the page; data are at the next one (default: 9090)"
    )
    parser.add_argument(
        "--node",
        default="",
        metavar="NAME",
        help="prefix of the outputs to show: with --live (default: /mtl_perception), or if the bag has several",
    )
    parser.add_argument("--image", default="", metavar="TOPIC", help="image topic of a source that has several")
    parser.add_argument("--camera", type=Path, metavar="FILE", help="calibration file of the source")
    add_rerun_options(parser)
    add_parameters(parser)


def run(args: argparse.Namespace) -> None:
    """Show until the window is closed, or until Ctrl-C."""
    from mtl_perception.view.viewer import Viewer, has_display

    if not 1 <= args.port <= 65534:
        raise ConfigError(f"--port {args.port}: give 1 to 65534")
    if bool(args.source) == args.live:
        raise ConfigError("give either SOURCE or --live")
    require_rerun("view")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    files, prepare = _prepare(args, rerun_options(args))
    with Viewer(files, args.port if args.web else None) as viewer:
        failure = None
        if viewer.url:
            print(f"{viewer.url} (Ctrl-C ends)", flush=True)
            if has_display():
                webbrowser.open(viewer.url)
        try:
            if prepare is not None:
                log, feed = prepare()
                log.connect(viewer.port)
                with contextlib.closing(log):
                    feed(log, viewer.is_closed)
                if not viewer.is_closed():
                    print(f"{log.frames} frames shown; close the viewer or press Ctrl-C to end", file=sys.stderr)
            viewer.wait()
        except KeyboardInterrupt:
            pass
        except PerceptionError as error:
            if not viewer.is_closed():
                failure = error
    if failure is not None:
        raise failure


Feed = Callable[[RerunLog, Callable[[], bool]], None]
"""Logs until its end, or until the viewer is closed."""


def _prepare(args: argparse.Namespace, options: RerunOptions) -> tuple[list[Path], Callable[[], tuple[RerunLog, Feed]] | None]:
    """Check the source, and return the recordings to open and what creates the log and feeds it."""
    from mtl_perception.sources.bag.outputs import find_node
    from mtl_perception.sources.bag.reader import is_bag_file

    config = config_from(args, warm_up=False)
    if args.live:
        return [], _live(args, config, options)
    path = Path(args.source).expanduser()
    if path.suffix == ".rrd":
        if not path.is_file():
            raise SourceError(f"{path} does not exist")
        return [path], None
    if is_bag_file(path) or (path / "metadata.yaml").is_file():
        node = find_node(path, args.node)
        if node is not None:
            return [], lambda: _recorded(path, node, config, options)
    return [], _process(args, config, options)


def _recorded(path: Path, node: str, config: Config, options: RerunOptions) -> tuple[RerunLog, Feed]:
    from mtl_perception.sources.bag.outputs import RecordedOutputs
    from mtl_perception.weights.files import load_network

    recorded = RecordedOutputs(path, node)
    description = load_network(config.weights).description
    classes = recorded.class_set or description.class_set(config.classes)[0]
    max_depth = config.max_depth or description.depth_range[1]

    def feed(log: RerunLog, is_closed: Callable[[], bool]) -> None:
        for stamp_ns, outputs in progress_bar(recorded, total=len(recorded), unit="message"):
            if is_closed():
                return
            log.log(outputs, stamp_ns)

    return RerunLog(path.name, classes, max_depth, options, recorded.image_has_labels), feed


def _process(args: argparse.Namespace, config: Config, options: RerunOptions) -> Callable[[], tuple[RerunLog, Feed]]:
    from mtl_perception.pipeline import Pipeline
    from mtl_perception.sources.open import open_source
    from mtl_perception.types import History

    source = open_source(args.source, rectified=config.input_rectified, camera_file=args.camera, image_topic=args.image)
    history = History()
    pipeline = Pipeline(config=config, reuse_outputs=True)
    print_license(pipeline.description)
    print_notes(pipeline)

    def feed(log: RerunLog, is_closed: Callable[[], bool]) -> None:
        for frame in progress_bar(source, total=len(source), unit="frame"):
            if is_closed():
                return
            log.log(pipeline(replace(frame, history=history), options.needed_results()), frame.stamp_ns)

    return lambda: (RerunLog(source.name, pipeline.class_set, pipeline.max_depth, options), feed)


def _live(args: argparse.Namespace, config: Config, options: RerunOptions) -> Callable[[], tuple[RerunLog, Feed]]:
    from mtl_perception.weights.files import load_network

    try:
        watch = importlib.import_module("mtl_perception.ros.view").watch
    except ImportError as error:
        raise DependencyError(f"view --live needs ROS 2: {error}; source ROS 2 in this shell first") from error
    description = load_network(config.weights).description
    node = args.node or f"/{NODE_NAME}"

    def feed(log: RerunLog, is_closed: Callable[[], bool]) -> None:
        watch(log, node, args.ros_arguments, is_closed, with_points=options.points > 0)

    classes, max_depth = description.class_set(config.classes)[0], config.max_depth or description.depth_range[1]
    return lambda: (RerunLog(node, classes, max_depth, options, image_has_labels=True), feed)
