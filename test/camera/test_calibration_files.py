"""Calibration files: the three supported formats, and errors of invalid files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mtl_perception.camera.calibration import load_calibration
from mtl_perception.errors import CameraError

ROS_YAML = """
image_width: 640
image_height: 480
camera_name: front
camera_matrix:
  rows: 3
  cols: 3
  data: [500.5, 0., 320.25, 0., 501., 240.75, 0., 0., 1.]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.3, 0.1, 1e-3, -0.002, 0.]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1, 0, 0, 0, 1, 0, 0, 0, 1]
projection_matrix:
  rows: 3
  cols: 4
  data: [450., 0., 318., 0., 0., 460., 239., 0., 0., 0., 1., 0.]
"""
KITTI_RAW = """calib_time: 09-Jan-2012 13:57:47
S_02: 1.392000e+03 5.120000e+02
K_02: 9.597910e+02 0.000000e+00 6.960217e+02 0.000000e+00 9.569251e+02 2.241806e+02 0.000000e+00 0.000000e+00 1.000000e+00
S_rect_02: 1.242000e+03 3.750000e+02
P_rect_02: 7.215377e+02 0 6.095593e+02 4.485728e+01 0 7.215377e+02 1.728540e+02 2.163791e-01 0 0 1 2.745884e-03
S_rect_03: 1.242000e+03 3.750000e+02
P_rect_03: 7.215377e+02 0 6.095593e+02 -3.395242e+02 0 7.215377e+02 1.728540e+02 2.199936e+00 0 0 1 2.729905e-03
"""
KITTI_ODOMETRY = """P0: 7.188560e+02 0 6.071928e+02 0 0 7.188560e+02 1.852157e+02 0 0 0 1 0
P2: 7.188560e+02 0 6.071928e+02 4.538225e+01 0 7.188560e+02 1.852157e+02 -1.130887e-01 0 0 1 3.779761e-03
"""


@pytest.fixture
def write(tmp_path: Path):
    def write_file(text: str, name: str = "camera.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file


def test_ros_yaml_has_the_projection_of_rectified_and_the_distortion_of_raw_images(write):
    calibration = load_calibration(write(ROS_YAML))
    rectified = calibration.camera(rectified=True)
    assert (rectified.width, rectified.height) == (640, 480)
    assert (rectified.fx, rectified.fy, rectified.cx, rectified.cy) == (450, 460, 318, 239)
    assert not rectified.is_distorted
    raw = calibration.camera(rectified=False)
    assert (raw.fx, raw.fy, raw.cx, raw.cy) == (500.5, 501, 320.25, 240.75)
    assert raw.distortion_model == "plumb_bob"
    assert raw.distortion == (-0.3, 0.1, 0.001, -0.002, 0)


def test_ros_yaml_needs_only_intrinsics(write):
    text = "image_width: 64\nimage_height: 48\ncamera_matrix: {data: [50, 0, 32, 0, 51, 24, 0, 0, 1]}\n"
    camera = load_calibration(write(text)).camera(rectified=True)
    assert (camera.fx, camera.fy, camera.cx, camera.cy, camera.is_distorted) == (50, 51, 32, 24, False)


def test_kitti_raw_file_describes_the_rectified_camera(write):
    calibration = load_calibration(write(KITTI_RAW, "calib_cam_to_cam.txt"))
    for rectified in (True, False):
        camera = calibration.camera(rectified)
        assert (camera.width, camera.height) == (1242, 375)
        assert (camera.fx, camera.fy, camera.cx, camera.cy) == (721.5377, 721.5377, 609.5593, 172.854)
        assert not camera.is_distorted
    assert (calibration.p[3], calibration.p[7]) == (44.85728, 0.2163791)


def test_camera_of_a_kitti_raw_file_can_be_selected(write):
    path = write(KITTI_RAW, "calib_cam_to_cam.txt")
    assert load_calibration(path, camera="03").p[3] == -339.5242
    with pytest.raises(CameraError, match=r"calib_cam_to_cam\.txt: P_rect_01 \(or P1\) is missing"):
        load_calibration(path, camera="01")


@pytest.mark.parametrize(
    ("cameras", "folder", "expected"),
    [
        ("00 01 02 03", None, "02"),
        ("00 01", None, "00"),
        ("01", None, "01"),
        ("01", "image_02/data", "01"),
        ("00 01 02 03", "image_03/data", "03"),
        ("00 01", "image_01/data_rect", "01"),
        ("00 01 02 03", "sequences/00/image_1", "01"),
        ("02 03", "image_00/data", "02"),
    ],
)
def test_camera_is_that_of_the_images_folder_or_the_first_there_is(write, cameras, folder, expected):
    rows = (f"S_rect_{n}: 40 20\nP_rect_{n}: 3{n} 0 20 0 0 3{n} 9 0 0 0 1 0\n" for n in cameras.split())
    path = write("".join(rows), "perspective.txt")
    calibration = load_calibration(path, image=folder and Path(folder) / "0000000000.png")
    assert calibration.p[0] == float(f"3{expected}")


def test_kitti_odometry_file_needs_an_image_size(write):
    path = write(KITTI_ODOMETRY, "calib.txt")
    calibration = load_calibration(path, size=(1241, 376))
    camera = calibration.camera(rectified=True)
    assert (camera.width, camera.height, camera.fx, camera.cx, camera.cy) == (1241, 376, 718.856, 607.1928, 185.2157)
    assert calibration.p[3] == 45.38225
    with pytest.raises(CameraError, match=r"calib\.txt: it has no image size"):
        load_calibration(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("image_width: 640", "", "image_width is missing"),
        ("image_height: 480", "image_height: tall", "image_height is 'tall', not a number of pixels"),
        ("camera_matrix:", "matrix:", "camera_matrix.data is missing"),
        ("[500.5, 0., 320.25,", "[500.5, 320.25,", "camera_matrix.data has 8 values, not 9"),
        ("[500.5,", "[wide,", "camera_matrix.data has non-numeric values"),
        ("[-0.3,", "[.nan,", "non-finite"),
        ("[500.5,", "[0,", "uncalibrated"),
        ("450.", "-450.", "focal lengths must be above 0"),
        ("projection_matrix:", "projection_matrix: 3\nother:", "projection_matrix.data is missing"),
        ("distortion_model: plumb_bob", "distortion_model: [1]", "distortion_model is not a name"),
    ],
)
def test_invalid_yaml_raises_a_one_line_error_with_the_path(write, old, new, message):
    path = write(ROS_YAML.replace(old, new, 1))
    with pytest.raises(CameraError) as caught:
        load_calibration(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


MODEL = "distortion_model: plumb_bob"
FISHEYE = ROS_YAML.replace("[-0.3, 0.1, 1e-3, -0.002, 0.]", "[0.17, -0.03, 0.0004, -0.0007]")


@pytest.mark.parametrize(
    ("text", "lines", "model"),
    [
        (FISHEYE, "camera_model: fisheye", "fisheye"),  # As the fisheye calibrator of ROS 1 Melodic writes.
        (FISHEYE, "camera_model: Fisheye", "fisheye"),
        (FISHEYE, "camera_model: equidistant", "equidistant"),
        (FISHEYE, "camera_model: fisheye\ndistortion_model: equidistant", "equidistant"),
        (ROS_YAML, "camera_model: pinhole", "plumb_bob"),
        (ROS_YAML.replace("0.]\nrect", "0., 0.1, 0.1, 0.1]\nrect"), "camera_model: pinhole", "rational_polynomial"),
        (ROS_YAML, "camera_model: pinhole\ndistortion_model: plumb_bob", "plumb_bob"),
    ],
)
def test_camera_model_of_older_calibrators_is_the_distortion_model(write, text, lines, model):
    assert load_calibration(write(text.replace(MODEL, lines))).camera(rectified=False).distortion_model == model


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (MODEL, "camera_model: fisheye\n" + MODEL, "camera_model 'fisheye' contradicts distortion_model 'plumb_bob'"),
        (MODEL, "", "distortion_model is missing, but distortion_coefficients has values other than 0"),
        (MODEL, "distorsion_model: plumb_bob", "unknown key 'distorsion_model'; did you mean 'distortion_model'?"),
        (
            "distortion_coefficients",
            "distortion_coefficents",
            "unknown key 'distortion_coefficents'; did you mean 'distortion_coefficients'?",
        ),
        ("distortion_coefficients", "d", "distortion_coefficients is missing, but the distortion model is 'plumb_bob'"),
        ("rectification_matrix", "rectification_matirx", "did you mean 'rectification_matrix'?"),
        ("projection_matrix", "Projection_matrix", "did you mean 'projection_matrix'?"),
        ("image_width", "image_with", "did you mean 'image_width'?"),
    ],
)
def test_incomplete_distortion_and_misspelled_keys_are_refused(write, old, new, message):
    with pytest.raises(CameraError) as caught:
        load_calibration(write(ROS_YAML.replace(old, new, 1)))
    assert message in str(caught.value)


@pytest.mark.parametrize("extra", ["date: 2020-01-01", "distortion_coefficients_before: {data: [0.1]}", "3: 4"])
def test_other_keys_are_ignored(write, extra):
    assert load_calibration(write(ROS_YAML + extra + "\n")) == load_calibration(write(ROS_YAML, "plain.yaml"))


@pytest.mark.parametrize("d", ["[0.0, 0.0, 0.0, 0.0, 0.0]", "[]"])
def test_file_without_distortion_needs_no_model(write, d):
    text = ROS_YAML.replace("[-0.3, 0.1, 1e-3, -0.002, 0.]", d).replace(MODEL, "")
    assert not load_calibration(write(text)).camera(rectified=False).is_distorted


ROS2_ECHO = """header:
  stamp:
    sec: 12
    nanosec: 500000000
  frame_id: camera
