"""What can go wrong, as one tree. Library code raises these; `main.py` alone turns them into messages and exit codes.

CllmError                    exit 1   every error that is ours: one line that says what, one hint that says what to do
├── ConfigError              exit 1   an unknown or unfit setting, preset, tokenizer, optimizer, …
│   └── UsageError           exit 2   a number out of its range
├── CorpusError              exit 1   text that is missing, empty, too short or cannot be decoded
├── RunError                 exit 1   a run folder that is missing, in the way, incomplete or damaged
├── TrainingError            exit 1   a training run that cannot go on
│   └── NotFiniteError       exit 1   a NaN or an infinity among its numbers
├── CheckFailed              exit 3   a check ran to its end and found something wrong
└── Interrupted              exit 128 + signal   stopped from outside, after everything was saved
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CllmError(Exception):
    """An error with a remedy. `hint` is one line, or empty where nothing useful can be said."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(CllmError):
    """An unknown name or a value that does not fit together with the others."""


class UsageError(ConfigError):
    """A value that is out of its own range."""

    exit_code = 2


class CorpusError(CllmError):
    """Text that cannot be trained on or scored."""


class RunError(CllmError):
    """A run folder that cannot be read, or may not be written."""


class TrainingError(CllmError):
    """A training run that cannot go on."""


class NotFiniteError(TrainingError):
    """A number of a training run is not finite. `step` counts from 1.

    spoiled: the update is done, and weights or the optimizer's state are lost. validation: it is the validation loss,
    and training itself might go on.
    """

    def __init__(self, message: str, step: int, spoiled: bool = False, validation: bool = False) -> None:
        super().__init__(message, "start anew with a smaller --lr or more --warmup")
        self.step, self.spoiled, self.validation = step, spoiled, validation


class CheckFailed(CllmError):
    """A check found something wrong."""

    exit_code = 3


class Interrupted(CllmError):
    """A signal ended the run; what it had was saved. `exit_code` is 128 + the signal's number."""

    def __init__(self, signal_number: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signal_number


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known: the nearest of the known ones, or the whole list."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names)}"
