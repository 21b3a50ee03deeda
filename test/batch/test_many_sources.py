"""`process` with several sources: outputs, results, and runs that continue."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from support.bags import DELAY_NS, START_NS, STEP_NS, bag_image, write_drive

from mtl_perception import Pipeline
from mtl_perception.__main__ import main
from mtl_perception.batch import processes
from mtl_perception.batch import progress as progress_module
from mtl_perception.batch.plan import Task
from mtl_perception.batch.processor import Processor
from mtl_perception.batch.results import ResultsFile, SourceResult
from mtl_perception.visualization.files import WriteLock

SIZE = (24, 32)
LABELS = "/mtl_perception/segmentation/labels"


@pytest.fixture
def process(weights_file, capsys):
    """Run the command in this process and return exit code, stdout and the last line of stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        # PyTorch, because OpenVINO would compile the network for each run.
        code = main(["process", *map(str, arguments), "--weights", str(weights_file), "--device", "cpu", "--backend", "torch"])
        captured = capsys.readouterr()
        return code, captured.out.strip(), (captured.err.splitlines() or [""])[-1]

    return run


@pytest.fixture
def frames(monkeypatch) -> list:
    """The frames that the pipeline of this process computes."""
    computed = []
    call = Pipeline.__call__

    def count(self, frame, *arguments):
        computed.append(frame)
        return call(self, frame, *arguments)

    monkeypatch.setattr(Pipeline, "__call__", count)
    return computed


def results_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def summary_of(folder: Path) -> list[tuple[str, str, int]]:
    return [(result["output"], result["status"], result["frames"]) for result in results_of(folder)]


def names_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def label_times(bag: Path) -> list[int]:
    with AnyReader([bag]) as reader:
        return [time_ns for connection, time_ns, _ in reader.messages() if connection.topic == LABELS]


def test_each_source_has_an_output_with_the_bytes_of_a_run_of_its_own(tmp_path, process, weights_file):
    sources = [write_drive(tmp_path / f"{name}.mcap", count) for name, count in (("a", 2), ("b", 3))]
    folder = tmp_path / "out"
    code, out, _ = process(*sources, "--out", folder)
    assert (code, out) == (0, f"2 done, 0 skipped, 0 failed of 2 sources -> {folder}")
    assert names_of(folder) == {"a.mcap", "b.mcap", "results.jsonl"}
    for source in sources:
        assert process(source, "--out", tmp_path / "one" / source.name)[0] == 0
        assert (folder / source.name).read_bytes() == (tmp_path / "one" / source.name).read_bytes()
    first, second = results_of(folder)
    assert list(first) == ["source", "output", "status", "frames", "seconds", "error"]
    assert {**first, "seconds": 0} == {
        "source": str(sources[0]),
        "output": "a.mcap",
        "status": "done",
        "frames": 2,
        "seconds": 0,
        "error": "",
    }
    assert 0 < first["seconds"] < 300
    assert (second["source"], second["frames"]) == (str(sources[1]), 3)


def test_jobs_do_not_change_the_outputs(tmp_path, process):
    sources = [write_drive(tmp_path / f"{name}.mcap", 3) for name in "abc"]
    for jobs in (1, 2):
        # Libraries do not guarantee the same bits for another number of threads.
        assert process(*sources, "--out", tmp_path / f"jobs{jobs}", "--jobs", jobs, "--cpu-threads", 1)[0] == 0
    assert sorted(summary_of(tmp_path / "jobs2")) == [(f"{name}.mcap", "done", 3) for name in "abc"]
    for name in "abc":
        assert (tmp_path / "jobs2" / f"{name}.mcap").read_bytes() == (tmp_path / "jobs1" / f"{name}.mcap").read_bytes()


