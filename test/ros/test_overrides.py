"""Unknown parameter names given at startup."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
import rclpy
from rclpy.context import Context
from rclpy.parameter import Parameter
from support.node_in_process import started

from mtl_perception.errors import ConfigError
from mtl_perception.ros import parameters
from mtl_perception.ros.node import PerceptionNode
from mtl_perception.ros.overrides import find_overrides

VEHICLE = ("-r", "__ns:=/veh")


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
    """Warnings logged by nodes during the test."""
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
def test_unknown_name_in_an_argument_with_the_name_of_the_node_is_refused(arguments: tuple[str, ...], argument: str) -> None:
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
def test_similar_name_in_an_argument_for_all_nodes_is_reported(
    warnings: list[str], arguments: tuple[str, ...], argument: str
) -> None:
    with started(*arguments):
        pass
    assert warnings == [f"{argument}: unknown parameter 'max_dept' is ignored; did you mean 'max_depth'?"]


def test_other_names_for_all_nodes_are_ignored(warnings: list[str]) -> None:
    """They may belong to another node, as those of a launch file's SetParameter do."""
    with started("-p", "wheel_radius:=0.3", "-p", "max_depth:=20.0") as node:
        assert node.config.max_depth == 20.0
    assert warnings == []


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("mtl_perception", ()),
        ("/mtl_perception", ()),
        ("/veh/mtl_perception", VEHICLE),
        ("veh/mtl_perception", VEHICLE),
        ("eye", ("-r", "__node:=eye")),
        ("/a/b/eye", ("-r", "__node:=eye", "-r", "__ns:=/a/b")),
        # Only nodes of this name match.
        ('"/**/mtl_perception"', VEHICLE),
        ('"/*/mtl_perception"', VEHICLE),
    ],
)
def test_unknown_name_in_a_section_with_the_name_of_the_node_is_refused(
    tmp_path: Path, name: str, more: tuple[str, ...]
) -> None:
    path = written(tmp_path, section(name, "max_depth: 20.0", "# a comment", "max_dept: 3.0"))
    place = f"{path}, line 5, section {name.strip(chr(34))}"
    found = refusal(*more, "--params-file", str(path))
    assert found == f"{place}: unknown parameter 'max_dept'; did you mean 'max_depth'?"


def test_nested_namespaces_and_parameters_are_joined(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "veh:\n  mtl_perception:\n    ros__parameters:\n      depth:\n        max: 3.0\n---\n"
        + section("/**", "max_depth: 20.0"),
    )
    found = refusal(*VEHICLE, "--params-file", str(path))
    assert f"{path}, line 5, section veh/mtl_perception: unknown parameter 'depth.max'" in found


def test_all_unknown_names_are_reported_together(tmp_path: Path) -> None:
    path = written(tmp_path, section("mtl_perception", "wieghts: street", "quite_another: 1"))
    assert refusal("-p", "mtl_perception:divice:=cpu", "--params-file", str(path)) == (
        "-p mtl_perception:divice:=cpu: unknown parameter 'divice'; did you mean 'device'?; "
        f"{path}, line 3, section mtl_perception: unknown parameter 'wieghts'; did you mean 'weights'?; "
        f"{path}, line 4, section mtl_perception: unknown parameter 'quite_another'; see `mtl_perception parameters`"
    )


def test_unknown_names_from_python_are_refused() -> None:
    found = refusal(parameter_overrides=[Parameter("max_dept", value=3.0)])
    assert found == "parameter_overrides: unknown parameter 'max_dept'; did you mean 'max_depth'?"
    found = refusal(cli_args=["--ros-args", "-p", "mtl_perception:max_dept:=3.0"])
    assert found.startswith("-p mtl_perception:max_dept:=3.0: unknown parameter 'max_dept'; did you mean 'max_depth'?")


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
def test_similar_name_in_a_section_for_all_nodes_is_reported(tmp_path: Path, warnings: list[str], name: str) -> None:
    """Known parameters of the section take effect; dissimilar names are ignored."""
    path = written(tmp_path, section(f'"{name}"', "max_depth: 20.0", "max_dept: 3.0", "wheel_radius: 0.3", "wheel_base: 2.7"))
    namespace = VEHICLE if "veh" in name else ()
    with started(*namespace, "--params-file", str(path)) as node:
        assert node.config.max_depth == 20.0
    place = f"{path}, line 4, section {name}"
    assert warnings == [f"{place}: unknown parameter 'max_dept' is ignored; did you mean 'max_depth'?"]


