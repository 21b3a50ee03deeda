"""Video and page of the demo."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from support.images import noise_image

av = pytest.importorskip("av", reason="needs PyAV")

from mtl_perception import Pipeline
from mtl_perception.demo.page import write_page
from mtl_perception.demo.recording import DEPTH, RecordedFrame
from mtl_perception.labels import STREET
from mtl_perception.visualization.report import TopicRow


@pytest.fixture
def write(tmp_path, weights_file):
    """Return a function that writes the page of a recording of three frames, and the path of the page."""
    pipe = Pipeline(weights=weights_file, device="cpu", backend="torch", warm_up=False)
    image = noise_image(96, 160)
    frames = [RecordedFrame(index * 10**8, image, image, np.full((96, 160), 10, np.float32)) for index in range(3)]
    recording = SimpleNamespace(
        topics=lambda: [TopicRow(DEPTH, "sensor_msgs/msg/Image", 3)],
        frames=lambda: iter(frames),
        cloud=lambda stamp: None,
        counts=dict,
    )
    source = type("Source", (), {"rate_hz": 10.0, "name": "drive", "__len__": lambda self: 3})()

    def write(**options):
        write_page(tmp_path, "drive", source, 1.0, pipe, recording, **options)
        return tmp_path / "index.html"

    return write


def test_page_names_the_command_that_shows_every_frame(tmp_path, write):
    view = "<pre>python -m mtl_perception view"
    assert f"{view} {tmp_path / 'recording.mcap'}</pre>" in write().read_text()
    for name in ("drive.rrd", "elsewhere/drive.rrd"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"r")
        page = write(rerun=tmp_path / name).read_text()
        assert f"{view} {tmp_path / name}</pre>" in page
        assert ('href="./drive.rrd"' in page) == (name == "drive.rrd"), "links stay in the folder of the page"


def test_video_has_a_legend_unless_told_otherwise(tmp_path, write):
    shown = {}
    for show_legend in (True, False):
        write(show_legend=show_legend)
        with av.open(str(tmp_path / "video.mp4")) as container:
            shown[show_legend] = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(shown[True]) == len(shown[False]) == 3
    height = shown[False][0].shape[0]
    strip = shown[True][0][height:]
    assert strip.shape[0] >= 60 and strip.shape[1] == shown[False][0].shape[1]
    for color in STREET.colors:
        assert (np.abs(strip.astype(int) - color).max(axis=2) <= 24).sum() >= 36
