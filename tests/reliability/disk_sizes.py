"""Disks from no room at all to more than a run needs: it comes to its end, or says where there was no room.

The disk is one that counts: a write that does not fit fails, and writes nothing.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from cllm_cli.errors import CllmError
from cllm_cli.training import checkpoint
from cllm_cli.training.records import Checkpointed
from cllm_cli.training.run_folder import RunFolder

from .calls import Call, watching
from .faults import Judge
from .small_runs import bits, in_memory, start

BLOCK = 4096


def room_taken(run: Path) -> int:
    """Bytes of the blocks that the files and folders of a run lie in."""
    items = [run, *run.rglob("*")] if run.exists() else []
    return sum(BLOCK if item.is_dir() else -(-item.stat().st_size // BLOCK) * BLOCK for item in items)


class SmallDisk:
    """A disk of so many bytes below `run`. `refused` counts what did not fit, `most` is the most that was taken."""

    def __init__(self, run: Path, size: int) -> None:
        self.run, self.size = run, size
        self.refused = self.most = 0

    def __call__(self, call: Call) -> None:
        if call.kind in ("write", "mkdir", "create"):
            last = -(-call.at // BLOCK) * BLOCK  # what the file's last block still holds is free
            more = max(0, call.at + len(call.data) - last) if call.kind == "write" else BLOCK * (call.kind == "mkdir")
            taken = room_taken(self.run) + -(-more // BLOCK) * BLOCK
            if taken > self.size:
                self.refused += 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(call.path))
            self.most = max(self.most, taken)


def run(count: int, seed: int) -> dict[str, Any]:
    """Trains on `count` disks, evenly from nothing to what a run needs. Nothing is drawn at random."""
    outcomes, wrong = Counter[str](), Counter[str]()
    with in_memory() as folder:
        judge = Judge(Path(folder))
        shutil.rmtree(judge.run)
        roomy = SmallDisk(judge.run, 1 << 40)
        _trained(judge, roomy)
        for number in range(count):
            shutil.rmtree(judge.run, ignore_errors=True)
            disk = SmallDisk(judge.run, roomy.most * number // (count - 1))
            ended, what = _trained(judge, disk)
            if ended == bool(disk.refused):
                what = what or "a disk that was full went unnoticed" * ended or "failed on a disk with room"
            if ended and not what and bits(judge.run) != judge.whole:
                what = "other bits"
            outcomes["ended" if ended else "refused"] += 1
            wrong[what or judge.verdict()] += 1
    return {"disks": count, **outcomes, "failures": count - wrong.pop("", 0), "wrong": dict(wrong)}


def _trained(judge: Judge, disk: SmallDisk) -> tuple[bool, str]:
    """Whether a run comes to its end on a disk, and what is wrong with how it did not."""
    saved = 0
    with watching(judge.run, disk):
        try:
            for record in start(judge.text, judge.run):
                saved = record.step if isinstance(record, Checkpointed) else saved
        except CllmError as error:
            there = checkpoint.newest(RunFolder(judge.run))[1].get("step", 0)
            if there < saved:
                return False, f"step {saved} is lost"
            return False, "" if str(judge.run) in error.message else f"does not name the path: {error}"
        except Exception as error:
            return False, f"not an error of ours: {error!r}"
    return True, ""
