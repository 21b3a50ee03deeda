"""`eval`: metrics against the outputs of the pipeline, written files, error sheets, and refused arguments."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.data import HEIGHT, WIDTH, write_dataset
from support.images import noise_image

from mtl_perception import CameraModel, Frame, Pipeline
from mtl_perception.__main__ import main
from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.labels import KITTI6, NYUD40, STREET, ClassSet
from mtl_perception.types import Sample
from mtl_perception.visualization.error_sheet import DepthErrors, LabelErrors, error_scale, error_sheet

pytest.importorskip("torchmetrics")
from mtl_perception.training.evaluation import evaluate
from mtl_perception.training.evaluation.classes import comparisons
from mtl_perception.training.evaluation.evaluate import PIPELINE, DepthProtocol, Evaluation, FrameScore, overall, spread_evenly
from mtl_perception.training.evaluation.tables import markdown

STREET_OF_KITTI6 = [8, 3, 0, 1, 7, 11]
ALL = DepthProtocol(crop="none")


@dataclass
class MemoryDataset:
    """A data set in memory."""

    samples: list[Sample]
    classes: ClassSet = STREET
    name: str = "fake"
    license: str = "none"
    keys: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.keys = [sample.name for sample in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def has_labels(self, index: int) -> bool:
        return self.samples[index].labels is not None

    def has_depth(self, index: int) -> bool:
        return self.samples[index].depth is not None


@pytest.fixture(scope="module")
def pipe(weights_file) -> Pipeline:
    return Pipeline(weights=str(weights_file), device="cpu", cpu_threads=1, warm_up=False, **PIPELINE)


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


def predict(pipe: Pipeline, seed: int) -> tuple[Frame, np.ndarray, np.ndarray]:
    """Return a frame with the labels and depth that the pipeline predicts for it."""
    frame = Frame(noise_image(HEIGHT, WIDTH, seed), CameraModel(WIDTH, HEIGHT, 60, 60, 48, 24))
    result = pipe(frame, ("labels", "depth"))
    return frame, result.labels, result.depth


def sample(pipe: Pipeline, seed: int, factor: float = 1.0, wrong: int = 0, name: str = "") -> Sample:
    """Return a sample with the prediction as truth: depth divided by `factor`, labels of the first `wrong` rows changed."""
    frame, labels, depth = predict(pipe, seed)
    labels = labels.copy()
    labels[:wrong] = (labels[:wrong] + 1) % 12
    return Sample(frame, labels, (np.clip(depth, 2, 60) / factor).astype(np.float32), name or f"s{seed}")


class TestMetrics:
    def test_predictions_as_truth_are_correct_except_for_changed_rows(self, pipe):
        """12 of 48 rows are changed, so that a quarter of the pixels is wrong."""
        dataset = MemoryDataset([sample(pipe, 0), sample(pipe, 1, wrong=12), Sample(predict(pipe, 2)[0], name="unlabeled")])
        evaluation = Evaluation(pipe, dataset, DepthProtocol(crop="none", cap=70))
        correct, wrong, unlabeled = (evaluation.add(i) for i in range(3))
        assert (correct.pixel_accuracy, correct.miou) == (1, 1)
        assert wrong.pixel_accuracy == pytest.approx(0.75)
        assert (unlabeled.pixel_accuracy, unlabeled.abs_rel) == (None, None)
        report = evaluation.report()
        assert (report["frames"], report["labeled_frames"], report["depth_frames"]) == (3, 2, 2)
        assert report["segmentation"]["street"]["pixel_accuracy"] == pytest.approx(0.875)
        assert report["segmentation"]["street"]["pixels"] == 2 * HEIGHT * WIDTH
        assert report["latency_ms"] > 0

    def test_depth_that_is_10_percent_too_far_has_an_abs_rel_of_0_1(self, pipe):
        frame, _, depth = predict(pipe, 0)
        truth = np.where((depth > 2) & (depth < 60), depth / 1.1, np.nan).astype(np.float32)
        record = Evaluation(pipe, MemoryDataset([Sample(frame, None, truth, "a")]), ALL).add(0)
        assert record.abs_rel == pytest.approx(0.1, abs=1e-5)
        assert record.pixel_accuracy is None

    def test_ece_is_that_of_the_published_confidence(self, pipe):
        """All labels are correct, so that the error is what the confidence lacks to 1; a quarter of wrong rows changes it."""
        frame, labels, _ = predict(pipe, 0)
        confidence = pipe(frame, ("confidence",)).confidence / 255
        truth = labels.copy()
        truth[:, :9] = 255
        evaluation = Evaluation(pipe, MemoryDataset([Sample(frame, truth, None, "a")]), ALL)
        evaluation.run()
        calibration = evaluation.report()["calibration"]
        assert calibration["ECE"] == pytest.approx(1 - confidence[:, 9:].mean(), abs=1e-4)
        assert calibration["mean_confidence"] == pytest.approx(confidence[:, 9:].mean(), abs=1e-4)
        assert sum(calibration["bin_pixels"]) == HEIGHT * (WIDTH - 9)

    def test_depth_of_a_class_that_is_too_far_shows_in_its_row_only(self, pipe):
        frame, _, depth = predict(pipe, 0)
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[:, WIDTH // 2 :] = STREET.names.index("vegetation")
        labels[0] = 255
        truth = np.where((depth > 2) & (depth < 60), np.where(labels == 0, depth, depth / 1.25), np.nan).astype(np.float32)
        evaluation = Evaluation(pipe, MemoryDataset([Sample(frame, labels, truth, "a"), Sample(frame, None, truth, "b")]), ALL)
        evaluation.add(0)
        [table] = evaluation.report()["depth_by_class"]
        assert list(table["abs_rel"]) == ["road", "vegetation", "all"]
        assert table["abs_rel"]["road"][-1] == table["bias"]["road"][-1] == pytest.approx(0, abs=1e-6)
        assert table["abs_rel"]["vegetation"][-1] == table["bias"]["vegetation"][-1] == pytest.approx(0.25, abs=1e-4)
        assert table["pixels"]["all"][-1] == np.isfinite(truth).sum()
        # Without ground truth of labels, the predicted class counts.
        evaluation.add(1)
        [table] = evaluation.report()["depth_by_class"]
        assert set(table["pixels"]) - {"all"} >= {STREET.names[i] for i in np.unique(predict(pipe, 0)[1][np.isfinite(truth)])}

    def test_labels_of_six_classes_are_the_best_of_their_six_scores(self, pipe):
        """The result differs from mapping the best of all twelve scores to the six classes."""
        frame = predict(pipe, 0)[0]
        truth = np.full((HEIGHT, WIDTH), STREET.names.index("terrain"), np.uint8)
        truth[:, WIDTH // 2 :] = STREET.names.index("road")
        evaluation = Evaluation(pipe, MemoryDataset([Sample(frame, truth, None, "a")]), ALL)
        evaluation.add(0)
        logits = pipe._backend.engine.forward(frame.image)[0].numpy()
        scores = np.stack([cv2.resize(plane, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for plane in logits])
        six = scores[STREET_OF_KITTI6].argmax(0)[:, WIDTH // 2 :]
        twelve = scores.argmax(0)[:, WIDTH // 2 :]
        report = evaluation.report()["segmentation"]
        # Terrain is not counted: half of the pixels are left.
        assert report["kitti6"]["pixels"] == HEIGHT * WIDTH // 2
        assert report["kitti6"]["pixel_accuracy"] == pytest.approx((six == 2).mean())
        assert 0 < (twelve == 0).mean() < (six == 2).mean()
        assert report["street"]["confusion"][0][:12] == np.bincount(twelve.ravel(), minlength=12).tolist()

    def test_overall_metrics_pool_pixels_of_labels_and_average_depth_over_frames(self, pipe):
        first = Evaluation(pipe, MemoryDataset([sample(pipe, 0)]), ALL)
        second = Evaluation(pipe, MemoryDataset([sample(pipe, 1, 1.5, 24), sample(pipe, 2, 1.5, 24)]), ALL)
        for evaluation in (first, second):
            evaluation.run()
        together = overall([first, second])
        assert together["frames"] == 3
        assert together["segmentation"]["street"]["pixel_accuracy"] == pytest.approx((1 + 0.5 + 0.5) / 3)
        records = first.scores + second.scores
        assert together["depth"]["abs_rel"] == pytest.approx(np.mean([record.abs_rel for record in records]))

    def test_worst_frames_alternate_between_labels_and_depth(self, pipe):
        evaluation = Evaluation(pipe, MemoryDataset([]))
        evaluation.scores = [
            FrameScore(0, "a", 1, 0.9, 0.5, 0.1, 1),
            FrameScore(1, "b", 1, 0.2, 0.5, 0.5, 1),
            FrameScore(2, "c", 1, 0.8, 0.5, 0.4, 1),
            FrameScore(3, "d", 1, None, None, 0.6, 1),
            FrameScore(4, "e", 1, None, None, None, None),
        ]
        # The order by labels is b, c, a and that by depth d, b, c, a; each frame is listed once.
        assert [record.name for record in evaluation.worst(9)] == ["b", "d", "c", "a"]
        assert [record.name for record in evaluation.worst(2)] == ["b", "d"]

    def test_limited_frames_are_spread_evenly(self):
        assert spread_evenly(10, 0) == spread_evenly(10, 10) == spread_evenly(10, 99) == list(range(10))
        assert spread_evenly(10, 3) == [0, 3, 6]

    def test_ground_truth_of_another_size_or_with_an_unknown_id_is_refused(self, pipe):
        frame = predict(pipe, 0)[0]
        dataset = MemoryDataset([Sample(frame, np.zeros((2, 3), np.uint8), None, "scene/one")])
        with pytest.raises(
            SourceError, match=f"data set fake, scene/one: labels are {WIDTH}x{HEIGHT}, the ground truth is 3x2"
        ):
            Evaluation(pipe, dataset).add(0)
        dataset = MemoryDataset([Sample(frame, np.full((HEIGHT, WIDTH), 12, np.uint8), None, "a")])
        with pytest.raises(SourceError, match="the ground truth has id 12, of 12 classes"):
            Evaluation(pipe, dataset).add(0)

    def test_a_pipeline_with_a_minimum_depth_is_refused(self, weights_file):
        near = Pipeline(config=None, weights=str(weights_file), device="cpu", warm_up=False, **{**PIPELINE, "min_depth": 2.0})
        with pytest.raises(ConfigError, match="evaluation needs parameter min_depth = 0, not 2"):
            Evaluation(near, MemoryDataset([]))


class TestClasses:
    def test_class_sets_are_compared_where_a_mapping_exists(self):
        assert [s.classes.name for s in comparisons(STREET, STREET)] == ["street", "kitti6"]
        assert comparisons(STREET, STREET)[0].choices == tuple(range(12))
        assert comparisons(STREET, STREET)[1].choices == tuple(STREET_OF_KITTI6)
        (six,) = comparisons(STREET, KITTI6)
        assert (six.classes.name, six.choices) == ("kitti6", tuple(range(6)))
        assert six.truth[[0, 2, 8, 255]].tolist() == [2, 255, 0, 255]
        assert [s.choices for s in comparisons(KITTI6, STREET)] == [tuple(STREET_OF_KITTI6)]
        assert comparisons(NYUD40, STREET) == []

    def test_labels_without_a_known_mapping_are_refused(self, pipe):
        frame, labels, depth = predict(pipe, 0)
        with pytest.raises(ConfigError, match=r"nyud40 \(40: wall, .*'random' have random \(12: road, .*no mapping"):
            Evaluation(pipe, MemoryDataset([Sample(frame, labels, None, "a")], NYUD40))
        # Without labels no mapping is needed.
        assert Evaluation(pipe, MemoryDataset([Sample(frame, None, depth, "a")], NYUD40)).add(0).abs_rel is not None


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
        data = write_dataset(tmp_path / "own", 1, "nyud40")
        code, _, lines = run("--weights", weights_file, "--data", data)
        assert code == 2
        assert "no mapping between them is known" in lines[0]

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


class TestErrorSheet:
    def sheet(self, **changes) -> np.ndarray:
        image = np.full((100, 280, 3), 128, np.uint8)
        truth = np.zeros((100, 280), np.uint8)
        truth[:, :70] = 255
        labels = truth.copy()
        labels[:, 140:] = 3
        meters = np.full((100, 280), 10, np.float32)
        guess = meters * np.linspace(0.5, 1.5, 280, dtype=np.float32)
        counted = np.ones(meters.shape, bool)
        counted[:, :70] = False
        parts = {"labels": LabelErrors(STREET, truth, labels), "depth": DepthErrors(meters, guess, counted, 80.0)}
        return error_sheet(image, ("title",), **{**parts, **changes})

    def test_error_colors_are_at_the_wrong_pixels(self):
        """Third column: unlabeled dark, correct gray, wrong red; below, ignored dark, correct light gray, too far red."""
        sheet = self.sheet()
        assert sheet.shape[1] == 3 * 560 + 4 * 12
        first_row = sheet.shape[0] - 12 - 2 * (12 + 200) - 26
        labels = sheet[first_row : first_row + 200, 2 * 572 + 12 :][100]
        assert labels[70].max() < 30
        assert np.ptp(labels[200]) < 10 and labels[200].min() > 60
        assert labels[400][0] > 150 and labels[400][1:].max() < 80
        depth = sheet[-24 - 200 : -24, 2 * 572 + 12 :][100]
        assert depth[70].max() < 40
        assert np.ptp(depth[280]) < 15 and depth[280].min() > 220
        assert depth[550][0] > 200 and depth[550][1:].max() < 60
        assert depth[150][2] > depth[150][0]

    def test_missing_labels_or_depth_have_no_row(self):
        whole = self.sheet().shape[0]
        assert self.sheet(labels=None).shape[0] < whole - 200
        assert self.sheet(depth=None).shape[0] < whole - 200

    def test_a_tall_image_is_fitted_into_the_sheet(self):
        assert error_sheet(np.zeros((640, 100, 3), np.uint8), ("a",)).shape == (26 + 480 + 12 + 12, 1728, 3)

    def test_the_color_scale_runs_from_blue_to_red(self):
        scale = error_scale(320)
        assert scale.shape == (52, 320, 3)
        assert scale[15, 20][2] > 200 and scale[15, 300][0] > 200


def test_columns_of_tables_are_aligned():
    assert markdown(["data", "weights", "ms"], [["a", "street", "1.5"]]) == (
        "| data | weights |  ms |\n| ---- | ------- | --: |\n| a    | street  | 1.5 |\n"
    )


def test_missing_metrics_are_null_in_json(pipe):
    """NaN is not valid JSON."""
    evaluation = Evaluation(
        pipe, MemoryDataset([Sample(predict(pipe, 0)[0], np.full((HEIGHT, WIDTH), 255, np.uint8), None, "a")])
    )
    evaluation.run()
    json.dumps(evaluation.report(), allow_nan=False)
    assert evaluation.scores[0].pixel_accuracy is None
    assert math.isfinite(evaluation.scores[0].latency_ms)
