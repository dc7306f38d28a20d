"""Which consumers a training run's records go to.

    with make_reporter(json=json, quiet=quiet) as reporter:
        for record in loop:
            reporter.show(record)

Standard error gets a live screen on a terminal and a line a record elsewhere; notices alone with --quiet, and with
--json where a screen would only repeat the objects (plain standard error) or tear them (both on the terminal).
Standard output gets JSON lines with --json, else the results at the end.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TextIO

from cllm_cli.reporting.consumer import Consumer
from cllm_cli.training.records import Record


class Reporter:
    """Passes records on to several consumers, and closes them whatever happens."""

    def __init__(self, consumers: Sequence[Consumer]) -> None:
        self._consumers = list(consumers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for consumer in list(self._consumers):
            self._guarded(consumer, None)

    def show(self, record: Record) -> None:
        """Pass `record` on. Raises what a vital consumer raises, and BrokenPipeError from any."""
        for consumer in list(self._consumers):
            self._guarded(consumer, record)

    def _guarded(self, consumer: Consumer, record: Record | None) -> None:
        try:
            consumer.close() if record is None else consumer.show(record)
        except BrokenPipeError:
            raise
        except OSError:
            # A terminal that went away must not end hours of training; a result that cannot be written must be known.
            if consumer.vital:
                raise
            self._consumers.remove(consumer)


def make_reporter(
    json: bool = False, quiet: bool = False, stdout: TextIO | None = None, stderr: TextIO | None = None
) -> Reporter:
    """The consumers of `cllm train`. The streams default to those of the process."""
    from cllm_cli.reporting.lines import Lines, Notices, Results
    from cllm_cli.reporting.records import JsonLines
    from cllm_cli.reporting.terminal import is_plain

    out, err = stdout or sys.stdout, stderr or sys.stderr
    # JSON lines on the screen already say everything; beside a live display they would tear it.
    live = not quiet and not is_plain(err) and not (json and out.isatty())
    consumers: list[Consumer] = []
    if live:
        from cllm_cli.reporting.console import Screen

        consumers.append(Screen(err))
    else:
        consumers.append(Notices(err) if quiet or json else Lines(err))
    if json:
        consumers.append(JsonLines(out))
    if live or not json:
        consumers.append(Results(err if json else out))
    return Reporter(consumers)
