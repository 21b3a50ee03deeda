"""Progress of a run over several sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mtl_perception.batch.plan import Task
from mtl_perception.batch.results import DONE, FAILED, ResultsFile, SourceResult
from mtl_perception.progress import print_above_bar, progress_bar

SKIPPED = "skipped"
STEPS = 1000
"""Steps of the bar for each source. Integers do not exceed the total by rounding, of which tqdm warns."""


class Progress:
    """One progress bar for all sources, a line for each that ended, and the counts.

    Args:
        total: Number of sources to process.
        results: File that the results are appended to.

    Attributes:
        counts: Number of sources by status.
    """

    def __init__(self, total: int, results: ResultsFile) -> None:
        self.counts: Counter[str] = Counter()
        self._total, self._results = total, results
        self._notes: set[str] = set()
        self._steps: dict[str, int] = {}
        self._bar = progress_bar(total=total * STEPS, bar_format="{percentage:3.0f}%|{bar}|{postfix} [{elapsed}<{remaining}]")
        self._show_counts()

    def __enter__(self) -> Progress:
        self._bar.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.__exit__(*exception)

    def update(self, task: Task, share: float) -> None:
        """Show the share of a source that is done."""
        steps = round(share * STEPS)
        self._bar.update(steps - self._steps.get(task.source, 0))
        self._steps[task.source] = steps

    def report(self, task: Task, event: float | SourceResult) -> None:
        """Show the share of a source that is done, or record its result."""
        if isinstance(event, SourceResult):
            self.finish(task, event)
        else:
            self.update(task, event)

    def note(self, notes: Sequence[str]) -> None:
        """Print the notes of a pipeline, each once."""
        for note in notes:
            if note not in self._notes:
                self._notes.add(note)
                print_above_bar(note)

    def finish(self, task: Task, result: SourceResult) -> None:
        """Record the result of a source."""
        self._results.append(result)
        self.counts[result.status] += 1
        self.update(task, 1.0)
        ended = self._show_counts()
        text = f"{task.source}: {result.frames} frames in {result.seconds:.1f} s -> {task.output}"
        if result.error:
            # Most errors name the source.
            text = f"failed: {result.error if task.source in result.error else f'{task.source}: {result.error}'}"
        print_above_bar(f"[{ended}/{self._total}] {text}")

    def _show_counts(self) -> int:
        """Show the number of sources that ended, and return it."""
        ended = self.counts[DONE] + self.counts[FAILED]
        self._bar.set_postfix_str(f"{ended} of {self._total} sources, {self.counts[FAILED]} failed")
        return ended
