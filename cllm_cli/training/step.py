"""One training step: batches, forward and backward for each micro-batch, clip, update."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cllm_cli.errors import NotFiniteError
from cllm_cli.kernels.cores import own_cores
from cllm_cli.model.build import Model
from cllm_cli.model.program import TRAIN
from cllm_cli.optim.base import Updater
from cllm_cli.optim.clip import clip_scale, global_norm, norm_scratch, sum_squares
from cllm_cli.optim.schedule import Schedule
from cllm_cli.text.batches import Sampler
from cllm_cli.training.not_finite import first_not_finite, not_finite_among


@dataclass(frozen=True)
class Outcome:
    """What a step reports: mean loss in nats a token, learning rate, global gradient norm before clipping, targets."""

    loss: float
    rate: float
    norm: float
    tokens: int


class Stepper:
    """Runs the steps of a training run. A step's batch is `accumulate` micro-batches of B windows of T tokens."""

    def __init__(
        self, model: Model, updater: Updater, sampler: Sampler, batch: int, accumulate: int, clip: float, seed: int
    ) -> None:
        time = model.config.block_size
        self.model, self.updater, self.sampler = model, updater, sampler
        self.replay = model.replay(TRAIN, batch, time)
        self.clip, self.seed = clip, seed
        self._x = np.zeros((accumulate, batch, time), np.int32)
        self._y = np.zeros((accumulate, batch, time), np.int32)
        self._counted = np.zeros((accumulate, batch, time), np.bool_)
        self._part = norm_scratch()
        self._losses = np.zeros(batch * time)  # in double, so that summing them needs no memory

    @property
    def batch(self) -> int:
        """B, windows in a micro-batch."""
        return int(self._x.shape[1])

    @property
    def accumulate(self) -> int:
        """Micro-batches in a step."""
        return int(self._x.shape[0])

    @property
    def tokens(self) -> int:
        """Tokens in a step."""
        return self._x.size

    def run(self, step: int, schedule: Schedule) -> Outcome:
        """Step number `step`, counted from 0.

        Raises NotFiniteError where a number is not finite, the gradients zero and, unless it says that they are
        spoiled, weights and optimizer as they were.
        """
        with own_cores(self.replay.threads):
            return self._run(step, schedule)

    def _run(self, step: int, schedule: Schedule) -> Outcome:
        windows = (-1, self._x.shape[-1])
        self.sampler.next_batch(self._x.reshape(windows), self._y.reshape(windows))
        targets = max(1, int(np.count_nonzero(np.greater_equal(self._y, 0, out=self._counted))))
        arguments = self.arguments(step, targets)
        losses = self.replay.results["losses"]
        total = 0.0
        for micro in range(self.accumulate):
            self.load(micro, arguments)
            self.replay.forward(**arguments)
            self._losses[:] = losses
            total += float(self._losses.sum())
            self.replay.backward(**arguments)
        loss = total / targets
        norm = global_norm(self.model.arena.gradients, self._part)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = "loss" if not math.isfinite(loss) else "gradient"
            first = first_not_finite(self, arguments)
            raise NotFiniteError(f"the {what} is not finite at step {step + 1}, first in {first}", step + 1)
        rate = schedule.rate(step)
        if not self.updater.update(step + 1, rate, clip_scale(norm, self.clip)):
            first = not_finite_among({**self.model.arena.tensors(), **self.updater.tensors()})
            raise NotFiniteError(f"{first} is not finite after step {step + 1}", step + 1, spoiled=True)
        return Outcome(loss, rate, norm, targets)

    def load(self, micro: int, arguments: dict[str, Any]) -> None:
        """Gives the program micro-batch number `micro` of the step, and `arguments` where its rows begin."""
        self.replay.given["tokens"][:] = self._x[micro].reshape(-1)
        self.replay.given["targets"][:] = self._y[micro].reshape(-1)
        arguments["first_row"] = micro * self._x[micro].size

    def calls(self) -> list[tuple[Any, tuple[Any, ...]]]:
        """Every kernel of a step, with arguments of the right types."""
        norm = (sum_squares, (self._part, self.model.arena.gradients))
        return [*self.replay.calls(self.arguments(0, 1)), norm, *self.updater.calls(1, 1.0, 1.0)]

    def arguments(self, step: int, targets: int) -> dict[str, Any]:
        """The step arguments of the program: the loss is a mean over all targets of the accumulated batch."""
        key = hashlib.blake2b(f"dropout {self.seed} {step}".encode(), digest_size=8).digest()
        return {
            "scale": self.model.dtype.type(1 / targets),
            "key": np.uint64(int.from_bytes(key, "little")),
            "first_row": 0,
            "position": 0,
        }
