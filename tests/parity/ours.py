"""The package's side: logits, losses and gradients of a batch; weights, losses, rates and norms of twenty steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from micro_batches import in_parts

from cllm_cli.model.build import Model
from cllm_cli.model.program import GENERATE
from cllm_cli.optim import OPTIMIZERS as REGISTRY
from cllm_cli.optim.base import Updater
from cllm_cli.optim.schedule import Schedule
from cllm_cli.training.step import Stepper
from parity.cases import CLIP, LEAST, OPTIMIZERS, SCHEDULE, Case, Tensors, settings_of

Batch = tuple[np.ndarray, np.ndarray]


def model_of(case: Case, weights: Tensors, dtype: Any) -> Model:
    """A model with these weights."""
    model = Model(case.config, dtype)
    model.arena.make_gradients()
    assert weights.keys() == model.arena.parameters.keys()
    for name, value in weights.items():
        model.arena.parameter(name)[...] = value
    return model


def measure(case: Case, weights: Tensors, batch: Batch, dtype: Any) -> Tensors:
    """Logits without dropout as below, losses (B, T) in nats, the mean loss, and every gradient, by name."""
    tokens, targets = batch
    model = model_of(case, weights, dtype)
    losses, gradients = in_parts(model, tokens, targets, [case.batch // case.parts] * case.parts)
    loss = np.array(losses.sum(dtype=np.float64) / np.count_nonzero(targets >= 0))
    found = {"losses": losses, "loss": loss} | {f"gradient of {name}": gradients[name] for name in weights}
    return logits(model, tokens) | found


def logits(model: Model, tokens: np.ndarray) -> Tensors:
    """tokens (B, T) → logits (B, T, V), token by token from the cache, and the last (B, V) from the window at once."""
    batch, time = tokens.shape
    one, whole = model.replay(GENERATE, batch, 1), model.replay(GENERATE, batch, time)
    found = []
    for position in range(time):
        one.given["tokens"][:] = tokens[:, position]
        one.forward(position=position)
        found.append(one.results["out"].copy())
    whole.given["tokens"][:] = tokens.ravel()
    whole.forward(position=0)
    return {"logits": np.stack(found, axis=1), "last logits": whole.results["out"].copy()}


class Given:
    """A sampler that gives the batches that it was given, in order."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = iter(batches)

    def next_batch(self, x_out: np.ndarray, y_out: np.ndarray) -> None:
        x_out[:], y_out[:] = next(self._batches)


def train(
    case: Case, weights: Tensors, batches: Sequence[Batch], optimizer: str, schedule: str, dtype: Any, **changed: Any
) -> Tensors:
    """The training step itself on each batch: the weights at the end, and each step's loss, rate and gradient norm."""
    model = model_of(case, weights, dtype)
    settings = settings_of(optimizer) | changed
    updater = Updater(REGISTRY.load(OPTIMIZERS[optimizer][0]), model.arena, settings)
    stepper = Stepper(model, updater, Given(batches), case.batch // case.parts, case.parts, CLIP, seed=0)
    rates = Schedule(schedule, settings["lr"], LEAST * settings["lr"], **SCHEDULE)
    steps = [stepper.run(step, rates) for step in range(len(batches))]
    told = {
        "loss of every step": np.array([step.loss for step in steps]),
        "rate of every step": np.array([step.rate for step in steps]),
        "norm of every step": np.array([step.norm for step in steps]),
    }
    return told | {name: model.arena.parameter(name).copy() for name in weights}