def test_list_and_folder_of_one_source(tmp_path, process, monkeypatch):
    write_drive(tmp_path / "a.mcap", 1)
    write_drive(tmp_path / "b.mcap", 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("# Monday\n\na.mcap\n  b.mcap \nb.mcap\n")
    assert process("--list", "list.txt", "--out", "both")[1] == "2 done, 0 skipped, 0 failed of 2 sources -> both"
    assert process("a.mcap", "--out", "one/")[1] == "1 done, 0 skipped, 0 failed of 1 sources -> one"
    # The folder is recognized without the slash.
    assert process("a.mcap", "--out", "one")[1] == "0 done, 1 skipped, 0 failed of 1 sources -> one"
    assert names_of(tmp_path / "one") == {"a.mcap", "results.jsonl"}
    # A pattern stands for several sources, also if one matches.
    assert process("[a].mcap", "--out", "pattern")[1] == "1 done, 0 skipped, 0 failed of 1 sources -> pattern"
    (tmp_path / "list.txt").write_text("[ab].mcap\n")
    assert process("--list", "list.txt", "--out", "pattern")[1] == "1 done, 1 skipped, 0 failed of 2 sources -> pattern"


class TestRerun:
    def test_only_what_is_not_finished_is_processed(self, tmp_path, process, frames):
        sources = [write_drive(tmp_path / f"{name}.mcap", 2) for name in "ab"]
        folder = tmp_path / "out"
        assert process(sources[0], "--out", f"{folder}/")[0] == 0
        # What a killed run leaves.
        (folder / "b.partial.mcap").write_bytes(b"\x89MCAP0\r\n")
        (folder / ".b.mcap.abcd1234").mkdir()
        frames.clear()
        assert process(*sources, "--out", folder)[:2] == (0, f"1 done, 1 skipped, 0 failed of 2 sources -> {folder}")
        assert len(frames) == 2
        assert names_of(folder) == {"a.mcap", "b.mcap", "results.jsonl"}
        assert process(*sources, "--out", folder)[:2] == (0, f"0 done, 2 skipped, 0 failed of 2 sources -> {folder}")
        assert len(frames) == 2
        assert summary_of(folder) == [("a.mcap", "done", 2), ("b.mcap", "done", 2)]
        assert process(*sources, "--out", folder, "--force")[:2] == (0, f"2 done, 0 skipped, 0 failed of 2 sources -> {folder}")
        assert len(frames) == 6

    def test_ctrl_c_ends_the_run_and_the_next_one_continues(self, tmp_path, process, monkeypatch):
        sources = [write_drive(tmp_path / f"{name}.mcap", 2) for name in "ab"]
        folder = tmp_path / "out"
        call = Pipeline.__call__
        calls = []

        def interrupt(self, *arguments):
            calls.append(arguments)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return call(self, *arguments)

        monkeypatch.setattr(Pipeline, "__call__", interrupt)
        code, _, line = process(*sources, "--out", folder)
        partial = folder / "a.partial.mcap"
        assert (code, line) == (1, f"mtl_perception process: interrupted; the 1 frames before it are in {partial}")
        assert names_of(folder) == {"a.partial.mcap"}
        assert process(*sources, "--out", folder)[0] == 0
        assert summary_of(folder) == [("a.mcap", "done", 2), ("b.mcap", "done", 2)]

    def test_source_that_another_process_works_on_fails_alone_and_is_not_disturbed(self, tmp_path, process):
        """On this machine or, with shared storage, on another one. The next run records what the other process has finished."""
        sources = [write_drive(tmp_path / f"{name}.mcap", 2) for name in "ab"]
        folder, one = tmp_path / "out", tmp_path / "one.mcap"
        assert process(sources[1], "--out", one)[0] == 0
        partial = folder / "b.partial.mcap"
        folder.mkdir()
        partial.write_bytes(one.read_bytes())
        lock = WriteLock(partial)
        assert process(*sources, "--out", folder)[:2] == (1, f"1 done, 0 skipped, 1 failed of 2 sources -> {folder}")
        failed = results_of(folder)[1]
        assert failed["error"] == f"output {folder / 'b.mcap'}: another process is writing {partial}"
        assert lock.is_at(partial)
        partial.rename(folder / "b.mcap")
        lock.close()
        assert process(*sources, "--out", folder)[:2] == (0, f"1 done, 1 skipped, 0 failed of 2 sources -> {folder}")
        assert summary_of(folder) == [("a.mcap", "done", 2), ("b.mcap", "failed", 0), ("b.mcap", "done", 2)]

    def test_output_made_with_other_settings_is_processed_again(self, tmp_path, process, frames, capsys, weights_file):
        sources = [write_drive(tmp_path / f"{name}.mcap", 2) for name in "abc"]
        folder = tmp_path / "out"
        assert process(*sources[:2], "--out", folder)[0] == 0
        frames.clear()
        parameters = ["--weights", str(weights_file), "--device", "cpu", "--backend", "torch"]
        parameters += ["--max-depth", "40", "--topics", "depth/image"]
        assert main(["process", *map(str, sources), "--out", str(folder), *parameters]) == 0
        captured = capsys.readouterr()
        assert captured.out.strip() == f"3 done, 0 skipped, 0 failed of 3 sources -> {folder}"
        assert (
            "2 finished outputs were made with other settings and are processed again: max_depth 0.0 -> 40.0, topics "
            "depth/camera_info depth/image points segmentation/confidence segmentation/image segmentation/label_info "
            "segmentation/labels segmentation/overlay -> depth/image\n" in captured.err
        )
        assert (len(frames), label_times(folder / "a.mcap")) == (6, [])
        # What does not change the content does not matter.
        assert main(["process", *map(str, sources), "--out", str(folder), *parameters, "--cpu-threads", "1"]) == 0
        assert len(frames) == 6
        assert capsys.readouterr().out.strip() == f"0 done, 3 skipped, 0 failed of 3 sources -> {folder}"

    def test_unrelated_file_with_the_name_of_an_output_is_kept_and_reported(self, tmp_path, process):
        sources = [write_drive(tmp_path / f"{name}.mcap", 1) for name in "ab"]
        folder = tmp_path / "out"
        other = write_drive(folder / "b.mcap", 2).read_bytes()
        code, _, line = process(*sources, "--out", folder)
        assert (code, line.endswith(f"1 of 2 sources failed; the reasons are in {folder / 'results.jsonl'}")) == (1, True)
        failed = next(result for result in results_of(folder) if result["status"] == "failed")
        assert failed["error"] == f"{folder / 'b.mcap'} exists and is not an output of process; choose another folder"
        assert (folder / "b.mcap").read_bytes() == other


def work_until_the_deadly_source(*arguments) -> None:
    """Run a worker that is killed after the first frame of deadly.mcap."""
    process = Processor.process

    def process_or_die(self, task):
        for event in process(self, task):
            yield event
            if task.output.name == "deadly.mcap":
                os.kill(os.getpid(), signal.SIGKILL)

    Processor.process = process_or_die
    processes._work(*arguments)


class TestFailures:
    @pytest.mark.parametrize("jobs", [1, 2])
    def test_unreadable_source_fails_alone(self, tmp_path, process, jobs):
        whole, damaged = write_drive(tmp_path / "whole.mcap", 3), write_drive(tmp_path / "damaged.mcap", 4)
        data = damaged.read_bytes()
        # In the middle of the last image.
        damaged.write_bytes(data[: data.rindex(bag_image(3, *SIZE).tobytes()) + 100])
        folder = tmp_path / "out"
        sources = (tmp_path / "none.mcap", damaged, whole)
        code, out, line = process(*sources, "--out", folder, "--jobs", jobs)
        assert (code, out) == (1, f"1 done, 0 skipped, 2 failed of 3 sources -> {folder}")
        assert line == f"mtl_perception process: 2 of 3 sources failed; the reasons are in {folder / 'results.jsonl'}"
        assert sorted(summary_of(folder)) == [
            ("damaged.mcap", "failed", 3),
            ("none.mcap", "failed", 0),
            ("whole.mcap", "done", 3),
        ]
        errors = {result["output"]: result["error"] for result in results_of(folder)}
        assert errors["none.mcap"].startswith(f"{tmp_path / 'none.mcap'} does not exist")
        assert errors["damaged.mcap"].endswith(f"; the 3 frames before it are in {folder / 'damaged.partial.mcap'}")
        assert names_of(folder) == {"whole.mcap", "damaged.partial.mcap", "results.jsonl"}
        # The next run.
        damaged.write_bytes(data)
        code, out, _ = process(*sources, "--out", folder)
        assert (code, out) == (1, f"1 done, 1 skipped, 1 failed of 3 sources -> {folder}")
        assert names_of(folder) == {"whole.mcap", "damaged.mcap", "results.jsonl"}
        assert len(label_times(folder / "damaged.mcap")) == 4

    def test_source_whose_process_dies_fails_alone(self, tmp_path, process, monkeypatch):
        sources = [write_drive(tmp_path / f"{name}.mcap", 3) for name in ("a", "deadly", "b", "c")]
        monkeypatch.setattr(processes, "_work", work_until_the_deadly_source)
        assert process(*sources, "--out", tmp_path / "out", "--jobs", 2)[0] == 1
        results = {result["output"]: result for result in results_of(tmp_path / "out")}
        assert {name: result["status"] for name, result in results.items()} == {
            "a.mcap": "done",
            "deadly.mcap": "failed",
            "b.mcap": "done",
            "c.mcap": "done",
        }
        assert results["deadly.mcap"]["error"].startswith("the worker process was killed by SIGKILL")

    def test_unusable_weights_end_the_run(self, tmp_path, capsys):
        source = write_drive(tmp_path / "a.mcap", 1)
        (tmp_path / "w.safetensors").write_bytes(b"x")
        arguments = ["process", str(source), "--out", f"{tmp_path}/out/", "--weights", str(tmp_path / "w.safetensors")]
        assert main(arguments) == 1
        assert "w.safetensors" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_line_of_a_failure_names_the_source_once(tmp_path, capsys):
    results = ResultsFile(tmp_path)
    with progress_module.Progress(2, results) as progress:
        for number, error in enumerate(("/d/a0.mcap does not exist", "the worker process was killed by SIGKILL")):
            source, name = f"/d/a{number}.mcap", f"a{number}.mcap"
            progress.finish(Task(source, tmp_path / name), SourceResult(source, name, "failed", 0, 0.0, error))
    assert capsys.readouterr().err.splitlines() == [
        "[1/2] failed: /d/a0.mcap does not exist",
        "[2/2] failed: /d/a1.mcap: the worker process was killed by SIGKILL",
    ]


class TestSlices:
    def test_slices_of_a_bag_contain_each_frame_once(self, tmp_path, process):
        source = write_drive(tmp_path / "long.mcap", 8)
        folder = tmp_path / "out"
        for start in (0.0, 0.1, 0.2):
            assert process(source, "--out", f"{folder}/", "--start", start, "--duration", 0.1)[0] == 0
        assert process(source, "--out", folder, "--start", 0.3)[0] == 0
        names = ["long-0s-0.1s.mcap", "long-0.1s-0.2s.mcap", "long-0.2s-0.3s.mcap", "long-0.3s-end.mcap"]
        assert names_of(folder) == {*names, "results.jsonl"}
        times = [START_NS + DELAY_NS + i * STEP_NS for i in range(8)]
        assert [label_times(folder / name) for name in names] == [times[:2], times[2:4], times[4:6], times[6:]]
        assert process(source, "--out", tmp_path / "whole.mcap")[0] == 0
        with AnyReader([tmp_path / "whole.mcap"]) as whole, AnyReader([folder / names[1]]) as part:
            expected = [bytes(data) for connection, _, data in whole.messages() if connection.topic == LABELS][2:4]
            assert [bytes(data) for connection, _, data in part.messages() if connection.topic == LABELS] == expected

    def test_slice_of_an_image_folder(self, tmp_path, process):
        import cv2

        (tmp_path / "images").mkdir()
        for i in range(4):
            cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), np.full((*SIZE, 3), 60 * i, np.uint8))
        assert process(tmp_path / "images", "--out", tmp_path / "o.mcap", "--start", 0.1, "--duration", 0.2)[0] == 0
        assert label_times(tmp_path / "o.mcap") == [100_000_000, 200_000_000]

    def test_slice_without_a_frame_fails(self, tmp_path, process):
        source = write_drive(tmp_path / "a.mcap", 2)
        code, _, line = process(source, "--out", tmp_path / "o.mcap", "--start", 5)
        reason = "no frame of 5s-end was processed; it has about 0.1 s"
        assert (code, line) == (1, f"mtl_perception process: {source}: {reason}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--out", "out"],
        ["a", "b", "--out", "out.mcap"],
        ["a", "--out", "out", "--jobs", "0"],
        ["a", "--out", "out", "--shard", "0/2"],
        ["a", "--out", "out", "--shard", "3/2"],
        ["a", "--out", "out", "--start", "-1"],
        ["a", "--out", "out", "--duration", "0"],
        ["a", "--out", "out", "--start", "nan"],
    ],
)
def test_wrong_usage_exits_with_code_2(tmp_path, process, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert process(*arguments)[0] == 2
    assert names_of(tmp_path) == set()


def test_cores_are_divided_among_the_jobs(tmp_path, process, monkeypatch):
    sources = [write_drive(tmp_path / f"{name}.mcap", 1) for name in "abc"]
    threads = []

    def stop(pool):
        threads.append(pool._settings.config.cpu_threads)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(processes.ProcessPool, "start", stop)
    for options in (["--jobs", 3], ["--jobs", 50], ["--jobs", 3, "--cpu-threads", 2]):
        assert process(*sources, "--out", tmp_path / "out", *options)[0] == 1
    assert threads == [5, 5, 2], "no more jobs than sources"


def test_one_bar_shows_the_progress_of_all_sources(tmp_path, process, monkeypatch):
    sources = [write_drive(tmp_path / "a.mcap", 4), write_drive(tmp_path / "b.mcap", 2), tmp_path / "none.mcap"]
    shown = []

    class Bar:
        def __init__(self, total, **options):
            self.total, self.n = total, 0

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            pass

        def update(self, count):
            assert isinstance(count, int), "fractions could exceed the total, of which tqdm warns"
            self.n += count
            shown.append(round(self.n / self.total, 4))

        def set_postfix_str(self, text):
            shown.append(text)

    monkeypatch.setattr(progress_module, "progress_bar", Bar)
    assert process(*sources, "--out", tmp_path / "out")[0] == 1
    assert shown.pop(0) == "0 of 3 sources, 0 failed"
    assert shown[:6] == [0.0833, 0.1667, 0.25, 0.3333, 0.3333, "1 of 3 sources, 0 failed"]
    assert shown[6:10] == [0.5, 0.6667, 0.6667, "2 of 3 sources, 0 failed"]
    assert shown[10:] == [1.0, "3 of 3 sources, 1 failed"]
