"""`eval`: figures against the pipeline's own outputs, what it writes, and how it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
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

HEIGHT, WIDTH = 48, 96
STREET_OF_KITTI6 = [8, 3, 0, 1, 7, 11]
ALL = DepthProtocol(crop="none")


@dataclass
class Fake:
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
def kitti_weights(tmp_path_factory) -> Path:
    """The published six-class form, with random values."""
    import torch

    from mtl_perception.network.description import published_description
    from mtl_perception.network.model import MultiTaskRefineNet
    from mtl_perception.weights.files import save_weights

    torch.manual_seed(3)
    description = published_description(6, 2)
    path = tmp_path_factory.mktemp("kitti") / "six.safetensors"
    save_weights(path, MultiTaskRefineNet(description).state_dict(), description, half=False)
    return path


def predicted(pipe: Pipeline, seed: int) -> tuple[Frame, np.ndarray, np.ndarray]:
    frame = Frame(noise_image(HEIGHT, WIDTH, seed), CameraModel(WIDTH, HEIGHT, 60, 60, 48, 24))
    result = pipe(frame, ("labels", "depth"))
    return frame, result.labels, result.depth


def sample(pipe: Pipeline, seed: int, factor: float = 1.0, wrong: int = 0, name: str = "") -> Sample:
    """The network's own word as truth, its depth divided by `factor` and so many rows of labels another class."""
    frame, labels, depth = predicted(pipe, seed)
    labels = labels.copy()
    labels[:wrong] = (labels[:wrong] + 1) % 12
    return Sample(frame, labels, (np.clip(depth, 2, 60) / factor).astype(np.float32), name or f"s{seed}")


