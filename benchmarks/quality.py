"""The same recipe, corpus and seeds on both sides: is what `cllm` learns as good as what PyTorch learns?

Both train the nano preset (4 layers, 4 heads, 128 wide, T = 64, batch 12, 2000 steps, AdamW 1e-3 → 1e-4 along a
cosine) on the first nine tenths of a text, as characters, and are scored on the whole last tenth: consecutive windows
of T that do not overlap, each token but the first scored once. The sides take turns, so that a busy machine is busy for
both.

    python benchmarks/quality.py CORPUS --seeds 1 2 3 [--sides torch cllm] [--threads N]

Standard output: JSON lines. Standard error: progress, and a table of medians at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import cores, describe, versions
from shapes import SHAPES
from streams import Result, emit, tell

VAL_FRACTION, WARMUP = 0.1, 100


def train_torch(corpus: Path, seed: int, options: argparse.Namespace) -> Result:
    """Train the PyTorch model on `corpus` and score it."""
    import torch
    from torch_gpt import Recipe, Trainer

    torch.set_num_threads(options.threads)
    text = corpus.read_bytes().decode("utf-8")
    ids = {character: index for index, character in enumerate(sorted(set(text)))}
    tokens = torch.tensor([ids[character] for character in text])
    split = round(len(tokens) * (1.0 - VAL_FRACTION))
    train, val = tokens[:split], tokens[split:]

    shape = replace(SHAPES["S"], vocab_size=len(ids))
    recipe = Recipe(steps=options.steps or 2000, warmup=WARMUP)
    trainer = Trainer(shape, recipe, seed)
    draw = torch.Generator().manual_seed(seed)  # of its own, so that the windows do not depend on how weights are drawn
    window = torch.arange(shape.block_size + 1)
    for step in range(recipe.steps):
        starts = torch.randint(len(train) - shape.block_size, (shape.batch_size,), generator=draw)
        rows = train[starts[:, None] + window]
        loss = trainer.step(step, rows[:, :-1], rows[:, 1:])
        if (step + 1) % 500 == 0:
            tell(f"torch seed {seed}: step {step + 1}, loss {loss.item():.4f}")
    return {"val_loss": whole_split_loss(trainer.model, val, shape.block_size), "vocab": len(ids)}


def whole_split_loss(model: Any, val: Any, block_size: int) -> float:
    """The mean loss over `val`: windows of block_size in a row, the last one shorter, each token but the first once."""
    import torch

    inputs, targets = val[:-1], val[1:]
    whole = len(inputs) // block_size * block_size
    groups = [
        *zip(inputs[:whole].view(-1, block_size).split(64), targets[:whole].view(-1, block_size).split(64), strict=True)
    ]
    if whole < len(inputs):
        groups.append((inputs[None, whole:], targets[None, whole:]))
    with torch.no_grad():
        total = sum(model(x, y, reduction="sum").item() for x, y in groups)
    return float(total / len(inputs))


def train_cllm(corpus: Path, seed: int, options: argparse.Namespace) -> Result:
    """Let `cllm train` do the same in a process of its own, and read its last record."""
    with tempfile.TemporaryDirectory() as folder:
        command = [options.cllm, "train", str(corpus), "--tokenizer", "char", "--preset", "nano", "--seed", str(seed)]
        command += ["--json", "--quiet", "--threads", str(options.threads), "--out", str(Path(folder, "run"))]
        if options.steps is not None:
            command += ["--steps", str(options.steps), "--warmup", str(WARMUP)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=False)
    lines = done.stdout.splitlines()
    end = json.loads(lines[-1]) if done.returncode == 0 and lines else {}
    if end.get("event") != "end":
        raise SystemExit(f"cllm train did not end well (exit code {done.returncode}): {' '.join(command)}")
    return {"val_loss": end["val_loss"], "best_val_loss": end["best_val_loss"], "stopped": end["stopped"]}


SIDES: dict[str, Callable[[Path, int, argparse.Namespace], Result]] = {"torch": train_torch, "cllm": train_cllm}


def table(results: Iterable[Result]) -> str:
    """One row a side: how many seeds, median, lowest and highest validation loss, median seconds."""
    sides: dict[str, list[Result]] = {}
    for result in results:
        sides.setdefault(result["side"], []).append(result)
    rows = [f"{'side':<8}{'seeds':>6}{'median val loss':>18}{'lowest':>10}{'highest':>10}{'median s':>10}"]
    for side, runs in sides.items():
        losses = [run["val_loss"] for run in runs]
        seconds = statistics.median(run["seconds"] for run in runs)
        rows.append(
            f"{side:<8}{len(runs):>6}{statistics.median(losses):>18.4f}{min(losses):>10.4f}{max(losses):>10.4f}{seconds:>10.1f}"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--steps", type=int, help="instead of the recipe's 2000, for a trial")
    parser.add_argument("--cllm", default="cllm", help="the command to run for the cllm side")
    options = parser.parse_args()

    # Both sides read these when they load their libraries.
    os.environ.update(OMP_NUM_THREADS=str(options.threads), MKL_NUM_THREADS=str(options.threads))
    emit({"event": "machine", **describe(), "threads": options.threads, "versions": versions(*options.sides)})
    results = []
    for turn, seed in enumerate(options.seeds):
        # The side that goes first changes, so that neither always meets the warmer machine.
        for side in options.sides if turn % 2 == 0 else reversed(options.sides):
            started = time.perf_counter()
            outcome = SIDES[side](options.corpus, seed, options)
            seconds = time.perf_counter() - started
            results.append({"event": "quality", "side": side, "seed": seed, "seconds": seconds, **outcome})
            emit(results[-1])
            tell(f"{side} seed {seed}: validation loss {outcome['val_loss']:.4f} after {seconds:.1f} s")
    tell("\n" + table(results))


if __name__ == "__main__":
    main()