height: 480
width: 640
distortion_model: plumb_bob
d: [-0.3, 0.1, 0.001, -0.002, 0.0]
k:
- 500.5
- 0.0
- 320.25
- 0.0
- 501.0
- 240.75
- 0.0
- 0.0
- 1.0
r: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
p: [450.0, 0.0, 318.0, 0.0, 0.0, 460.0, 239.0, 0.0, 0.0, 0.0, 1.0, 0.0]
binning_x: 0
binning_y: 0
roi:
  x_offset: 0
  y_offset: 0
  height: 0
  width: 0
  do_rectify: false
---
"""
ROS1_ECHO = re.sub(r"^([dkrp]):", lambda match: match[0].upper(), ROS2_ECHO, flags=re.MULTILINE)


@pytest.mark.parametrize("text", [ROS2_ECHO, ROS1_ECHO, 3 * ROS2_ECHO, "---\n" + ROS2_ECHO.removesuffix("---\n")])
def test_echo_of_a_camera_info_topic_is_a_calibration(write, text):
    assert load_calibration(write(text)) == load_calibration(write(ROS_YAML, "file.yaml"))


def test_region_and_binning_of_an_echoed_camera_info_are_applied(write):
    text = ROS2_ECHO.replace("binning_x: 0", "binning_x: 2").replace("binning_y: 0", "binning_y: 2")
    text = text.replace("x_offset: 0", "x_offset: 18").replace("  height: 0\n  width: 0", "  height: 400\n  width: 600")
    camera = load_calibration(write(text)).camera(rectified=True)
    assert (camera.width, camera.height, camera.fx, camera.cx, camera.cy) == (300, 200, 225, 150, 119.5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("d: [", "dd: [", "d is missing"),
        ("p: [450.0,", "p: [", "p has 11 values, not 12"),
        ("p: [450.0,", "p: ['...',", "p has non-numeric values"),
        ("width: 640", "", "width is missing"),
        ("  width: 0", "  width: -4", "width is -4, not a number of pixels"),
        ("roi:", "roi: 3\nroi_:", "roi is 3, not a mapping"),
        ("---", "---\n" + ROS2_ECHO.replace("450.0", "455.0"), "it has 2 different calibrations; keep the one to use"),
    ],
)
def test_malformed_echo_is_refused(write, old, new, message):
    with pytest.raises(CameraError) as caught:
        load_calibration(write(ROS2_ECHO.replace(old, new, 1)))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("S_rect_02: 4 2\nP_rect_02: 1 2 3", "P_rect_02 has 3 values, not 12"),
        ("S_rect_02: 4 2\nP_rect_02: a b c", "P_rect_02 is not 12 numbers"),
        ("S_rect_02: 0 0\nP_rect_02: 1 0 0 0 0 1 0 0 0 0 1 0", "not a valid image size"),
        ("P_rect_02: 1 0 0 0 0 1 0 0 0 0 1 0", "S_rect_02 is missing"),
    ],
)
def test_invalid_kitti_lines_are_rejected(write, row, message):
    with pytest.raises(CameraError, match=message):
        load_calibration(write(row, "calib_cam_to_cam.txt"))


@pytest.mark.parametrize(
    "text", ["", "just words", "- a\n- list\n", "%YAML:1.0\nK: !!opencv-matrix {}\n", "a: [1,\n", "[" * 5000]
)
def test_unknown_format_is_rejected(write, text):
    with pytest.raises(CameraError, match="neither ROS camera_calibration YAML nor KITTI"):
        load_calibration(write(text))


def test_unsafe_yaml_is_not_executed(write, tmp_path):
    target = tmp_path / "made"
    with pytest.raises(CameraError):
        load_calibration(write(f"image_width: !!python/object/apply:os.mkdir ['{target}']\n"))
    assert not target.exists()


ALIASES = "a0: &a0 [1, 1, 1, 1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("image_width: *a11", r"image_width is \[\[.*, not a number of pixels"),  # 4 x 10^11 numbers if expanded
        ("image_width: 0x" + "f" * 5000, "image_width is an integer of 20000 bits, not a number of pixels"),
        ("image_width: " + "9" * 5000, "neither ROS camera_calibration YAML nor"),  # more digits than Python converts
        ("image_width: 2020-13-45", "neither ROS camera_calibration YAML nor"),  # a date to PyYAML
        ("image_width: 4294967296", "image_width is 4294967296, not a number of pixels"),
    ],
)
def test_huge_values_are_truncated_in_the_error(write, line: str, message: str) -> None:
    with pytest.raises(CameraError, match=message) as caught:
        load_calibration(write(ALIASES + ROS_YAML.replace("image_width: 640", line)))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("size", ["inf 375", "1242 nan", "1e400 1", "0 375", "-1242 375"])
def test_invalid_kitti_image_size_is_rejected(write, size: str) -> None:
    text = KITTI_RAW.replace("S_rect_02: 1.242000e+03 3.750000e+02", f"S_rect_02: {size}")
    with pytest.raises(CameraError, match=r"S_rect_02: .* is not a valid image size"):
        load_calibration(write(text))


def test_missing_binary_and_huge_files_are_rejected(tmp_path):
    with pytest.raises(CameraError, match=r"absent\.yaml cannot be read: No such file"):
        load_calibration(tmp_path / "absent.yaml")
    binary = tmp_path / "image.png"
    binary.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(CameraError, match="not a text file"):
        load_calibration(binary)
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b" " * (2**20 + 1))
    with pytest.raises(CameraError, match="not a text file of less than 1 MiB"):
        load_calibration(huge)
