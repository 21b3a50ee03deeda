"""Names of outputs, shards, and the file of results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mtl_perception.batch.plan import expand_patterns, make_plan, parse_shard, read_list
from mtl_perception.batch.results import DONE, FAILED, ResultsFile, SourceResult
from mtl_perception.errors import ConfigError, SourceError
from mtl_perception.sources.base import WHOLE, TimeSlice

APPEND = """
import sys
from pathlib import Path
from mtl_perception.batch.results import DONE, ResultsFile, SourceResult
file, name = ResultsFile(Path(sys.argv[1])), sys.argv[2]
for i in range(50):
    file.append(SourceResult(f"/{name}{i}", f"{name}{i}", DONE, i, 0.0, "long " * 1000))
"""


def names(sources: list[str], results: dict | None = None, part: TimeSlice = WHOLE) -> list[str]:
    return [task.output.name for task in make_plan(sources, Path("out"), part, results or {})]


def test_outputs_are_named_after_their_sources():
    sources = [
        "/d/a.mcap",
        "/d/b.bag",
        "c",
        "/d/run.v2",
        "synthetic:3:7",
        "/d/e.bag.active",
        "/d/f.partial.mcap",
        "/d/g.db3.zstd",
        "/d/h.MP4",
        "/d/i.v2.png",
    ]
    expected = ["a", "b", "c", "run.v2", "synthetic-3-7", "e", "f-partial", "g", "h", "i.v2"]
    assert names(sources) == [f"{name}.mcap" for name in expected]
    assert names(["/d/a.mcap"], part=TimeSlice(600, 0.5)) == ["a-600s-600.5s.mcap"]


def test_sources_of_one_name_have_different_outputs_whatever_the_order():
    sources = ["/x/drive.mcap", "/y/drive.mcap", "/y/Drive.bag", "/y/other.mcap"]
    found = dict(zip(sources, names(sources), strict=True))
    assert len({name.casefold() for name in found.values()}) == 4
    assert all(name.casefold().startswith("drive-") for source, name in found.items() if "other" not in source)
    assert found["/y/other.mcap"] == "other.mcap"
    assert names(sources[::-1]) == list(found.values())[::-1]


def test_name_of_a_source_stays_when_others_join_or_leave():
    def done(source: str, output: str) -> dict[str, SourceResult]:
        return {output: SourceResult(source, output, DONE, 1, 1.0)}

    both = ["/x/drive.mcap", "/y/drive.mcap"]
    first, second = names(both)
    plain = done(both[0], "drive.mcap")
    assert names(both, plain) == ["drive.mcap", second]
    assert names(both[1:], plain) == [second], "the plain name belongs to another source"
    assert names(both[:1], done(both[0], first)) == [first]


def test_source_is_named_once_and_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (task,) = make_plan(["a.mcap", "./a.mcap", str(tmp_path / "b" / ".." / "a.mcap")], tmp_path / "out", WHOLE, {})
    assert task.source == str(tmp_path / "a.mcap")


def test_output_does_not_replace_its_source(tmp_path):
    (tmp_path / "a.mcap").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"contains source .*a\.mcap, which would be replaced"):
        make_plan([str(tmp_path / "a.mcap")], tmp_path, WHOLE, {})


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12])
def test_shards_are_disjoint_and_complete(count):
    sources = [f"/{folder}/{name}.mcap" for folder in "xy" for name in "abcde"]
    everything = make_plan(sources, Path("out"), WHOLE, {})
    shards = [make_plan(sources, Path("out"), WHOLE, {}, (i, count)) for i in range(1, count + 1)]
    assert sorted((task for shard in shards for task in shard), key=everything.index) == everything
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


def test_shard_is_parsed():
    assert parse_shard("2/8") == (2, 8)
    for text in ("0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", ""):
        with pytest.raises(ConfigError, match="is not I/N"):
            parse_shard(text)


def test_missing_list_is_reported(tmp_path):
    with pytest.raises(SourceError, match=r"list of sources .*none\.txt cannot be read: No such file or directory$"):
        read_list(tmp_path / "none.txt")
    (tmp_path / "bag").write_bytes(b"\x89MCAP0\r\n")
    with pytest.raises(SourceError, match=r"list of sources .*bag cannot be read: it is not UTF-8 text"):
        read_list(tmp_path / "bag")


def test_patterns_are_expanded_in_natural_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "d" / "e").mkdir(parents=True)
    for name in ("b10", "b9", "[x]", "e/b1"):
        (tmp_path / "d" / f"{name}.mcap").touch()
    assert expand_patterns(["d/b*.mcap"]) == ["d/b9.mcap", "d/b10.mcap"]
    assert expand_patterns(["d/**/b*.mcap"]) == ["d/b9.mcap", "d/b10.mcap", "d/e/b1.mcap"]
    assert expand_patterns(["~/d/b9.*"]) == [f"{tmp_path}/d/b9.mcap"]
    # A file with such a name is not a pattern.
    assert expand_patterns(["d/[x].mcap", "~/d/[x].mcap"]) == ["d/[x].mcap", "~/d/[x].mcap"]
    assert expand_patterns(["missing.mcap", "synthetic:3"]) == ["missing.mcap", "synthetic:3"]
    with pytest.raises(SourceError, match=r"^d/c\*: no file matches this pattern$"):
        expand_patterns(["d/b9.mcap", "d/c*"])


class TestResultsFile:
    def test_latest_result_of_an_output_counts(self, tmp_path):
        file = ResultsFile(tmp_path)
        assert file.read() == {}
        failed = SourceResult("/é.mcap", "é.mcap", FAILED, 2, 0.5, "damaged")
        done = SourceResult("/é.mcap", "é.mcap", DONE, 3, 0.7)
        file.append(failed)
        assert file.read() == {"é.mcap": failed}
        file.append(done)
        assert file.read() == {"é.mcap": done}

    @pytest.mark.parametrize("torn", [b'{"source": "/b.mc', b"null\n", b'{"source": 1}\n', b"\xff\n"])
    def test_invalid_line_harms_no_other(self, tmp_path, torn):
        file = ResultsFile(tmp_path)
        results = {name: SourceResult(f"/{name}", name, DONE, 3, 0.7) for name in ("a.mcap", "c.mcap")}
        file.append(results["a.mcap"])
        with file.path.open("ab") as stream:
            stream.write(torn)
        file.append(results["c.mcap"])
        assert file.read() == results
        assert len(file.path.read_bytes().splitlines()) == 3

    def test_processes_append_whole_lines(self, tmp_path):
        processes = [subprocess.Popen([sys.executable, "-c", APPEND, tmp_path, name]) for name in "ab"]
        assert [process.wait(60) for process in processes] == [0, 0]
        assert len(ResultsFile(tmp_path).read()) == 100
        assert len((tmp_path / "results.jsonl").read_bytes().splitlines()) == 100
