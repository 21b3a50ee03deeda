"""Copies of images to page-locked memory by several threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from support.images import noise_image

from mtl_perception.inference.cuda import staging
from mtl_perception.inference.cuda.staging import copied, split


@pytest.fixture(params=[1, 4])
def threads(request, monkeypatch):
    """Copy by the caller alone, or by several threads however small the images are."""
    monkeypatch.setattr(staging, "THREADS", request.param)
    monkeypatch.setattr(staging, "LEAST_BYTES", 0)
    monkeypatch.setattr(staging, "BLOCK_BYTES", 100)
    return request.param


def copies_of(count: int, size: tuple[int, int] = (11, 7)) -> list[staging.Copy]:
    return [(np.zeros((*size, 3), np.uint8), noise_image(*size, seed=seed)) for seed in range(count)]


@pytest.mark.parametrize("count", [1, 2, 9])
def test_each_step_ends_when_the_next_image_is_there(threads, count):
    copies = copies_of(count)
    steps = 0
    with copied(copies) as finished:
        for target, source in copies:
            next(finished)
            steps += 1
            np.testing.assert_array_equal(target, source)
    assert steps == count


@pytest.mark.parametrize("rows", [1, 2, 5, 375])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_of_an_image_are_the_image(threads, rows, parts):
    (whole,) = copies_of(1, (rows, 9))
    pieces = split(whole, parts)
    assert 1 <= len(pieces) <= parts
    with copied(pieces) as finished:
        assert len(list(finished)) == len(pieces)
    np.testing.assert_array_equal(*whole)


@pytest.mark.parametrize("layout", [lambda x: x[..., ::-1], lambda x: x[::-1], lambda x: x.transpose(1, 0, 2)])
def test_any_memory_layout_is_copied(threads, layout):
    source = layout(noise_image(40, 30))
    source.setflags(write=False)
    target = np.zeros(source.shape, np.uint8)
    with copied(split((target, source), 4)) as finished:
        list(finished)
    np.testing.assert_array_equal(target, source)


def test_all_copies_have_finished_when_the_caller_fails(threads, monkeypatch):
    """Otherwise a thread would still write to memory that the next request uses."""
    gate, copy = threading.Event(), staging._copy

    def late(pair):
        if pair is not copies[0]:
            gate.wait(5)
        copy(pair)

    copies = copies_of(4)
    if threads > 1:
        monkeypatch.setattr(staging, "_copy", late)
    with pytest.raises(RuntimeError, match="device"), copied(copies) as finished:
        next(finished)
        threading.Timer(0.05, gate.set).start()
        raise RuntimeError("device")
    done = [np.array_equal(target, source) for target, source in copies]
    assert done == [True] * 4 if threads > 1 else done == [True, False, False, False]


def test_error_of_a_thread_reaches_the_caller(threads):
    copies = copies_of(3)
    copies[2] = (copies[2][0], np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(ValueError, match="broadcast"), copied(copies) as finished:
        list(finished)
