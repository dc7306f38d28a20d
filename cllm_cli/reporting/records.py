"""JSON lines: one object a line, for scripts and for a run's metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TextIO

from cllm_cli.reporting.consumer import Consumer
from cllm_cli.training.records import Record, json_line

__all__ = ["JsonLines", "json_line"]


class JsonLines(Consumer):
    """Writes each record that has an event. A closed pipe raises BrokenPipeError, which ends the run."""

    vital: ClassVar[bool] = True

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, record: Record) -> None:
        if record.event:
            self.write(record.as_dict())

    def write(self, values: Mapping[str, Any]) -> None:
        """One object of any kind; what gradcheck and profile report are plain dictionaries."""
        self._stream.write(json_line(values) + "\n")
        self._stream.flush()
