"""SIGKILL at any file call and at any moment of a save: what is there is the checkpoint before it, or its own.

The run waits at the moment before its save, in a process that forks for every kill: a save runs no kernel.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from cllm_cli.training import checkpoint
from cllm_cli.training.records import Checkpointed, Record, Step
from cllm_cli.training.run_folder import RunFolder

from .calls import Call, Fault, watching
from .faults import NEXT, SAVED, Judge
from .small_runs import copied, in_memory, resumed


class Waiting:
    """A run that is about to save the checkpoint of step NEXT, as often as wanted."""

    def __init__(self, judge: Judge, records: Iterator[Record], hook: Hooked) -> None:
        self.judge, self.records, self.hook = judge, records, hook
        for record in records:
            if isinstance(record, Step) and record.step == NEXT:
                break
        self.run = judge.place / "waiting"
        self.before = Path(shutil.copytree(self.run, judge.place / "at"))

    def as_before(self) -> None:
        """Puts everything back. Two files are open here and stay: the lock, and what is appended."""
        for item in self.run.iterdir():
            if item.name not in (".lock", "metrics.jsonl"):
                shutil.rmtree(item) if item.is_dir() else item.unlink()
        os.truncate(self.run / "metrics.jsonl", (self.before / "metrics.jsonl").stat().st_size)
        kept = shutil.ignore_patterns(".lock", "metrics.jsonl")
        shutil.copytree(self.before, self.run, ignore=kept, dirs_exist_ok=True)

    def child(self, fault: Fault, stays: bool = True) -> int:
        """Saves in a child, which then waits to be killed, unless it goes by itself. Gives its id."""
        pid = os.fork()
        if pid == 0:
            try:
                self.hook.now = fault
                for record in self.records:
                    if isinstance(record, Checkpointed):
                        while stays:
                            signal.pause()
                        break
            finally:
                os._exit(70)
        return pid

    def wrong(self, whole: dict[int, bytes]) -> tuple[int, str]:
        """The step that is there, and what is wrong with what is left."""
        folder = RunFolder(self.run)
        path, manifest, passed = checkpoint.newest(folder)
        step = manifest.get("step", 0)
        if passed or path is None:
            return step, f"damaged: {passed}"
        if (path / "state.safetensors").read_bytes() != whole.get(step):
            return step, f"other bits at step {step}"
        copied(self.run, self.judge.run)
        return step, self.judge.verdict()


class Hooked:
    """Passes calls on to whoever listens now."""

    now: Fault | None = None

    def __call__(self, call: Call) -> None:
        if self.now:
            self.now(call)


def run(count: int, seed: int) -> dict[str, Any]:
    """Kills every other save at a file call, each in turn, the rest at a moment.

    `before` and `after`: how often which checkpoint was there.
    """
    random, found, wrong = Random(seed), Counter[int](), Counter[str]()
    hook, never = Hooked(), Fault(0, None)
    with in_memory() as place:
        judge = Judge(Path(place))
        copied(judge.before, judge.place / "waiting")
        with watching(judge.place / "waiting", hook):
            waiting = Waiting(judge, resumed(judge.text, judge.place / "waiting"), hook)
            calls, seconds, states = _undisturbed(waiting)
            for number in range(count):
                waiting.as_before()
                at_call = number % 2 == 0
                pid = waiting.child(Fault(number // 2 % calls + 1, None) if at_call else never)
                if not at_call:
                    time.sleep(random.uniform(0, 1.2 * seconds))
                    os.kill(pid, signal.SIGKILL)
                died = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                step, what = waiting.wrong(states)
                found[step] += 1
                wrong[f"exit code {died}" if died != -signal.SIGKILL else what] += 1
    failures = count - wrong.pop("", 0)
    return {
        "kills": count,
        "calls": calls,
        "before": found[SAVED],
        "after": found[NEXT],
        "failures": failures,
        "wrong": dict(wrong),
    }


class Telling(Fault):
    """Tells each call to the process that reads at the other end."""

    def __init__(self, writing: int) -> None:
        super().__init__(0, None)
        self.writing = writing

    def __call__(self, call: Call) -> None:
        os.write(self.writing, b".")


def _undisturbed(waiting: Waiting) -> tuple[int, float, dict[int, bytes]]:
    """How many calls a save makes, how long it takes, and the states before and after it."""
    reading, writing = os.pipe()
    began = time.monotonic()
    pid = waiting.child(Telling(writing), stays=False)
    os.close(writing)
    os.waitpid(pid, 0)
    seconds = time.monotonic() - began
    calls = len(os.read(reading, 65536))
    os.close(reading)
    states = {step: waiting.run / "checkpoint" / f"step-{step:08}" / "state.safetensors" for step in (SAVED, NEXT)}
    return calls, seconds, {step: path.read_bytes() for step, path in states.items()}
