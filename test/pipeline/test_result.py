"""Results for files and arrays, their overlay and their files."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.pipeline_fixtures import CAMERA, FRAME, HEIGHT, IMAGE, SINGLE, WIDTH, pipeline_fixtures, same

from mtl_perception import CameraModel, Frame
from mtl_perception.__main__ import main
from mtl_perception.errors import ConfigError, FrameError, SourceError
from mtl_perception.messages.encode import MessageEncoder
from mtl_perception.messages.topics import OUTPUT_TOPICS
from mtl_perception.types import OUTPUTS

make, pipe, tuned, full = pipeline_fixtures()


@pytest.fixture
def path(tmp_path) -> Path:
    file = tmp_path / "street.01.png"
    assert cv2.imwrite(str(file), IMAGE[..., ::-1])
    return file


def node_overlay(pipe, result) -> np.ndarray:
    """Return the overlay that the node publishes, H x W x 3 uint8 BGR."""
    encoder = MessageEncoder(pipe.class_set, pipe.config.overlay_opacity)
    (row,) = [row for row in OUTPUT_TOPICS if row.name == "segmentation/overlay"]
    return row.encode(encoder, result)["data"].reshape(HEIGHT, WIDTH, 3)


class TestInput:
    def test_path_array_and_frame_give_the_same_result(self, pipe, path):
        expected = pipe(Frame(IMAGE))
        for image in (path, str(path), IMAGE, IMAGE[:, ::-1][:, ::-1]):
            result = pipe(image)
            assert all(same(getattr(result, name), getattr(expected, name)) for name in ("labels", "confidence", "depth"))
            assert (result.cloud, result.camera) == (None, None)
            np.testing.assert_array_equal(result.image, IMAGE)

    def test_batch_accepts_each_kind(self, pipe, path, full):
        results = pipe.batch([path, IMAGE, FRAME], [OUTPUTS] * 3)
        assert same(results[0].depth, results[1].depth)
        assert all(same(getattr(results[2], name), getattr(full, name)) for name in SINGLE)
        assert [result.stem for result in results] == ["street.01", "frame", "frame"]

    def test_array_of_several_images_is_a_batch(self, pipe):
        results = pipe.batch(np.stack([IMAGE, 255 - IMAGE]), [{"labels"}] * 2)
        assert same(results[0].labels, pipe(IMAGE).labels)
        assert same(results[1].labels, pipe(255 - IMAGE).labels)

    def test_stream_accepts_each_kind(self, pipe, path, full):
        results = list(pipe.stream(iter([FRAME, path, IMAGE])))
        assert all(same(getattr(results[0], name), getattr(full, name)) for name in SINGLE)
        assert same(results[1].depth, results[2].depth)
        assert [result.stem for result in results] == ["frame", "street.01", "frame"]

    @pytest.mark.parametrize("image", [None, 3, [IMAGE], IMAGE.tolist(), b"street.png"])
    def test_other_types_are_refused(self, pipe, image):
        with pytest.raises(FrameError, match=r"type \w+ is not supported; give a Frame, a path, or H x W x 3 uint8 RGB"):
            pipe(image)

    @pytest.mark.parametrize(
        "image", [IMAGE[..., 0], IMAGE.astype(np.float32), IMAGE[None], np.dstack([IMAGE, IMAGE[..., :1]])]
    )
    def test_other_arrays_are_refused(self, pipe, image):
        with pytest.raises(FrameError, match="image must be H x W x 3 uint8 RGB, not"):
            pipe(image)

    def test_unreadable_files_are_refused(self, pipe, tmp_path):
        (tmp_path / "bad.png").write_bytes(b"not an image")
        for name, reason in (
            ("none.png", "be read: No such file"),
            ("", "be read: Is a"),
            ("bad.png", ": damaged"),
        ):
            with pytest.raises(FrameError, match=reason) as caught:
                pipe(tmp_path / name)
            assert caught.value.reason == "unreadable"

    @pytest.mark.parametrize("image", ["street.png", Path("street.png"), FRAME])
    def test_single_frame_is_refused_as_several(self, pipe, image):
        with pytest.raises(FrameError, match="is not a list; call the pipeline with it"):
            pipe.batch(image, [OUTPUTS])
        with pytest.raises(FrameError, match="is not a list; call the pipeline with it"):
            next(pipe.stream(image))


class TestOverlay:
    def test_overlay_is_that_of_the_node(self, tuned):
        for opacity in (0.5, 0.25):
            pipe = tuned(overlay_opacity=opacity, min_confidence=0.2)
            result = pipe(FRAME)
            assert (result.labels == 255).any()
            overlay = result.overlay()
            assert (overlay.shape, overlay.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
            np.testing.assert_array_equal(overlay[..., ::-1], node_overlay(pipe, result))

    def test_opacity_can_be_given(self, full):
        np.testing.assert_array_equal(full.overlay(0.0), IMAGE)
        np.testing.assert_array_equal(full.overlay(1.0), full.class_set.palette()[full.labels])
        with pytest.raises(ConfigError, match="opacity 2 is outside 0 to 1"):
            full.overlay(2)

    def test_missing_outputs_are_named(self, pipe):
        with pytest.raises(ConfigError, match="overlay failed: the result has no image; request outputs labels, image"):
            pipe(FRAME, {"labels"}).overlay()


class TestSave:
    def test_files_are_those_of_infer(self, make, weights_file, path, tmp_path):
        command = ["infer", str(path), "--out", str(tmp_path / "infer"), "--weights", str(weights_file), "--device", "cpu"]
        assert main([*command, "--overlay-opacity", "0.3", "--points-edge-filter", "0"]) == 0
        pipe = make(overlay_opacity=0.3)
        camera = CameraModel.from_intrinsics(pipe.description.camera).scaled(WIDTH, HEIGHT)
        pipe(Frame(IMAGE, camera)).save(tmp_path / "new" / "save", "street.01")
        files = {file.name: file.read_bytes() for file in (tmp_path / "infer").iterdir()}
        ends = ("labels.png", "depth.png", "color.png", "overlay.png", "ply")
        assert set(files) == {"classes.json", *(f"street.01.{end}" for end in ends)}
        assert {file.name: file.read_bytes() for file in (tmp_path / "new" / "save").iterdir()} == files
        assert [record["name"] for record in json.loads(files["classes.json"])] == list(pipe.class_set.names)

    def test_stem_is_that_of_the_image_file(self, pipe, path, tmp_path):
        pipe(path).save(tmp_path / "out")
        pipe(IMAGE).save(str(tmp_path / "out"))
        ends = ("labels.png", "depth.png", "color.png", "overlay.png")
        expected = {"classes.json", *(f"{stem}.{end}" for stem in ("street.01", "frame") for end in ends)}
        assert {file.name for file in (tmp_path / "out").iterdir()} == expected, "no cloud without a camera"

    def test_overlay_file_is_the_overlay(self, full, tmp_path):
        full.save(tmp_path)
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / "frame.overlay.png"))[..., ::-1], full.overlay())

    def test_missing_outputs_are_named(self, pipe, tmp_path):
        with pytest.raises(ConfigError, match="save failed: the result has no depth and no image; request outputs labels, "):
            pipe(FRAME, {"labels"}).save(tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_unwritable_folder_is_a_source_error(self, full, path):
        with pytest.raises(SourceError, match=r"cannot write .*street\.01\.png.*: "):
            full.save(path)


def test_results_share_memory_with_the_backend(make):
    """The live path pays for no copy: what the pipeline returns is the backend's memory and the caller's image."""
    pipe = make(reuse_outputs=True)
    first, second = pipe(FRAME), pipe(FRAME)
    assert first.image is IMAGE
    assert all(np.shares_memory(getattr(first, name), getattr(second, name)) for name in SINGLE)
    assert first.camera == CAMERA
