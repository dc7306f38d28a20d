"""Every file call of a save, or of a whole run, failing: once, or from then on; and what can be done with the rest.

What a failed run leaves is judged by going on with it, once for each different folder that is left.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cllm_cli.errors import CllmError
from cllm_cli.training import checkpoint
from cllm_cli.training.durable import TEMPORARY
from cllm_cli.training.folder_lock import LOCK
from cllm_cli.training.records import Checkpointed, Record, Step
from cllm_cli.training.run_folder import RunFolder

from . import forks
from .calls import Call, Fault, watching
from .chains import events
from .small_runs import SETTINGS, bits, copied, in_memory, resume, resumed, start, strays, text_in

CODES = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EDQUOT": errno.EDQUOT, "EACCES": errno.EACCES}
WENT_ON = "went on, as it may"
SAVED, NEXT = 6, 9  # the step whose checkpoint was there before, and that of the save that meets a fault


class Judge:
    """A run that stands at its second save, how it ends if nobody interrupts it, and verdicts on what others left."""

    def __init__(self, place: Path) -> None:
        self.place, self.text = place, text_in(place)
        self.before, self.run = place / "before", place / "run"
        for _ in start(self.text, self.before, stop_after=SAVED):
            pass
        resume(self.text, copied(self.before, self.run))
        self.whole = bits(self.run)
        self._verdicts: dict[str, str] = {}

    def verdict(self) -> str:
        """What is wrong with what was left at `run`, seen by going on with it to its end; empty where nothing is."""
        key = self._key()
        if key not in self._verdicts:
            self._verdicts[key] = self._gone_on()
        return self._verdicts[key]

    def _gone_on(self) -> str:
        try:
            if RunFolder(self.run).exists():
                resume(self.text, self.run)
            else:
                for _ in start(self.text, self.run):
                    pass
        except CllmError as error:
            return f"does not go on: {error}"
        if left := strays(self.run):
            return f"stray files: {left}"
        return "" if bits(self.run) == self.whole else "other bits"

    def _key(self) -> str:
        """Of the contents, but for times: metrics.jsonl and manifests are there or not."""
        digest = hashlib.sha256()
        for path in sorted(self.run.rglob("*")):
            name = re.sub(r"\.tmp-\d+-", ".tmp-", str(path.relative_to(self.run)))  # whose process it was
            timed = path.is_dir() or path.suffix == ".jsonl" or path.name == "manifest.json"
            content = str(path.is_dir() or path.stat().st_size // 64).encode() if timed else path.read_bytes()
            digest.update(f"{name} {len(content)} ".encode() + content)
        return digest.hexdigest()


def _may_fail(call: Call) -> bool:
    """Whether a run goes on after such a call: it removes an old checkpoint or a temporary, or gives the lock back.

    Checkpoints are written under a temporary name, so whatever is done below a checkpoint's own name is its removal.
    """
    if call.kind in ("unlink", "rmdir"):
        return any(part.startswith(("step-", TEMPORARY)) for part in call.path.parts)
    if call.kind in ("open", "close"):
        return call.path.name.startswith("step-") or (call.path.name == LOCK and call.kind == "close")
    return False


def _met(fault: Fault, records: Callable[[], Iterator[Record]], judge: Judge) -> str:
    """Lets a run meet a fault, goes on with what it leaves; what is wrong, empty or WENT_ON where nothing is."""
    run, saved = judge.run, 0
    found = ended = ""
    with watching(run, fault):
        try:
            for record in records():
                saved = record.step if isinstance(record, Checkpointed) else saved
            ended = WENT_ON
        except CllmError as error:
            if error.exit_code != 1 or str(run) not in error.message:
                found = f"does not name the path: {error}"
        except BaseException as error:
            found = f"not an error of ours: {error!r}"
    if not fault.hits:
        return "no fault was met"
    if ended and (hidden := [call for call in fault.hits if not _may_fail(call)]):
        return f"no error although {len(hidden)} calls failed, the first of them {hidden[0].kind} {hidden[0].path.name}"
    there = checkpoint.newest(RunFolder(run))[1].get("step", 0)
    if there < saved:
        found = found or f"step {saved} is lost, {there} is there"
    return found or judge.verdict() or ended


def _tried(judge: Judge, numbers: range, fresh: Callable[[], None], records: Callable[[], Iterator[Record]]) -> Counter:
    """Every call of these numbers, with every error, once and for ever: what was wrong, with the kind of call."""
    wrong: Counter[str] = Counter()
    for number, (name, code), forever in itertools.product(numbers, CODES.items(), (False, True)):
        fresh()
        fault = Fault(number, code, forever)
        found = _met(fault, records, judge)
        if found not in ("", WENT_ON):
            found = f"{name} {' '.join(f'{call.kind} {call.path.name}' for call in fault.hits[:1])}: {found}"
        wrong[found] += 1
    return wrong


def _counted(run: Path, records: Iterator[Record], step: int) -> tuple[int, int]:
    """How many calls are made until the record of a step, and until its checkpoint is told."""
    counter, at = Fault(0, None), 0
    with watching(run, counter):
        for record in records:
            if isinstance(record, Step) and record.step == step:
                at = counter.seen
            if isinstance(record, Checkpointed) and record.step == step:
                break
    return at, counter.seen


def one_save(place: Path) -> tuple[int, Counter]:
    """Every call of the save after the one that is there."""
    judge = Judge(place)

    def fresh() -> None:
        copied(judge.before, judge.run)

    def records() -> Iterator[Record]:
        return resumed(judge.text, judge.run)

    fresh()
    first, last = _counted(judge.run, records(), NEXT)
    return last - first, _tried(judge, range(first + 1, last + 1), fresh, records)


def whole_run(judge: Judge, most: int) -> tuple[int, Counter]:
    """Every call of a run from nothing to its end, or the first `most` of them."""

    def fresh() -> None:
        shutil.rmtree(judge.run, ignore_errors=True)

    def records() -> Iterator[Record]:
        return start(judge.text, judge.run)

    fresh()
    counter = Fault(0, None)
    with watching(judge.run, counter):
        for _ in records():
            pass
    calls = min(counter.seen, most or counter.seen)
    return calls, _tried(judge, range(1, calls + 1), fresh, records)


def killed_runs(place: Path, most: int) -> list[tuple[Path, int, int]]:
    """Runs killed at the first file call, at the second, …: what is left, exit codes, the last steps told.

    The last is the first one that comes to its end. This process must not have run a kernel: it is forked.
    """
    forks.warm_up(place)
    found: list[tuple[Path, int, int]] = []
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    code = -signal.SIGKILL
    while code == -signal.SIGKILL and not (most and len(found) == most):
        number = len(found) + 1
        run = place / f"killed-{number}"
        child = forks.Child(
            ["train", "text.txt", "-o", run.name, "--json", *flags], place, during=watching(run, Fault(number, None))
        )
        code = child.ended_within(None) or 0
        told = [event["step"] for event in events(place / "out.jsonl") if event["event"] == "checkpoint"]
        found.append((run, code, max(told, default=0)))
    return found


def judged(judge: Judge, killed: list[tuple[Path, int, int]]) -> Counter:
    """What is wrong with what killed runs have left. The last one that was not killed is not counted."""
    wrong: Counter[str] = Counter()
    for run, code, saved in killed:
        if code == -signal.SIGKILL:
            there = checkpoint.newest(RunFolder(run))[1].get("step", 0)
            shutil.rmtree(judge.run, ignore_errors=True)
            if run.exists():
                run.rename(judge.run)
            lost = f"step {saved} is lost, {there} is there" if there < saved else ""
            wrong[lost or judge.verdict()] += 1
        elif code:
            wrong[f"exit code {code}"] += 1
    return wrong


def run(count: int, seed: int) -> dict[str, Any]:
    """Every call of a whole run; `count` limits how many, 0 does not. Nothing is drawn at random."""
    with in_memory() as folder:
        killed = killed_runs(Path(folder), count)  # first, since this process must have run no kernel for it
        judge = Judge(Path(folder))
        calls, wrong = whole_run(judge, count)
        wrong += judged(judge, killed)
    return {**summary(calls, wrong), "kills": sum(code == -signal.SIGKILL for _, code, _ in killed)}


def summary(calls: int, wrong: Counter) -> dict[str, Any]:
    trials, went_on = sum(wrong.values()), wrong.pop(WENT_ON, 0)
    return {
        "calls": calls,
        "trials": trials,
        "went_on": went_on,
        "failures": trials - went_on - wrong.pop("", 0),
        "wrong": dict(wrong.most_common(40)),
    }
