"""Names of parameters that nobody knows, from wherever they are given at start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
import rclpy
from rclpy.context import Context
from rclpy.parameter import Parameter

from mtl_perception.errors import ConfigError
from mtl_perception.ros import parameters
from mtl_perception.ros.node import PerceptionNode
from mtl_perception.ros.overrides import overrides

VEHICLE = ("-r", "__ns:=/veh")


@contextlib.contextmanager
def started(*ros_arguments: str, **options: object) -> Iterator[PerceptionNode]:
    """The node as `node --ros-args …` makes it, unconfigured, within this process."""
    context = Context()
    arguments = ["node", "--ros-args", *ros_arguments]
    rclpy.init(args=arguments, context=context)
    try:
        node = PerceptionNode(arguments, context=context, **options)
        yield node
        node.destroy_node()
    finally:
        context.try_shutdown()


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text)
    return path


def section(name: str, *lines: str) -> str:
    return f"{name}:\n  ros__parameters:\n" + "".join(f"    {line}\n" for line in lines)


def refusal(*ros_arguments: str, **options: object) -> str:
    with pytest.raises(ConfigError) as caught, started(*ros_arguments, **options):
        pass
    return str(caught.value)


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What nodes warn of in this test."""
    texts: list[str] = []
    from rclpy.impl.rcutils_logger import RcutilsLogger

    monkeypatch.setattr(RcutilsLogger, "warning", lambda self, text, **options: texts.append(text))
    return texts


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        (("-p", "mtl_perception:max_dept:=3.0"), "-p mtl_perception:max_dept:=3.0"),
        (("--param", "mtl_perception:max_dept:=a:=b"), "--param mtl_perception:max_dept:=a:=b"),
        (("-r", "__node:=eye", "-p", "eye:max_dept:=3.0"), "-p eye:max_dept:=3.0"),
    ],
)
def test_an_unknown_argument_for_this_node_is_refused(arguments: tuple[str, ...], argument: str) -> None:
    assert refusal(*arguments) == f"{argument}: unknown parameter 'max_dept'; did you mean 'max_depth'?"


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        (("-p", "max_dept:=3.0"), "-p max_dept:=3.0"),
        (("--param", "max_dept:=a:=b"), "--param max_dept:=a:=b"),
        (("-p", "max_dept:=3.0", "--", "--ros-args", "-p", "use_sim_time:=false"), "-p max_dept:=3.0"),
        ((*VEHICLE, "-p", "max_dept:=3.0"), "-p max_dept:=3.0"),
    ],
)
def test_a_slip_in_an_argument_without_a_node_is_refused(arguments: tuple[str, ...], argument: str) -> None:
    """It tells also what to do where it was no slip, but another node's by a launch file's SetParameter."""
    expected = f"{argument}: unknown parameter 'max_dept'; did you mean 'max_depth'? ({parameters.WAY_OUT})"
    assert "SetParameter" in expected
    assert refusal(*arguments) == expected


def test_another_name_without_a_node_is_warned_of(warnings: list[str]) -> None:
    """By hand or by SetParameter for a whole robot: the node starts, and is not silent."""
    with started("-p", "wheel_radius:=0.3", "-p", "depth:=5.0", "-p", "max_depth:=20.0") as node:
        assert node.config.max_depth == 20.0
    assert warnings == [
        "-p wheel_radius:=0.3: unknown parameter 'wheel_radius' is ignored; `mtl_perception parameters` lists all",
        "-p depth:=5.0: unknown parameter 'depth' is ignored; did you mean 'min_depth'?",
    ]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("mtl_perception", ()),
        ("/mtl_perception", ()),
        ("/veh/mtl_perception", VEHICLE),
        ("veh/mtl_perception", VEHICLE),
        ("eye", ("-r", "__node:=eye")),
        ("/a/b/eye", ("-r", "__node:=eye", "-r", "__ns:=/a/b")),
        # Whoever matches it has this name.
        ('"/**/mtl_perception"', VEHICLE),
        ('"/*/mtl_perception"', VEHICLE),
    ],
)
def test_an_unknown_key_of_a_section_for_this_node_is_refused(tmp_path: Path, name: str, more: tuple[str, ...]) -> None:
    path = written(tmp_path, section(name, "max_depth: 20.0", "# a comment", "max_dept: 3.0"))
    place = f"{path}, line 5, section {name.strip(chr(34))}"
    found = refusal(*more, "--params-file", str(path))
    assert found == f"{place}: unknown parameter 'max_dept'; did you mean 'max_depth'?"


