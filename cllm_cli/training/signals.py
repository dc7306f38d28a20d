"""Signals that ask a run to end: the first one lets it finish its step and save, a second one ends it at once.

While there is nothing to save, the first one may end it at once as well: perhaps it waits for text.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """While it is entered, `received` is the number of the signal that came, or 0. `patient`: the first one only asks.

    A signal that whoever started the process has set to be ignored, as nohup does, stays ignored.
    """

    def __init__(self, patient: bool = True) -> None:
        self.received = 0
        self.patient = patient
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in WATCHED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        now = self.received or not self.patient
        self.received = self.received or number
        if now:
            raise KeyboardInterrupt
