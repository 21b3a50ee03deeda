"""The command line: `python -m mtl_perception COMMAND …`, and the console script `mtl_perception`.

A command is a module with `add_arguments(parser)` and `run(args)`. It is imported only when it is called, so that one
command starts fast and works without what only the others need (ROS, for all but node, play, record and demo).
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from dataclasses import dataclass

from mtl_perception.errors import ConfigError, PerceptionError


@dataclass(frozen=True)
class Command:
    """Where a command lives, and one line on what it does."""

    module: str
    help: str
    takes_ros_arguments: bool = False


COMMANDS = {
    "node": Command("mtl_perception.ros.main", "the ROS 2 node (takes --ros-args …)", takes_ros_arguments=True),
    "infer": Command("mtl_perception.cli.infer", "labels, depth and cloud of picture files; no ROS"),
    "play": Command("mtl_perception.ros.play", "publish a drive, folder or bag as a camera", takes_ros_arguments=True),
    "process": Command("mtl_perception.cli.process", "bag to bag: the node's outputs for every frame; no ROS"),
    "record": Command("mtl_perception.ros.record", "record topics into an mcap bag", takes_ros_arguments=True),
    "demo": Command("mtl_perception.cli.demo", "node, player and recorder together; leaves a page that shows the result"),
    "weights": Command("mtl_perception.cli.weights", "list, fetch, inspect and convert weights"),
    "eval": Command("mtl_perception.cli.evaluate", "mIoU and depth errors of weights on data with truth, and the worst frames"),
    "train": Command("mtl_perception.cli.train", "train weights from a configuration; resumes by itself"),
    "export": Command(
        "mtl_perception.cli.export", "weights as one ONNX file, pre- and post-processing inside, for any runtime"
    ),
    "bench": Command(
        "mtl_perception.cli.bench", "time each stage on this machine, or compare with other ways to run the network"
    ),
    "parameters": Command("mtl_perception.cli.parameters", "print the table of parameters, as text, markdown or YAML"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0 done, 2 wrong usage, 1 anything else (one line on stderr says what and why).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="mtl_perception", description="Semantic segmentation, metric depth and a labeled point cloud in one forward pass."
    )
    parser.add_argument("--debug", action="store_true", help="on an error, show the traceback too")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    for command_name, command in COMMANDS.items():
        subparser = subparsers.add_parser(
            command_name, help=command.help, description=command.help[0].upper() + command.help[1:]
        )
        subparser.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="on an error, show the traceback too"
        )
        if command_name == name:
            try:
                module = importlib.import_module(command.module)
            except ImportError as error:
                if "--debug" in arguments:
                    raise
                hint = "; is ROS 2 sourced in this shell?" if command.takes_ros_arguments else ""
                print(f"mtl_perception {name}: {error}{hint}", file=sys.stderr)
                return 1
            module.add_arguments(subparser)
    ros_arguments: list[str] = []
    if name in COMMANDS and COMMANDS[name].takes_ros_arguments:
        arguments, ros_arguments = split_ros_arguments(arguments)
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
        # The reader went away (`… | head`): not an error worth a word, but stdout must not be flushed again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _fail(args, error, f"{type(error).__name__}: {error}")
    return int(code or 0)


def perception_node() -> int:
    """Entry point of `perception_node`: the command `node`."""
    return main(["node", *sys.argv[1:]])


def split_ros_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Our own arguments, and those from each `--ros-args` to its `--` or the end."""
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
