"""Command line: `python -m mtl_perception COMMAND …` and the console script `mtl_perception`.

A command is a module with `add_arguments(parser)` and `run(args)`. Only the module of the given command is imported: commands
start fast and do not need the dependencies of others, such as ROS.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib
import io
import os
import sys
from dataclasses import dataclass

from mtl_perception.errors import ConfigError, DependencyError, PerceptionError, import_hint

# Python collects garbage among the objects of all modules when it exits, which takes 0.5 s with PyTorch.
atexit.register(gc.freeze)

ROS_FLAGS = ("-r", "--remap", "-p", "--param", "--params-file")
"""Arguments that only --ros-args accepts."""


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        module: Module that implements it.
        help: One-line description.
        takes_ros_arguments: Whether it is a ROS node that accepts `--ros-args`.
    """

    module: str
    help: str
    takes_ros_arguments: bool = False


COMMANDS = {
    "node": Command("mtl_perception.ros.main", "run the ROS 2 node", takes_ros_arguments=True),
    "infer": Command("mtl_perception.cli.infer", "write labels, depth and point clouds of images, and overlays of videos"),
    "play": Command("mtl_perception.ros.play", "publish a drive, images, video or bag as a camera", takes_ros_arguments=True),
    "process": Command("mtl_perception.cli.process", "write the node's outputs for every frame of a bag, without ROS"),
    "record": Command("mtl_perception.ros.record", "record topics to an MCAP bag", takes_ros_arguments=True),
    "demo": Command("mtl_perception.cli.demo", "run node, player and recorder, and write a page with the result"),
    "view": Command("mtl_perception.cli.view", "show a source, a bag with outputs, a recording or a running node in Rerun"),
    "weights": Command("mtl_perception.cli.weights", "list, download, inspect, convert and calibrate weights"),
    "eval": Command("mtl_perception.cli.evaluate", "evaluate weights: mIoU, depth errors and the worst frames"),
    "train": Command("mtl_perception.cli.train", "train weights from a configuration file"),
    "quantize": Command("mtl_perception.cli.quantize", "write weights with a table for int8 inference on a CPU"),
    "export": Command("mtl_perception.cli.export", "export weights to ONNX, with pre- and post-processing"),
    "bench": Command("mtl_perception.cli.bench", "measure latency by stage, or against other implementations"),
    "parameters": Command("mtl_perception.cli.parameters", "print the parameter table as text, Markdown or YAML"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0 success, 2 wrong usage, 1 any other failure. A failure prints one line on stderr.
    """
    # Where the locale is not UTF-8, paths and texts may have letters that it cannot encode. Python escapes them on stderr only.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="mtl_perception",
        description="Semantic segmentation, metric depth and labeled point clouds in one forward pass.",
    )
    parser.add_argument("--debug", action="store_true", help="print a traceback on errors")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    try:
        os.getcwd()
    except FileNotFoundError:
        # PyTorch would not load there.
        print(f"mtl_perception {name}: the working directory was removed; change to another one", file=sys.stderr)
        return 1
    for command_name, command in COMMANDS.items():
        subparser = subparsers.add_parser(
            command_name, help=command.help, description=command.help[0].upper() + command.help[1:]
        )
        subparser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="print a traceback on errors")
        if command_name == name:
            try:
                module = importlib.import_module(command.module)
            except (ImportError, DependencyError) as error:
                if "--debug" in arguments:
                    raise
                hint = import_hint(error) if isinstance(error, ImportError) else ""
                print(f"mtl_perception {name}: {' '.join(str(error).split())}{hint}", file=sys.stderr)
                return 1
            module.add_arguments(subparser)
    ros_arguments: list[str] = []
    if name in COMMANDS and COMMANDS[name].takes_ros_arguments:
        arguments, ros_arguments = split_ros_arguments(arguments)
        if stray := next((argument for argument in arguments if argument in ROS_FLAGS or ":=" in argument), ""):
            example = "--ros-args -r image:=/camera/image_raw -p device:=cpu"
            parser.error(f"argument {stray}: ROS arguments come after --ros-args, as in {example}")
    args = parser.parse_args(arguments)
    args.ros_arguments = ros_arguments
    try:
        code = module.run(args)
    except ConfigError as error:
        return _fail(args, error, str(error), code=2)
    except PerceptionError as error:
        return _fail(args, error, str(error))
    except KeyboardInterrupt:
        return _fail(args, None, "interrupted")
    except BrokenPipeError:
        # The reader of a pipe exited, as in `… | head`. Python must not flush stdout again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError as error:
        reason = str(error) or "an allocation failed"
        return _fail(args, error, f"out of memory: {reason}; process smaller images, or fewer at a time")
    except Exception as error:
        return _fail(args, error, f"{type(error).__name__}: {error}")
    return int(code or 0)


def perception_node() -> int:
    """Run the command `node`; entry point of the console script `perception_node`."""
    return main(["node", *sys.argv[1:]])


def split_ros_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split arguments into those of the command and those from each `--ros-args` to its `--` or the end."""
    own: list[str] = []
    ros: list[str] = []
    inside = False
    for argument in arguments:
        if argument == "--ros-args":
            inside = True
        if inside:
            ros.append(argument)
            inside = argument != "--"
        else:
            own.append(argument)
    return own, ros


def _fail(args: argparse.Namespace, error: BaseException | None, text: str, code: int = 1) -> int:
    if error is not None and args.debug:
        raise error
    print(f"mtl_perception {args.command}: {' '.join(text.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
