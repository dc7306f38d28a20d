"""Evaluation: every token but the first scored once, in consecutive windows of T; means are over tokens."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cllm_cli.kernels.ahead import Call
from cllm_cli.model.build import Model, ModelConfig
from cllm_cli.model.program import EVALUATE
from cllm_cli.text.batches import Windows
from cllm_cli.text.cuts import ends_of_documents
from cllm_cli.text.tokenizers.base import TokenArray, Tokenizer
from cllm_cli.training.records import Evaluating

LARGEST_EXPONENT = math.log(sys.float_info.max)


@dataclass(frozen=True)
class Score:
    """Sums over scored tokens: loss in nats, hits of the most likely token, bytes that the tokens stand for."""

    tokens: int
    bytes: int
    nats: float
    hits: int

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float | None:
        """None where no float is as large."""
        return math.exp(self.loss) if self.loss < LARGEST_EXPONENT else None

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / max(1, self.bytes)

    @property
    def accuracy(self) -> float:
        return self.hits / self.tokens


MOST_NUMBERS = 1 << 25
"""What a batch may come to in windows × T × the widest row: a run's own is far below, a stranger's says anything."""


def affordable_batch(config: ModelConfig, wanted: int) -> int:
    """As many windows as `wanted`, which a run's file says, but no more than anyone would score at a time."""
    row = config.block_size * max(config.n_embd, config.n_hidden)
    return max(1, min(wanted, MOST_NUMBERS // row))


class Evaluator:
    """A model's program for evaluation over a text, B windows at a time, across documents or not."""

    def __init__(self, model: Model, tokens: TokenArray, tokenizer: Tokenizer, batch: int, pack: bool = True) -> None:
        self.replay = model.replay(EVALUATE, batch, model.config.block_size)
        ends = None if pack else ends_of_documents(tokens, tokenizer.end_of_text)
        self.windows = Windows(tokens, model.config.block_size, batch, ends)
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        """Batches in the whole text."""
        return len(self.windows)

    def calls(self) -> list[Call]:
        """Every kernel of an evaluation, with arguments of the right types."""
        return self.replay.calls({"position": 0})

    def score(self, batches: int | None = None) -> Iterator[Evaluating | Score]:
        """Scores the text with the model's present weights; yields progress, and the Score last.

        With fewer `batches` than there are, they are spread evenly over the text, the same ones each time.
        """
        total = len(self)
        count = min(total, batches or total)
        tokens = size = hits = 0
        nats = 0.0
        for number in range(count):
            x, y = self.windows[number * total // count]
            self.replay.given["tokens"][:] = x.reshape(-1)
            self.replay.given["targets"][:] = y.reshape(-1)
            self.replay.forward(position=0)
            scored = y[y >= 0]
            tokens += scored.size
            size += int(self.tokenizer.token_bytes[scored].sum(dtype=np.int64))
            nats += float(self.replay.results["losses"].sum(dtype=np.float64))
            hits += int(self.replay.results["hits"].sum(dtype=np.float64))
            yield Evaluating(number + 1, count)
        yield Score(tokens, size, nats, hits)