def test_namespaces_and_parameters_may_be_written_as_levels(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "veh:\n  mtl_perception:\n    ros__parameters:\n      depth:\n        max: 3.0\n---\n"
        + section("/**", "max_depth: 20.0"),
    )
    found = refusal(*VEHICLE, "--params-file", str(path))
    assert f"{path}, line 5, section veh/mtl_perception: unknown parameter 'depth.max'" in found


def test_all_unknown_names_are_named_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, section("mtl_perception", "wieghts: street", "quite_another: 1"))
    assert refusal("-p", "divice:=cpu", "--params-file", str(path)) == (
        "-p divice:=cpu: unknown parameter 'divice'; did you mean 'device'?; "
        f"{path}, line 3, section mtl_perception: unknown parameter 'wieghts'; did you mean 'weights'?; "
        f"{path}, line 4, section mtl_perception: unknown parameter 'quite_another'; `mtl_perception parameters` lists all"
        f" ({parameters.WAY_OUT})"
    )


def test_unknown_names_from_python_are_refused() -> None:
    found = refusal(parameter_overrides=[Parameter("max_dept", value=3.0)])
    assert found == "parameter_overrides: unknown parameter 'max_dept'; did you mean 'max_depth'?"
    found = refusal(cli_args=["--ros-args", "-p", "max_dept:=3.0"])
    assert found.startswith("-p max_dept:=3.0: unknown parameter 'max_dept'; did you mean 'max_depth'?")


@pytest.mark.parametrize("name", ["mtl_perception", '"/**"', '"/*"'])
def test_former_names_are_refused_wherever_they_are_given(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, section(name, "max_depth: 20.0", "image_depth: 3", "gpu_tuning: true"))
    message = refusal("--params-file", str(path), "-p", "output_depth:=2")
    for former, new in (
        ("image_depth", "image_queue_size"),
        ("gpu_tuning", "cudnn_benchmark"),
        ("output_depth", "output_queue_size"),
    ):
        assert f"parameter {former} was renamed to {new}" in message
    assert f"{path}, line 4, section {name.strip(chr(34))}: " in message
    assert "was renamed to cuda_graph" in refusal(parameter_overrides=[Parameter("gpu_graph", value=False)])


@pytest.mark.parametrize("name", ["/**", "/*", "/veh/*", "/veh/**"])
def test_a_key_for_all_nodes_may_be_another_nodes(tmp_path: Path, warnings: list[str], name: str) -> None:
    """Near one of ours it is warned of, else passed over; what is ours takes effect."""
    path = written(tmp_path, section(f'"{name}"', "max_depth: 20.0", "max_dept: 3.0", "wheel_radius: 0.3", "wheel_base: 2.7"))
    namespace = VEHICLE if "veh" in name else ()
    with started(*namespace, "--params-file", str(path)) as node:
        assert node.config.max_depth == 20.0
    place = f"{path}, line 4, section {name}"
    assert warnings == [f"{place}: unknown parameter 'max_dept' is ignored; did you mean 'max_depth'?"]


def test_a_single_slip_for_all_nodes_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, section('"/**"', "wieghts: street"))
    assert refusal("--params-file", str(path)).startswith(
        f"{path}, line 3, section /**: unknown parameter 'wieghts'; did you mean 'weights'?"
    )


def test_a_copy_of_a_shipped_file_is_this_nodes(tmp_path: Path, warnings: list[str]) -> None:
    """Though its section is for all: hardly another was meant. A slip is refused, another name warned of."""
    text = (Path(__file__).parents[2] / "config/gpu.yaml").read_text().replace('"cuda"', '"cpu"')
    path = written(tmp_path, text.replace("cuda_graph:", "cuda_grph:"))
    line = 1 + text[: text.index("cuda_graph:")].count("\n")
    place = f"{path}, line {line}, section /**"
    assert refusal("--params-file", str(path)).startswith(
        f"{place}: unknown parameter 'cuda_grph'; did you mean 'cuda_graph'? (what is another node's: "
    )
    path = written(tmp_path, text.replace("cuda_graph:", "wheel_radius:"))
    with started("--params-file", str(path)):
        pass
    assert warnings == [f"{place}: unknown parameter 'wheel_radius' is ignored; `mtl_perception parameters` lists all"]
    # Beside another section it is a file for many nodes.
    written(tmp_path, text.replace("cuda_graph:", "wheel_radius:") + section("camera", "rate: 10.0"))
    with started("--params-file", str(path)):
        assert len(warnings) == 1


def test_a_launch_files_dictionary_is_this_nodes(tmp_path: Path, warnings: list[str]) -> None:
    """launch writes it to a file of its own, under `/**` where the action lacks name or namespace."""
    path = written(tmp_path, section("/**", "max_dept: 3.0")).rename(tmp_path / "launch_params_x7k2")
    assert f"{path}, line 3, section /**: unknown parameter 'max_dept'" in refusal("--params-file", str(path))
    # Files with substitutions, which may be for many nodes, have the same kind of name.
    path.write_text(section("/**", "wheel_radius: 0.3"))
    with started("--params-file", str(path)):
        assert "'wheel_radius' is ignored" in warnings[0]


