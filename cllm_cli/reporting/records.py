"""JSON lines: one object a line, for scripts and for a run's metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, ClassVar, TextIO

from cllm_cli.reporting.reporter import Consumer
from cllm_cli.training.records import Record


def json_line(values: Mapping[str, Any]) -> str:
    """One object without a line end. Floats round-trip; one that is not finite is null, since JSON has no NaN.

    Everything but ASCII is escaped, so that a line can be written to any stream.
    """
    try:
        return json.dumps(values, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_finite(values), allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


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
