"""metrics.jsonl: the run's events, appended; on resume cut back to where the checkpoint stands; and read again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cllm_cli.errors import RunError
from cllm_cli.regular import check_regular, open_regular
from cllm_cli.training.records import Record, json_line

LONGEST_LINE = 1 << 20  # bytes of a line that anyone could have written
AT_ONCE = ("start", "checkpoint")  # events that tell whether something was saved, in the file also after a kill


def events_of(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a metrics.jsonl that anyone may have written. What is none is passed over; no file has none.

    Raises RunError where it cannot be read.
    """
    try:
        with open_regular(path) as lines:
            while line := lines.readline(LONGEST_LINE):
                try:
                    event = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(event, dict):
                    yield event
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}", "restore it, or try again") from error


class Metrics:
    """The open file. `length` is its size in bytes, durable after `sync`."""

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        try:
            if path.exists():
                check_regular(path)
            self._file = path.open("ab")
            self._file.truncate(min(length, path.stat().st_size))
        except OSError as error:
            raise self._failed(error) from error
        self.length = self._file.seek(0, os.SEEK_END)

    def write(self, record: Record) -> None:
        """Appends a record that has an event. Raises RunError when it cannot."""
        if not record.event:
            return
        line = (json_line(record.as_dict()) + "\n").encode()
        try:
            self._file.write(line)
            if record.event in AT_ONCE:
                self._file.flush()
        except OSError as error:
            raise self._failed(error) from error
        self.length += len(line)

    def sync(self) -> None:
        """Brings what was written to the disk."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> RunError:
        return RunError(f"cannot write {self.path}: {error.strerror}", "make room, then go on with --resume")
