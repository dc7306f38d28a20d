"""Runs mutants: each in a tree of its own, with a kernel cache of its own, on the tests of its module.

The trees are hard links to one copy of the repository, and the caches to one warm cache: kernels are cached under a
hash of the sources that they are made of, so what a mutant does not touch is loaded, and nothing that a mutant leaves
is met again.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .modules import MODULES, Stage
from .mutants import Mutant

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.egg-info", "runs", "build", "dist", ".*_cache")
CPU_SECONDS = 120  # for a stage, all threads together: several times what the longest takes without a mistake
PATIENCE = 1200  # seconds: who waits for ever uses no processor
MEMORY = 16 * 2**30  # bytes of address space: a wrong size must not take the machine's memory
NOTHING_CHOSEN = 5  # pytest's exit code
FROM_OUTSIDE = {"SIGTERM", "SIGINT", "SIGHUP"}
REFUSAL = "numba.core.errors"

KILLED, SURVIVED = "killed", "survived"


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: in which stage it was killed, by which test or how. Seconds of wall time."""

    mutant: Mutant
    outcome: str
    by: str
    stage: int
    seconds: float

    @property
    def refused(self) -> bool:
        """Whether no test was needed: Numba found no types for it."""
        return REFUSAL in self.by

    def record(self) -> dict[str, Any]:
        return {**asdict(self.mutant), "outcome": self.outcome, "by": self.by, "stage": self.stage} | {
            "seconds": round(self.seconds, 2)
        }


class Workshop:
    """A copy of the repository and of the cache of compiled kernels, from which mutants' own are linked."""

    def __init__(self, cache: Path | None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mutation-"))
        self.tree, self.cache = self.folder / "tree", self.folder / "cache"
        shutil.copytree(ROOT, self.tree, ignore=LEFT_OUT)
        self.cache.mkdir(mode=0o700)
        if cache and cache.is_dir():
            shutil.copytree(cache, self.cache / "kernels")

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def check(self, modules: list[str]) -> None:
        """Runs every stage without a mistake: the tests must pass, and the cache is warm. Raises RuntimeError."""
        for stage in dict.fromkeys(stage for module in modules for stage in MODULES[module]):
            by = run_stage(self.tree, self.cache, stage, first_alone=False)
            if by:
                raise RuntimeError(f"{by} fails without a mutant (pytest {' '.join(stage.files)} -k '{stage.chosen}')")

    def try_out(self, mutant: Mutant) -> Verdict:
        """Runs a mutant's stages until a test fails."""
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as name:
            tree, cache = Path(name, "tree"), Path(name, "cache")
            shutil.copytree(self.tree, tree, copy_function=os.link)
            shutil.copytree(self.cache, cache, copy_function=os.link)
            place = tree / "cllm_cli" / mutant.module
            text = mutant.source()
            place.unlink()  # a link: writing to it would change the original
            place.write_text(text, "utf-8")
            for old in (place.parent / "__pycache__").glob(f"{place.stem}.*"):
                old.unlink()
            for number, stage in enumerate(MODULES[mutant.module], 1):
                by = run_stage(tree, cache, stage)
                if by:
                    return Verdict(mutant, KILLED, by, number, time.perf_counter() - start)
        return Verdict(mutant, SURVIVED, "", 0, time.perf_counter() - start)


def run_stage(tree: Path, cache: Path, stage: Stage, first_alone: bool = True) -> str:
    """The first test that fails and its error, or how else the tests ended: a signal, a timeout; "" where they pass.

    Tests that somebody else ended are run again.
    """
    by = _run_stage(tree, cache, stage, first_alone)
    return _run_stage(tree, cache, stage, first_alone) if by in FROM_OUTSIDE else by


def _run_stage(tree: Path, cache: Path, stage: Stage, first_alone: bool) -> str:
    files = [name for name in stage.files if (tree / name).exists()]
    if not files:
        return ""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "--no-warmup", *files]
    command += ["-x"] * first_alone + (["-k", stage.chosen] if stage.chosen else [])
    environment = os.environ | {"PYTHONPATH": str(tree), "CLLM_CACHE_DIR": str(cache), "TMPDIR": str(cache.parent)}
    environment["COLUMNS"] = "400"  # a test's name and its error on one line
    process = subprocess.Popen(
        command,
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=_limit,
    )
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return "timeout"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and what the tests started
        process.wait()
    if process.returncode in (0, NOTHING_CHOSEN):
        return ""
    if process.returncode == -signal.SIGXCPU:
        return "timeout"
    if process.returncode < 0:
        return signal.Signals(-process.returncode).name
    found = re.search(r"^(?:FAILED|ERROR) (.+)", output, re.MULTILINE)
    return found[1][:200] if found else f"exit code {process.returncode}: {output[-300:]}"


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
