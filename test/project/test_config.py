"""The table of parameters: bounds, types, names."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import pytest

from mtl_perception.config import RENAMED, Config, by_name, parameters
from mtl_perception.errors import ConfigError

ROWS = {row.name: row for row in parameters()}
NUMBERS = [name for name, row in ROWS.items() if row.type in (int, float)]
WRONG_TYPES = {str: (1, 1.5, True, None, b"x", ["a"]), bool: (0, 1, "true", 1.0, None), int: (True, False, 1.0, "1", None),
               float: (True, "1.0", None, [1.0], 10**400), tuple: (1, "front", [1], [["front"]])}  # fmt: skip
TYPE_NAMES = {str: "str", bool: "bool", int: "int", float: "float", tuple: "list of strings"}


def test_defaults_fit():
    config = Config()
    for name, row in ROWS.items():
        assert getattr(config, name) == row.default
        row.check(row.default)


@pytest.mark.parametrize("name", NUMBERS)
class TestBounds:
    def test_both_ends_are_allowed(self, name):
        row = ROWS[name]
        # A nearest depth needs a farthest one beyond it.
        others = {"max_depth": 0.0} if name == "min_depth" else {}
        for value in (row.low, row.high):
            assert getattr(Config.from_mapping({**others, name: row.type(value)}), name) == value

    def test_beyond_is_refused_and_named(self, name):
        row = ROWS[name]
        step = 1 if row.type is int else 1e-6
        beyond = [row.type(row.low) - step, row.type(row.high) + step]
        for value in beyond + ([math.nan, math.inf, -math.inf] if row.type is float else []):
            with pytest.raises(ConfigError, match=rf"parameter {name}: .* is outside {row.low:g} to {row.high:g}"):
                Config.from_mapping({name: value})


@pytest.mark.parametrize("name", ROWS)
def test_wrong_types(name):
    for value in WRONG_TYPES[ROWS[name].type]:
        with pytest.raises(ConfigError, match=rf"parameter {name}: .* is not a {TYPE_NAMES[ROWS[name].type]}"):
            Config.from_mapping({name: value})
        with pytest.raises(ConfigError, match=f"parameter {name}"):
            Config(**{name: value})


# Texts of class_groups are parsed with the classes: see test_class_groups.py.
@pytest.mark.parametrize("name", [name for name in ROWS if name not in ("weights", "class_groups")])
def test_endless_values_are_told_shortly(name):
    for value in ("x" * 10**6, ["a b"] * 10**5):
        if ROWS[name].type is str and not ROWS[name].choices and name != "device" and isinstance(value, str):
            continue
        with pytest.raises(ConfigError, match=f"parameter {name}: ") as caught:
            Config.from_mapping({name: value})
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.choices])
def test_choices(name):
    for choice in ROWS[name].choices:
        assert getattr(Config.from_mapping({name: choice}), name) == choice
    for value in ("", "nonsense", ROWS[name].choices[0].upper()):
        with pytest.raises(ConfigError, match=rf"parameter {name}: '{value}' is not one of"):
            Config.from_mapping({name: value})


def test_nearest_choice_is_suggested():
    with pytest.raises(ConfigError, match="did you mean 'bilinear'"):
        Config(upsampling="bilinar")


@pytest.mark.parametrize(
    ("given", "names"),
    [(["front", "left_2"], ("front", "left_2")), ([], ()), ([""], ()), (None, ()), (("a",), ("a",))],  # None: ROS's empty list
)
def test_lists_of_names(given, names):
    assert Config.from_mapping({"cameras": given}).cameras == names


@pytest.mark.parametrize("name", ["left front", "2nd", "a/b", "_a", "a_", "a__b", "vögel", "~"])
def test_names_that_no_topic_can_have(name):
    with pytest.raises(ConfigError, match=f"parameter cameras: '{name}' is not valid in a topic name"):
        Config.from_mapping({"cameras": ["front", name]})


def test_one_name_twice():
    with pytest.raises(ConfigError, match="parameter cameras: 'front' occurs 2 times"):
        Config.from_mapping({"cameras": ["front", "left", "front"]})


@pytest.mark.parametrize("value", ["auto", "cpu", "cuda", "cuda:0", "cuda:13"])
def test_devices(value):
    assert Config(device=value).device == value


@pytest.mark.parametrize("value", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "cpu:0", "CUDA", "cuda :0"])
def test_no_devices(value):
    with pytest.raises(ConfigError, match=r"parameter device: .* is not one of auto, cpu, cuda, cuda:N"):
        Config(device=value)


def test_no_weights():
    with pytest.raises(ConfigError, match="parameter weights: empty"):
        Config(weights="")


@pytest.mark.parametrize("nearest", [10.0, 20.0])
def test_empty_depth_range(nearest):
    with pytest.raises(ConfigError, match=r"parameter min_depth: .* is not below max_depth 10\.0"):
        Config(min_depth=nearest, max_depth=10.0)
    assert Config(min_depth=nearest, max_depth=0.0).min_depth == nearest
    assert Config(min_depth=9.0, max_depth=10.0).min_depth == 9


@pytest.mark.parametrize(("name", "meant"), [("max_dept", "max_depth"), ("weight", "weights"), ("Device", "device")])
def test_unknown_names(name, meant):
    with pytest.raises(ConfigError, match=f"unknown parameter '{name}'; did you mean '{meant}'"):
        Config.from_mapping({name: 1})
    with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
        by_name(name)


@pytest.mark.parametrize("name", RENAMED)
def test_former_names_are_refused_with_the_new_one(name):
    for build in (lambda: Config.from_mapping({name: 1}), lambda: Config(**{name: 1}), lambda: by_name(name)):
        with pytest.raises(ConfigError, match=f"^parameter {name} was renamed to {RENAMED[name]}$"):
            build()
    assert RENAMED[name] in ROWS


def test_unlike_names_get_no_suggestion():
    with pytest.raises(ConfigError, match=r"unknown parameter 'zzz'$"):
        Config.from_mapping({"zzz": 1})


def test_whole_numbers_serve_as_floats():
    config = Config.from_mapping({"max_depth": 50, "input_scale": 1})
    assert (type(config.max_depth), config.max_depth) == (float, 50.0)
    assert (type(config.input_scale), config.input_scale) == (float, 1.0)


def test_frozen():
    with pytest.raises(FrozenInstanceError):
        Config().max_depth = 3.0
