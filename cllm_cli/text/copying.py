"""Is it copying? How much of a text stands in the training text, word for word.

The suffix automaton of the text in question is built, and the training text followed through it once, chunk by chunk.
That gives at each place the longest piece of the text that ends there, and so the longest overlap of all and, for every
n at once, which n-grams of the text the training text has. Nothing is sampled or hashed away: the figures are exact.

N-grams are of tokens: that is what the model draws, and it needs no notion of a word, which many languages do not have.
None runs across the end of a document. Memory: up to 350 bytes for each token of the text in question and, where all
that can follow fits into a table of TABLE entries, 8 bytes for each of these.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cllm_cli.errors import CorpusError
from cllm_cli.kernels.ahead import Call
from cllm_cli.kernels.automaton import (
    BEST,
    END,
    automaton_build,
    automaton_complete,
    automaton_follow,
    automaton_follow_table,
    automaton_settle,
)
from cllm_cli.text.mapped import copied, pieces_of
from cllm_cli.text.tokenizers.base import IdArray, TokenArray, Tokenizer

NGRAMS = (4, 8, 16, 32, 64)
CHUNK = 1 << 17  # tokens; a signal is heeded between chunks
MOST_TOKENS = 1 << 20
TABLE = 1 << 24


@dataclass(frozen=True)
class Copying:
    """`overlap`: the longest run of tokens that is in both texts, in the training text from token `start` on; among
    equals the first there. `novel`: by n the share of the text's distinct n-grams that the training text does not have,
    None where the text has no n-gram.
    """

    overlap: TokenArray
    start: int
    novel: dict[int, float | None]


class Automaton:
    """The suffix automaton of `tokens`."""

    def __init__(self, tokens: npt.NDArray[np.integer], vocab_size: int, end_of_text: int | None) -> None:
        present = np.unique(tokens)
        present = present[present != end_of_text] if end_of_text is not None else present
        self._code_of = np.full(vocab_size, -1, dtype=np.int64)
        self._code_of[present] = np.arange(present.size)
        self._alphabet = max(1, int(present.size))
        # Half of the slots stay free, so that what is not there is soon known.
        states, slots = 2 * tokens.size + 1, 1 << (6 * tokens.size + 1).bit_length()
        self.lengths, self.links, self._heads, self.seen = (np.zeros(states, dtype=np.int64) for _ in range(4))
        self._keys = np.full(slots, -1, dtype=np.int64)
        self._goals, self._follow = (np.zeros(slots, dtype=np.int64) for _ in range(2))
        self._place = np.zeros(5, dtype=np.int64)
        self._table: npt.NDArray[np.int32] | None = None
        _run(self._building(self._codes(tokens)))
        used = 1 + int(np.count_nonzero(self.lengths))
        if used * (self._alphabet + 1) <= TABLE:
            self._table = np.empty((used, self._alphabet + 1, 2), dtype=np.int32)
            _run(self._completing(self._table))

    def follow(self, tokens: npt.NDArray[np.integer]) -> None:
        """Goes on with `tokens` of the training text."""
        codes = self._codes(tokens)
        _run(self._following(codes) if self._table is None else self._following_table(self._table, codes))

    def settle(self) -> tuple[int, int]:
        """Completes `seen` after the last of the training text; gives the longest match, and where it ended."""
        _run(self._settling())
        return int(self._place[BEST]), int(self._place[END])

    def novel(self, n: int) -> float | None:
        """The share of distinct n-grams that were not seen."""
        there = (self.lengths[self.links] < n) & (n <= self.lengths)
        count = int(np.count_nonzero(there))
        return int(np.count_nonzero(there & (self.seen < n))) / count if count else None

    def calls(self) -> list[Call]:
        """Every kernel, with arguments of the right types."""
        none = np.empty(0, dtype=np.int64)
        table = np.empty((0, 1, 2), dtype=np.int32)
        return [
            self._building(none),
            self._following(none),
            self._completing(table),
            self._following_table(table, none),
            self._settling(),
        ]

    def _codes(self, tokens: npt.NDArray[np.integer]) -> IdArray:
        """The text's own numbers for tokens that it has, -1 for others and where a document ends."""
        codes: IdArray = self._code_of.take(tokens)
        return codes

    def _building(self, codes: IdArray) -> Call:
        parts = (self.lengths, self.links, self._heads, self._keys, self._goals, self._follow)
        return automaton_build, (*parts, codes, self._alphabet)

    def _following(self, codes: IdArray) -> Call:
        parts = (self._place, self.seen, self.lengths, self.links, self._keys, self._goals)
        return automaton_follow, (*parts, codes, self._alphabet)

    def _completing(self, table: npt.NDArray[np.int32]) -> Call:
        order = np.argsort(self.lengths[: len(table)], kind="stable")
        return automaton_complete, (table, order, self.lengths, self.links, self._keys, self._goals, self._alphabet)

    def _following_table(self, table: npt.NDArray[np.int32], codes: IdArray) -> Call:
        return automaton_follow_table, (self._place, self.seen, table, codes)

    def _settling(self) -> Call:
        return automaton_settle, (self.seen, self.lengths, self.links)


def _run(call: Call) -> None:
    kernel, arguments = call
    kernel(*arguments)


def find_copying(text: npt.NDArray[np.integer], training: TokenArray, tokenizer: Tokenizer) -> Copying:
    """What of `text` is in `training`, both in the ids of `tokenizer`.

    Raises CorpusError for more than MOST_TOKENS tokens of text; the training text may be of any size.
    """
    if text.size > MOST_TOKENS:
        raise CorpusError(
            f"the text has {text.size:,} tokens, --check-copy takes {MOST_TOKENS:,}", "check a part of it at a time"
        )
    automaton = Automaton(copied(text), tokenizer.vocab_size, tokenizer.end_of_text)
    for piece in pieces_of(training, CHUNK):
        automaton.follow(piece)
    length, end = automaton.settle()
    return Copying(copied(training[end - length : end]), end - length, {n: automaton.novel(n) for n in NGRAMS})


def copying_calls() -> list[Call]:
    """The kernels that `find_copying` needs."""
    return Automaton(np.zeros(1, dtype=np.int64), 1, None).calls()
