"""`kill -9` in every phase of a run over 8 sources, and the run that continues."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.bags import write_drive

from mtl_perception import Pipeline
from mtl_perception.__main__ import main

FRAMES = {f"s{i:02}.mcap": 1 + i % 2 for i in range(8)}
ORDER = list(FRAMES)
# Outputs that have their name, and those with a line in results.jsonl, when the run is killed.
PHASES = {
    "first frame": (0, 0),
    "before the index": (2, 2),
    "before the rename": (2, 2),
    "after the rename": (4, 3),
    "within the line": (5, 4),
    "between two sources": (6, 6),
    "after the last line": (8, 8),
}
SCRIPT = textwrap.dedent("""
    import os
    import signal
    import sys
    from pathlib import Path
    from mtl_perception import Pipeline
    from mtl_perception.__main__ import main
    from mtl_perception.batch import run
    from mtl_perception.batch.results import ResultsFile
    from mtl_perception.sources.bag.writer import BagWriter

    def die(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    def die_at(owner, name, number, before=True):
        function, calls = getattr(owner, name), []

        def call(*arguments, **options):
            calls.append(name)
            if before and len(calls) == number:
                die()
            result = function(*arguments, **options)
            if len(calls) == number:
                die()
            return result

        setattr(owner, name, call)

    def truncate_line(number):
        append, calls = ResultsFile.append, []

        def call(self, result):
            calls.append(result)
            if len(calls) < number:
                return append(self, result)
            with self.path.open("a") as file:
                file.write('{"source": "/data/s0')
            die()

        ResultsFile.append = call

    phases = {
        "first frame": lambda: die_at(Pipeline, "__call__", 1, before=False),
        "before the index": lambda: die_at(BagWriter, "_finish", 3),
        "before the rename": lambda: die_at(BagWriter, "_move_in_place", 3),
        "after the rename": lambda: die_at(BagWriter, "_move_in_place", 4, before=False),
        "within the line": lambda: truncate_line(5),
        "between two sources": lambda: die_at(ResultsFile, "append", 6, before=False),
        "after the last line": lambda: die_at(ResultsFile, "append", 8, before=False),
    }
    root, *arguments = sys.argv[1:]
    # No thread runs yet: a forked process works, and starts without the imports.
    for number, (phase, prepare) in enumerate(phases.items()):
        child = os.fork()
        if child == 0:
            prepare()
            main(["process", *arguments, "--out", f"{root}/{number}"])
            os._exit(3)
        print(phase, os.waitpid(child, 0)[1], sep=": ")
""")


def results_of(folder: Path) -> list[dict]:
    """Return the whole lines of results.jsonl."""
    results = []
    path = folder / "results.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.endswith("}"):
            results.append(json.loads(line))
    return results


@pytest.fixture(scope="module")
def killed(tmp_path_factory, weights_file):
    """Return the folder of the killed runs, by number of the phase, the arguments of all runs, and the expected outputs."""
    root = tmp_path_factory.mktemp("killed")
    sources = [str(write_drive(root / "data" / name, count)) for name, count in FRAMES.items()]
    arguments = [*sources, "--weights", str(weights_file), "--device", "cpu", "--backend", "torch", "--cpu-threads", "1"]
    assert main(["process", *arguments, "--out", str(root / "undisturbed")]) == 0
    command = [sys.executable, "-c", SCRIPT, str(root), *arguments]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout.splitlines() == [f"{phase}: {int(signal.SIGKILL)}" for phase in PHASES], done.stderr
    return root, arguments, {name: (root / "undisturbed" / name).read_bytes() for name in FRAMES}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "phase"), list(enumerate(PHASES)))
def test_killed_run_is_completed_and_nothing_is_done_twice(killed, number, phase, monkeypatch):
    root, arguments, expected = killed
    folder = root / str(number)
    named, recorded = PHASES[phase]
    finished = {name: (folder / name).stat().st_mtime_ns for name in ORDER if (folder / name).exists()}
    assert list(finished) == ORDER[:named]
    assert all((folder / name).read_bytes() == expected[name] for name in finished), "an output with its name is complete"
    assert [result["output"] for result in results_of(folder)] == ORDER[:recorded]

    frames = []
    call = Pipeline.__call__

    def count(self, frame, *arguments):
        frames.append(frame)
        return call(self, frame, *arguments)

    monkeypatch.setattr(Pipeline, "__call__", count)
    assert main(["process", *arguments, "--out", str(folder)]) == 0
    assert len(frames) == sum(list(FRAMES.values())[named:])
    assert {path.name for path in folder.iterdir()} == {*FRAMES, "results.jsonl"}
    assert {name: (folder / name).read_bytes() for name in FRAMES} == expected
    assert {name: (folder / name).stat().st_mtime_ns for name in finished} == finished
    results = [(result["output"], result["status"], result["frames"]) for result in results_of(folder)]
    assert sorted(results) == [(name, "done", count) for name, count in FRAMES.items()]
