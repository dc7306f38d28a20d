"""Streams and records for the tests of the consumers."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable

import pytest

from cllm_cli.training.records import (
    Checkpointed,
    Compiled,
    Compiling,
    End,
    Evaluating,
    Evaluation,
    Notice,
    Record,
    RolledBack,
    Sample,
    Skipped,
    Spike,
    Start,
    Step,
)

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Stream(io.StringIO):
    """A text stream that says whether it is a terminal, and what it encodes."""

    def __init__(self, interactive: bool = False, encoding: str = "utf-8") -> None:
        super().__init__()
        self._interactive = interactive
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read-only here
        return self._encoding

    def isatty(self) -> bool:
        return self._interactive

    def lines(self) -> list[str]:
        """What was written, without escape sequences."""
        return ESCAPES.sub("", self.getvalue()).replace("\r", "\n").split("\n")


@pytest.fixture
def pipe() -> Stream:
    return Stream()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stream]:
    """Makes a terminal of a given size."""

    def make(width: int = 100, height: int = 40, encoding: str = "utf-8") -> Stream:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("LINES", str(height))
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        return Stream(interactive=True, encoding=encoding)

    return make


@pytest.fixture
def records() -> list[Record]:
    """A short run with everything in it."""
    memory = {"params": 3_337_216, "grads": 3_337_216, "optimizer": 6_674_432, "activations": 21_500_000}
    config = {"arch": "gpt2", "n_layer": 4, "n_embd": 128, "n_head": 4, "block_size": 64, "vocab_size": 256}
    config |= {"tokenizer": "byte", "batch_size": 12, "grad_accum": 1, "optimizer": "adamw", "lr": 1e-3, "seed": 1337}
    run: list[Record] = [
        Start(834_304, 1_003_854, 111_540, memory | {"total": sum(memory.values())}, config, "runs/a tale", steps=200),
        Notice("the corpus is small"),
        Compiling("layernorm_forward", 0, 2),
        Compiling("linear_forward", 1, 2),
        Compiled(1.5, 2),
    ]
    for step in range(10, 201, 10):
        loss = 1.5 + 4 * math.exp(-step / 60)
        run.append(Step(step, loss, 1e-3, 0.5, 18_400.0, 41.7, 0.1, 200, (200 - step) * 0.04))
        if step % 100 == 0:
            run += [
                Evaluating(1, 2),
                Evaluation(step, loss, loss + 0.1, (loss + 0.1) / math.log(2), math.exp(loss + 0.1), best=True),
                Sample(step, "To be,\nor not to be: " + "that is the question. " * 20),
                Checkpointed(step, f"runs/a tale/checkpoint/{step}"),
            ]
    run += [Spike(200, 3.25, 7.04), Skipped(201, "the loss is not finite"), RolledBack(202, 190, "the loss jumped")]
    run.append(End(200, 1.7427, 1.7427, 83.0, "steps", 2.514, "runs/a tale"))
    return run
