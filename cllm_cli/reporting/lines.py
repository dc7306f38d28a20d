"""Plain lines: a run's progress where no live screen is possible, its notices, and its results.

One line a record, no escape sequences and nothing but ASCII of our own, so that a log file reads well and greps well.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TextIO

from cllm_cli.printable import one_line
from cllm_cli.reporting.consumer import Consumer
from cllm_cli.reporting.quantities import count, decimal, duration, loss, remaining, scientific, size
from cllm_cli.reporting.terminal import write_line
from cllm_cli.training.records import (
    Checkpointed,
    Compiled,
    Compiling,
    End,
    Evaluating,
    Evaluation,
    Notice,
    Record,
    Sample,
    Start,
    Step,
    Trouble,
)

PATIENCE = 10.0  # seconds between lines that say no more than that work goes on
SAMPLE_LENGTH = 300  # characters of a sample in a line


def facts(start: Start) -> dict[str, str]:
    """What a run is about to do, as labelled phrases."""
    config = start.config
    micro = f"{config.get('batch_size', '?')} x {config.get('block_size', '?')} tokens"
    accumulated = config.get("grad_accum", 1)
    found = {
        "run": one_line(start.run) + (f", resumed at step {count(start.step)}" if start.step else ""),
        "corpus": f"{count(start.train_tokens)} training tokens, {count(start.val_tokens)} for validation"
        + _named(config, ", {} tokenizer", "tokenizer"),
        "model": _named(config, "{}, ", "arch") + _model(config),
        "parameters": count(start.params),
        "training": (f"{count(start.steps)} steps of " if start.steps else "steps of ")
        + (f"{accumulated} x " if accumulated != 1 else "")
        + micro,
        "optimizer": _named(config, "{}", "optimizer")
        + (f", lr {scientific(config['lr'])}" if config.get("lr") is not None else "")
        + _named(config, ", {} schedule", "schedule")
        + _named(config, ", warm-up {}", "warmup"),
        "machine": _named(config, "{} threads, ", "threads") + _named(config, "seed {}", "seed"),
    }
    return {label: phrase for label, phrase in found.items() if phrase}


def _model(config: Mapping[str, Any]) -> str:
    parts = [("{} layers", "n_layer"), ("{} wide", "n_embd"), ("{} heads", "n_head")]
    parts += [("T={}", "block_size"), ("vocabulary {}", "vocab_size")]
    return ", ".join(filter(None, (_named(config, phrase, name) for phrase, name in parts)))


def _named(config: Mapping[str, Any], phrase: str, name: str) -> str:
    value = config.get(name)
    return "" if value is None else phrase.format(one_line(str(value)))


def ending(end: End) -> str:
    """How a run ended: `step 2,000 reached in 1:23`, with the reason where it is not the usual one."""
    why = "" if end.stopped in ("steps", "epochs", "minutes") else f", stopped: {one_line(end.stopped)}"
    return f"step {count(end.step)} reached in {duration(end.seconds)}{why}"


class Lines(Consumer):
    """A line a record on `stream`; what only says that work goes on comes seldom. `clock` gives seconds."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._busy_since: float | None = None
        self._steps = 0

    def show(self, record: Record) -> None:
        if isinstance(record, Compiling | Evaluating):
            self._show_work(record)
            return
        if not record.event:
            return
        self._busy_since = None
        if isinstance(record, Start):
            self._steps = record.steps
        line = self._line(record)
        if line:
            write_line(self._stream, line)

    def _line(self, record: Record) -> str:
        match record:
            case Step():
                return _joined(
                    f"step {self._of_steps(record)}",
                    f"loss {loss(record.loss)}",
                    f"lr {scientific(record.lr)}",
                    f"grad norm {decimal(record.grad_norm, 3)}",
                    f"{record.tokens_per_s:.0f} tokens/s",
                    f"{decimal(record.ms, 1)} ms",
                    "" if record.seconds_left is None else f"{remaining(record.seconds_left)} left",
                )
            case Evaluation():
                return _joined(
                    f"eval {record.step}",
                    f"validation {loss(record.val_loss)}{' (best)' if record.best else ''}",
                    "" if record.train_loss is None else f"train {loss(record.train_loss)}",
                    f"bits/byte {decimal(record.bits_per_byte, 3)}",
                    f"perplexity {decimal(record.perplexity, 2)}",
                )
            case Sample():
                text = one_line(record.text)
                return f"sample {record.step}  {text[:SAMPLE_LENGTH]}{'..' if len(text) > SAMPLE_LENGTH else ''}"
            case Checkpointed():
                return f"checkpoint {record.step}  {one_line(record.path)}"
            case Notice() | Trouble():
                return f"note: {one_line(record.message)}"
            case Start():
                memory = record.memory_bytes.get("total")
                phrases = [f"{label} {phrase}" for label, phrase in facts(record).items()]
                return "start  " + "; ".join(phrases) + (f"; memory {size(memory)}" if memory else "")
            case Compiled():
                return f"compiled  {record.kernels} kernels in {duration(record.seconds)}" if record.kernels else ""
            case End():
                return f"end  {ending(record)}"
        return ""

    def _of_steps(self, record: Step) -> str:
        steps = record.steps or self._steps
        return f"{record.step}/{steps}" if steps else str(record.step)

    def _show_work(self, record: Compiling | Evaluating) -> None:
        now = self._clock()
        if self._busy_since is None:
            self._busy_since = now - PATIENCE + 1  # the first line after a second: most waits are shorter
        if now - self._busy_since >= PATIENCE:
            self._busy_since = now
            what = "evaluating"
            if isinstance(record, Compiling):
                what = f"{'loading' if record.loading else 'compiling, once:'} {one_line(record.kernel)}"
            write_line(self._stream, f"{what}, {record.done} of {record.total} done")


def _joined(*parts: str) -> str:
    return "  ".join(part for part in parts if part)


class Notices(Consumer):
    """Notices alone: what must be said even where progress is not wanted."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, record: Record) -> None:
        if isinstance(record, Notice | Trouble):
            write_line(self._stream, f"note: {one_line(record.message)}")


class Results(Consumer):
    """What a run came to, on `stream` when it ends: losses, the run folder, the command to generate from it."""

    vital: ClassVar[bool] = True

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._run = ""
        self._best_step: int | None = None

    def show(self, record: Record) -> None:
        match record:
            case Start():
                self._run = record.run
            case Evaluation() if record.best:
                self._best_step = record.step
            case End() if record.stopped != "error":
                for label, text in self._lines(record):
                    write_line(self._stream, f"{label:<15}  {text}")

    def _lines(self, end: End) -> list[tuple[str, str]]:
        run = end.run or self._run
        if end.val_loss is None:
            lines = [("validation loss", "none, stopped before the first evaluation")]
        else:
            lines = [("validation loss", loss(end.val_loss))]
            if end.bits_per_byte is not None:
                lines.append(("bits per byte", decimal(end.bits_per_byte, 3)))
            if end.best_val_loss is not None and end.best_val_loss != end.val_loss:
                where = "" if self._best_step is None else f" at step {count(self._best_step)}"
                lines.append(("best validation", loss(end.best_val_loss) + where))
        if run:
            lines.append(("run folder", one_line(run)))
        if run and end.step:  # before the first step there are no weights
            lines.append(("generate with", f"cllm generate {one_line(shlex.quote(run))}"))
        return lines
