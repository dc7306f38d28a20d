"""So many commands at once on an empty kernel cache: all right, and so is the cache afterwards."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from . import compiling


def run(count: int, seed: int) -> dict[str, Any]:
    """Starts so many commands at once. There is nothing to draw: the seed is not used."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        said = [compiling.finish(each) for each in [compiling.start(cache) for _ in range(count)]]
        wrong = [each for each in said if not each.startswith('{"event":"check"') or each != said[0]]
        wrong += compiling.wrong_with_loading(cache, said[0])
        if not compiling.wait_until_gone(cache):
            wrong.append("a process is left")
    return {"starts": count, "failures": len(wrong), "wrong": wrong[:5]}
