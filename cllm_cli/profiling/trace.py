"""A profiled step as trace events, for Perfetto or Chrome's tracing.

The format is the Trace Event Format's JSON object: complete events ("X") with times in microseconds, and a counter
("C") for the bytes of activations that are in use.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cllm_cli.errors import ConfigError
from cllm_cli.profiling.layers import Span


def write_trace(path: Path, spans: Iterable[Span]) -> None:
    """Writes the trace of a step. Raises ConfigError where it cannot."""
    try:
        path.write_text(json.dumps(trace_events(spans)), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", "--trace takes a file to write") from error


def trace_events(spans: Iterable[Span]) -> dict[str, Any]:
    """The object that a trace viewer opens."""
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": 1, "name": "process_name", "args": {"name": "cllm: a training step"}}
    ]
    for span in spans:
        place = {"pid": 1, "tid": 1, "ts": 1e6 * span.began}
        details = {"call": span.label} if span.label else {}
        events.append(
            {"ph": "X", "name": span.name, "cat": span.direction, "dur": 1e6 * span.seconds, "args": details, **place}
        )
        if span.alive is not None:
            events.append({"ph": "C", "name": "activations", "args": {"bytes": span.alive}, **place})
    return {"traceEvents": events, "displayTimeUnit": "ms"}
