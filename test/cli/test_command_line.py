"""Command line: help, exit codes and one-line errors."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mtl_perception import __main__ as command_line
from mtl_perception.__main__ import COMMANDS, main, split_ros_arguments
from mtl_perception.cli import bench
from mtl_perception.config import parameters
from mtl_perception.errors import SourceError

ROS = importlib.util.find_spec("rclpy") is not None
OFFLINE = [name for name, command in COMMANDS.items() if not command.takes_ros_arguments]
WITH_PARAMETERS = ("infer", "process", "bench")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command(name, capsys):
    if not ROS and COMMANDS[name].takes_ros_arguments:
        pytest.skip("needs rclpy")
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"mtl_perception {name}" in text
    if name in WITH_PARAMETERS:
        for row in parameters():
            assert (f"--{row.name.replace('_', '-')} " in text) == (not row.node_only)
        assert "(default: 1.0)" in text
        assert "default: ()" not in text


def test_help_lists_all_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n    {name}" in text for name in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["inferr"],
        ["infer"],
        ["infer", "a.png"],
        ["infer", "a.png", "--out", "o", "--nonsense"],
        ["infer", "a.png", "--out", "o", "--max-depth", "far"],
        ["infer", "a.png", "--out", "o", "--upsampling", "cubic"],
        ["infer", "a.png", "--out", "o", "--image-depth", "1"],
        ["process", "a.mcap"],
        ["bench", "--runs", "many"],
    ],
)
def test_wrong_usage_exits_with_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_working_directory_that_was_removed_is_reported(monkeypatch, tmp_path, capsys):
    folder = tmp_path / "install"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert main(["parameters"]) == 1
    assert capsys.readouterr().err == ("mtl_perception parameters: the working directory was removed; change to another one\n")


def test_invalid_parameter_value_exits_with_code_2(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(b"")
    assert main(["infer", str(tmp_path / "a.png"), "--out", str(tmp_path / "o"), "--min-confidence", "1.5"]) == 2
    assert capsys.readouterr().err == "mtl_perception infer: parameter min_confidence: 1.5 is outside 0 to 1\n"


class TestErrors:
    @pytest.fixture
    def failing(self, monkeypatch):
        def run(args) -> None:
            raise self.error

        monkeypatch.setattr(bench, "run", run)

    @pytest.mark.parametrize(
        ("error", "line"),
        [
            (SourceError("the bag\nis damaged"), "the bag is damaged"),
            (ValueError("a\n  b"), "ValueError: a b"),
            (KeyboardInterrupt(), "interrupted"),
            (
                MemoryError("Unable to allocate 9 GiB"),
                "out of memory: Unable to allocate 9 GiB; process smaller images, or fewer at a time",
            ),
        ],
    )
    def test_error_prints_one_line(self, failing, capsys, error, line):
        self.error = error
        assert main(["bench"]) == 1
        assert capsys.readouterr().err == f"mtl_perception bench: {line}\n"

    @pytest.mark.parametrize("arguments", [["--debug", "bench"], ["bench", "--debug"]])
    @pytest.mark.parametrize("kind", [SourceError, ValueError])
    def test_debug_raises_the_error(self, failing, arguments, kind):
        self.error = kind("broken")
        with pytest.raises(kind, match="broken"):
            main(arguments)

    @pytest.mark.parametrize("code", [None, 0, 3])
    def test_return_value_is_the_exit_code(self, monkeypatch, code):
        monkeypatch.setattr(bench, "run", lambda args: code)
        assert main(["bench"]) == (code or 0)


@pytest.mark.parametrize("place", ["before", "after", "without"])
def test_traceback_is_printed_only_with_debug(tmp_path, place):
    arguments = ["infer", str(tmp_path / "none.png"), "--out", str(tmp_path / "out")]
    arguments = {"before": ["--debug", *arguments], "after": [*arguments, "--debug"], "without": arguments}[place]
    done = subprocess.run([sys.executable, "-m", "mtl_perception", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert ("Traceback" in done.stderr) == (place != "without")
    assert "none.png: no such image" in done.stderr.splitlines()[-1]
    assert place != "without" or len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_output_in_a_locale_that_cannot_encode_it_is_escaped(encoding, monkeypatch, capsys):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    assert main(["weights", "list"]) == 0
    sys.stdout.flush()
    assert b"street" in written.getvalue()
    assert rb"\u2026" in written.getvalue(), "a long license ends with an ellipsis"
    assert capsys.readouterr().err == ""


def test_missing_ros_is_reported(monkeypatch, capsys):
    def no_ros(name: str):
        raise ModuleNotFoundError("No module named 'rclpy'")

    monkeypatch.setattr(command_line.importlib, "import_module", no_ros)
    assert main(["node", "--ros-args", "-p", "device:=cpu"]) == 1
    assert capsys.readouterr().err == "mtl_perception node: No module named 'rclpy'; source ROS 2 in this shell first\n"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (
            "No module named 'rclpy._rclpy_pybind11'\nThe C extension '/opt/ros/x.so' isn't present on the system.",
            f"ROS is built for another Python than {sys.executable}: use ROS's python3, and no conda environment",
        ),
        (
            "/conda/lib/libstdc++.so.6: version `GLIBCXX_3.4.30' not found (required by /opt/ros/humble/lib/librcl.so)",
            f"the libstdc++ of {sys.executable} is too old: use ROS's python3, and no conda environment",
        ),
        (
            "libGL.so.1: cannot open shared object file: No such file or directory",
            "install it with: apt-get install libgl1",
        ),
        (
            "numpy.core.multiarray failed to import",
            "a package is built for another NumPy: upgrade the package, such as opencv-python",
        ),
        (
            "No module named 'torch'",
            f"install the requirements of mtl_perception for {sys.executable}, or use the Python that has them",
        ),
        ("No module named 'sensor_msgs'", "source ROS 2 in this shell first"),
    ],
)
def test_module_that_cannot_be_imported_is_reported_with_what_to_do(monkeypatch, capsys, text, hint):
    def fail(name: str):
        raise ImportError(text)

    monkeypatch.setattr(command_line.importlib, "import_module", fail)
    assert main(["node"]) == 1
    assert capsys.readouterr().err == f"mtl_perception node: {' '.join(text.split())}; {hint}\n"


@pytest.mark.parametrize(
    "arguments", [["image:=/cam/image"], ["-r", "image:=/cam/image"], ["_device:=cpu"], ["-p", "device:=cpu"]]
)
def test_ros_arguments_without_ros_args_are_explained(monkeypatch, capsys, arguments):
    """As those of ROS 1."""
    module = SimpleNamespace(add_arguments=lambda parser: None, run=lambda args: pytest.fail("it runs"))
    monkeypatch.setattr(command_line.importlib, "import_module", lambda name: module)
    with pytest.raises(SystemExit) as ended:
        main(["node", *arguments])
    assert ended.value.code == 2
    example = "--ros-args -r image:=/camera/image_raw -p device:=cpu"
    line = f"mtl_perception: error: argument {arguments[0]}: ROS arguments come after --ros-args, as in {example}\n"
    assert capsys.readouterr().err.endswith(line)


@pytest.fixture(scope="module")
def import_errors() -> dict[str, str]:
    """Error of importing each offline command, "" if there is none, in a process in which rclpy cannot be imported."""
    code = (
        "import sys, importlib, json; sys.modules['rclpy'] = None\n"
        "from mtl_perception.__main__ import COMMANDS\n"
        "def error(name):\n"
        "    try: importlib.import_module(COMMANDS[name].module)\n"
        "    except ImportError as error: return repr(error)\n"
        "    return ''\n"
        "print(json.dumps({name: error(name) for name in sys.argv[1:]}))"
    )
    done = subprocess.run([sys.executable, "-c", code, *OFFLINE], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", OFFLINE)
def test_offline_commands_import_no_ros(import_errors, name):
    assert import_errors[name] == ""


def test_what_computes_nothing_starts_without_pytorch():
    """The player and the recorder are processes of their own; PyTorch would take 200 MB and seconds of each."""
    modules = ("sources.open", "messages.topics", "messages.encode", "camera.calibration", "weights.registry", "cli.demo")
    modules += ("cli.infer", "cli.process", "cli.view", "cli.train", "batch.run", "batch.processes", "weights.metadata")
    code = (
        "import sys, importlib; sys.modules['torch'] = None\n"
        f"for name in {modules}: importlib.import_module(f'mtl_perception.{{name}}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_exit_does_not_collect_the_objects_of_modules():
    """It would take half a second with PyTorch."""
    # Functions run in the reverse order of their registration.
    code = "import atexit, gc; atexit.register(lambda: print(len(gc.get_objects()), gc.get_freeze_count()))"
    code += "\nimport mtl_perception.__main__"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    collected, frozen = map(int, done.stdout.split())
    assert collected < 100 < 10_000 < frozen


def test_ros_arguments_are_separated():
    assert split_ros_arguments(["play", "x", "--ros-args", "-r", "a:=b", "--", "--rate", "2", "--ros-args", "-p", "c:=d"]) == (
        ["play", "x", "--rate", "2"],
        ["--ros-args", "-r", "a:=b", "--", "--ros-args", "-p", "c:=d"],
    )
