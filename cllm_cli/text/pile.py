"""A growing store of tokens: pieces of several types, one after the other, then joined.

What takes more than IN_MEMORY goes to files without a name and is mapped: memory that the system can take back. The
disk holds the tokens once, or twice where they have to be put in another order or into other ids. A smaller pile stays
in memory, with one block more than its own size at any time; blocks are let go while they are joined.

Tokens have the type that held the ids when they were added; a table from provisional to final ids is applied by `join`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from cllm_cli.text.mapped import mapped
from cllm_cli.text.tokenizers.base import TokenArray, token_dtype
from cllm_cli.text.unnamed import UnnamedFile

IN_MEMORY = 1 << 26  # bytes
# Bytes in a block. From 32 MiB on, glibc's malloc maps each array by itself and returns it to the system when freed.
BLOCK = 1 << 25
PIECE = 1 << 16
CONTENT = "tokens that are too many for memory"


class Span(NamedTuple):
    """Tokens `start` to `stop` of a pile: one document. `output` is the number of the array that it goes to, `end` the
    id that follows it there, if any.
    """

    start: int
    stop: int
    output: int
    end: int | None = None


class Row:
    """A known number of tokens of one type, filled from first to last, in memory or mapped."""

    def __init__(self, size: int, dtype: np.dtype[Any]) -> None:
        self._size, self._dtype, self._filled = size, dtype, 0
        self._array: TokenArray = np.empty(0 if size * dtype.itemsize > IN_MEMORY else size, dtype=dtype)
        self._file = UnnamedFile(CONTENT) if size > self._array.size else None

    def append(self, ids: TokenArray) -> None:
        """Add ids that the type holds."""
        if self._file:
            self._file.write(np.ascontiguousarray(ids, dtype=self._dtype))
        else:
            self._array[self._filled : self._filled + ids.size] = ids
        self._filled += ids.size

    def whole(self) -> TokenArray:
        """All tokens, once they are there, contiguous; not to be written where they are mapped."""
        if not self._file:
            return self._array
        array = mapped(self._file.rewind(), self._dtype, self._size)
        self._file.close()
        return array


class Pile:
    """`expected`: the number of tokens, if it is known beforehand and their ids are final. They get one block then, and
    need no copy to be joined.
    """

    def __init__(self, expected: int = 0) -> None:
        self.size = 0
        self._expected = expected
        self._blocks: list[TokenArray] = []
        self._used = 0
        self._bytes = 0
        self._file: UnnamedFile | None = None
        self._runs: list[tuple[np.dtype[Any], int]] = []  # what is in the file: types, and how many of each

    def append(self, ids: TokenArray, vocab_size: int) -> None:
        """Add ids, all below `vocab_size`, which never shrinks. Raises CorpusError where they find no room."""
        dtype = token_dtype(vocab_size)
        self.size += ids.size
        self._bytes += ids.size * dtype.itemsize
        if self._file is None and self._bytes > IN_MEMORY:
            self._move_to_file()
        if self._file is None:
            self._append_to_blocks(ids, dtype)
        else:
            self._append_to_file(self._file, ids.astype(dtype, copy=False))

    def join(
        self, spans: Collection[Span], outputs: int, dtype: np.dtype[Any], table: TokenArray | None
    ) -> list[TokenArray]:
        """The tokens of each output, one-dimensional and contiguous; the pile is empty afterwards.

        The spans cover the pile from first to last. `table` maps ids to final ones; None: they are final. Outputs that
        are mapped cannot be written.
        """
        self._close_block()
        if table is None and _one_each(spans, outputs):
            whole = self._whole(dtype)
            if whole is not None:
                return [whole[span.start : span.stop] for span in spans]
        sizes = [0] * outputs
        for span in spans:
            sizes[span.output] += span.stop - span.start + (span.end is not None)
        rows = [Row(size, dtype) for size in sizes]
        pieces = self._pieces()
        rest = np.empty(0, dtype=dtype)
        index, found = np.empty(PIECE, dtype=np.intp), np.empty(PIECE, dtype=dtype)
        for span in spans:
            row, missing = rows[span.output], span.stop - span.start
            while missing:
                rest = rest if rest.size else next(pieces)
                ids, rest = rest[:missing], rest[missing:]
                missing -= ids.size
                if table is not None:
                    index[: ids.size] = ids
                    # All ids are in the table; "clip" is the mode in which NumPy needs no buffer for `out`.
                    ids = table.take(index[: ids.size], out=found[: ids.size], mode="clip")
                row.append(ids)
            if span.end is not None:
                row.append(np.array([span.end], dtype=dtype))
        if self._file:
            self._file.close()
        return [row.whole() for row in rows]

    def _whole(self, dtype: np.dtype[Any]) -> TokenArray | None:
        """The whole pile where it lies, if it lies there in one piece of this type."""
        if self._file is None:
            return self._blocks.pop() if [block.dtype for block in self._blocks] == [dtype] else None
        if [kind for kind, _ in self._runs] != [dtype]:
            return None
        array = mapped(self._file.rewind(), dtype, self.size)
        self._file.close()
        return array

    def _append_to_blocks(self, ids: TokenArray, dtype: np.dtype[Any]) -> None:
        done = 0
        while done < ids.size:
            if not self._blocks or self._used == self._blocks[-1].size or self._blocks[-1].dtype != dtype:
                self._begin_block(dtype)
            block = self._blocks[-1]
            count = min(ids.size - done, block.size - self._used)
            block[self._used : self._used + count] = ids[done : done + count]
            self._used += count
            done += count

    def _append_to_file(self, file: UnnamedFile, ids: TokenArray) -> None:
        file.write(ids)
        kind, count = self._runs.pop() if self._runs and self._runs[-1][0] == ids.dtype else (ids.dtype, 0)
        self._runs.append((kind, count + ids.size))

    def _move_to_file(self) -> None:
        self._close_block()
        file = UnnamedFile(CONTENT)
        for piece in self._pieces():
            self._append_to_file(file, piece)
        self._file = file

    def _begin_block(self, dtype: np.dtype[Any]) -> None:
        self._close_block()
        expected = 0 if self._blocks or self._expected * dtype.itemsize > IN_MEMORY else self._expected
        self._blocks.append(np.empty(max(expected, BLOCK // dtype.itemsize), dtype=dtype))
        self._used = 0

    def _close_block(self) -> None:
        if self._blocks:
            self._blocks[-1] = self._blocks[-1][: self._used]

    def _pieces(self) -> Iterator[TokenArray]:
        """All tokens in order, a little at a time; a block is let go once it has been passed on."""
        if self._file:
            stream = self._file.rewind()
            for kind, count in self._runs:
                for start in range(0, count, PIECE):
                    yield np.frombuffer(stream.read(min(PIECE, count - start) * kind.itemsize), kind)
        self._blocks.reverse()
        while self._blocks:
            block = self._blocks.pop()
            for start in range(0, block.size, PIECE):
                yield block[start : start + PIECE]


def _one_each(spans: Collection[Span], outputs: int) -> bool:
    return len(spans) == outputs and all((span.output, span.end) == (output, None) for output, span in enumerate(spans))
