"""Prints the table of docs/correctness.md: how far the package is from PyTorch's float64, at worst, in each quantity.

    pip install -e '.[parity]'
    python tools/parity_table.py

Beside it PyTorch's own float32. Errors are relative to the largest magnitude of each tensor.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import tolerances
from parity import cases, compare, ours, torch_gpt2

Row = tuple[str, float, float, float, float]
"""A quantity; the errors of float64, float32 and PyTorch's float32; the bound of float32."""


def measured() -> Iterator[Row]:
    """Of every case."""
    kinds = {"logits": "logits", "last logits": "logits", "losses": "losses", "loss": "losses"}
    for case in (cases.CASES | cases.LARGE).values():
        weights, batch = cases.weights_of(case), cases.batch_of(case)
        wanted = torch_gpt2.measure(case, weights, batch)
        double, single, theirs = (
            compare.errors(found, wanted)
            for found in (
                ours.measure(case, weights, batch, np.float64),
                ours.measure(case, weights, batch, np.float32),
                torch_gpt2.measure(case, weights, batch, torch.float32),
            )
        )
        bound = tolerances.parity32(case.longest, case.n_layer)
        for name in wanted:
            yield kinds.get(name, "gradients"), double[name], single[name], theirs[name], bound


def trained() -> Iterator[Row]:
    """Of every optimizer with every schedule."""
    for case in (cases.TRAINED | cases.TRAINED_ALSO).values():
        weights, batches = cases.weights_of(case), cases.batches_of(case)
        bound = tolerances.steps32(case.longest, case.n_layer, cases.STEPS)
        for optimizer, schedule in cases.PAIRS:
            wanted = torch_gpt2.train(case, weights, batches, optimizer, schedule)
            double = compare.errors(ours.train(case, weights, batches, optimizer, schedule, np.float64), wanted)
            wanted = compare.without_noise(wanted, case)
            single, theirs = (
                compare.errors(compare.without_noise(found, case), wanted)
                for found in (
                    ours.train(case, weights, batches, optimizer, schedule, np.float32),
                    torch_gpt2.train(case, weights, batches, optimizer, schedule, torch.float32),
                )
            )
            for name in wanted:
                kind = f"weights, {optimizer}" if name in weights else f"{name.split()[0]}, all optimizers"
                yield f"{cases.STEPS} steps: {kind}", double[name], single[name], theirs[name], bound


def main() -> int:
    worst: dict[str, list[float]] = {}
    for name, *figures in (*measured(), *trained()):
        worst[name] = [max(pair) for pair in zip(worst.get(name, [0.0] * 4), figures, strict=True)]
    for name, figures in worst.items():
        sys.stdout.write(f"| {name} | {' | '.join(f'{figure:.1e}' for figure in figures)} |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
