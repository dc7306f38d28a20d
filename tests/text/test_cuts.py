"""Windows within documents: each target once an epoch, nothing of another document but the id that ends it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from laws import law

from cllm_cli.errors import CorpusError
from cllm_cli.layers.base import IGNORED
from cllm_cli.text import cuts
from cllm_cli.text.batches import Sampler, Windows
from cllm_cli.text.cuts import Across, Within, cuts_of, ends_of_documents

END = 9


def text_of(sizes, dtype=np.uint8):
    """Documents of so many tokens each, the end-of-text id included, one after another."""
    return np.concatenate([np.append(np.arange(size - 1) % END, END) for size in sizes]).astype(dtype)


def windows_in(cut, phase):
    """Every window of a phase, as (start, size)."""
    numbers = np.arange(cut.lengths[phase])
    return list(zip(*(each.tolist() for each in cut.windows(np.full_like(numbers, phase), numbers)), strict=True))


def test_packed_windows_go_across_documents():
    tokens = text_of([5, 7, 3])
    assert windows_in(cuts_of(tokens, 4, END, pack=True), 0) == [(0, 4), (4, 4), (8, 4)]
    assert windows_in(cuts_of(tokens, 4, END, pack=False), 0) == [(0, 4), (4, 4), (8, 3), (11, 3)]


@law(25, 1000, sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12), block=st.integers(1, 12))
def test_each_phase_has_every_target_once_and_no_window_two_documents(sizes, block):
    ends = np.cumsum(sizes)
    cut = Within(ends, block)
    borders = set((ends - 1).tolist()[:-1])  # ids that end a document and stand before the next
    assert cut.lengths.size == (block if max(np.diff(ends, prepend=1)) > block else 1)
    starts = []
    for phase in range(cut.lengths.size):
        found = windows_in(cut, phase)
        targets = sorted(start + 1 + place for start, size in found for place in range(size))
        assert targets == list(range(1, int(ends[-1])))
        for start, size in found:
            assert 1 <= size <= block
            assert not borders & set(range(start + 1, start + size))  # an end is the last target or the first token
        starts.append({start for start, _ in found})
    for first, last in zip([0, *ends[:-1]], ends, strict=True):
        begins = max(0, first - 1)
        if 1 <= last - 1 - begins <= block:
            assert all(begins in found for found in starts)
            assert sum(begins < start < last - 1 for found in starts for start in found) == 0  # never cut


@law(10, 300, count=st.integers(2, 200), block=st.integers(1, 20))
def test_a_document_alone_is_cut_at_every_place(count, block):
    cut = Within(np.array([count]), block)
    borders = [{start for start, _ in windows_in(cut, phase)} - {0} for phase in range(cut.lengths.size)]
    seen = [start for found in borders for start in found]
    assert sorted(seen) == (list(range(1, count - 1)) if count - 1 > block else [])


def test_windows_across_are_full_ones():
    cut = Across(10, 4)
    assert [windows_in(cut, phase) for phase in range(cut.lengths.size)] == [
        [(0, 4), (4, 4)],
        [(1, 4), (5, 4)],
        [(2, 4)],
        [(3, 4)],
    ]


@pytest.mark.parametrize("piece", [1, 3, 1 << 22])
def test_ends_are_found_wherever_they_lie(monkeypatch, piece):
    monkeypatch.setattr(cuts, "PIECE", piece)
    assert ends_of_documents(np.array([1, 9, 9, 2, 3, 9], np.uint16), END).tolist() == [2, 3, 6]
    assert ends_of_documents(np.array([1, 9, 2], np.uint16), END).tolist() == [2, 3]  # validation of one text, say
    assert ends_of_documents(np.array([1, 2], np.uint8), None).tolist() == [2]
    assert ends_of_documents(np.array([], np.uint8), END).tolist() == [0]


def drawn(sampler, count, batch):
    """x and y of the next windows."""
    x, y = (np.full((batch, sampler.block_size), -7, dtype=np.int32) for _ in range(2))
    for _ in range(count // batch):
        sampler.next_batch(x, y)
        yield from zip(x.copy(), y.copy(), strict=True)


def test_the_sampler_gives_them_padded_in_some_order_and_from_any_position():
    tokens, block = text_of([5, 1, 30, 12, 2]), 8
    cut = cuts_of(tokens, block, END, pack=False)
    sampler = Sampler(tokens, block, 3, cuts=cut)
    count = sampler.windows_in(cut.lengths.size)
    assert count == cut.lengths.sum()
    found = list(drawn(sampler, count, 1))
    assert sampler.epoch == cut.lengths.size
    wanted = []
    for phase in range(cut.lengths.size):
        for start, size in windows_in(cut, phase):
            x, y = np.zeros(block, np.int32), np.full(block, IGNORED, np.int32)
            x[:size], y[:size] = tokens[start : start + size], tokens[start + 1 : start + 1 + size]
            wanted.append((x.tolist(), y.tolist()))
    assert sorted((x.tolist(), y.tolist()) for x, y in found) == sorted(wanted)
    for position in (0, 1, 17, count - 3):
        rest = drawn(Sampler(tokens, block, 3, position, cuts_of(tokens, block, END, pack=False)), 3, 3)
        assert all(np.array_equal(one, two) for one, two in zip(rest, found[position : position + 3], strict=True))


def test_evaluation_begins_each_document_anew():
    tokens, block = text_of([5, 1, 30, 12, 2]), 8
    ends = ends_of_documents(tokens, END)
    windows = Windows(tokens, block, 3, ends)
    assert windows.targets == tokens.size - 1
    rows = [(x, y) for each in windows for x, y in zip(*each, strict=True)]
    targets = np.concatenate([y[y != IGNORED] for _, y in rows])
    assert np.array_equal(targets, tokens[1:])
    firsts = [x[0] for x, y in rows if y[0] != IGNORED]
    assert firsts.count(END) == 4  # the windows that begin a document, but for the first
    assert len(windows) == -(-len(firsts) // 3)


def test_a_text_without_any_target_is_refused():
    with pytest.raises(CorpusError, match="no document has two tokens"):
        Sampler(np.array([3], np.uint8), 4, 1, cuts=cuts_of(np.array([3], np.uint8), 4, None, pack=False))
