"""`process --images`: data sets that `train` and `eval` read."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from support.bags import bag_image, write_drive

from mtl_perception import Frame, Pipeline
from mtl_perception.__main__ import main
from mtl_perception.camera.model import CameraModel
from mtl_perception.labels import CLASS_SETS
from mtl_perception.training.data.open import open_datasets, validate
from mtl_perception.types import UNLABELED
from mtl_perception.visualization import files
from mtl_perception.visualization.files import WriteLock

CAMERA = CameraModel(32, 24, 40.0, 41.0, 15.5, 11.5)


@pytest.fixture
def process(weights_file, capsys):
    """Run `process --images` and return exit code, stdout and the last line of stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        options = ["--images", "--weights", str(weights_file), "--device", "cpu"]
        code = main(["process", *map(str, arguments), *options])
        captured = capsys.readouterr()
        return code, captured.out.strip(), (captured.err.splitlines() or [""])[-1]

    return run


def names_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_training_reads_the_values_of_the_pipeline(tmp_path, process, weights_file):
    source = write_drive(tmp_path / "monday.mcap", 3)
    folder = tmp_path / "labeled"
    assert process(source, "--out", f"{folder}/", "--min-confidence", 0.5, "--max-depth", 30)[0] == 0
    (dataset,) = open_datasets(folder)
    assert (dataset.name, dataset.keys, validate(dataset)) == ("monday", ["000000", "000001", "000002"], 3)
    assert dataset.classes == CLASS_SETS["street"]
    pipeline = Pipeline(str(weights_file), "cpu", min_confidence=0.5, max_depth=30.0, warm_up=False)
    sky = pipeline.class_set.names.index("sky")
    kept = set()
    for index in range(3):
        result = pipeline(Frame(bag_image(index), CAMERA))
        sample = dataset[index]
        np.testing.assert_array_equal(sample.labels, result.labels)
        is_sky = np.isinf(result.depth) & (result.labels == sky)
        unknown = ~np.isfinite(result.depth) & ~is_sky
        np.testing.assert_array_equal(np.isposinf(sample.depth), is_sky)
        np.testing.assert_array_equal(np.isnan(sample.depth), unknown)
        finite = np.isfinite(result.depth)
        np.testing.assert_allclose(sample.depth[finite], result.depth[finite], atol=0.5 / 256 + 1e-5)
        assert sample.frame.camera == CAMERA
        _, jpeg = cv2.imencode(".jpg", bag_image(index)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        np.testing.assert_array_equal(sample.frame.image, cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1])
        kept |= {(sample.labels == UNLABELED).any(), (sample.labels != UNLABELED).any(), finite.any(), unknown.any()}
    assert kept == {True}, "the test needs pixels of each kind"


def test_description_has_license_and_classes(tmp_path, process):
    source = write_drive(tmp_path / "a.mcap", 1)
    assert process(source, "--out", tmp_path / "one", "--class-groups", "ground: road, sidewalk", "rest: *")[0] == 0
    description = yaml.safe_load((tmp_path / "one" / "dataset.yaml").read_text())
    assert description["license"] == "labels and depth by the weights 'random' (none); images: that of the recording"
    assert [entry["name"] for entry in description["classes"]] == ["ground", "rest"]
    (dataset,) = open_datasets(tmp_path / "one")
    assert set(np.unique(dataset[0].labels)) <= {0, 1, UNLABELED}
    assert dataset.classes.names == ("ground", "rest")


