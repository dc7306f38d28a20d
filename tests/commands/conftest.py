"""Fixtures of the command line's tests: the command line itself, a small text, and a run that was trained on it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from cllm_cli.main import main

SIZES = "--n-layer 1 --n-head 2 --n-embd 16 --block-size 8 --batch-size 2 --dropout 0 --sample-every 0 --threads 1"
LENGTH = "--steps 12 --eval-every 6 --save-every 6 --log-every 2"
TINY = (*SIZES.split(), *LENGTH.split())
"""Flags of a run that takes a moment."""


@dataclass(frozen=True)
class Outcome:
    """What a command left on its streams, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def events(self):
        """Standard output as JSON lines; it must be nothing else."""
        return [json.loads(line) for line in self.out.splitlines()]

    def of(self, event):
        """The events of one kind."""
        return [found for found in self.events if found["event"] == event]

    def assert_done(self):
        assert self.code == 0, self.err
        return self

    def assert_error(self, code, *words):
        """One line `error: …` and one `hint: …`, which together name all of `words`, and nothing else."""
        assert self.code == code, self.err
        assert self.out == ""
        lines = self.err.splitlines()
        assert [line.split(":")[0] for line in lines] == ["error", "hint"], self.err
        assert all(len(line) > len("error: ") for line in lines), self.err
        for word in words:
            assert word in self.err, self.err
        return self


def run_in_process(*args, stdin=b""):
    """`cllm …` without a process of its own; the streams are pipes as far as it can see."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="", write_through=True) for _ in range(2))
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(arg) for arg in args])
    finally:
        sys.stdin = before
    return Outcome(code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode())


@pytest.fixture(scope="session")
def cllm():
    """Runs a command line in this process: cllm("train", "text.txt") → Outcome."""
    return run_in_process


@pytest.fixture
def start():
    """Starts a command line in a process of its own; what still runs at the end is killed."""
    started = []

    def spawn(*args, **more):
        more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive", **more.pop("env", {})}
        command = [sys.executable, "-m", "cllm_cli", *map(str, args)]
        started.append(subprocess.Popen(command, env=environment, text=True, **more))
        return started[-1]

    yield spawn
    for process in started:
        with process:
            process.kill()


@pytest.fixture
def run_apart(start):
    """Runs a command line in a process of its own, to its end."""

    def run(*args, stdin=None, **more):
        process = start(*args, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE, **more)
        out, err = process.communicate(stdin, timeout=120)
        return Outcome(process.returncode, out or "", err or "")

    return run


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch, set_threads):
    """Every test in a folder of its own, on a plain terminal, with the threads as they were before."""
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def words(seed, count):
    """Words of a small language, in lines."""
    random = Random(seed)
    vocabulary = ["".join(random.choices("aeioulnrst", k=random.randint(1, 6))) for _ in range(60)]
    drawn = [random.choice(vocabulary) for _ in range(count)]
    return "\n".join(" ".join(drawn[start : start + 8]) for start in range(0, count, 8)) + "\n"


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A text and a run that was trained on it to its end. Not to be changed: `run` is a copy."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(words(1, 500), "utf-8")
    run_in_process("train", folder / "text.txt", "-o", folder / "run", *TINY).assert_done()
    return folder


@pytest.fixture
def text(trained):
    """A text of about 2 kB, as text.txt in the current folder."""
    return Path(shutil.copy(trained / "text.txt", "text.txt"))


@pytest.fixture
def run(trained, text):
    """A finished run on `text`, as the folder `run`."""
    return Path(shutil.copytree(trained / "run", "run"))


@pytest.fixture(scope="session")
def tiny():
    return TINY


@pytest.fixture(scope="session")
def sizes():
    """The flags of the tiny model, without those that say how long to train."""
    return tuple(SIZES.split())


@pytest.fixture(scope="session")
def some_words():
    """A function that makes text: some_words(seed, number of words)."""
    return words


@pytest.fixture(scope="session")
def contents():
    """A function that gives everything in a folder: each file's bytes, each folder's None, by path."""

    def read(folder):
        return {
            str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
            for path in sorted(Path(folder).rglob("*"))
        }

    return read


@pytest.fixture(scope="session")
def bits():
    """A function that gives what a run has learned: the best model, and the last step's weights and moments."""

    def read(run):
        last = sorted(run.glob("checkpoint/*/state.safetensors"))[-1]
        return {str(file.relative_to(run)): file.read_bytes() for file in (run / "model.safetensors", last)}

    return read
