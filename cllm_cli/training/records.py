"""What a training run reports: plain records, yielded by `training.loop` and consumed by console, JSON lines and plots.

Losses are means in nats a token; `ms` runs from one step's start to the next, everything included.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar


def json_line(values: Mapping[str, Any]) -> str:
    """One object without a line end. Floats round-trip; one that is not finite is null, since JSON has no NaN.

    Everything but ASCII is escaped, so that a line can be written to any stream.
    """
    try:
        line = json.dumps(values, allow_nan=False, separators=(",", ":"))
    except ValueError:
        line = json.dumps(_finite(values), allow_nan=False, separators=(",", ":"))
    return line.replace("\x7f", "\\u007f")  # DEL, the control character that json leaves as it is


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


@dataclass(frozen=True)
class Record:
    """`event` names the record in JSON lines; a record whose event is empty is for the screen alone."""

    event: ClassVar[str] = ""

    def as_dict(self) -> dict[str, Any]:
        return {"event": self.event, **asdict(self)}


@dataclass(frozen=True)
class Start(Record):
    """Before the first step. memory_bytes: params, grads, optimizer, activations, total, as planned."""

    event: ClassVar[str] = "start"
    params: int
    train_tokens: int
    val_tokens: int
    memory_bytes: dict[str, int]
    config: dict[str, Any]
    run: str
    step: int = 0
    steps: int = 0
    version: str = ""


@dataclass(frozen=True)
class Notice(Record):
    """Something that the user should know and need not act on."""

    event: ClassVar[str] = "notice"
    message: str


@dataclass(frozen=True)
class Compiling(Record):
    """Progress while kernels are compiled, then loaded: `done` of `total` are ready, `kernel` is next."""

    kernel: str
    done: int
    total: int
    loading: bool = False


@dataclass(frozen=True)
class Compiled(Record):
    event: ClassVar[str] = "compile"
    seconds: float
    kernels: int = 0


@dataclass(frozen=True)
class Step(Record):
    """One optimizer step. grad_norm is the global norm before clipping, seconds_left an estimate (None: unknown)."""

    event: ClassVar[str] = "step"
    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens_per_s: float
    ms: float
    epoch: float = 0.0
    steps: int = 0
    seconds_left: float | None = None


@dataclass(frozen=True)
class Pulse(Step):
    """A step between those that are logged, for the screen alone."""

    event: ClassVar[str] = ""


class Trouble(Record, ABC):
    """Something that went wrong and did not end the run. `message` tells it in words."""

    @property
    @abstractmethod
    def message(self) -> str:
        """One line."""


@dataclass(frozen=True)
class Spike(Trouble):
    """The loss of a step stands out: `z` standard deviations above the mean of the steps before."""

    event: ClassVar[str] = "spike"
    step: int
    loss: float
    z: float

    @property
    def message(self) -> str:
        return f"the loss of step {self.step} is {self.loss:.4g}, {self.z:.1f} deviations above those before it"


@dataclass(frozen=True)
class Skipped(Trouble):
    """A step without an update, or an evaluation without a result, since a number was not finite."""

    event: ClassVar[str] = "skip"
    step: int
    reason: str

    @property
    def message(self) -> str:
        return f"{self.reason}: skipped"


@dataclass(frozen=True)
class RolledBack(Trouble):
    """At `step` the run went back to `to_step`, and goes on from there with other batches."""

    event: ClassVar[str] = "rollback"
    step: int
    to_step: int
    reason: str

    @property
    def message(self) -> str:
        return f"{self.reason}: back from step {self.step} to {self.to_step}, and on with other batches"


@dataclass(frozen=True)
class Evaluating(Record):
    """Progress within an evaluation."""

    done: int
    total: int


@dataclass(frozen=True)
class Evaluation(Record):
    """`best` says that the validation loss is the lowest so far; `train_loss` is the mean since the last evaluation."""

    event: ClassVar[str] = "eval"
    step: int
    train_loss: float | None
    val_loss: float
    bits_per_byte: float
    perplexity: float | None
    accuracy: float = 0.0
    tokens: int = 0
    best: bool = False


@dataclass(frozen=True)
class Sample(Record):
    event: ClassVar[str] = "sample"
    step: int
    text: str


@dataclass(frozen=True)
class Checkpointed(Record):
    """Yielded only after the checkpoint is durable."""

    event: ClassVar[str] = "checkpoint"
    step: int
    path: str


@dataclass(frozen=True)
class End(Record):
    """The last record. `stopped`: steps, epochs, minutes, stop-after, interrupt or error."""

    event: ClassVar[str] = "end"
    step: int
    val_loss: float | None
    best_val_loss: float | None
    seconds: float
    stopped: str
    bits_per_byte: float | None = None
    run: str = ""
    memory_bytes: dict[str, int] = field(default_factory=dict)
