"""Progress bars with and without tqdm."""

from __future__ import annotations

import sys

import pytest

from mtl_perception.progress import print_above_bar, progress_bar


@pytest.fixture(params=[True, False], ids=["tqdm", "no tqdm"])
def tqdm_installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    return bool(request.param)


@pytest.mark.usefixtures("tqdm_installed")
def test_wraps_an_iterable() -> None:
    assert list(progress_bar(iter([1, 2, 3]), total=3, unit="frame")) == [1, 2, 3]


@pytest.mark.usefixtures("tqdm_installed")
def test_counts_updates_in_a_with_block() -> None:
    with progress_bar(total=2, unit="step", disable=True) as bar:
        bar.update()
        bar.set_postfix_str("loss 0.5", refresh=False)
        bar.update(1)


@pytest.mark.usefixtures("tqdm_installed")
def test_prints_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    print_above_bar("no cloud")
    assert capsys.readouterr().err.strip() == "no cloud"
