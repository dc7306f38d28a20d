"""Windows of tokens: in random order for training, in their own order for evaluation.

A window is T + 1 neighbouring tokens: x is the first T, y the last T, so that y[t] is what follows x[t]. One that is
shorter has x = 0 and y = IGNORED where it ends.

Training goes through epochs. In an epoch every window of the text (`text/cuts.py`) is visited once. The phase, which
says where windows are cut, changes with the epoch; in a round of R epochs (R = T, or fewer in a short text) every phase
has its turn, so that every token stands at every place of a window, the ends of the text aside.

Both orders, of the phases in a round and of the windows in an epoch, are permutations that are computed, not stored: a
Feistel network over pairs (row, column) of about the square root of the size each, walked until the result is below
the size (Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains", methods 2 and 3). Its round function is the
finalizer of SplitMix64 (Steele, Lea & Flood 2014, "Fast Splittable Pseudorandom Number Generators"). So where the
window of any position starts follows from the seed alone, and a position is all that resuming needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cllm_cli.errors import CorpusError
from cllm_cli.layers.base import IGNORED
from cllm_cli.text.cuts import Across, Cuts, Within
from cllm_cli.text.mapped import check_there, let_go
from cllm_cli.text.tokenizers.base import IdArray, TokenArray

Int32Array = npt.NDArray[np.int32]
Uint64Array = npt.NDArray[np.uint64]

AHEAD = 1024
HELD = 64  # windows whose pages may stay mapped: a window may map 2 MiB around it, and letting go takes a while
FEISTEL_ROUNDS = 6
MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


class Epochs(NamedTuple):
    """The epochs of some rounds in order: the phase of each, its number of windows, and these summed up to its end."""

    phases: IdArray
    lengths: IdArray
    ends: IdArray


class Sampler:
    """Training windows of `tokens` (one-dimensional) in the order that `seed` decides.

    `position` counts the windows that were taken; it is the whole state, and may be set. `cuts` says which windows
    there are, those across documents if it is not given. Raises CorpusError where there is none.
    """

    def __init__(
        self, tokens: TokenArray, block_size: int, seed: int, position: int = 0, cuts: Cuts | None = None
    ) -> None:
        self.block_size = block_size
        self.position = position
        self._tokens = tokens
        self._cuts = cuts or Across(tokens.size, block_size)
        self._lengths = self._cuts.lengths
        self._phases = self._lengths.size
        self._round_length = int(self._lengths.sum())
        if not self._round_length:
            raise CorpusError("no document has two tokens, of which one could predict the other", "give more text")
        self._phase_key, self._window_key = (int(key) for key in _mixed(np.arange(2, dtype=np.uint64), _words(seed)))
        self._starts = self._sizes = np.empty(0, dtype=np.int64)
        self._first = 0

    @property
    def epoch(self) -> float:
        """How many epochs `position` amounts to."""
        number, within = divmod(self.position, self._round_length)
        epochs = self._epochs(number, 1)
        index = int(np.searchsorted(epochs.ends, within, side="right"))
        return number * self._phases + index + 1 - int(epochs.ends[index] - within) / int(epochs.lengths[index])

    def windows_in(self, epochs: float) -> int:
        """How many windows the first `epochs` take, rounded up."""
        rounds, rest = divmod(epochs, self._phases)
        lengths = self._epochs(int(rounds), 1).lengths
        whole = int(rest)
        part = math.ceil((rest - whole) * float(lengths[whole]))
        return int(rounds) * self._round_length + int(lengths[:whole].sum()) + part

    def next_batch(self, x_out: Int32Array, y_out: Int32Array) -> None:
        """Write the next B windows into `x_out` and `y_out` (B, T), and advance by B.

        Raises CorpusError where the file of the tokens was cut short or written to.
        """
        check_there(self._tokens)
        done, batch = 0, len(x_out)
        while done < batch:
            offset = self.position - self._first
            if not 0 <= offset < self._starts.size:
                self._first, offset = self.position, 0
                self._starts, self._sizes = self._windows_from(self.position)
            few = slice(offset, offset + batch - done)
            for start, size in zip(self._starts[few], self._sizes[few], strict=True):
                # Window by window: all at once would be copied to memory of its own first.
                _write_window(x_out[done], y_out[done], self._tokens, start, size)
                done += 1
                self.position += 1
                if self.position % HELD == 0:
                    let_go(self._tokens)
        check_there(self._tokens)

    def _windows_from(self, position: int) -> tuple[IdArray, IdArray]:
        """Where the AHEAD windows from `position` on start, as indices of tokens, and their sizes."""
        number, within = divmod(position, self._round_length)
        epochs = self._epochs(number, 1 + (within + AHEAD) // self._round_length)
        positions = np.arange(within, within + AHEAD)
        index = np.searchsorted(epochs.ends, positions, side="right")
        lengths = epochs.lengths[index]
        keys = _mixed(_numbers(number * self._phases, index), self._window_key)
        order = permuted((positions - epochs.ends[index] + lengths).astype(np.uint64), lengths.astype(np.uint64), keys)
        return self._cuts.windows(epochs.phases[index], order.astype(np.int64))

    def _epochs(self, first_round: int, rounds: int) -> Epochs:
        """The epochs of `rounds` rounds from `first_round` on."""
        keys = _mixed(_numbers(first_round, np.arange(rounds)), self._phase_key).repeat(self._phases)
        phases = np.tile(np.arange(self._phases, dtype=np.uint64), rounds)
        phases = permuted(phases, np.full_like(phases, self._phases), keys)
        lengths = self._lengths[phases]
        return Epochs(phases.astype(np.int64), lengths, np.cumsum(lengths))


class Windows:
    """All of `tokens` in batches for evaluation: every token but the first is scored exactly once.

    Windows of `block_size` follow one another without overlap, through the whole text or, with the `ends` of its
    documents, from the start of each of them. What they do not fill has x = 0 and y = IGNORED. `targets` is the number
    of scored tokens. Batches can be taken in any order by their index.
    """

    def __init__(self, tokens: TokenArray, block_size: int, batch_size: int, ends: IdArray | None = None) -> None:
        self._tokens = tokens
        self._shape = (batch_size, block_size)
        self._cuts = Within(np.array([tokens.size]) if ends is None else ends, block_size)
        self.targets = max(0, tokens.size - 1)

    def __len__(self) -> int:
        return -(-int(self._cuts.lengths[0]) // self._shape[0])

    def __getitem__(self, index: int) -> tuple[Int32Array, Int32Array]:
        """x and y (B, T) of batch `index`. Raises CorpusError where the tokens' file was cut short or written to."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        check_there(self._tokens)
        x = np.zeros(self._shape, dtype=np.int32)
        y = np.full(self._shape, IGNORED, dtype=np.int32)
        first = index * len(x)
        numbers = np.arange(first, min(first + len(x), self._cuts.lengths[0]), dtype=np.int64)
        for row, (start, size) in enumerate(zip(*self._cuts.windows(np.zeros_like(numbers), numbers), strict=True)):
            _write_window(x[row], y[row], self._tokens, start, size)
        check_there(self._tokens)
        let_go(self._tokens)
        return x, y

    def __iter__(self) -> Iterator[tuple[Int32Array, Int32Array]]:
        return (self[index] for index in range(len(self)))


