"""SIGINT, SIGTERM and SIGHUP at random moments; some runs get a second Ctrl-C, which ends them at once."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from .chains import Chain, events, uninterrupted
from .forks import warm_up

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ALLOWED = 2.0  # seconds from a signal to the end, and the longest step with what is done between steps (`_longest`)
SECOND = 0.25  # share of the signals that another one follows
SOON = 0.02  # seconds that the second one comes after the first at most


def run(count: int, seed: int) -> dict[str, Any]:
    """Sends so many signals; says how long the slowest end took, and how many runs had ended before theirs came."""
    random = Random(seed)
    wrong: list[str] = []
    codes: dict[str, int] = {}
    slowest, late = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        warm_up(place)
        began = time.monotonic()
        whole = uninterrupted(place)
        whole_run, longest = time.monotonic() - began, _longest(events(place / "out.jsonl"))
        sent = chains = 0
        while sent < count:
            chain, code = Chain(place, f"run-{chains}", random), 1
            while code:
                child = chain.start()
                delay = random.uniform(0, 0.7 * whole_run) if sent < count else None
                if (ended := child.ended_within(delay)) is not None:
                    code = ended
                    chain.judge(code, {0})
                    continue
                number, second = random.choice(NUMBERS), random.random() < SECOND
                child.send(number)
                began, sent = time.monotonic(), sent + 1
                if second and (ended := child.ended_within(random.uniform(0, SOON))) is None:
                    child.send(signal.SIGINT)
                if ended is None and (ended := child.ended_within(30)) is None:
                    chain.wrong.append(f"still runs 30 s after {number.name}")
                    child.send(signal.SIGKILL)
                    ended = child.ended_within(None)
                taken = time.monotonic() - began
                code = ended if ended is not None else 70
                longest = max(longest, _longest(_judge(chain, number, code, second)))
                if taken > ALLOWED + longest:
                    chain.wrong.append(f"ended {taken:.2f} s after {number.name}; a step took {longest:.2f} s at most")
                    late += 1
                slowest = max(slowest, taken)
                codes[str(code)] = codes.get(str(code), 0) + 1
            chain.finish(whole)
            chains, wrong = chains + 1, wrong + chain.wrong
            shutil.rmtree(chain.run, ignore_errors=True)
    return {
        "signals": sent,
        "chains": chains,
        "codes": codes,
        "slowest_s": round(slowest, 3),
        "late": late,
        "failures": len(wrong),
        "wrong": wrong[:5],
    }


def _longest(found: list[dict[str, Any]]) -> float:
    """The longest step's seconds. All that is done between two steps counts to the second: saves, scores, samples.

    So a machine that is busy with other work is given as much more time as it takes for what a run must finish.
    """
    return max((event["ms"] / 1e3 for event in found if event["event"] == "step"), default=0.0)


def _judge(chain: Chain, number: signal.Signals, code: int, second: bool) -> list[dict[str, Any]]:
    """The exit code is that of the first signal; before the program listens, the system's own end of the process.

    Gives the events that were told.
    """
    found = chain.judge(code, {0, 128 + number, -number} | ({130, -signal.SIGINT} if second else set()))
    if code == -number and found:
        chain.wrong.append(f"{number.name} was not caught although events had been told")
    told = [event for event in found if event["event"] == "end"]
    if told and told[-1]["step"] != chain.saved:
        chain.wrong.append(f"ended at step {told[-1]['step']}, but saved {chain.saved}")
    if code == 128 + number and not second and found and not told:
        chain.wrong.append(f"{number.name} came after {found[-1]['event']}, and no end was told")
    if not chain.seen and list(chain.run.glob("checkpoint/step-*")):
        chain.wrong.append("nothing was trained, yet something was saved")
    return found