def test_sections_and_arguments_of_other_nodes_are_none_of_our_business(tmp_path: Path, warnings: list[str]) -> None:
    others = ("camera", "/veh/mtl_perception", "/mtl_perception/camera", '"/veh/*"', "mtl_perception2")
    path = written(tmp_path, "".join(section(name, "max_dept: 3.0") for name in others))
    with started("--params-file", str(path), "-p", "camera:max_dept:=3.0", "--", "-p", "max_dept:=3.0"):
        assert warnings == []


def test_what_rclpy_reads_is_allowed(tmp_path: Path, warnings: list[str]) -> None:
    path = written(
        tmp_path,
        section(
            "mtl_perception", "use_sim_time: true", "start_type_description_service: false", "qos_overrides./clock.depth: 3"
        ),
    )
    with started("--params-file", str(path), "-p", "qos_overrides./parameter_events.publisher.depth:=10") as node:
        assert node.get_parameter("use_sim_time").value is True
    assert warnings == []


def test_every_name_of_the_table_is_allowed(tmp_path: Path, warnings: list[str]) -> None:
    """In the file that is shipped, which holds them all."""
    path = Path(__file__).parents[2] / "config/perception.yaml"
    names = {
        override.name for override in overrides(["--ros-args", "--params-file", str(path)], "/mtl_perception", pytest.fail)
    }
    assert names == {row.name for row in parameters.config.parameters()}
    with started("--params-file", str(path)):
        assert warnings == []


def test_an_empty_list_is_no_names_and_nothing_else(tmp_path: Path) -> None:
    """It has no type in ROS, so that rclpy takes it for no value at all."""
    path = written(tmp_path, section("mtl_perception", "cameras: []"))
    with started("--params-file", str(path)) as node:
        assert node.config.cameras == ()
        assert node.set_parameters([Parameter("max_depth", value=20.0)])[0].successful
    path = written(tmp_path, section("mtl_perception", "autostart: []"))
    assert refusal("--params-file", str(path)) == "parameter autostart: None is not a bool"


def test_a_value_that_cannot_be_printed_is_told_in_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, section("mtl_perception", r'autostart: "a\nb\x1f"'))
    assert refusal("--params-file", str(path)).isprintable()


def test_tabs_are_as_good_as_spaces(tmp_path: Path, warnings: list[str]) -> None:
    """Where libyaml takes them, also in other nodes' sections."""
    text = "camera:\n  ros__parameters:\n    rate:\t10.0\n" + section(
        "mtl_perception", "max_depth: 20.0\t# meters", "min_depth:\t0.5", "cameras: [front,\tleft]\t"
    )
    with started("--params-file", str(written(tmp_path, text))) as node:
        assert (node.config.max_depth, node.config.min_depth, node.config.cameras) == (20.0, 0.5, ("front", "left"))
    assert warnings == []
    path = written(tmp_path, text + "    max_dept:\t3.0\n")
    place = f"{path}, line 9, section mtl_perception"
    assert refusal("--params-file", str(path)) == f"{place}: unknown parameter 'max_dept'; did you mean 'max_depth'?"


def test_lists_of_any_depth_are_passed_over(tmp_path: Path) -> None:
    """rcl takes them at any depth, so that a reader that calls itself for each would overflow."""
    path = written(tmp_path, section("mtl_perception", f"deep: {'[' * 10_000}{']' * 10_000}", "max_dept: 3.0"))
    found = [o.name for o in overrides(["--ros-args", "--params-file", str(path)], "/mtl_perception", pytest.fail)]
    assert found == ["deep", "max_dept"]


def test_a_file_that_only_rcl_can_read_is_not_checked(tmp_path: Path, warnings: list[str]) -> None:
    """As one that went in between: the values that rcl took are right, and what is like one of ours is warned of."""
    path = written(tmp_path, section("mtl_perception", "max_depth: 20.0", "max_dept: 3.0"))
    context = Context()
    arguments = ["node", "--ros-args", "--params-file", str(path)]
    rclpy.init(args=arguments, context=context)
    path.unlink()
    try:
        node = PerceptionNode(arguments, context=context)
        assert node.config.max_depth == 20.0
        node.destroy_node()
    finally:
        context.try_shutdown()
    assert warnings[0].startswith(f"file of parameters {path}: its names are not checked: ")
    assert warnings[1:] == ["unknown parameter 'max_dept' is ignored; did you mean 'max_depth'?"]
