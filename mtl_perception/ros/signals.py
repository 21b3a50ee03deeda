"""SIGINT and SIGTERM, from the first import to the last word."""

from __future__ import annotations

import contextlib
import enum
import os
import signal
from collections.abc import Iterator
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Answer(enum.Enum):
    """What a signal does."""

    LEAVE = enum.auto()
    """The process ends at once: nothing has been begun that needs an end."""
    INTERRUPT = enum.auto()
    """KeyboardInterrupt in the main thread."""
    NONE = enum.auto()
    """Nothing more than rclpy does, which is to shut its context down: spinning ends."""


class StopSignals:
    """Answers both signals alike, so that stopping is an ordinary end, exit code 0, whenever it comes and however often.

    Create it before rclpy is initialized, in the main thread: rclpy's own handlers come on top and call these.

    Attributes:
        answer: What a signal does now.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)

    @contextlib.contextmanager
    def until_stopped(self) -> Iterator[None]:
        """Takes an end by a signal, in whatever way it shows, for an ordinary end of the block."""
        try:
            yield
        except KeyboardInterrupt:
            pass
        except Exception as error:
            # Not at the top: handlers stand before the seconds that this import takes.
            import rclpy
            from rclpy.executors import ExternalShutdownException

            # A signal in the middle of anything else shows as some error of the dying context.
            if not isinstance(error, ExternalShutdownException) and (self.answer is Answer.INTERRUPT or rclpy.ok()):
                raise

    def ignore(self) -> None:
        """For the very end: signals do nothing, also while the interpreter is taken down."""
        self.answer = Answer.NONE
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.answer is Answer.LEAVE:
            os._exit(0)
        if self.answer is Answer.INTERRUPT:
            self.answer = Answer.NONE
            raise KeyboardInterrupt
