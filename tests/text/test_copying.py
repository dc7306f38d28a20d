"""Copying: overlap and new n-grams are those that comparing everything with everything finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from laws import law
from text_files import refused

from cllm_cli.text import copying
from cllm_cli.text.copying import NGRAMS, find_copying
from cllm_cli.text.tokenizers import builder_of

PLAIN = builder_of("byte").finish(end_of_text=False)[0]
SEVERAL = builder_of("byte").finish(end_of_text=True)[0]
END = SEVERAL.end_of_text


def pieces(tokens, n):
    """The distinct n-grams of a list, without those that run across the end of a document."""
    found = {tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1)}
    return {piece for piece in found if END not in piece}


def by_hand(text, training):
    """Length and first place of the longest overlap, and the shares of new n-grams, by trying everything."""
    length = max((n for n in range(1, len(text) + 1) if pieces(text, n) & pieces(training, n)), default=0)
    there = pieces(text, length)
    ends = (at for at in range(len(training) - length + 1) if tuple(training[at : at + length]) in there)
    novel = {}
    for n in NGRAMS:
        own = pieces(text, n)
        novel[n] = len(own - pieces(training, n)) / len(own) if own else None
    return length, next(ends) if length else 0, novel


def compare(text, training, tokenizer=SEVERAL):
    arrays = (np.array(tokens, dtype=tokenizer.dtype) for tokens in (text, training))
    found = find_copying(*arrays, tokenizer)
    length, start, novel = by_hand(text, training)
    assert found.overlap.tolist() == training[start : start + length]
    assert (found.start, found.novel) == (start, novel)
    return found


def texts(alphabet, most):
    return st.lists(st.sampled_from(alphabet), max_size=most)


@pytest.fixture(params=[1, 3, copying.CHUNK])
def _chunks(request, monkeypatch):
    monkeypatch.setattr(copying, "CHUNK", request.param)


@pytest.fixture(params=[copying.TABLE, 0], ids=["table", "no-table"], autouse=True)
def _tables(request, monkeypatch):
    """With a table of all that can follow, and without one, as for texts that are too large for it."""
    monkeypatch.setattr(copying, "TABLE", request.param)


@pytest.mark.usefixtures("_chunks")
@law(60, 1000, text=texts([0, 1, END], 40), training=texts([0, 1, END], 90))
def test_few_tokens_have_every_kind_of_repetition(text, training):
    compare(text, training)


@pytest.mark.usefixtures("_chunks")
@law(
    40,
    500,
    text=texts(list(range(9)), 90),
    training=texts(list(range(12)), 200),
    cut=st.tuples(st.integers(0, 200), st.integers(0, 90), st.integers(0, 90)),
)
def test_a_copied_passage_is_found_wherever_it_stands(text, training, cut):
    start, size, at = cut
    compare(text[:at] + training[start : start + size] + text[at:], training)


@pytest.mark.parametrize("size", [1, 2, 7, 64, 65, pytest.param(300, marks=pytest.mark.slow)])
def test_a_whole_copy_has_nothing_new(size):
    training = np.random.default_rng(5).integers(0, 256, 3000).tolist()
    text = training[1000 : 1000 + size]
    found = compare(text, training, PLAIN)
    assert found.overlap.tolist() == text
    assert set(found.novel.values()) <= {0.0, None}


def test_where_nothing_is_shared_all_is_new():
    found = compare(list(range(100)), list(range(100, 200)))
    assert found.overlap.size == 0
    assert set(found.novel.values()) == {1.0}


@pytest.mark.parametrize(("text", "training"), [([], []), ([], [1, 2]), ([1, 2], []), ([END], [END]), ([3], [3])])
def test_texts_of_almost_nothing(text, training):
    found = compare(text, training)
    assert set(found.novel.values()) == {None}


def test_of_equally_long_overlaps_the_first_in_the_training_text_is_told():
    assert compare([7, 7, 1, 2, 9, 3, 4], [5, 3, 4, 6, 1, 2]).start == 1


def test_no_overlap_runs_across_the_end_of_a_document():
    text = [1, 2, 3, END, 4, 5]
    assert compare(text, text).overlap.tolist() == [1, 2, 3]


def test_a_text_that_repeats_itself_a_thousand_times():
    """The worst for an automaton: a run of one token, and one in which every prefix returns."""
    for text in ([0] * 1000, [0, 1] * 500, ([0] * 30 + [1]) * 20):
        found = find_copying(np.array(text, np.uint8), np.array([1, *text, *text], np.uint8), PLAIN)
        assert found.overlap.tolist() == text
        assert set(found.novel.values()) == {0.0}


def test_large_ids_of_a_large_vocabulary():
    class Many:
        vocab_size, end_of_text = 200_000, 199_999

    text = np.array([199_998, 5, 70_000, 1], np.uint32)
    training = np.array([70_000, 199_999, 5, 70_000, 1, 199_998], np.uint32)
    found = find_copying(text, training, Many)
    assert found.overlap.tolist() == [5, 70_000, 1]
    assert found.start == 2
    assert found.novel[4] == 1.0


def test_a_text_of_more_tokens_than_memory_is_meant_for_is_refused(monkeypatch):
    monkeypatch.setattr(copying, "MOST_TOKENS", 9)
    nine, ten = (np.zeros(size, np.uint8) for size in (9, 10))
    assert find_copying(nine, nine, PLAIN).overlap.size == 9
    refused(lambda: find_copying(ten, nine, PLAIN), "10 tokens", "9", "a part of it")
