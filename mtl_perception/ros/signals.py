"""Handling of SIGINT, SIGTERM and SIGHUP during the whole life of a process."""

from __future__ import annotations

import contextlib
import enum
import os
import signal
from collections.abc import Iterator
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Answer(enum.Enum):
    """Reaction to a signal."""

    LEAVE = enum.auto()
    """Exit immediately; nothing was started yet that needs a shutdown."""
    INTERRUPT = enum.auto()
    """Raise KeyboardInterrupt in the main thread."""
    NONE = enum.auto()
    """Leave it to rclpy, which shuts down its context and so ends spinning."""


class StopSignals:
    """Handle SIGINT and SIGTERM alike, so that a process ends with exit code 0 whenever and however often they are received.

    SIGHUP, which a terminal or an SSH connection sends when it closes, counts as SIGTERM unless it is ignored, as under nohup.
    Create it in the main thread before rclpy is initialized: the handlers of rclpy call these.

    Args:
        answer: Initial reaction.

    Attributes:
        answer: Current reaction.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
            signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))

    @contextlib.contextmanager
    def until_stopped(self) -> Iterator[None]:
        """End the block normally if a signal interrupts it, whatever exception that causes."""
        try:
            yield
        except KeyboardInterrupt:
            pass
        except Exception as error:
            # Imported here, because the handlers must be set before this import, which takes seconds.
            import rclpy
            from rclpy.executors import ExternalShutdownException

            # A signal during another call can surface as any error of the context that is being shut down.
            if not isinstance(error, ExternalShutdownException) and (self.answer is Answer.INTERRUPT or rclpy.ok()):
                raise

    def ignore(self) -> None:
        """Ignore signals from now on, also while the interpreter is finalized."""
        self.answer = Answer.NONE
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.answer is Answer.LEAVE:
            os._exit(0)
        if self.answer is Answer.INTERRUPT:
            self.answer = Answer.NONE
            raise KeyboardInterrupt
