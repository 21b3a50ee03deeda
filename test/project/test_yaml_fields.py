"""Checked access to the values of YAML files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from mtl_perception.errors import ConfigError
from mtl_perception.yaml_fields import PATH, YamlFields, build, parse_yaml, read_yaml


@dataclass(frozen=True)
class Lens:
    """Part of `Camera`."""

    focal_length: float
    coefficients: tuple[float, ...] = ()


@dataclass(frozen=True)
class Camera:
    """A dataclass with a field of each kind."""

    name: str
    size: tuple[int, int] = (4, 3)
    color: bool = True
    weights: dict[str, float] = field(default_factory=dict)
    file: str = field(default="", metadata=PATH)
    lens: Lens = field(default_factory=lambda: Lens(1.0))

    def __post_init__(self) -> None:
        if self.size[0] < 1:
            raise ConfigError(f"size {list(self.size)}: give pixels above 0")


def test_a_dataclass_is_built_from_values_of_its_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/data")
    text = """
        name: front
        size: [640, 480]
        color: false
        weights: {near: 1, far: 2.5e-1}
        file: ${PLACE}/a.png
        lens: {focal_length: 1e2, coefficients: [1, .5]}
    """
    camera = build(Camera, YamlFields(yaml.safe_load(text), "here"))
    assert camera == Camera("front", (640, 480), False, {"near": 1.0, "far": 0.25}, "/data/a.png", Lens(100.0, (1.0, 0.5)))
    assert build(Camera, YamlFields({"name": "rear"}, "here")) == Camera("rear")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sizes: x", "unknown key 'sizes'; did you mean 'size'?"),
        ("1: x", "unknown key 1 (known: name, size, color, weights, file, lens)"),
        ("name: a\nlens: {focal: 1}", "unknown key 'lens.focal' (known: focal_length, coefficients)"),
        ("color: true", "name is missing; give text"),
        ("name:", "name has no value; give text, or remove the key"),
        ("name: 2024", "name: 2024 is not text; quote it"),
        ("name: [a]", "name: ['a'] is not text"),
        ("name: a\ncolor: 1", "color: 1 is not true or false"),
        ("name: a\nsize: [640]", "size: [640] is not a list of 2 integers"),
        ("name: a\nsize: [640, 4.5]", "size: entry 2: 4.5 is not an integer"),
        ("name: a\nsize: [640, true]", "size: entry 2: True is not an integer"),
        ("name: a\nsize: [0, 1]", "size [0, 1]: give pixels above 0"),
        ("name: a\nweights: [1]", "weights: [1] is not a mapping of `key: value` lines"),
        ("name: a\nweights: {near: much}", "weights.near: 'much' is not a number"),
        ("name: a\nweights: {1: 2}", "weights: key: 1 is not text; quote it"),
        ("name: a\nfile: ${NO_SUCH_PLACE}/x", "file: '${NO_SUCH_PLACE}/x' needs the environment variable NO_SUCH_PLACE"),
        ("name: a\nlens:", "lens has no value; give a mapping of `key: value` lines, or remove the key"),
        ("name: a\nlens: 5", "lens: 5 is not a mapping of `key: value` lines"),
        ("name: a\nlens: {}", "lens.focal_length is missing; give a number"),
        ("name: a\nlens: {focal_length: .inf}", "lens.focal_length: inf is not a number"),
        ("name: a\nlens: {focal_length: 0x1" + 400 * "0" + "}", "lens.focal_length: an integer of 1601 bits is not a number"),
        ("name: a\nlens: {focal_length: 1, coefficients: 5}", "lens.coefficients: 5 is not a list of numbers"),
    ],
)
def test_the_error_of_an_invalid_value_names_file_key_and_what_to_give(line: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Camera, YamlFields(yaml.safe_load(line), "a.yaml"))
    assert str(caught.value).startswith(f"a.yaml: {message}")


def test_values_without_a_dataclass_have_the_same_checks() -> None:
    fields = YamlFields({"share": "1e-1", "count": -5, "kind": "drives", "empty": "", "size": -0.5}, "a.yaml: set 1")
    assert fields.number("share") == 0.1 and fields.number("none", 2.0) == 2.0 and not fields.flag("no", False)
    for access, message in (
        (lambda: fields.integer("count"), "count: -5 is below 0; give 0 or more"),
        (lambda: fields.number("size", low=0.0), "size: -0.5 is below 0; give 0 or more"),
        (lambda: fields.number("size", positive=True), "size: -0.5 is not above 0"),
        (lambda: fields.choice("kind", ["drive", "b"]), "kind: 'drives' is not one of drive, b; did you mean 'drive'?"),
        (lambda: fields.choice("sort", ["a", "b"]), "sort is missing; give one of a, b"),
        (lambda: fields.text("empty"), "empty is empty; give text"),
        (lambda: fields.inner("kind"), "kind: 'drives' is not a mapping"),
        (lambda: YamlFields([1], "a.yaml: set 1"), "not a mapping of `key: value` lines"),
    ):
        with pytest.raises(ConfigError) as caught:
            access()
        assert str(caught.value).startswith(f"a.yaml: set 1: {message}")


def test_a_file_that_is_not_yaml_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    invalid = {b"a: [": "while parsing", b"a: 2026-13-45": "month must be", b"\xff\xfe": "it is not UTF-8 text"}
    for content, reason in invalid.items():
        path.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            read_yaml(path)
        message = str(caught.value)
        assert message.startswith(f"{path} is not YAML: {reason}") and "\n" not in message
    with pytest.raises(ConfigError, match=r"no.yaml cannot be read: No such file"):
        read_yaml(tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match="^--set x: the value is not YAML: while parsing"):
        parse_yaml("[", "--set x: the value")
