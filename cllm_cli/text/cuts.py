"""How tokens are cut into windows: across documents, or within each of them.

A window is a stretch of up to T tokens (x) each of which predicts the next (y). Where documents follow one another,
the id that ends one stands before the next: the window of a document begins with it, as generation does. So windows
within documents have every token but the very first as a target once, like windows across them, and hold nothing else
of another document.

How windows are numbered depends on a phase, which changes with the epoch (`text/batches.py`): it moves all borders, so
that tokens come to stand at other places of a window. A document that fits into a window is never cut.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from cllm_cli.errors import CorpusError
from cllm_cli.text.mapped import pieces_of
from cllm_cli.text.tokenizers.base import IdArray, TokenArray

PIECE = 1 << 22  # tokens that are looked through at a time


class Cuts(Protocol):
    """Windows of a text: `lengths` says how many there are in each phase."""

    lengths: IdArray

    def windows(self, phases: IdArray, numbers: IdArray) -> tuple[IdArray, IdArray]:
        """Where the windows with these numbers begin, and how many targets each has, element by element."""


class Across:
    """Windows of T targets each, at r, r + T, … of a text of `count` tokens, as many as fit; r is the phase."""

    def __init__(self, count: int, block_size: int) -> None:
        if count < block_size + 1:
            raise CorpusError(
                f"{count:,} tokens do not fill a window of {block_size:,} and one more",
                "give more text, or use a smaller --block-size",
            )
        self._block_size = block_size
        # A phase above the slack would leave a short text without any window.
        phases = min(block_size, count - block_size)
        self.lengths = (count - 1 - np.arange(phases, dtype=np.int64)) // block_size

    def windows(self, phases: IdArray, numbers: IdArray) -> tuple[IdArray, IdArray]:
        return phases + numbers * self._block_size, np.full_like(numbers, self._block_size)


class Within:
    """Windows of up to T targets in documents, of which those that are longer than T are cut after T - phase, T, … .

    ends: one past the last token of each document (strictly ascending); the last one is the end of the text.
    """

    def __init__(self, ends: IdArray, block_size: int) -> None:
        self._block_size = block_size
        self._starts = np.maximum(np.concatenate([[0], ends[:-1]]) - 1, 0)
        self._targets = ends - 1 - self._starts
        rest = np.where(self._targets > block_size, (self._targets - 1) % block_size, -1)
        self._rest = rest
        self._least = np.where(self._targets > 0, 1 + (self._targets - 1) // block_size, 0)
        # A first cut at c leaves one window more where c ≤ rest: 1 + ⌈(m − c) / T⌉ = 1 + ⌊(m − 1) / T⌋ + (c ≤ rest).
        longer = np.cumsum(np.bincount(rest[rest >= 0], minlength=block_size)[::-1])
        phases = block_size if longer[-1] else 1
        self.lengths = int(self._least.sum()) + np.concatenate([[0], longer[: phases - 1]]).astype(np.int64)
        self._phase = -1
        self._last = np.empty(0, dtype=np.int64)

    def windows(self, phases: IdArray, numbers: IdArray) -> tuple[IdArray, IdArray]:
        starts, sizes = np.empty_like(numbers), np.empty_like(numbers)
        for phase in np.unique(phases).tolist():
            chosen = phases == phase
            starts[chosen], sizes[chosen] = self._of_phase(phase, numbers[chosen])
        return starts, sizes

    def _of_phase(self, phase: int, numbers: IdArray) -> tuple[IdArray, IdArray]:
        cut = self._block_size - phase
        if phase != self._phase:
            self._phase, self._last = phase, np.cumsum(self._least + (self._rest >= cut))
        document = np.searchsorted(self._last, numbers, side="right")
        targets, rest = self._targets[document], self._rest[document]
        number = numbers - self._last[document] + self._least[document] + (rest >= cut)
        start = np.where(number > 0, cut + (number - 1) * self._block_size, 0)
        most = np.where((number > 0) | (rest < 0), self._block_size, cut)
        return self._starts[document] + start, np.minimum(targets - start, most)


def ends_of_documents(tokens: TokenArray, end_of_text: int | None) -> IdArray:
    """One past the last token of each document: they end with `end_of_text`, the last one perhaps without."""
    found, at = [np.zeros(0, dtype=np.int64)], 1
    for piece in pieces_of(tokens, PIECE) if end_of_text is not None else ():
        found.append(np.flatnonzero(piece == end_of_text) + at)
        at += piece.size
    ends = np.concatenate(found)
    return ends if ends.size and ends[-1] == tokens.size else np.append(ends, tokens.size)


def cuts_of(tokens: TokenArray, block_size: int, end_of_text: int | None, pack: bool) -> Cuts:
    """Windows across the documents of `tokens` or, unless they are to be packed, within them.

    Raises CorpusError where they do not fill a window across.
    """
    return Across(tokens.size, block_size) if pack else Within(ends_of_documents(tokens, end_of_text), block_size)