class TestFigures:
    def test_the_networks_own_word(self, pipe):
        """Truth is what it says: everything is right; 12 wrong rows of 48 are found as that."""
        dataset = Fake([sample(pipe, 0), sample(pipe, 1, wrong=12), Sample(predicted(pipe, 2)[0], name="without truth")])
        evaluation = Evaluation(pipe, dataset, DepthProtocol(crop="none", cap=70))
        right, wrong, without = (evaluation.add(i) for i in range(3))
        assert (right.pixel_accuracy, right.miou) == (1, 1)
        assert wrong.pixel_accuracy == pytest.approx(0.75)
        assert (without.pixel_accuracy, without.abs_rel) == (None, None)
        report = evaluation.report()
        assert (report["frames"], report["labeled_frames"], report["depth_frames"]) == (3, 2, 2)
        assert report["segmentation"]["street"]["pixel_accuracy"] == pytest.approx(0.875)
        assert report["segmentation"]["street"]["pixels"] == 2 * HEIGHT * WIDTH
        assert report["latency_ms"] > 0

    def test_depth_that_is_a_tenth_too_far(self, pipe):
        frame, _, depth = predicted(pipe, 0)
        truth = np.where((depth > 2) & (depth < 60), depth / 1.1, np.nan).astype(np.float32)
        record = Evaluation(pipe, Fake([Sample(frame, None, truth, "a")]), ALL).add(0)
        assert record.abs_rel == pytest.approx(0.1, abs=1e-5)
        assert record.pixel_accuracy is None

    def test_six_classes_are_chosen_among_six(self, pipe):
        """The answer is the best of the six scores, not what the best of twelve is mapped to."""
        frame = predicted(pipe, 0)[0]
        truth = np.full((HEIGHT, WIDTH), STREET.names.index("terrain"), np.uint8)
        truth[:, WIDTH // 2 :] = STREET.names.index("road")
        evaluation = Evaluation(pipe, Fake([Sample(frame, truth, None, "a")]), ALL)
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

    def test_overall(self, pipe):
        """Labels: pixels pooled. Depth: a mean over frames, whatever the data set."""
        first = Evaluation(pipe, Fake([sample(pipe, 0)]), ALL)
        second = Evaluation(pipe, Fake([sample(pipe, 1, 1.5, 24), sample(pipe, 2, 1.5, 24)]), ALL)
        for evaluation in (first, second):
            evaluation.run()
        together = overall([first, second])
        assert together["frames"] == 3
        assert together["segmentation"]["street"]["pixel_accuracy"] == pytest.approx((1 + 0.5 + 0.5) / 3)
        records = first.scores + second.scores
        assert together["depth"]["abs_rel"] == pytest.approx(np.mean([record.abs_rel for record in records]))

    def test_worst(self, pipe):
        evaluation = Evaluation(pipe, Fake([]))
        evaluation.scores = [
            FrameScore(0, "a", 1, 0.9, 0.5, 0.1, 1),
            FrameScore(1, "b", 1, 0.2, 0.5, 0.5, 1),
            FrameScore(2, "c", 1, 0.8, 0.5, 0.4, 1),
            FrameScore(3, "d", 1, None, None, 0.6, 1),
            FrameScore(4, "e", 1, None, None, None, None),
        ]
        # Labels say b, c, a; depth says d, b, c, a: in turn, each once.
        assert [record.name for record in evaluation.worst(9)] == ["b", "d", "c", "a"]
        assert [record.name for record in evaluation.worst(2)] == ["b", "d"]

    def test_limit_is_spread_evenly(self):
        assert spread_evenly(10, 0) == spread_evenly(10, 10) == spread_evenly(10, 99) == list(range(10))
        assert spread_evenly(10, 3) == [0, 3, 6]

    def test_a_frame_whose_truth_does_not_fit(self, pipe):
        frame = predicted(pipe, 0)[0]
        dataset = Fake([Sample(frame, np.zeros((2, 3), np.uint8), None, "bad/one")])
        with pytest.raises(SourceError, match=f"data set fake, bad/one: labels are {WIDTH}x{HEIGHT}, the ground truth is 3x2"):
            Evaluation(pipe, dataset).add(0)
        dataset = Fake([Sample(frame, np.full((HEIGHT, WIDTH), 12, np.uint8), None, "a")])
        with pytest.raises(SourceError, match="the ground truth has id 12, of 12 classes"):
            Evaluation(pipe, dataset).add(0)

    def test_a_pipeline_that_holds_depth_back(self, weights_file):
        near = Pipeline(config=None, weights=str(weights_file), device="cpu", warm_up=False, **{**PIPELINE, "min_depth": 2.0})
        with pytest.raises(ConfigError, match="evaluation needs parameter min_depth = 0, not 2"):
            Evaluation(near, Fake([]))


class TestClasses:
    def test_pairs(self):
        assert [s.classes.name for s in comparisons(STREET, STREET)] == ["street", "kitti6"]
        assert comparisons(STREET, STREET)[0].choices == tuple(range(12))
        assert comparisons(STREET, STREET)[1].choices == tuple(STREET_OF_KITTI6)
        (six,) = comparisons(STREET, KITTI6)
        assert (six.classes.name, six.choices) == ("kitti6", tuple(range(6)))
        assert six.truth[[0, 2, 8, 255]].tolist() == [2, 255, 0, 255]
        assert [s.choices for s in comparisons(KITTI6, STREET)] == [tuple(STREET_OF_KITTI6)]
        assert comparisons(NYUD40, STREET) == []

    def test_no_mapping_is_known(self, pipe):
        frame, labels, depth = predicted(pipe, 0)
        with pytest.raises(ConfigError, match=r"nyud40 \(40: wall, .*'random' have random \(12: road, .*no mapping"):
            Evaluation(pipe, Fake([Sample(frame, labels, None, "a")], NYUD40))
        # Without labels there is nothing to compare.
        assert Evaluation(pipe, Fake([Sample(frame, None, depth, "a")], NYUD40)).add(0).abs_rel is not None


def write_set(root: Path, count: int = 3, classes: str = "street") -> Path:
    rng = np.random.default_rng(0)
    for name in ("image", "label", "depth"):
        (root / name).mkdir(parents=True)
    (root / "dataset.yaml").write_text(f"format: folder\nname: {root.name}\nlicense: our own\nclasses: {classes}\n")
    for i in range(count):
        cv2.imwrite(str(root / f"image/{i}.png"), noise_image(HEIGHT, WIDTH, i))
        labels = cv2.resize(rng.integers(0, 12, (4, 8)).astype(np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(root / f"label/{i}.png"), labels)
        cv2.imwrite(str(root / f"depth/{i}.png"), rng.integers(0, 60 * 256, (HEIGHT, WIDTH)).astype(np.uint16))
    return root


@pytest.fixture
def run(capsys):
    def run(*arguments: object) -> tuple[int, str, list[str]]:
        code = main(["eval", *map(str, arguments), "--device", "cpu", "--cpu-threads", "1"])
        captured = capsys.readouterr()
        return code, captured.out, [line for line in captured.err.splitlines() if line.startswith("mtl_perception")]

    return run


class TestCommand:
    def test_two_networks_side_by_side(self, tmp_path, run, weights_file, kitti_weights):
        data = write_set(tmp_path / "own")
        out = tmp_path / "out"
        code, text, _ = run("--weights", weights_file, kitti_weights, "--data", data, "--out", out, "--worst", 2)
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
        assert rows[0][7] == f"{random['depth']['abs_rel']:.3f}"
        assert text in (out / "table.md").read_text()
        assert "Interrupted" not in (out / "table.md").read_text()
        for name, part in (("random", random), ("six", six)):
            sheets = sorted(path.name for path in (out / "worst" / name / "own").iterdir())
            worst = min(part["records"], key=lambda record: record["pixel_accuracy"])["name"]
            assert len(sheets) == 2
            assert sheets[0] == f"01_{worst}.jpg"
            assert cv2.imread(str(out / "worst" / name / "own" / sheets[0])).shape[1] == 1728

    def test_crop_cap_and_limit_are_obeyed(self, tmp_path, run, weights_file):
        data = write_set(tmp_path / "own")

        def depth(*arguments: object) -> dict:
            assert run("--weights", weights_file, "--data", data, "--out", tmp_path / "out", "--worst", 0, *arguments)[0] == 0
            return json.loads((tmp_path / "out/metrics.json").read_text())["runs"][0]["datasets"][0]

        whole, limited = depth("--crop", "none"), depth("--crop", "none", "--limit", 2)
        assert (whole["frames"], limited["frames"], limited["frames_of_set"]) == (3, 2, 3)
        # 0 is unknown; 47 of 48 rows or so have all 96 pixels known.
        assert whole["depth"]["pixels"] > 0.99 * 3 * HEIGHT * WIDTH
        assert depth("--cap", 30, "--crop", "none")["depth"]["pixels"] == pytest.approx(whole["depth"]["pixels"] / 2, rel=0.05)
        garg = depth()["depth"]["pixels"]
        assert garg == pytest.approx(3 * (47 - 19) * (92 - 3), rel=0.01)
        assert not (tmp_path / "out/worst").exists()

    def test_broken_off(self, tmp_path, run, weights_file, monkeypatch):
        data = write_set(tmp_path / "own")
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
    def test_refusals(self, tmp_path, run, arguments, code, problem):
        data = str(write_set(tmp_path / "own", 1))
        ended, text, lines = run(*(data if argument == "SET" else argument for argument in arguments))
        assert (ended, text, len(lines)) == (code, "", 1)
        assert problem in lines[0]

    def test_other_classes(self, tmp_path, run, weights_file):
        data = write_set(tmp_path / "own", 1, "nyud40")
        code, _, lines = run("--weights", weights_file, "--data", data)
        assert code == 2
        assert "no mapping between them is known" in lines[0]

    def test_only_what_changes_no_figure_can_be_asked(self):
        with pytest.raises(SystemExit) as ended:
            main(["eval", "--data", "x", "--min-depth", "2"])
        assert ended.value.code == 2

    def test_shipped_weights_on_real_frames(self, tmp_path, run, shared_data, monkeypatch):
        monkeypatch.setenv("DATA", str(shared_data))
        config = Path(__file__).parents[2] / "config/data/street-heldout.yaml"
        assert run("--data", config, "--limit", 2, "--out", tmp_path, "--worst", 0)[0] == 0
        part = json.loads((tmp_path / "metrics.json").read_text())["runs"][0]["datasets"][0]
        assert part["frames"] == 2
        # Any network that sees: chance is below 5 %, and a constant depth has an AbsRel above 0.5.
        assert part["segmentation"]["kitti6"]["mIoU"] > 0.6
        assert part["depth"]["abs_rel"] < 0.3


class TestSheet:
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

    def test_errors_stand_where_they_are(self):
        """Third column: unknown dark, right gray, wrong red; then uncounted dark, right gray, too far red."""
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

    def test_what_there_is_not_has_no_row(self):
        whole = self.sheet().shape[0]
        assert self.sheet(labels=None).shape[0] < whole - 200
        assert self.sheet(depth=None).shape[0] < whole - 200

    def test_a_tall_picture_fits(self):
        assert error_sheet(np.zeros((640, 100, 3), np.uint8), ("a",)).shape == (26 + 480 + 12 + 12, 1728, 3)

    def test_scale(self):
        scale = error_scale(320)
        assert scale.shape == (52, 320, 3)
        assert scale[15, 20][2] > 200 and scale[15, 300][0] > 200


def test_a_table():
    assert markdown(["data", "weights", "ms"], [["a", "street", "1.5"]]) == (
        "| data | weights |  ms |\n| ---- | ------- | --: |\n| a    | street  | 1.5 |\n"
    )


def test_no_figure_is_not_a_number_in_json(pipe):
    """No labels, no depth: None, which JSON has, and not NaN, which it has not."""
    evaluation = Evaluation(pipe, Fake([Sample(predicted(pipe, 0)[0], np.full((HEIGHT, WIDTH), 255, np.uint8), None, "a")]))
    evaluation.run()
    json.dumps(evaluation.report(), allow_nan=False)
    assert evaluation.scores[0].pixel_accuracy is None
    assert math.isfinite(evaluation.scores[0].latency_ms)
