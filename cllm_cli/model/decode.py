"""Generation: the model's own program, recorded for a prompt and for one token, with keys and values in a cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cllm_cli.errors import TrainingError
from cllm_cli.model.build import Model
from cllm_cli.model.program import GENERATE
from cllm_cli.model.workspace import Caches, Replay

Logits = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn: temperature 0 takes the most likely one; top_k 0 and top_p 1 leave all in the draw."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


class Decoder:
    """One sequence being written. A window that is full goes on from its second half, read again."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._caches: Caches = {}
        self._one = model.replay(GENERATE, 1, 1, self._caches)
        self._context: list[int] = []

    def read(self, tokens: npt.ArrayLike) -> Logits:
        """Starts anew with a prompt of at least one token; gives the logits (V) of what follows. Keeps the last T."""
        self._context = [int(token) for token in np.asarray(tokens).reshape(-1)][-self.model.config.block_size :]
        replay = self.model.replay(GENERATE, 1, len(self._context), self._caches)
        return self._run(replay, self._context, 0)

    def advance(self, token: int) -> Logits:
        """Adds a token; gives the logits (V) of what follows it. They stay valid until the next call."""
        window = self.model.config.block_size
        if len(self._context) == window:
            return self.read([*self._context, token][-max(1, window // 2) :])
        self._context.append(token)
        return self._run(self._one, [token], len(self._context) - 1)

    def calls(self) -> list[tuple[Any, tuple[Any, ...]]]:
        """The kernels of one token, with their arguments."""
        return self._one.calls({"position": 0})

    def _run(self, replay: Replay, tokens: list[int], position: int) -> Logits:
        replay.given["tokens"][:] = tokens
        replay.forward(position=position)
        logits: Logits = replay.results["out"][0]
        return logits


def generate(
    model: Model, prompt: npt.ArrayLike, sampling: Sampling, seed: int, vocabulary: int, end: int | None
) -> Iterator[int]:
    """Tokens that follow a prompt, without end, or until the token `end`, which is not given out.

    Only ids below `vocabulary` are drawn; a model may have more rows than the tokenizer has ids.
    """
    random = np.random.Generator(np.random.Philox(seed))
    decoder = Decoder(model)
    logits = decoder.read(prompt)
    while True:
        token = draw(logits[:vocabulary], sampling, random)
        if token == end:
            return
        yield token
        logits = decoder.advance(token)


def draw(logits: Logits, sampling: Sampling, random: np.random.Generator) -> int:
    """A token id. top_k keeps the k most likely, top_p then the fewest that reach probability p.

    Raises TrainingError for logits that are not finite. (Holtzman et al. 2020, "The Curious Case of Neural Text
    Degeneration", arXiv:1904.09751)
    """
    if not np.isfinite(logits).all():
        raise TrainingError("the model's numbers are not finite", "train again with a smaller --lr")
    if sampling.temperature == 0:
        return int(logits.argmax())
    with np.errstate(over="ignore"):  # a temperature near 0: all but the most likely fall to −∞
        scores = (logits.astype(np.float64) - logits.max()) / sampling.temperature
    order = np.argsort(-scores, kind="stable")
    if 0 < sampling.top_k < order.size:
        order = order[: sampling.top_k]
    weights = np.exp(scores[order])  # the largest score is 0
    weights /= weights.sum()
    if sampling.top_p < 1:
        kept = int(np.searchsorted(np.cumsum(weights), sampling.top_p)) + 1
        order, weights = order[:kept], weights[:kept]
    threshold = random.random() * weights.sum()
    return int(order[min(int(np.searchsorted(np.cumsum(weights), threshold, side="right")), order.size - 1)])