def test_sections_and_arguments_of_other_nodes_are_not_checked(tmp_path: Path, warnings: list[str]) -> None:
    others = ("camera", "/veh/mtl_perception", "/mtl_perception/camera", '"/veh/*"', "mtl_perception2")
    text = "".join(section(name, "max_dept: 3.0") for name in others) + section("mtl_perception", "max_depth: 20.0")
    path = written(tmp_path, text)
    with started("--params-file", str(path), "-p", "camera:max_dept:=3.0", "--", "-p", "max_dept:=3.0"):
        assert warnings == []


@pytest.mark.parametrize(("arguments", "node"), [((), "mtl_perception"), (("-r", "__node:=eye", *VEHICLE), "veh/eye")])
def test_file_whose_sections_are_all_for_other_nodes_is_reported(
    tmp_path: Path, warnings: list[str], arguments: tuple[str, ...], node: str
) -> None:
    """As one with the name of the executable, or of the node before it was renamed: rcl ignores it silently."""
    path = written(tmp_path, section("perception_node", "max_depth: 20.0", "device: cpu") + section("/eye", "max_depth: 5.0"))
    with started(*arguments, "--params-file", str(path)) as created:
        assert created.config.max_depth == 0.0
    assert warnings == [
        f"no section of {path} applies to /{node}: it has sections for perception_node, /eye; name it {node} or /**"
    ]


def test_topic_given_as_a_parameter_is_reported(tmp_path: Path, warnings: list[str]) -> None:
    hint = "; image is a topic: remap it with -r image:=TOPIC"
    with started("-p", "image:=/cam/image_raw"):
        pass
    assert warnings == [f"-p image:=/cam/image_raw: unknown parameter 'image' is ignored{hint}"]
    path = written(tmp_path, section("mtl_perception", "image: /cam/image_raw"))
    assert refusal("--params-file", str(path)) == f"{path}, line 3, section mtl_perception: unknown parameter 'image'{hint}"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('use_sim_time: "true"', "'true' is a string, not a boolean; write true or false, without quotes"),
        ('cuda_graph: "true"', "'true' is a string, not a boolean; write true or false, without quotes"),
        ("autostart: 1", "'1' is an integer, not a boolean; write true or false, without quotes"),
        ("cpu_threads: 2.0", "'2.0' is a float, not an integer; write digits only, without quotes"),
        (
            "weights: 2024",
            "'2024' is an integer, not a string; write it in quotes, and in a shell add an outer pair: -p NAME:='\"5\"'",
        ),
        ("cameras: front", "'front' is a string, not a list of strings; write a list, as in -p NAME:='[a, b]'"),
    ],
)
def test_value_of_another_type_is_refused_with_how_to_write_it(tmp_path: Path, line: str, fault: str) -> None:
    path, name = written(tmp_path, section("mtl_perception", line)), line.partition(":")[0]
    # The client library reads use_sim_time before the node knows its name.
    place = "" if name == "use_sim_time" else f"{path}, line 3, section mtl_perception: "
    assert refusal("--params-file", str(path)) == f"{place}parameter {name}: {fault}"


@pytest.mark.parametrize("name", ["mtl_perception", '"/**"'])
def test_list_of_mappings_is_refused_with_how_to_write_it(tmp_path: Path, name: str) -> None:
    """Entries of class_groups without quotes; rcl makes names of parameters of their keys."""
    path = written(tmp_path, section(name, "class_groups:", "  - drivable: road", "  - other: sidewalk", "device: cpu"))
    assert refusal("--params-file", str(path)) == (
        f'{path}, line 3: parameter class_groups has mappings in a list; put each entry in quotes, as in - "name: value"'
    )