def _write_window(x: Int32Array, y: Int32Array, tokens: TokenArray, start: int, size: int) -> None:
    """A window of `size` targets into rows x and y (T)."""
    x[:size] = tokens[start : start + size]
    y[:size] = tokens[start + 1 : start + 1 + size]
    if size < x.size:
        x[size:] = 0
        y[size:] = IGNORED


def permuted(indices: Uint64Array, sizes: Uint64Array, keys: Uint64Array) -> Uint64Array:
    """Where a permutation of 0 … size - 1, chosen by the key, takes each index (below size; all element by element)."""
    rows = np.sqrt(sizes).astype(np.uint64)
    columns = (sizes + rows - np.uint64(1)) // rows
    out = _feistel(indices, rows, columns, keys)
    # rows · columns exceeds size by less than rows: few indices walk on, and each of them comes back below size.
    while (outside := np.flatnonzero(out >= sizes)).size:
        out[outside] = _feistel(out[outside], rows[outside], columns[outside], keys[outside])
    return out


def _feistel(indices: Uint64Array, rows: Uint64Array, columns: Uint64Array, keys: Uint64Array) -> Uint64Array:
    """A permutation of 0 … rows · columns - 1: row and column in turn are shifted by a function of the other one."""
    row, column = indices // columns, indices % columns
    for number in range(0, FEISTEL_ROUNDS, 2):
        row = (row + _mixed(column, keys, number) % rows) % rows
        column = (column + _mixed(row, keys, number + 1) % columns) % columns
    return row * columns + column


def _mixed(values: Uint64Array, keys: Uint64Array | int, number: int = 0) -> Uint64Array:
    """64 bits that depend on value, key and number in no simple way: SplitMix64's finalizer, arithmetic modulo 2⁶⁴."""
    bits = values * np.uint64(GOLDEN) + np.asarray(keys, dtype=np.uint64) + np.uint64(number << 56)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _numbers(first: int, steps: npt.NDArray[np.int64]) -> Uint64Array:
    """`first` + `steps` modulo 2⁶⁴, for whole numbers of any size."""
    return steps.astype(np.uint64) + np.uint64(first & MASK)


def _words(seed: int) -> int:
    """A key from a seed, so that neighbouring seeds have nothing in common."""
    return int(_mixed(np.array([seed & MASK], dtype=np.uint64), GOLDEN)[0])
