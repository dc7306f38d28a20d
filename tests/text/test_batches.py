"""Batches: every window once an epoch, the same windows however they are taken, every token scored once."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import strategies as st
from laws import law

from cllm_cli.errors import CorpusError
from cllm_cli.layers.base import IGNORED
from cllm_cli.text.batches import Sampler, Windows, permuted

SIZES = [(2, 1), (5, 4), (6, 4), (8, 4), (9, 4), (12, 4), (13, 4), (40, 4), (103, 7), (1000, 1), (257, 64), (400, 64)]


def numbered(count):
    """Tokens that tell their own place."""
    return np.arange(count, dtype=np.uint32)


def drawn(sampler, windows, batch=1):
    """The starts of the next windows, read off tokens that tell their place; checks x and y along the way."""
    starts = []
    x, y = (np.full((batch, sampler.block_size), -7, dtype=np.int32) for _ in range(2))
    for _ in range(windows // batch):
        sampler.next_batch(x, y)
        expected = x[:, :1] + np.arange(sampler.block_size)
        assert (x == expected).all()
        assert (y == expected + 1).all()
        starts += x[:, 0].tolist()
    return starts


def epochs_of(starts, tokens, block):
    """Cut a list of starts into epochs, by rule alone: an epoch of phase r has every start r, r + T, … that fits."""
    while starts:
        phase = starts[0] % block
        if phase > tokens - block - 1:
            raise AssertionError("a window that does not fit")
        fitting = list(range(phase, tokens - block, block))
        epoch, starts = starts[: len(fitting)], starts[len(fitting) :]
        yield phase, epoch, fitting


@pytest.mark.parametrize(("tokens", "block"), SIZES)
def test_an_epoch_visits_each_window_once_and_a_round_each_phase_once(tokens, block):
    phases = min(block, tokens - block)
    count = sum(len(range(phase, tokens - block, block)) for phase in range(phases))
    starts = drawn(Sampler(numbered(tokens), block, seed=1), 3 * count)
    seen = []
    for phase, epoch, fitting in epochs_of(starts, tokens, block):
        assert sorted(epoch) == fitting
        seen.append(phase)
    assert len(seen) == 3 * phases
    for turn in range(3):
        assert sorted(seen[turn * phases : (turn + 1) * phases]) == list(range(phases))


def test_windows_come_in_no_order():
    starts = drawn(Sampler(numbered(64_001), 64, seed=1), 1000)
    steps = np.diff(starts)
    assert 0.4 < np.mean(steps > 0) < 0.6
    assert len(set(steps.tolist())) > 500
    assert abs(np.corrcoef(starts[:-1], starts[1:])[0, 1]) < 0.1


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7, 10, 97, 1000, 1024, 99_991])
def test_permuted_is_a_permutation(size):
    keys = np.full(size, 12345, dtype=np.uint64)
    out = permuted(np.arange(size, dtype=np.uint64), np.full(size, size, dtype=np.uint64), keys)
    assert np.bincount(out.astype(np.int64), minlength=size).tolist() == [1] * size


def test_permuted_sends_an_index_everywhere_alike():
    """Over many keys each place is as likely as any other: chi-square of 12 cells, below the 0.1 % bound of 31.3."""
    size, trials = 12, 6000
    keys = np.random.default_rng(5).integers(0, 2**63, trials).astype(np.uint64)
    for index in (0, 7):
        out = permuted(np.full(trials, index, dtype=np.uint64), np.full(trials, size, dtype=np.uint64), keys)
        counts = np.bincount(out.astype(np.int64), minlength=size)
        assert ((counts - trials / size) ** 2 / (trials / size)).sum() < 31.3


@pytest.mark.parametrize(("tokens", "block"), SIZES)
def test_any_way_of_taking_batches_gives_the_same_windows(tokens, block):
    one_by_one = drawn(Sampler(numbered(tokens), block, seed=9), 240)
    assert drawn(Sampler(numbered(tokens), block, seed=9), 240, batch=24) == one_by_one
    sampler = Sampler(numbered(tokens), block, seed=9)
    mixed = [
        start
        for batch in itertools.islice(itertools.cycle([12, 5, 3, 1]), 40)
        for start in drawn(sampler, batch, batch)
    ]
    assert mixed == one_by_one[: len(mixed)]


@pytest.mark.parametrize(("tokens", "block"), SIZES)
def test_the_position_is_the_whole_state(tokens, block):
    straight = drawn(Sampler(numbered(tokens), block, seed=3), 3000, batch=10)
    for position in (0, 1, 7, 1023, 1024, 1025, 2990):
        sampler = Sampler(numbered(tokens), block, seed=3, position=position)
        assert drawn(sampler, 10) == straight[position : position + 10]
        assert sampler.position == position + 10
        sampler.position = 5
        assert drawn(sampler, 2) == straight[5:7]


@law(
    25,
    1000,
    block=st.integers(1, 40),
    more=st.integers(1, 300),
    seed=st.integers(0, 2**63 - 1),
    turn=st.one_of(st.integers(0, 3), st.integers(0, 2**40)),
    place=st.floats(0, 1),
    batch=st.integers(1, 9),
)
def test_any_round_covers_the_text_without_repeats_from_any_place_on(block, more, seed, turn, place, batch):
    """A round has each window that fits once, epoch by epoch; who resumes at any position sees the rest of it."""
    tokens = block + more
    fitting = range(tokens - block)
    sampler = Sampler(numbered(tokens), block, seed, position=turn * len(fitting))
    starts = drawn(sampler, len(fitting))
    assert sorted(starts) == list(fitting)
    for _, epoch, wanted in epochs_of(starts, tokens, block):
        assert sorted(epoch) == wanted
    done = int(place * (len(fitting) - 1))
    resumed = Sampler(numbered(tokens), block, seed, position=turn * len(fitting) + done)
    taken = drawn(resumed, batch * ((len(fitting) - done) // batch), batch)
    assert taken == starts[done : done + len(taken)]
    assert resumed.position == turn * len(fitting) + done + len(taken)


def test_the_seed_decides_the_order():
    orders = [tuple(drawn(Sampler(numbered(2000), 4, seed), 50)) for seed in (0, 1, 2, 2**63 - 1)]
    assert len(set(orders)) == 4


def test_the_order_stays_as_it_is():
    """A resumed run goes on with these windows: another order would need a new version of the stored position."""
    assert drawn(Sampler(numbered(1000), 8, seed=1337), 8) == FIRST_STARTS


FIRST_STARTS = [985, 545, 137, 313, 177, 761, 969, 513]


def test_epochs_differ():
    sampler = Sampler(numbered(4 * 500 + 1), 4, seed=1)
    first, second = drawn(sampler, 499), drawn(sampler, 499)
    assert first != second
    assert [start % 4 for start in first] != [start % 4 for start in second]


@pytest.mark.parametrize(("tokens", "block"), SIZES)
def test_epoch_and_windows_in_agree_with_counting(tokens, block):
    sampler = Sampler(numbered(tokens), block, seed=4)
    phases = min(block, tokens - block)
    count = sum(len(range(phase, tokens - block, block)) for phase in range(phases))
    starts = drawn(Sampler(numbered(tokens), block, seed=4), 2 * count)
    done = 0
    for number, (_, epoch, _) in enumerate(epochs_of(starts, tokens, block)):
        assert sampler.windows_in(number) == done
        assert sampler.windows_in(number + 0.5) == done + -(-len(epoch) // 2)
        for index in {0, len(epoch) // 2, len(epoch) - 1}:
            sampler.position = done + index
            assert sampler.epoch == pytest.approx(number + index / len(epoch))
        done += len(epoch)


def test_a_position_far_away_costs_no_more():
    sampler = Sampler(numbered(130), 64, seed=1, position=10**15)
    assert len(drawn(sampler, 24, batch=12)) == 24
    assert sampler.epoch > 10**14


def test_every_token_is_a_target_about_equally_often():
    """Over one round all tokens but those near the ends are predicted once at every place of a window."""
    tokens, block = 200, 8
    count = sum(len(range(phase, tokens - block, block)) for phase in range(block))
    sampler = Sampler(numbered(tokens), block, seed=6)
    targets = Counter(start + 1 + place for start in drawn(sampler, count) for place in range(block))
    assert {targets[token] for token in range(block, tokens - block + 1)} == {block}


def test_a_text_shorter_than_a_window_is_refused():
    with pytest.raises(CorpusError, match="do not fill a window"):
        Sampler(numbered(4), 4, seed=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_tokens_of_any_type_and_any_slice_will_do(dtype):
    tokens = (np.arange(600) % 250).astype(dtype)[100:400]
    x, y = np.empty((3, 8), np.int32), np.empty((3, 8), np.int32)
    Sampler(tokens, 8, seed=1).next_batch(x, y)
    assert ((y - x) % 250 == 1).all()


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("block", [1, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 8, 9, 10, 16, 17, 33, 100])
def test_evaluation_scores_every_token_but_the_first_once(count, block, batch):
    windows = Windows(numbered(count) + 5, block, batch)
    scored = []
    for x, y in windows:
        assert x.shape == y.shape == (batch, block)
        assert x.dtype == y.dtype == np.int32
        scored += y[y != IGNORED].tolist()
        assert (x[y != IGNORED] + 1 == y[y != IGNORED]).all()
        assert (x[y == IGNORED] == 0).all()
        # Windows do not overlap and each is continuous: its first token stands at a multiple of T.
        firsts = x[:, 0][y[:, 0] != IGNORED] - 5
        assert (firsts % block == 0).all()
    assert scored == list(range(6, count + 5))
    assert windows.targets == len(scored)
    assert len(windows) == sum(1 for _ in windows)


def test_evaluation_batches_can_be_taken_in_any_order():
    windows = Windows(numbered(100), 4, 3)
    straight = list(windows)
    for index in (5, 0, len(windows) - 1):
        for got, expected in zip(windows[index], straight[index], strict=True):
            assert (got == expected).all()
    with pytest.raises(IndexError):
        windows[len(windows)]
    with pytest.raises(IndexError):
        windows[-1]
