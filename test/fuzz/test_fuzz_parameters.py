"""Fuzz tests of parameters and label mappings: wrong names, types and values, from Python and from files."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.bad_input import damaged, misspelled, near_document, numbers, sometimes, words
from support.fuzzing import attempt, fuzz

from mtl_perception import config
from mtl_perception.config import Config
from mtl_perception.errors import ConfigError
from mtl_perception.labels import STREET, parse_mapping

ROWS = {row.name: row for row in config.parameters()}
NAMES = sorted(ROWS)
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, 2, 50, 100, 256, 257, 1000, 2**53]),
    numbers,
    words.filter(lambda word: "\0" not in word),
    st.lists(words.filter(lambda word: "\0" not in word), max_size=4),
    st.lists(st.sampled_from(["front", "left", "a b", "1st", "", "__"]), max_size=4),
    st.sampled_from([choice for row in ROWS.values() for choice in row.choices]),
)


@st.composite
def settings_near(draw: Any) -> dict[str, Any]:
    """Draw valid values of some parameters, and up to two values that may be invalid."""
    chosen = {name: ros_value(ROWS[name]) for name in draw(st.lists(st.sampled_from(NAMES), max_size=4))}
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=2)):
        chosen[name] = draw(values)
    return chosen


def ros_value(row: config.Parameter) -> Any:
    return list(row.default) if row.type is tuple else row.default


@given(chosen=settings_near())
@fuzz("parameters from Python", 0.02)
def test_value_is_kept_or_rejected_with_its_name(chosen: dict[str, Any]) -> None:
    made = attempt("parameters from Python", lambda: Config.from_mapping(chosen), "parameter ", errors=ConfigError)
    for name, value in chosen.items() if made else ():
        kept = getattr(made, name)
        assert type(kept) is ROWS[name].type
        assert list(kept) == [word for word in value or () if word] if ROWS[name].type is tuple else kept == value


@given(names=misspelled(NAMES))
@fuzz("parameters, misspelled", 0.02)
def test_misspelled_name_suggests_a_similar_one(names: tuple[str, str]) -> None:
    """Another name may be as similar as the correct one."""
    wrong, _ = names
    if wrong in ROWS:
        return
    with pytest.raises(ConfigError) as caught:
        Config.from_mapping({wrong: 1})
    assert repr(wrong) in str(caught.value)
    assert any(f"did you mean '{name}'?" in str(caught.value) for name in NAMES)


MAPPING = {"ids": {0: "road", 1: 1, 2: None}, "to": "street", "source": "own", "names": {0: "way", 9: "other"}}


@given(value=near_document(MAPPING))
@fuzz("label mapping", 0.01)
def test_label_mapping_is_parsed_or_rejected(value: Any) -> None:
    mapping = attempt("label mapping", lambda: parse_mapping(value, "file m.yaml"), "file m.yaml", errors=ConfigError)
    if mapping is not None:
        assert mapping.classes is STREET or mapping.classes.name in ("kitti6", "nyud40")
        assert mapping.table().shape == (256,)


TABBED = b"""camera:
  ros__parameters: {rate:\t10.0,\tframe: "a"}\t# other
mtl_perception:
  ros__parameters:\t
    max_depth:\t20.0\t# meters
    cameras:\t[front,\tleft]\t
    nested:
      deep:
      - 1\t
      - 2\t
"/**":\t# all
  ros__parameters:
    wheel_radius:\t0.3
"""


class TestNode:
    """Parameters read by rcl from arguments and files."""

    pytest.importorskip("rclpy", reason="needs rclpy")

    @pytest.fixture(autouse=True, scope="class")
    def imported(self) -> None:
        """Import the node before the first case, so that its memory does not count."""
        importlib.import_module("support.node_in_process")

    @given(
        chosen=settings_near(),
        wrong=sometimes(st.none(), misspelled(NAMES)),
        section=st.sampled_from(["mtl_perception", "/mtl_perception", "/**", "/*", "/**/mtl_perception", "other"]),
    )
    @fuzz("parameters at start", 0.015)
    def test_parameter_file_is_applied_or_rejected(
        self, chosen: Any, wrong: Any, section: str, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        from support.node_in_process import started

        if wrong:
            chosen[wrong[0]] = 1.0
        path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
        path.write_text(yaml.safe_dump({section: {"ros__parameters": chosen}}))

        def start() -> Config:
            with started("--params-file", str(path)) as node:
                return node.config

        made = attempt("parameters at start", lambda: _as_at_start(start), errors=ConfigError)
        if made is None:
            return
        if section != "other":
            # `/**` as the only section, with mostly our names, is meant for this node.
            is_ours = section == "/**" and sum(name in NAMES for name in chosen) > 1
            assert ("*" in section.rpartition("/")[2] and not is_ours) or set(chosen) <= set(NAMES)
            for name in set(chosen) & set(NAMES):
                # rcl has no null and reads the text "null".
                assert getattr(made, name) == ROWS[name].convert("null" if chosen[name] is None else chosen[name])
        else:
            assert made == Config()

    @given(data=damaged([Path(__file__).parents[2].joinpath("config/cpu-small.yaml").read_bytes()]))
    @fuzz("parameter file, damaged", 0.01)
    def test_damaged_parameter_file_is_read_or_rejected(self, data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
        from support.node_in_process import started

        path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
        path.write_bytes(data)

        def start() -> Config:
            with started("--params-file", str(path)) as node:
                return node.config

        attempt("parameter file, damaged", lambda: _as_at_start(start), errors=ConfigError)

    @given(data=damaged([TABBED]))
    @fuzz("parameter file with tabs", 0.01)
    def test_found_names_are_those_of_rcl(self, data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
        """Every file that rcl accepts yields the same names in `find_overrides`."""
        import rclpy
        from rclpy.context import Context
        from rclpy.node import Node

        from mtl_perception.ros.overrides import find_overrides

        path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
        path.write_bytes(data)
        arguments = ["node", "--ros-args", "--params-file", str(path)]

        def start() -> set[str]:
            context = Context()
            rclpy.init(args=arguments, context=context)
            try:
                node = Node("mtl_perception", context=context)
                names = set(node._parameter_overrides)
                node.destroy_node()
                return names
            finally:
                context.try_shutdown()

        names = attempt("parameter file with tabs", lambda: _as_at_start(start), errors=ConfigError)
        if names is not None:
            assert {found.name for found in find_overrides(arguments, "/mtl_perception", pytest.fail)} == names


def _as_at_start(start: Callable[[], Any]) -> Any:
    """Convert errors of rcl as `environment.initialize` does, which may run only once in a process."""
    from rclpy._rclpy_pybind11 import RCLError, UnknownROSArgsError

    try:
        return start()
    except (RCLError, UnknownROSArgsError) as error:
        raise ConfigError("rcl rejected the file") from error
