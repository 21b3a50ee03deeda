"""Label mappings: data in YAML files, checked when they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from mtl_perception.errors import ConfigError
from mtl_perception.labels import KITTI6, NYUD40, STREET, load_mapping, mapping_names, parse_mapping


def _class(table: np.ndarray, index: int) -> str:
    return STREET.names[table[index]]


def test_the_package_brings_these() -> None:
    assert mapping_names() == ["camvid", "cityscapes", "kitti6", "nyud40", "street"]
    for name in mapping_names():
        mapping = load_mapping(name)
        assert mapping.name == name and mapping.source


def test_cityscapes_to_street() -> None:
    mapping = load_mapping("cityscapes")
    table = mapping.table()
    assert mapping.classes is STREET
    expected = {7: "road", 8: "sidewalk", 12: "fence", 14: "fence", 18: "pole", 19: "sign", 25: "cyclist", 31: "vehicle"}
    assert {index: _class(table, index) for index in expected} == expected
    # Ego vehicle, ground, parking, bridge, tunnel have no class; neither has what Cityscapes does not number.
    assert (table[[1, 6, 9, 15, 16, 34, 255]] == 255).all()
    # Every class of `street` is met, by 23 of 34 ids.
    assert sorted(mapping.ids.values())[0] == 0 and set(mapping.ids.values()) == set(range(12)) and len(mapping.ids) == 23
    assert list(np.flatnonzero(mapping.known())) == [*range(34), 255]


def test_camvid_to_street() -> None:
    table = load_mapping("camvid").table()
    found = [_class(table, index) for index in range(11)]
    assert " ".join(found) == "sky building pole road sidewalk vegetation sign fence vehicle person cyclist"
    assert table[11] == 255


def test_street_to_the_six_of_the_paper() -> None:
    mapping = load_mapping("kitti6")
    table = mapping.table()
    assert mapping.classes is KITTI6
    names = {STREET.names[i]: KITTI6.names[table[i]] for i in range(12) if table[i] != 255}
    assert names == {
        "sky": "sky",
        "building": "building",
        "road": "road",
        "sidewalk": "sidewalk",
        "vegetation": "vegetation",
        "vehicle": "car",
    }


def test_identities() -> None:
    assert list(load_mapping("street").table()[:13]) == [*range(12), 255]
    indoor = load_mapping("nyud40")
    assert indoor.classes is NYUD40
    assert list(indoor.table()[:42]) == [255, *range(40), 255]


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text("to: street\nsource: us\nnames: {9: bonnet}\nids: {1: road, 2: 11, 3: null}\n")
    mapping = load_mapping("ours.yaml", tmp_path)
    assert (mapping.name, mapping.source, mapping.ids) == ("ours", "us", {1: 0, 2: 11})
    assert list(np.flatnonzero(mapping.known())) == [1, 2, 3, 9, 255]
    assert mapping.table()[[1, 2, 3, 9]].tolist() == [0, 11, 255, 255]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("to: street\nids: {7: raod}", ["ids: 7", "'raod'", "did you mean 'road'?"]),
        ("to: street\nids: {7: 12}", ["ids: 7", "12 is not a class of street"]),
        ("to: street\nids: {255: road}", ["ids: 255", "0 to 254"]),
        ("to: street\nids: {a: road}", ["ids: 'a'", "not an id"]),
        ("to: street\nids: {}", ["ids:", "at least one"]),
        ("to: town\nids: {1: road}", ["to: 'town'", "street, kitti6, nyud40"]),
        ("ids: {1: road}", ["to is missing; give one of street, kitti6, nyud40"]),
        ("to: street\nids: {1: road}\nnaems: {}", ["unknown key 'naems'"]),
        ("to: street\nids: {1: road}\nnames: [a]", ["names:"]),
        ("- 1", ["not a mapping of `key: value` lines"]),
        ("to: [", ["is not YAML"]),
    ],
)
def test_a_faulty_file_is_refused_by_name_and_key(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_mapping(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    assert all(word in message for word in words), message


ALIASES = "a0: &a0 [1, 1, 1, 1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))


@pytest.mark.parametrize("line", ["to: *a11", "ids: {1: *a11}", "names: {1: *a11}", "source: *a11"])
def test_aliases_are_not_written_out(line: str) -> None:
    """4 x 10^11 numbers in a kilobyte of YAML."""
    values = {"to": "street", "ids": {1: "road"}, **yaml.safe_load(ALIASES + line)}
    values = {key: value for key, value in values.items() if key in ("to", "ids", "names", "source")}
    try:
        told = str(parse_mapping(values, "here"))
    except ConfigError as error:
        told = str(error)
    assert len(told) < 1000


def test_unknown_names_and_missing_files() -> None:
    with pytest.raises(ConfigError, match="unknown label mapping 'citiscapes'.*cityscapes"):
        load_mapping("citiscapes")
    with pytest.raises(ConfigError, match="/nowhere/x.yaml cannot be read: No such file"):
        load_mapping("/nowhere/x.yaml")


def test_ids_alone_lead_to_the_classes_that_are_given() -> None:
    assert parse_mapping({0: "sky", 4: "road"}, "here", classes=STREET).ids == {0: 8, 4: 0}
    with pytest.raises(ConfigError, match="here: unknown key 0"):
        parse_mapping({0: "sky"}, "here")