def test_qos_overrides_without_effect_are_reported(tmp_path: Path, warnings: list[str]) -> None:
    path = written(tmp_path, section("mtl_perception", "qos_overrides./image.subscription.reliability: reliable"))
    with started("--params-file", str(path), "-p", "qos_overrides./image.subscription.depth:=5"):
        pass
    assert len(warnings) == 1, "qos_overrides for all nodes may apply to others"
    assert warnings[0].startswith(
        f"{path}, line 3, section mtl_perception: qos_overrides./image.subscription.reliability has no effect; "
        "use image_reliability, image_queue_size, "
    )


def test_parameters_of_rclpy_are_allowed(tmp_path: Path, warnings: list[str]) -> None:
    path = written(
        tmp_path,
        section(
            "mtl_perception", "use_sim_time: true", "start_type_description_service: false", "qos_overrides./clock.depth: 3"
        ),
    )
    with started("--params-file", str(path), "-p", "qos_overrides./parameter_events.publisher.depth:=10") as node:
        assert node.get_parameter("use_sim_time").value is True
    assert warnings == []


def test_shipped_parameter_file_has_every_parameter(tmp_path: Path, warnings: list[str]) -> None:
    path = Path(__file__).parents[2] / "config/perception.yaml"
    names = {
        override.name for override in find_overrides(["--ros-args", "--params-file", str(path)], "/mtl_perception", pytest.fail)
    }
    assert names == {row.name for row in parameters.config.parameters()}
    with started("--params-file", str(path)):
        assert warnings == []


def test_empty_list_means_no_camera_names(tmp_path: Path) -> None:
    """An empty list has no type in ROS, and rclpy treats it as no value."""
    path = written(tmp_path, section("mtl_perception", "cameras: []"))
    with started("--params-file", str(path)) as node:
        assert node.config.cameras == ()
        assert node.set_parameters([Parameter("max_depth", value=20.0)])[0].successful
    path = written(tmp_path, section("mtl_perception", "autostart: []"))
    assert refusal("--params-file", str(path)) == "parameter autostart: None is not a bool"


def test_error_about_an_unprintable_value_is_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, section("mtl_perception", r'autostart: "a\nb\x1f"'))
    assert refusal("--params-file", str(path)).isprintable()


def test_tabs_are_accepted_as_by_libyaml(tmp_path: Path, warnings: list[str]) -> None:
    text = "camera:\n  ros__parameters:\n    rate:\t10.0\n" + section(
        "mtl_perception", "max_depth: 20.0\t# meters", "min_depth:\t0.5", "cameras: [front,\tleft]\t"
    )
    with started("--params-file", str(written(tmp_path, text))) as node:
        assert (node.config.max_depth, node.config.min_depth, node.config.cameras) == (20.0, 0.5, ("front", "left"))
    assert warnings == []
    path = written(tmp_path, text + "    max_dept:\t3.0\n")
    place = f"{path}, line 9, section mtl_perception"
    assert refusal("--params-file", str(path)) == f"{place}: unknown parameter 'max_dept'; did you mean 'max_depth'?"


def test_deeply_nested_lists_are_skipped(tmp_path: Path) -> None:
    """rcl accepts any depth, at which a recursive parser would overflow the stack."""
    path = written(tmp_path, section("mtl_perception", f"deep: {'[' * 10_000}{']' * 10_000}", "max_dept: 3.0"))
    found = [o.name for o in find_overrides(["--ros-args", "--params-file", str(path)], "/mtl_perception", pytest.fail)]
    assert found == ["deep", "max_dept"]


def test_file_that_cannot_be_read_is_reported(tmp_path: Path, warnings: list[str]) -> None:
    """The file vanishes after rcl has read it: its values hold, and similar names in it are reported."""
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
    assert warnings[0].startswith(f"cannot check the parameter names in {path}: ")
    assert warnings[1:] == ["unknown parameter 'max_dept' is ignored; did you mean 'max_depth'?"]
