"""A model: its sizes, its arena, and its architecture recorded for training, evaluation and generation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from cllm_cli.errors import ConfigError
from cllm_cli.kernels.reduce import CHUNKS
from cllm_cli.model import ARCHITECTURES
from cllm_cli.model.arena import Arena
from cllm_cli.model.plan import Plan, make_plan
from cllm_cli.model.program import TRAIN, Program
from cllm_cli.model.recompute import NONE, check_policy
from cllm_cli.model.workspace import Caches, Replay, Workspace


@dataclass(frozen=True)
class ModelConfig:
    """What decides a model's parameters and what it computes from them; dropout acts in training alone."""

    arch: str
    n_layer: int
    n_head: int
    n_embd: int
    n_hidden: int
    block_size: int
    vocab_size: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head:
            small = [n for n in range(1, math.isqrt(self.n_embd) + 1) if self.n_embd % n == 0]
            divisors = sorted(small + [self.n_embd // n for n in small])
            near = min(divisors, key=lambda n: abs(n - self.n_head))
            raise ConfigError(
                f"width {self.n_embd} is not divisible by {self.n_head} heads", f"for example --n-head {near}"
            )


class Model:
    """A model in a precision. Memory is one arena for parameters and one workspace for activations.

    `recompute` says what backward computes again instead of keeping it: see `cllm_cli.model.recompute`.
    """

    def __init__(self, config: ModelConfig, dtype: Any = np.float32, recompute: str = NONE) -> None:
        check_policy(recompute)
        self.config, self.dtype, self.recompute = config, np.dtype(dtype), recompute
        recorded = self.record(TRAIN, 1, config.block_size)
        self.arena = Arena(list(recorded.parameters.values()), self.dtype)
        self.workspace = Workspace()

    def record(self, mode: str, batch: int, time: int) -> Program:
        """The architecture's program for windows of `time` tokens in batches of `batch`.

        Raises ConfigError for a window that the model does not have: kernels check nothing.
        """
        return _recorded(self.config, self.dtype, mode, batch, time)

    def plan(self, mode: str, batch: int, time: int) -> Plan:
        """The memory that `replay` would use."""
        return make_plan(self.record(mode, batch, time), self.dtype, self.recompute)

    def replay(self, mode: str, batch: int, time: int, caches: Caches | None = None) -> Replay:
        """The program for these sizes, ready to run on the threads that are set now."""
        program = self.record(mode, batch, time)
        plan = make_plan(program, self.dtype, self.recompute)
        return Replay(program, plan, self.arena, self.workspace, {} if caches is None else caches)


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The parameters of a model by name; nothing takes memory for them."""
    recorded = _recorded(config, np.dtype(np.float32), TRAIN, 1, config.block_size)
    return {name: parameter.shape for name, parameter in recorded.parameters.items()}


def _recorded(config: ModelConfig, dtype: np.dtype[Any], mode: str, batch: int, time: int) -> Program:
    if batch < 1 or not 1 <= time <= config.block_size:
        raise ConfigError(f"{batch} windows of {time} tokens: a window has 1 to {config.block_size}")
    sizes = {
        "B": batch,
        "T": time,
        "N": batch * time,
        "S": config.block_size,
        "K": CHUNKS,
        "threads": numba.get_num_threads(),
        "itemsize": dtype.itemsize,
    }
    program = Program(mode, sizes)
    ARCHITECTURES.load(config.arch)(program, config)
    return program
