"""A video with the overlay of every frame of a source."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

from mtl_perception.batch.outputs import describe_cause
from mtl_perception.errors import SourceError
from mtl_perception.pipeline import Pipeline
from mtl_perception.result import Result
from mtl_perception.types import Frame, History
from mtl_perception.visualization.video import VideoWriter


def write_overlay_video(
    frames: Iterable[Frame],
    rate_hz: float,
    pipeline: Pipeline,
    path: Path,
    *,
    outputs: Collection[str] = (),
    show_legend: bool = False,
    on_result: Callable[[Frame, Result], object] = lambda frame, result: None,
) -> int:
    """Process frames and write their overlays to a video with the times of the frames.

    Args:
        frames: Frames in the order of their stamps.
        rate_hz: Nominal frame rate, Hz.
        pipeline: What computes the outputs.
        path: The MP4 file.
        outputs: Results that `on_result` needs besides labels and image; see `types.OUTPUTS`.
        show_legend: Whether to append a legend of the classes below the video.
        on_result: Called with each frame and its result.

    Returns:
        The number of frames.

    Raises:
        SourceError: The source is damaged, or anything else failed, also Ctrl-C, after the first frame: the video then has the
            frames until then, and the error says so. Or the video cannot be written.
    """
    failure: BaseException | None = None
    history = History()
    with VideoWriter(path, min(max(rate_hz, 0.01), 1000.0)) as video:
        try:
            for frame in frames:
                result = pipeline(replace(frame, history=history), {"labels", "image", *outputs})
                video.write(result.overlay(show_legend=show_legend), frame.stamp_ns)
                on_result(frame, result)
        except (Exception, KeyboardInterrupt) as error:
            if not video.count:
                raise
            failure = error
    if failure is not None:
        raise SourceError(f"{describe_cause(failure)}; the {video.count} frames before it are in {path}") from failure
    return video.count
