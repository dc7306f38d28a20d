"""Chains of `cllm train --resume`: what a run that was ended at any moment leaves, and whether it goes on as it should.

What is compared is everything that does not tell the time or the number of threads.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from .forks import FLAGS, SETTINGS, Child

TOLD = {
    "step": ("step", "loss", "lr", "grad_norm", "epoch"),
    "eval": ("step", "val_loss", "best"),
    "sample": ("step", "text"),
}
"""Of each event in metrics.jsonl what is the same in every run."""


def events(path: Path) -> list[dict[str, Any]]:
    """The events in a file of JSON lines; a last line that is not whole is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")]


def bits(run: Path) -> dict[str, Any]:
    """The names of all files of a run, the bytes of its weights and checkpoints, and what its events tell."""
    found: dict[str, Any] = {str(path.relative_to(run)): "is there" for path in run.rglob("*")}
    for path in (run / "model.safetensors", *run.glob("checkpoint/*/state.safetensors"), run / "tokenizer.json"):
        found[str(path.relative_to(run))] = path.read_bytes()
    for event in events(run / "metrics.jsonl"):
        if event["event"] in TOLD:
            told = [event[name] for name in TOLD[event["event"]]]
            found.setdefault(f"event {event['event']}", []).append(told)
    return found


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names of what is not the same, or is in one alone."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


class Chain:
    """One run, ended again and again. `wrong` lists what was not as it should be."""

    def __init__(self, place: Path, name: str, random: Random) -> None:
        self.place, self.name, self.random = place, name, random
        self.run = place / name
        self.wrong: list[str] = []
        self.seen = self.saved = 0
        self.lost: list[int] = []

    def start(self) -> Child:
        """The next attempt: goes on with the run where there is one, on one thread or two."""
        args = ["train", "text.txt", "-o", self.name, "--json", f"--threads={self.random.randint(1, 2)}"]
        args += ["--resume"] if (self.run / "config.toml").exists() else FLAGS
        for name in ("out.jsonl", "err.txt"):  # one that is killed before it opens them has said nothing
            (self.place / name).write_bytes(b"")
        return Child(args, self.place)

    def judge(self, code: int, expected: set[int]) -> list[dict[str, Any]]:
        """Compares what an attempt has said with what those before had; gives its events."""
        found = events(self.place / "out.jsonl")
        err = (self.place / "err.txt").read_text("utf-8")
        if code not in expected or "Traceback" in err:
            self.wrong.append(f"exit code {code}: {err}")
        for event in found:
            if event["event"] == "start":
                self.lost.append(self.seen - event["step"])
                if event["step"] < self.saved or self.lost[-1] > SETTINGS["save_every"]:
                    self.wrong.append(f"goes on at {event['step']} after {self.seen}; {self.saved} was saved")
                self.seen = self.saved = event["step"]
            elif event["event"] == "step":
                self.seen = event["step"]
            elif event["event"] == "checkpoint":
                self.saved = event["step"]
        return found

    def finish(self, whole: dict[str, Any]) -> None:
        """Compares the run with one that was never ended."""
        last = f"checkpoint/step-{SETTINGS['steps']:08}"
        different = [
            name
            for name in differing(bits(self.run), whole)
            if not name.startswith("checkpoint/step-") or name.startswith(last)  # the one before may be of a signal
        ]
        if len([*self.run.glob("checkpoint/*")]) != 2:
            self.wrong.append("not two checkpoints are kept")
        if different:
            self.wrong.append(f"not as never ended: {', '.join(different)}")


def uninterrupted(place: Path) -> dict[str, Any]:
    """The bits of the run that is never ended."""
    chain = Chain(place, "whole", Random(0))
    code = chain.start().ended_within(None)
    chain.judge(code or 0, {0})
    assert not chain.wrong, chain.wrong
    return bits(chain.run)
