"""`infer`: output files, their content, and failures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.images import noise_image

from mtl_perception import CameraModel, Frame, Pipeline
from mtl_perception.__main__ import main
from mtl_perception.labels import STREET
from mtl_perception.network.description import KITTI_CAMERA
from mtl_perception.result import Result
from mtl_perception.visualization.colors import overlay
from mtl_perception.visualization.image_files import depth_to_png

HEIGHT, WIDTH = 40, 64
CAMERA_YAML = """\
image_width: 128
image_height: 80
camera_name: front
camera_matrix: {rows: 3, cols: 3, data: [90.0, 0, 64, 0, 91.0, 41, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.1, 0.02, 0, 0, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [80.0, 0, 60, 0, 0, 82.0, 40, 0, 0, 0, 1, 0]}
"""
FILES = ("labels.png", "depth.png", "color.png", "overlay.png", "ply")


def write(path: Path, seed: int = 0) -> np.ndarray:
    image = noise_image(HEIGHT, WIDTH, seed)
    assert cv2.imwrite(str(path), image[..., ::-1])
    return image


def read(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


def read_ply(path: Path) -> np.ndarray:
    head, _, body = path.read_bytes().partition(b"end_header\n")
    count = int(re.search(rb"element vertex (\d+)", head)[1])
    names = [name.decode() for name in re.findall(rb"property \w+ (\w+)", head)]
    assert names == ["x", "y", "z", "red", "green", "blue", "label"]
    kinds = ["<f4"] * 3 + ["u1"] * 3 + ["<i4"]
    points = np.frombuffer(body, np.dtype(list(zip(names, kinds, strict=True))))
    assert len(points) == count
    return points


@pytest.fixture(scope="module")
def pipe(weights_file) -> Pipeline:
    return Pipeline(weights=weights_file, device="cpu", backend="torch", warm_up=False)


def assert_files_hold(folder: Path, stem: str, result: Result) -> None:
    np.testing.assert_array_equal(read(folder / f"{stem}.labels.png"), result.labels)
    depth = read(folder / f"{stem}.depth.png")
    assert depth.dtype == np.uint16
    finite = np.isfinite(result.depth)
    assert finite.any()
    assert not finite.all()
    assert (depth[~finite] == 0).all()
    np.testing.assert_allclose(depth[finite] / 256, result.depth[finite], atol=0.5 / 256 + 1e-4)
    colors = STREET.palette()[result.labels]
    np.testing.assert_array_equal(read(folder / f"{stem}.color.png")[..., ::-1], colors)
    np.testing.assert_array_equal(
        read(folder / f"{stem}.overlay.png")[..., ::-1], overlay(result.image, result.labels, STREET, 0.5)
    )
    points = read_ply(folder / f"{stem}.ply")
    has_point = np.isfinite(result.cloud["z"])
    cloud = result.cloud[has_point]
    for name in ("x", "y", "z", "label"):
        np.testing.assert_array_equal(points[name], cloud[name])
    np.testing.assert_array_equal(
        np.stack([points[name] for name in ("red", "green", "blue")], axis=-1), result.image[has_point]
    )


def test_command_without_camera_uses_the_scaled_training_camera(tmp_path, weights_file):
    images = {name: write(tmp_path / f"{name}.png", seed) for seed, name in enumerate(("a", "b.c"))}
    out = tmp_path / "new" / "out"
    command = [sys.executable, "-m", "mtl_perception", "infer", *(tmp_path / f"{name}.png" for name in images)]
    done = subprocess.run([*command, "--out", out, "--weights", weights_file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["classes.json", *(f"{name}.{file}" for name in images for file in FILES)]
    )
    assert "no --camera: clouds use the training camera of the weights (1242x375), scaled" in done.stderr
    assert "license: none" in done.stderr
    camera = CameraModel(**KITTI_CAMERA).scaled(WIDTH, HEIGHT)
    pipe = Pipeline(weights=weights_file, device="cpu", warm_up=False)
    for name, image in images.items():
        assert_files_hold(out, name, pipe(Frame(image, camera)))
    assert json.loads((out / "classes.json").read_text()) == [
        {"id": i, "name": name, "color": list(color)}
        for i, (name, color) in enumerate(zip(STREET.names, STREET.colors, strict=True))
    ]


def test_calibration_of_twice_the_size_is_scaled(tmp_path, infer, pipe):
    image = write(tmp_path / "a.png")
    (tmp_path / "front.yaml").write_text(CAMERA_YAML)
    code, lines = infer(tmp_path / "a.png", "--out", tmp_path / "out", "--camera", tmp_path / "front.yaml")
    assert code == 0
    assert not any("no --camera" in line for line in lines)
    assert_files_hold(tmp_path / "out", "a", pipe(Frame(image, CameraModel(WIDTH, HEIGHT, 40.0, 41.0, 30.0, 20.0))))


def test_raw_images_are_undistorted(tmp_path, infer, pipe):
    image = write(tmp_path / "a.png")
    (tmp_path / "front.yaml").write_text(CAMERA_YAML)
    arguments = ("--out", tmp_path / "out", "--camera", tmp_path / "front.yaml", "--no-input-rectified")
    assert infer(tmp_path / "a.png", *arguments)[0] == 0
    lens = CameraModel(WIDTH, HEIGHT, 45.0, 45.5, 32.0, 20.5, "plumb_bob", (-0.1, 0.02, 0.0, 0.0, 0.0))
    assert_files_hold(tmp_path / "out", "a", pipe(Frame(image, lens)))


def test_every_image_of_a_folder_is_processed_with_the_parameters(tmp_path, infer):
    (tmp_path / "in").mkdir()
    for seed in range(2):
        write(tmp_path / "in" / f"{seed}.png", seed)
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    code, _ = infer(tmp_path / "in", "--out", tmp_path / "out", "--max-depth", 20, "--output-scale", 0.5)
    assert code == 0
    for stem in "01":
        depth = read(tmp_path / "out" / f"{stem}.depth.png")
        assert depth.shape == (HEIGHT // 2, WIDTH // 2)
        assert 0 < depth.max() <= 20 * 256
    assert not (tmp_path / "out" / "notes.labels.png").exists()


class TestFailures:
    def test_unreadable_image_does_not_stop_the_others(self, tmp_path, infer):
        write(tmp_path / "good.png")
        (tmp_path / "bad.png").write_bytes(b"not an image")
        code, lines = infer(tmp_path / "bad.png", tmp_path / "good.png", "--out", tmp_path / "out")
        assert code == 1
        assert sum("bad.png" in line for line in lines) == 1
        assert lines[-1] == f"mtl_perception infer: 1 of 2 files failed; the results of the others are in {tmp_path / 'out'}"
        assert {path.name.split(".")[0] for path in (tmp_path / "out").iterdir()} == {"good", "classes"}

    def test_single_unreadable_image_fails(self, tmp_path, infer):
        (tmp_path / "bad.png").write_bytes(b"not an image")
        code, lines = infer(tmp_path / "bad.png", "--out", tmp_path / "out")
        assert code == 1
        assert re.fullmatch(r".* infer: .*bad\.png: damaged or not a supported image \(12 bytes\); supported: .*", lines[-1])
        assert sum("bad.png" in line for line in lines) == 1

    def test_missing_image_fails(self, tmp_path, infer):
        assert infer(tmp_path / "none.png", "--out", tmp_path / "out") == (
            1,
            [f"mtl_perception infer: {tmp_path / 'none.png'}: no such image or video"],
        )

    def test_kitti_file_is_read_for_the_camera_of_the_images_folder(self, tmp_path, infer):
        images = tmp_path / "image_00" / "data_rect"
        images.mkdir(parents=True)
        write(images / "0000000000.png")
        rows = (f"S_rect_{n}: {WIDTH} {HEIGHT}\nP_rect_{n}: 5{n} 0 32 0 0 5{n} 20 0 0 0 1 0\n" for n in ("00", "01"))
        (tmp_path / "perspective.txt").write_text("".join(rows))
        assert infer(images, "--camera", tmp_path / "perspective.txt", "--out", tmp_path / "out")[0] == 0
        assert (tmp_path / "out" / "0000000000.ply").is_file()

    def test_skipped_files_of_a_folder_are_named(self, tmp_path, infer):
        (tmp_path / "phone").mkdir()
        write(tmp_path / "phone" / "a.png")
        (tmp_path / "phone" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
        code, lines = infer(tmp_path / "phone", "--out", tmp_path / "out")
        assert code == 0
        assert f"{tmp_path / 'phone'}: 1 file skipped: IMG_1.HEIC; supported: JPEG, PNG, TIFF, BMP, WebP and GIF" in lines
        (tmp_path / "phone" / "a.png").unlink()
        code, lines = infer(tmp_path / "phone", "--out", tmp_path / "out")
        assert code == 1
        assert "the folder contains no images or videos; 1 file skipped: IMG_1.HEIC; supported: " in lines[-1]

    def test_empty_folder_fails(self, tmp_path, infer):
        code, lines = infer(tmp_path, "--out", tmp_path / "out")
        assert (code, len(lines)) == (1, 1)
        assert "the folder contains no images" in lines[0]

    def test_equal_file_names_are_rejected(self, tmp_path, infer):
        for name in ("x", "y"):
            (tmp_path / name).mkdir()
            write(tmp_path / name / "a.png")
        code, lines = infer(tmp_path / "x" / "a.png", tmp_path / "y", "--out", tmp_path / "out")
        assert (code, len(lines)) == (1, 1)
        assert "2 images are named 'a'" in lines[0]
        assert not (tmp_path / "out").exists()

    def test_output_folder_that_is_a_file_fails(self, tmp_path, infer):
        write(tmp_path / "a.png")
        code, lines = infer(tmp_path / "a.png", "--out", tmp_path / "a.png")
        assert code == 1
        assert lines[-1].startswith(f"mtl_perception infer: cannot create the output folder {tmp_path / 'a.png'}: ")

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            (CAMERA_YAML.replace("90.0", ".nan"), "non-finite"),
            ("hello", "front.yaml"),
        ],
    )
    def test_unusable_calibration_fails(self, tmp_path, infer, text, problem):
        write(tmp_path / "a.png")
        (tmp_path / "front.yaml").write_text(text)
        code, lines = infer(tmp_path / "a.png", "--out", tmp_path / "out", "--camera", tmp_path / "front.yaml")
        assert code == 1
        assert "front.yaml" in lines[-1]
        assert problem in lines[-1]
        assert lines[-1].startswith("mtl_perception infer: ")

    def test_missing_calibration_file_is_reported_once_before_any_image(self, tmp_path, infer):
        (tmp_path / "in").mkdir()
        for name in ("a.png", "b.png"):
            write(tmp_path / "in" / name)
        code, lines = infer(tmp_path / "in", "--out", tmp_path / "out", "--camera", tmp_path / "front.yaml")
        assert code == 1
        problem = f"calibration file {tmp_path}/front.yaml cannot be read: No such file or directory"
        assert lines == [f"mtl_perception infer: {problem}"]
        assert not (tmp_path / "out").exists()

    def test_calibration_of_another_aspect_ratio_omits_only_the_cloud(self, tmp_path, infer):
        write(tmp_path / "a.png")
        (tmp_path / "front.yaml").write_text(CAMERA_YAML.replace("image_width: 128", "image_width: 100"))
        code, lines = infer(tmp_path / "a.png", "--out", tmp_path / "out", "--camera", tmp_path / "front.yaml")
        assert code == 0
        assert "front.yaml: no cloud: " in lines[-1]
        assert "the aspect ratios differ" in lines[-1]
        assert (tmp_path / "out" / "a.labels.png").exists()
        assert (tmp_path / "out" / "a.depth.png").exists()
        assert not (tmp_path / "out" / "a.ply").exists()

    def test_unknown_weights_suggest_a_name(self, tmp_path, capsys):
        write(tmp_path / "a.png")
        assert main(["infer", str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--weights", "kity"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("mtl_perception infer: unknown weights 'kity'; did you mean 'kitti'?")


def test_depth_is_encoded_as_kitti_png():
    depth = np.array([[1.0, 0.001, 255.99, 300.0], [np.nan, np.inf, -np.inf, 2.5 + 1 / 512]], np.float32)
    assert depth_to_png(depth).tolist() == [[256, 1, 65533, 65535], [0, 0, 0, 640]]
