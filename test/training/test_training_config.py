"""Training configuration: validation, base files and overrides, and the learning rate schedule."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.training import datasets_fixture, write_config

from mtl_perception.__main__ import main
from mtl_perception.errors import ConfigError
from mtl_perception.training.config import RARE_CLASSES, TrainConfig
from mtl_perception.training.config_file import read_config
from mtl_perception.training.loop.schedule import learning_rate

data = datasets_fixture()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 5}, "unknown key 'step'; did you mean 'steps'?"),
        ({"optimizer": {"emma": 0.9}}, "unknown key 'optimizer.emma'; did you mean 'ema'?"),
        ({"steps": "many"}, "steps: 'many' is not an integer"),
        ({"crop": [512]}, r"crop: \[512\] is not"),
        ({"crop": []}, r"crop: \[\] is not"),
        ({"depth": {"range": []}}, r"depth.range: \[\] is not"),
        ({"tasks": ["normals"]}, "tasks"),
        ({"depth": {"loss": "l3"}}, "depth.loss 'l3': not one of log_l1, berhu, silog"),
        ({"sets": []}, "sets: give at least one data set"),
        ({"augmentation": {"focal_length": [3, 2]}}, "augmentation.focal_length"),
        ({"augmentation": {"color": -1}}, "augmentation.color -1: give 0 or more"),
        ({"optimizer": {"clip": 0}}, "optimizer.clip 0: give a norm above 0"),
        ({"optimizer": {"decoder": -1e-4}}, "optimizer.decoder -0.0001: give 0 or more"),
        ({"teacher": {"weight": -0.5}}, "teacher.weight -0.5: give 0 or more"),
        ({"task_weights": [1, -1]}, r"task_weights \[1.0, -1.0\]: give 0 or more"),
        ({"class_weights": {"person": -2}}, "class_weights.person -2: give 0 or more"),
        ({"class_weights": {"persn": 2}}, "class_weights.persn: street has no such class; did you mean 'person'?"),
        ({"class_weights": {"bed": 2}}, "class_weights.bed: street has no such class; the classes are road, sidewalk"),
        (
            {"augmentation": {"rare_classes": ["persn"]}},
            "rare_classes: persn: street has no such class; did you",
        ),
        ({"classes": "streets"}, "classes 'streets': not one of street, kitti6, nyud40"),
    ],
)
def test_an_invalid_value_is_refused_with_its_key(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write_config(tmp_path, "wrong", **change)
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(path)
    assert "wrong.yaml" in str(caught.value)


def test_a_negative_number_of_threads_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path / "any.yaml"), "--threads", "-2"]) == 2
    assert capsys.readouterr().err == "mtl_perception train: --threads -2 is negative; give 0 or more\n"


def test_a_style_folder_is_relative_to_the_configuration(tmp_path: Path) -> None:
    path = write_config(tmp_path, "styled", augmentation={"style": "style"})
    assert read_config(path).augmentation.style == str(tmp_path / "style")
    assert read_config(path, {"augmentation.style": "/other"}).augmentation.style == "/other"


def test_the_default_rare_classes_fit_every_class_set(tmp_path: Path) -> None:
    assert read_config(write_config(tmp_path, "rooms", classes="nyud40")).augmentation.rare_classes == RARE_CLASSES


def test_a_configuration_extends_its_base_and_is_overridden_by_the_command_line(tmp_path: Path) -> None:
    write_config(tmp_path, "base", optimizer={"ema": 0.9, "warm_up": 7})
    (tmp_path / "own.yaml").write_text("base: base.yaml\nsteps: 11\noptimizer: {ema: 0.8}\n")
    config = read_config(tmp_path / "own.yaml", {"optimizer.clip": 5})
    assert (config.steps, config.optimizer.ema, config.optimizer.warm_up, config.optimizer.clip) == (11, 0.8, 7, 5.0)
    (tmp_path / "base.yaml").write_text("base: own.yaml\n")
    with pytest.raises(ConfigError, match="base own.yaml leads back to this file"):
        read_config(tmp_path / "own.yaml")


def test_numbers_in_scientific_notation_are_read(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: x\nsets: [{path: y}]\noptimizer: {encoder: 1e-4, decoder: 3.E+0}\n")
    assert read_config(path).optimizer.encoder == 1e-4
    path.write_text("name: x\nsets: [{path: y}]\noptimizer: {encoder: 1e-}\n")
    with pytest.raises(ConfigError, match="optimizer.encoder: '1e-' is not a number"):
        read_config(path)


def test_paths_expand_environment_variables_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNS", "/data/runs")
    monkeypatch.setenv("HOME", "/home/rosie")
    teacher = {"weights": "${RUNS}/a.safetensors", "folder": "~/labels", "onnx": {"file": "${RUNS}/b.onnx", "depth": "s"}}
    config = read_config(
        write_config(tmp_path, "run", start="${RUNS}/s.safetensors", teacher=teacher, augmentation={"style": "${RUNS}/style"})
    )
    assert config.start == "/data/runs/s.safetensors"
    assert config.teacher.weights == "/data/runs/a.safetensors"
    assert config.teacher.folder == "/home/rosie/labels"
    assert config.teacher.onnx.file == "/data/runs/b.onnx"
    assert config.augmentation.style == "/data/runs/style"
    path = write_config(tmp_path, "unset", start="${RUN}/s.safetensors")
    with pytest.raises(ConfigError, match=r"unset\.yaml: start: '\$\{RUN\}/s\.safetensors' needs the environment variable RUN"):
        read_config(path)


def test_the_learning_rate_warms_up_and_then_decays() -> None:
    optimizer = TrainConfig(name="x", sets=({"path": "y"},)).optimizer
    assert learning_rate(0, 0.0, optimizer) == pytest.approx(1 / 50)
    assert learning_rate(500, 0.5, optimizer) == pytest.approx(0.505)
    assert learning_rate(999, 0.999, optimizer) == pytest.approx(0.01, abs=1e-3)


def test_batch_size_that_is_not_divisible_by_the_processes_is_refused() -> None:
    from mtl_perception.training.loop.processes import Processes

    with pytest.raises(ConfigError, match="batch 6 is not divisible by 4 processes"):
        Processes(0, 4, torch.device("cpu")).check_batch(6)
