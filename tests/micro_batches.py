"""A batch that is worked off in micro-batches: forward and backward of each, whose gradients are added up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cllm_cli.model.build import Model
from cllm_cli.model.program import TRAIN
from cllm_cli.model.workspace import Replay

KEY = np.uint64(2**63 + 9)
"""The dropout key of a step."""


def run(replay: Replay, tokens: np.ndarray, targets: np.ndarray, scale: np.floating, first_row: int = 0) -> np.ndarray:
    """Forward and backward; losses (B, T). Gradients are added up in the arena."""
    replay.given["tokens"][:] = tokens.ravel()
    replay.given["targets"][:] = targets.ravel()
    step = {"position": 0, "scale": scale, "key": KEY, "first_row": first_row}
    replay.forward(**step)
    losses = replay.results["losses"].reshape(tokens.shape).copy()
    replay.backward(**step)
    return losses


def in_parts(
    model: Model, tokens: np.ndarray, targets: np.ndarray, parts: Sequence[int]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Losses (B, T) and every gradient of their mean, by name, of a batch whose rows are cut into parts of these sizes.

    What was in the arena's gradients before is gone.
    """
    model.arena.gradients.fill(0)
    scale, losses, row = model.dtype.type(1 / np.count_nonzero(targets >= 0)), [], 0
    for size in parts:
        rows = slice(row, row + size)
        replay = model.replay(TRAIN, size, tokens.shape[1])
        losses.append(run(replay, tokens[rows], targets[rows], scale, first_row=row * tokens.shape[1]))
        row += size
    return np.concatenate(losses), {name: model.arena.gradient(name).copy() for name in model.arena.parameters}