def test_run_continues_and_unfinished_data_sets_are_not_read(tmp_path, process, capsys):
    good, damaged = write_drive(tmp_path / "good.mcap", 2), write_drive(tmp_path / "damaged.mcap", 3)
    data = damaged.read_bytes()
    damaged.write_bytes(data[: data.rindex(bag_image(2).tobytes()) + 100])
    folder = tmp_path / "out"
    assert process(good, damaged, "--out", folder)[0] == 1
    assert names_of(folder) == {"good", "damaged.partial", "results.jsonl"}
    error = [json.loads(line)["error"] for line in (folder / "results.jsonl").read_text().splitlines()][1]
    assert error.endswith(f"; the 2 frames before it are in {folder / 'damaged.partial'}")
    assert [dataset.name for dataset in open_datasets(folder)] == ["good"]
    damaged.write_bytes(data)
    before = (folder / "good" / "dataset.yaml").stat().st_mtime_ns
    assert process(good, damaged, "--out", folder)[1] == f"1 done, 1 skipped, 0 failed of 2 sources -> {folder}"
    assert names_of(folder) == {"good", "damaged", "results.jsonl"}
    assert [len(dataset) for dataset in open_datasets(folder)] == [3, 2]
    assert (folder / "good" / "dataset.yaml").stat().st_mtime_ns == before
    assert process(good, damaged, "--out", folder, "--min-confidence", 1)[1].startswith("2 done, 0 skipped")
    assert names_of(folder) == {"good", "damaged", "results.jsonl"}
    assert (open_datasets(folder)[1][0].labels == UNLABELED).all()


class TestExistingFolders:
    def test_data_set_is_replaced_with_force_only(self, tmp_path, process):
        source = write_drive(tmp_path / "a.mcap", 1)
        out = tmp_path / "one"
        assert process(source, "--out", out)[:2] == (0, f"1 frames -> {out}")
        code, _, line = process(source, "--out", out)
        message = f"output {out} already exists; choose another name, or replace it with --force"
        assert (code, line) == (1, f"mtl_perception process: {message}")
        assert process(source, "--out", out, "--force")[0] == 0

    def test_other_folder_is_never_replaced(self, tmp_path, process):
        source = write_drive(tmp_path / "a.mcap", 1)
        for name in ("one", "two.partial"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "thesis.tex").touch()
        assert process(source, "--out", tmp_path / "one", "--force")[2].endswith(
            "it is not a data set of process; choose another name"
        )
        assert process(source, "--out", tmp_path / "two", "--force")[2].endswith("because it contains thesis.tex")
        assert names_of(tmp_path / "one") == names_of(tmp_path / "two.partial") == {"thesis.tex"}

    def test_folder_that_another_process_writes_is_kept(self, tmp_path, process):
        source = write_drive(tmp_path / "a.mcap", 1)
        partial = tmp_path / "one.partial"
        partial.mkdir()
        (partial / "process.json").touch()
        lock = WriteLock(partial / "process.json")
        assert process(source, "--out", tmp_path / "one", "--force")[2].endswith(f"another process is writing {partial}")
        lock.close()
        assert process(source, "--out", tmp_path / "one", "--force")[0] == 0

    def test_unfinished_folder_of_another_process_gets_no_name(self, tmp_path, process, weights_file, monkeypatch, capsys):
        """Without locks, a second process replaces the partial folder of the first, which finishes earlier."""
        monkeypatch.setattr(files, "_flock", lambda descriptor, kind: None)
        source = write_drive(tmp_path / "a.mcap", 3)
        out = tmp_path / "one"
        call = Pipeline.__call__
        codes: list[tuple[int, str, str]] = []

        def start_another(self, *arguments):
            result = call(self, *arguments)
            monkeypatch.setattr(Pipeline, "__call__", call)
            codes.append(process(source, "--out", out, "--force"))
            return result

        monkeypatch.setattr(Pipeline, "__call__", start_another)
        code, _, line = process(source, "--out", out)
        assert code == 1 and f"another process has replaced {tmp_path / 'one.partial'}; do not write" in line
        assert [code for code, *_ in codes] == [0]
        assert names_of(tmp_path) == {"a.mcap", "one"}
        assert {path.name for path in (out / "label").iterdir()} == {"000000.png", "000001.png", "000002.png"}


@pytest.mark.parametrize("options", [["--with-input"], ["--topics", "depth/image"]])
def test_options_of_bags_are_refused(tmp_path, process, options):
    assert process(tmp_path / "a.mcap", "--out", tmp_path / "o", *options)[0] == 2
