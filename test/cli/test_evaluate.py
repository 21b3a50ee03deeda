"""`eval`: written files, selected pixels and frames, and refused arguments."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from support.data import HEIGHT, WIDTH, write_dataset

from mtl_perception.__main__ import main
from mtl_perception.labels import KITTI6

pytest.importorskip("torchmetrics")
from mtl_perception.training.evaluation import evaluate
from mtl_perception.training.evaluation.evaluate import Evaluation


@pytest.fixture(scope="module")
def six_class_weights(tmp_path_factory) -> Path:
    """Random weights of the published network with six classes."""
    import torch

    from mtl_perception.network.description import published_description
    from mtl_perception.network.model import MultiTaskRefineNet
    from mtl_perception.weights.files import save_weights

    torch.manual_seed(3)
    description = published_description(6, 2)
    path = tmp_path_factory.mktemp("kitti") / "six.safetensors"
    save_weights(path, MultiTaskRefineNet(description).state_dict(), description, half=False)
    return path


@pytest.fixture
def run(capsys):
    def run(*arguments: object) -> tuple[int, str, list[str]]:
        code = main(["eval", *map(str, arguments), "--device", "cpu", "--cpu-threads", "1"])
        captured = capsys.readouterr()
        return code, captured.out, [line for line in captured.err.splitlines() if line.startswith("mtl_perception")]

    return run


class TestCommand:
    def test_two_networks_are_evaluated_in_one_table(self, tmp_path, run, weights_file, six_class_weights):
        data = write_dataset(tmp_path / "own")
        out = tmp_path / "out"
        code, text, _ = run("--weights", weights_file, six_class_weights, "--data", data, "--out", out, "--worst", 2)
        assert code == 0
        rows = [
            [cell.strip() for cell in line.strip("|\n ").split("|")] for line in text.splitlines() if line.startswith("| own")
        ]
        assert [row[:3] for row in rows[:2]] == [["own", "random", "3"], ["own", "six", "3"]]
        report = json.loads((out / "metrics.json").read_text())
        assert report["complete"] is True
        assert report["depth"] == {"crop": "garg", "cap_m": 80.0, "median_scaling": False}
        random, six = (entry["datasets"][0] for entry in report["runs"])
        assert list(random["segmentation"]) == ["street", "kitti6"]
        assert list(six["segmentation"]) == ["kitti6"]
        assert list(six["segmentation"]["kitti6"]["IoU"]) == list(KITTI6.names)
        assert random["license"] == "our own"
        assert [record["name"] for record in random["records"]] == ["0", "1", "2"]
        assert rows[0][3] == f"{100 * random['segmentation']['street']['mIoU']:.1f}"
        assert rows[0][6] == f"{100 * random['calibration']['ECE']:.1f}"
        assert rows[0][8] == f"{random['depth']['abs_rel']:.3f}"
        assert text in (out / "table.md").read_text()
        assert "Interrupted" not in (out / "table.md").read_text()
        for name, part in (("random", random), ("six", six)):
            sheets = sorted(path.name for path in (out / "worst" / name / "own").iterdir())
            worst = min(part["records"], key=lambda record: record["pixel_accuracy"])["name"]
            assert len(sheets) == 2
            assert sheets[0] == f"01_{worst}.jpg"
            assert cv2.imread(str(out / "worst" / name / "own" / sheets[0])).shape[1] == 1728

    def test_boxes_of_a_folder_are_counted_by_height(self, tmp_path, run, weights_file):
        data = write_dataset(tmp_path / "own", 2)
        header = "name,type,truncated,occluded,left,top,right,bottom"
        lines = [
            "0,Pedestrian,0.00,0,0,0,95,47",
            "0,Cyclist,0.00,2,10,10,30,40",
            "0,Car,0.00,0,0,0,20,20",
            "0,Pedestrian,0.60,0,0,0,20,20",
            "0,Cyclist,0.00,3,0,0,20,20",
            "0,DontCare,-1,-1,0,0,20,20",
            "1,Person_sitting,0.00,0,5,5,20,25",
        ]
        (data / "boxes.csv").write_text("\n".join([header, *lines]) + "\n")
        assert run("--weights", weights_file, "--data", data, "--out", tmp_path / "out", "--worst", 0)[0] == 0
        boxes = json.loads((tmp_path / "out/metrics.json").read_text())["runs"][0]["datasets"][0]["boxes"]
        assert boxes["boxes"] == {"person": [1, 0, 1, 0, 0, 2], "cyclist": [0, 1, 0, 0, 0, 1]}
        assert "Found of all boxes, by height (pixels)" in (tmp_path / "out/table.md").read_text()
        (data / "boxes.csv").write_text(f"{header}\n0,Car,0,0,1,2,3\n")
        code, _, errors = run("--weights", weights_file, "--data", data)
        assert code == 2 and "boxes.csv, line 2: not a name, a type and 6 numbers" in errors[0]

    def test_card_prints_a_row_per_metric_and_a_column_per_network(self, tmp_path, run, weights_file, six_class_weights):
        data, out = write_dataset(tmp_path / "own", 2), tmp_path / "out"
        arguments = ("--weights", weights_file, six_class_weights, "--data", data, "--out", out, "--worst", 0, "--card")
        code, text, _ = run(*arguments)
        assert code == 0
        rows = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in text.splitlines() if line[:1] == "|"]
        random, six = (entry["datasets"][0] for entry in json.loads((out / "metrics.json").read_text())["runs"])
        assert rows[0] == ["metric", "`random`", "`six`"]
        cells = {row[0]: row[1:] for row in rows}
        miou = f"{100 * random['segmentation']['street']['mIoU']:.1f} %"
        assert cells["own: mIoU, 12 classes (street)"] == [miou, "-"]
        assert cells["own: mIoU, 6 classes (kitti6)"][1] == f"{100 * six['segmentation']['kitti6']['mIoU']:.1f} %"
        assert cells["own: ECE of the confidence"][0] == f"{100 * random['calibration']['ECE']:.1f} %"
        assert cells["own: AbsRel, RMSE, delta < 1.25 (2 frames)"][0].startswith(f"{random['depth']['abs_rel']:.3f}, ")
        assert "road" in next(row for row in rows if row[0] == "IoU, %")
        assert text.count("AbsRel and bias") == 1

    def test_crop_cap_and_limit_select_pixels_and_frames(self, tmp_path, run, weights_file):
        data = write_dataset(tmp_path / "own")

        def depth(*arguments: object) -> dict:
            assert run("--weights", weights_file, "--data", data, "--out", tmp_path / "out", "--worst", 0, *arguments)[0] == 0
            return json.loads((tmp_path / "out/metrics.json").read_text())["runs"][0]["datasets"][0]

        whole, limited = depth("--crop", "none"), depth("--crop", "none", "--limit", 2)
        assert (whole["frames"], limited["frames"], limited["frames_of_set"]) == (3, 2, 3)
        # A stored 0 is unknown, which is rare.
        assert whole["depth"]["pixels"] > 0.99 * 3 * HEIGHT * WIDTH
        assert depth("--cap", 30, "--crop", "none")["depth"]["pixels"] == pytest.approx(whole["depth"]["pixels"] / 2, rel=0.05)
        garg = depth()["depth"]["pixels"]
        assert garg == pytest.approx(3 * (47 - 19) * (92 - 3), rel=0.01)
        assert not (tmp_path / "out/worst").exists()

    def test_an_interrupted_evaluation_writes_partial_results(self, tmp_path, run, weights_file, monkeypatch):
        data = write_dataset(tmp_path / "own")
        add = Evaluation.add

        def interrupted(self, index: int):
            if index == 2:
                raise KeyboardInterrupt
            return add(self, index)

        monkeypatch.setattr(evaluate.Evaluation, "add", interrupted)
        code, _, lines = run("--weights", weights_file, "--data", data, "--out", tmp_path / "out")
        assert (code, lines) == (1, ["mtl_perception eval: interrupted"])
        report = json.loads((tmp_path / "out/metrics.json").read_text())
        assert report["complete"] is False
        assert [record["name"] for record in report["runs"][0]["datasets"][0]["records"]] == ["0", "1"]
        assert report["runs"][0]["datasets"][0]["depth"]["abs_rel"] > 0
        assert (tmp_path / "out/table.md").read_text().startswith("**Interrupted")

    @pytest.mark.parametrize(
        ("arguments", "code", "problem"),
        [
            (["--data", "none"], 1, "data none does not exist"),
            (["--data", "SET", "--data", "SET"], 2, "two data sets are named 'own'"),
            (["--data", "SET", "--cap", "0"], 2, "cap 0.0: give meters"),
            (["--data", "SET", "--worst", "-1"], 2, "--worst -1 is negative"),
            (["--data", "SET", "--input-scale", "3"], 2, "parameter input_scale: 3.0 is outside"),
            (["--data", "SET", "--weights", "kity"], 1, "unknown weights 'kity'"),
        ],
    )
    def test_invalid_arguments_are_refused_in_one_line(self, tmp_path, run, arguments, code, problem):
        data = str(write_dataset(tmp_path / "own", 1))
        exit_code, text, lines = run(*(data if argument == "SET" else argument for argument in arguments))
        assert (exit_code, text, len(lines)) == (code, "", 1)
        assert problem in lines[0]

    def test_classes_without_a_mapping_are_refused(self, tmp_path, run, weights_file):
        data, other = write_dataset(tmp_path / "own", 1), write_dataset(tmp_path / "other", 1, "nyud40")
        code, _, lines = run("--weights", weights_file, "--data", data, "--data", other, "--out", tmp_path / "out")
        assert code == 2
        assert "data set other has the classes nyud40" in lines[0] and "no mapping between them is known" in lines[0]
        assert not (tmp_path / "out").exists(), "before any frame is evaluated"

    def test_parameters_that_would_change_the_metrics_are_no_options(self):
        with pytest.raises(SystemExit) as exit_error:
            main(["eval", "--data", "x", "--min-depth", "2"])
        assert exit_error.value.code == 2

    def test_shipped_weights_are_accurate_on_real_frames(self, tmp_path, run, shared_data, monkeypatch):
        monkeypatch.setenv("DATA", str(shared_data))
        config = Path(__file__).parents[2] / "config/data/street-heldout.yaml"
        assert run("--data", config, "--limit", 2, "--out", tmp_path, "--worst", 0)[0] == 0
        part = json.loads((tmp_path / "metrics.json").read_text())["runs"][0]["datasets"][0]
        assert part["frames"] == 2
        # Chance is an mIoU below 5 %, and a constant depth has an AbsRel above 0.5.
        assert part["segmentation"]["kitti6"]["mIoU"] > 0.6
        assert part["depth"]["abs_rel"] < 0.3
