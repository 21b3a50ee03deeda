"""The parameter class_groups: groups in place of the network's classes in every output."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.bags import drive, write_bag
from support.pipeline_fixtures import FRAME, IMAGE, assert_cloud_belongs_to, pipeline_fixtures, same

from mtl_perception import load_network
from mtl_perception.__main__ import main
from mtl_perception.errors import ConfigError
from mtl_perception.inference.cuda.backend import CudaBackend
from mtl_perception.inference.cuda.runtime import HostRuntime
from mtl_perception.inference.openvino.engine import OpenVinoEngine
from mtl_perception.labels import STREET, parse_groups
from mtl_perception.messages.encode import MessageEncoder
from mtl_perception.types import ALL_OUTPUTS

GROUPS = ("drivable: road, sidewalk", "dynamic #ff8000: person, cyclist, vehicle", "obstacle: *")
NAMES = ("drivable", "dynamic", "obstacle")
TABLE = np.full(256, 255, np.uint8)
"""Group by class, written by hand: the classes of `street` in their order."""
TABLE[:12] = (0, 0, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1)
REVERSED = tuple(f"{name}: {name}" for name in reversed(STREET.names))
"""Groups with which labels that are mapped twice would differ from those that are mapped once."""
COLORS = ((128, 64, 128), (255, 128, 0), (152, 251, 152))

make, pipe, tuned, full = pipeline_fixtures()


@pytest.fixture(scope="module")
def grouped(make):
    return make(class_groups=GROUPS)


class TestParsing:
    def test_ids_names_and_colors(self):
        mapping = parse_groups(GROUPS, STREET)
        assert (mapping.classes.names, mapping.classes.colors) == (NAMES, COLORS)
        np.testing.assert_array_equal(mapping.table(), TABLE)

    def test_remaining_classes_may_have_any_place(self):
        mapping = parse_groups(["rest #000102: *", "sky: sky", "road : road ,person"], STREET)
        assert mapping.classes.names == ("rest", "sky", "road")
        assert mapping.classes.colors == ((0, 1, 2), STREET.colors[8], STREET.colors[0])
        assert [mapping.ids[i] for i in range(12)] == [2, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0]

    def test_group_for_no_remaining_class_is_black(self):
        mapping = parse_groups([f"all: {', '.join(STREET.names)}", "other: *"], STREET)
        assert (set(mapping.ids.values()), mapping.classes.colors[1]) == ({0}, (0, 0, 0))

    @pytest.mark.parametrize(
        ("entries", "words"),
        [
            (["drivable: rod", "other: *"], "drivable: 'rod' is not a class of random; did you mean 'road'?"),
            (["drivable: lava", "other: *"], "'lava' is not a class of random (road, sidewalk, "),
            (["drivable: road,", "other: *"], "drivable: '' is not a class of random"),
            (["drivable: 0", "other: *"], "'0' is not a class of random"),
            (["drivable road", "other: *"], "'drivable road' is malformed; write `name: class, class` or `name: *`"),
            ([": road", "other: *"], "': road' is malformed"),
            (["drivable:", "other: *"], "'drivable:' is malformed"),
            (["drivable #12345: road", "other: *"], "malformed"),
            (["a: road", "b: road", "other: *"], "road is in two groups: a and b"),
            (["a: *", "b: *"], "* is in two groups: a and b"),
            (["a: road", "a: *"], "two groups are named 'a'"),
            (
                ["a: road, sidewalk, terrain, building, fence, pole, sign, vegetation, sky, person"],
                "no group has cyclist, vehicle",
            ),
        ],
    )
    def test_error_names_parameter_and_entry(self, make, entries, words):
        with pytest.raises(ConfigError) as caught:
            make(class_groups=entries)
        assert str(caught.value).startswith("parameter class_groups: ")
        assert words in str(caught.value)

    def test_message_for_an_endless_entry_is_short(self):
        for entry in ("a b" * 10**6, "a: " + "b" * 10**6, "a" * 10**6 + ": road", "a" + " " * 10**6 + ": b"):
            with pytest.raises(ConfigError, match="parameter class_groups: ") as caught:
                parse_groups([entry] * 100, STREET)
            assert len(str(caught.value)) < 500

    @pytest.mark.parametrize("value", ["drivable: road", [1], {"drivable": "road"}])
    def test_value_is_a_list_of_strings(self, make, value):
        with pytest.raises(ConfigError, match="parameter class_groups: .* is not a list of strings"):
            make(class_groups=value)

    def test_groups_need_a_new_configuration(self, grouped):
        with pytest.raises(ConfigError, match="class_groups can change while unconfigured"):
            grouped.update(class_groups=())


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_every_output_has_the_group_of_the_class(make, backend):
    if backend == "openvino":
        pytest.importorskip("openvino", reason="needs openvino")
        assert OpenVinoEngine.__name__ in type(make(backend=backend)._backend.engine).__name__
    expected = make(backend=backend, min_confidence=0.15)(FRAME, ALL_OUTPUTS)
    result = make(backend=backend, min_confidence=0.15, class_groups=GROUPS)(FRAME, ALL_OUTPUTS)
    assert {0, 1, 2, 255} == set(np.unique(result.labels)), "some pixels are below the minimum confidence"
    np.testing.assert_array_equal(result.labels, TABLE[expected.labels])
    assert_cloud_belongs_to(result)
    for name in ("confidence", "depth", "scores", "image"):
        assert same(getattr(result, name), getattr(expected, name)), name
    assert result.class_set.names == NAMES
    np.testing.assert_array_equal(
        result.overlay(1.0)[result.labels < 255], np.array(COLORS)[result.labels[result.labels < 255]]
    )


def test_smaller_cloud_has_the_groups_of_its_pixels(make, full):
    result = make(class_groups=GROUPS, points_stride=3)(FRAME)
    np.testing.assert_array_equal(result.labels, TABLE[full.labels])
    np.testing.assert_array_equal(result.cloud["label"], TABLE[full.labels][::3, ::3])


def test_requests_in_progress_on_a_gpu_are_grouped_once(make, weights_file, full):
    """With the backend for GPUs, whose results lie in memory that later requests overwrite, run on the CPU."""
    pipe = make(class_groups=REVERSED)
    network = load_network(weights_file)
    pipe._backend = CudaBackend(network, HostRuntime(), "fp32", (0, len(STREET)), copies=False)
    expected = 11 - full.labels.astype(int)
    count = 0
    for result in pipe.stream([FRAME] * 5):
        # Other arithmetic than on the CPU.
        assert (result.labels == expected).mean() > 0.999
        np.testing.assert_array_equal(result.cloud["label"], result.labels)
        count += 1
    assert count == 5
    first, second = pipe(FRAME), pipe(FRAME)
    np.testing.assert_array_equal(first.cloud["label"], second.labels)


def test_viewers_get_the_colors_of_the_groups(grouped):
    encoder, result = MessageEncoder(grouped.class_set), grouped(FRAME)
    points = encoder.segmentation_points(result)["data"].view("<u4").reshape(-1, 5)
    red, green, blue = np.array(COLORS, np.uint32)[result.labels.ravel()].T
    np.testing.assert_array_equal(points[:, 3], red << 16 | green << 8 | blue)
    image = encoder.segmentation_image(result)["data"].reshape(-1, 3)[:, ::-1]
    np.testing.assert_array_equal(image, np.array(COLORS)[result.labels.ravel()])


def test_cloud_alone_has_groups(grouped, full):
    result = grouped(FRAME, {"cloud"})
    assert result.labels is None
    np.testing.assert_array_equal(result.cloud["label"], TABLE[full.labels])


def test_streams_batches_and_reused_buffers_are_grouped_once(make, full):
    reused = make(class_groups=REVERSED)
    reused = type(reused)(config=reused.config, reuse_outputs=True)
    expected = 11 - full.labels.astype(int)

    def check(result) -> None:
        np.testing.assert_array_equal(result.labels, expected)
        np.testing.assert_array_equal(result.cloud["label"], expected)

    check(reused(FRAME))
    check(reused(FRAME))
    for result in reused.stream([FRAME, FRAME]):
        check(result)
    for result in reused.batch([FRAME, FRAME], [ALL_OUTPUTS] * 2):
        check(result)


def test_without_groups_outputs_are_unchanged(make, full):
    result = make(class_groups=[""])(FRAME)
    for name in ("labels", "confidence", "depth", "cloud"):
        assert same(getattr(result, name), getattr(full, name))
    assert result.class_set == full.class_set


def test_label_info_lists_the_groups(grouped):
    fields = MessageEncoder(grouped.class_set).label_info()
    assert [(entry["class_id"], entry["class_name"]) for entry in fields["class_map"]] == list(enumerate(NAMES))


def test_infer_writes_groups(tmp_path: Path, weights_file: Path, grouped, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), IMAGE[..., ::-1])
    given = ["--weights", str(weights_file), "--device", "cpu", "--class-groups", *GROUPS]
    assert main(["infer", str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), *given]) == 0, capsys.readouterr().err
    labels = cv2.imread(str(tmp_path / "out/a.labels.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(labels, grouped(IMAGE).labels)
    colors = cv2.imread(str(tmp_path / "out/a.color.png"))[..., ::-1]
    np.testing.assert_array_equal(colors, np.array(COLORS)[labels])
    classes = json.loads((tmp_path / "out/classes.json").read_text())
    assert classes == [{"id": i, "name": name, "color": list(COLORS[i])} for i, name in enumerate(NAMES)]


def test_process_writes_groups(tmp_path: Path, weights_file: Path, capsys):
    rosbags = pytest.importorskip("rosbags.highlevel", reason="needs rosbags")
    source = write_bag(tmp_path / "in", "mcap", drive("mcap", 1, (24, 32)))
    given = ["--weights", str(weights_file), "--device", "cpu", "--class-groups", *GROUPS]
    assert main(["process", str(source), "--out", str(tmp_path / "out.mcap"), *given]) == 0, capsys.readouterr().err
    with rosbags.AnyReader([tmp_path / "out.mcap"]) as reader:
        found = {
            c.topic.removeprefix("/mtl_perception/"): reader.deserialize(data, c.msgtype) for c, _, data in reader.messages()
        }
    info = found["segmentation/label_info"]
    assert [(entry.class_id, entry.class_name) for entry in info.class_map] == list(enumerate(NAMES))
    labels = found["segmentation/labels"].data
    assert set(np.unique(labels)) <= {0, 1, 2}
    points = np.frombuffer(found["points"].data, "<u4").reshape(-1, 5)
    np.testing.assert_array_equal(points[:, 4], labels)
    colors = found["segmentation/image"].data.reshape(-1, 3)[:, ::-1]
    np.testing.assert_array_equal(colors, np.array(COLORS)[labels])


def test_unknown_class_on_the_command_line_is_one_line(tmp_path: Path, weights_file: Path, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), IMAGE)
    given = ["--weights", str(weights_file), "--class-groups", "drivable: rod", "other: *"]
    assert main(["infer", str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), *given]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("parameter class_groups: drivable: 'rod' is not a class of random; did you mean 'road'?")
