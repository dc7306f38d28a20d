"""Many short texts scored at once, each by itself: rows of a batch are windows of different texts.

A text begins with the end of another one where the tokenizer has an id for it, so that its first token has a score
too; otherwise its first token is not scored. One longer than the window goes on in consecutive windows, as `Evaluator`
does it. Rows are sorted by length and batches are no longer than they need to be, so that little is padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cllm_cli.kernels.ahead import Call
from cllm_cli.layers.base import IGNORED
from cllm_cli.model.build import Model
from cllm_cli.model.program import EVALUATE
from cllm_cli.model.workspace import Replay
from cllm_cli.text.tokenizers.base import TokenArray, Tokenizer
from cllm_cli.training.evaluate import Score

SHORTEST = 8  # tokens: shorter programs would not be faster


class TextScorer:
    """A model's programs for texts of any length; no batch has more tokens than `batch` windows."""

    def __init__(self, model: Model, tokenizer: Tokenizer, batch: int) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._window, self._tokens = model.config.block_size, batch * model.config.block_size
        self._replays: dict[tuple[int, int], Replay] = {}
        # The largest comes first: the others fit into its memory.
        self._largest = self._replay(batch, self._window)

    def calls(self) -> list[Call]:
        """Every kernel, with arguments of the right types."""
        return self._largest.calls({"position": 0})

    def score(self, texts: Sequence[TokenArray]) -> list[Score]:
        """The score of each text; 0 tokens where there is nothing to score."""
        rows = [(number, row) for number, text in enumerate(texts) for row in self._rows(text)]
        rows.sort(key=lambda row: -row[1].size)
        tokens, sizes, hits = (np.zeros(len(texts), dtype=np.int64) for _ in range(3))
        nats = np.zeros(len(texts))
        done = 0
        while done < len(rows):
            time = min(self._window, _power_of_two(max(SHORTEST, rows[done][1].size - 1)))
            most = self._tokens // time
            some = rows[done : done + most]
            replay = self._replay(min(most, _power_of_two(len(some))), time)
            y = self._give(replay, [row for _, row in some], time)
            replay.forward(position=0)
            numbers = [number for number, _ in some]
            scored = y != IGNORED
            weights = np.where(scored, self._tokenizer.token_bytes[np.where(scored, y, 0)], 0)
            # A text may have several rows in a batch: `at` adds them all.
            for sums, values in (
                (tokens, scored),
                (sizes, weights),
                (hits, replay.results["hits"].reshape(y.shape)),
                (nats, replay.results["losses"].reshape(y.shape)),
            ):
                np.add.at(sums, numbers, values.sum(axis=1, dtype=sums.dtype)[: len(some)])
            done += len(some)
        columns = (tokens.tolist(), sizes.tolist(), nats.tolist(), hits.tolist())
        return [Score(*figures) for figures in zip(*columns, strict=True)]

    def _rows(self, text: TokenArray) -> list[TokenArray]:
        """The windows of a text, each with the token after it: x and y in one."""
        if self._tokenizer.end_of_text is not None:
            text = np.concatenate([np.array([self._tokenizer.end_of_text], dtype=text.dtype), text])
        return [text[at : at + self._window + 1] for at in range(0, text.size - 1, self._window)]

    def _give(self, replay: Replay, rows: Sequence[TokenArray], time: int) -> np.ndarray:
        """Writes rows into the program's inputs; gives the targets (B, T)."""
        x = replay.given["tokens"].reshape(-1, time)
        y: np.ndarray = replay.given["targets"].reshape(-1, time)
        x.fill(0)
        y.fill(IGNORED)
        for number, row in enumerate(rows):
            x[number, : row.size - 1] = row[:-1]
            y[number, : row.size - 1] = row[1:]
        return y

    def _replay(self, batch: int, time: int) -> Replay:
        key = (batch, time)
        if key not in self._replays:
            self._replays[key] = self._model.replay(EVALUATE, batch, time)
        return self._replays[key]


def _power_of_two(least: int) -> int:
    """The least power of two that is not below `least`: few sizes, so few programs."""
    return 1 << (least - 1).bit_length()
