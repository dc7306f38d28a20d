"""SIGKILL at random moments over chains of `cllm train --resume`, each to its end."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from .chains import Chain, uninterrupted
from .forks import warm_up


def run(count: int, seed: int) -> dict[str, Any]:
    """Kills so many times; says in how many chains, what was wrong, and how many steps a kill has cost at most."""
    random = Random(seed)
    kills = chains = 0
    wrong: list[str] = []
    lost = [0]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        warm_up(place)
        began = time.monotonic()
        whole = uninterrupted(place)
        whole_run = time.monotonic() - began
        while kills < count:
            chain, code = Chain(place, f"run-{chains}", random), -signal.SIGKILL
            while code == -signal.SIGKILL:
                child = chain.start()
                delay = random.uniform(0, 0.7 * whole_run) if kills < count else None
                if (ended := child.ended_within(delay)) is None:
                    child.send(signal.SIGKILL)
                    ended = child.ended_within(None)
                code = ended if ended is not None else 70
                kills += code == -signal.SIGKILL
                chain.judge(code, {0, -signal.SIGKILL})
            chain.finish(whole)
            chains, wrong, lost = chains + 1, wrong + chain.wrong, lost + chain.lost
            shutil.rmtree(chain.run)
    return {"kills": kills, "chains": chains, "most_steps_lost": max(lost), "failures": len(wrong), "wrong": wrong[:5]}
