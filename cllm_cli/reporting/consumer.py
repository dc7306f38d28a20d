"""What a consumer of records is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from cllm_cli.training.records import Record


class Consumer(ABC):
    """Something that shows or stores records. One that is `vital` ends the run when it cannot write."""

    vital: ClassVar[bool] = False

    @abstractmethod
    def show(self, record: Record) -> None: ...

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Leave the stream in order, also after an exception. May be called twice."""
