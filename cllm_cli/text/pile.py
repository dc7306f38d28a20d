"""A growing store of tokens: blocks that are filled one after the other, then joined while they are let go.

The whole takes its own size and one block more at any time. Blocks have the type that held the ids when they were
begun; a table from provisional to final ids is applied while joining.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from cllm_cli.text.tokenizers.base import TokenArray, token_dtype

# Bytes in a block. From 32 MiB on, glibc's malloc maps each array by itself and returns it to the system when freed.
BLOCK = 1 << 25
PIECE = 1 << 16


class Span(NamedTuple):
    """Tokens `start` to `stop` of a pile: one document. `output` is the number of the array that it goes to, `end` the
    id that follows it there, if any.
    """

    start: int
    stop: int
    output: int
    end: int | None = None


class Pile:
    """`expected`: the number of tokens, if it is known beforehand and their ids are final. They get one block then, and
    need no copy to be joined.
    """

    def __init__(self, expected: int = 0) -> None:
        self.size = 0
        self._expected = expected
        self._blocks: list[TokenArray] = []
        self._used = 0

    def append(self, ids: TokenArray, vocab_size: int) -> None:
        """Add ids, all below `vocab_size`, which never shrinks."""
        dtype = token_dtype(vocab_size)
        done = 0
        while done < ids.size:
            if not self._blocks or self._used == self._blocks[-1].size or self._blocks[-1].dtype != dtype:
                self._begin_block(dtype)
            block = self._blocks[-1]
            count = min(ids.size - done, block.size - self._used)
            block[self._used : self._used + count] = ids[done : done + count]
            self._used += count
            done += count
        self.size += ids.size

    def join(
        self, spans: Collection[Span], outputs: int, dtype: np.dtype[Any], table: TokenArray | None
    ) -> list[TokenArray]:
        """The tokens of each output, one-dimensional and contiguous; the pile is empty afterwards.

        The spans cover the pile from first to last. `table` maps ids to final ones; None: they are final.
        """
        self._close_block()
        if table is None and len(self._blocks) == 1 and self._blocks[0].dtype == dtype and _one_each(spans, outputs):
            whole = self._blocks.pop()
            return [whole[span.start : span.stop] for span in spans]
        sizes = [0] * outputs
        for span in spans:
            sizes[span.output] += span.stop - span.start + (span.end is not None)
        joined = [np.empty(size, dtype=dtype) for size in sizes]
        filled = [0] * outputs
        pieces = self._pieces()
        rest = np.empty(0, dtype=dtype)
        index = np.empty(PIECE, dtype=np.intp)
        for span in spans:
            target, position, missing = joined[span.output], filled[span.output], span.stop - span.start
            while missing:
                rest = rest if rest.size else next(pieces)
                ids, rest = rest[:missing], rest[missing:]
                goal = target[position : position + ids.size]
                if table is None:
                    goal[:] = ids
                else:
                    index[: ids.size] = ids
                    # All ids are in the table; "clip" is the mode in which NumPy needs no buffer for `out`.
                    table.take(index[: ids.size], out=goal, mode="clip")
                position, missing = position + ids.size, missing - ids.size
            if span.end is not None:
                target[position] = span.end
                position += 1
            filled[span.output] = position
        return joined

    def _begin_block(self, dtype: np.dtype[Any]) -> None:
        self._close_block()
        first = not self._blocks
        self._blocks.append(np.empty(max(self._expected if first else 0, BLOCK // dtype.itemsize), dtype=dtype))
        self._used = 0

    def _close_block(self) -> None:
        if self._blocks:
            self._blocks[-1] = self._blocks[-1][: self._used]

    def _pieces(self) -> Iterator[TokenArray]:
        """All tokens in order, a little at a time; a block is let go once it has been passed on."""
        self._blocks.reverse()
        while self._blocks:
            block = self._blocks.pop()
            for start in range(0, block.size, PIECE):
                yield block[start : start + PIECE]


def _one_each(spans: Collection[Span], outputs: int) -> bool:
    return len(spans) == outputs and all((span.output, span.end) == (output, None) for output, span in enumerate(spans))
