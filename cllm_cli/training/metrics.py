"""metrics.jsonl: the run's events, appended; on resume cut back to where the checkpoint stands."""

from __future__ import annotations

import os
from pathlib import Path

from cllm_cli.errors import RunError
from cllm_cli.regular import check_regular
from cllm_cli.training.records import Record, json_line


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
