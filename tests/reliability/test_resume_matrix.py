"""Stop and go on: after each step, and with everything that a run's bits could depend on, in every pair."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from cllm_cli.model.recompute import POLICIES
from cllm_cli.optim import OPTIMIZERS
from cllm_cli.optim.schedule import SCHEDULES
from cllm_cli.training import train
from reliability.chains import bits, differing
from reliability.forks import TEXT

TINY = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8, "batch_size": 4, "log_every": 1, "sample_every": 0}
STEPS, SHORT = 24, 900  # steps; characters of a text of which an epoch is 25 micro-batches at most
FACTORS = {
    "optimizer": [*OPTIMIZERS],
    "schedule": [*SCHEDULES],
    "dropout": [0.0, 0.1],
    "grad_accum": [1, 3],
    "tokenizer": ["byte", "char", "bpe:270"],
    "threads": [(1, 1), (1, 2), (2, 1)],  # until it stops, and after
    "stop_after": [7, 12, 20],  # within the first epoch or, with three micro-batches a step, within a later one
    "recompute": [*POLICIES],
    "eval_every": [5, 1000],
    "save_every": [4, 1000],
}
ROWS = 64


def pairs_of(row):
    return set(itertools.combinations(row.items(), 2))


def covering_rows(count, seed):
    """So many different settings, of which the first ones have every pair of values of two factors at least once."""
    random = Random(seed)
    names = [*FACTORS]
    open_pairs = {
        ((one, first), (other, second))
        for one, other in itertools.combinations(names, 2)
        for first in FACTORS[one]
        for second in FACTORS[other]
    }
    rows = []
    while open_pairs or len(rows) < count:
        drawn = [{name: random.choice(FACTORS[name]) for name in names} for _ in range(60)]
        if open_pairs:  # one pair at least, so that it comes to an end
            drawn = [{**row, **dict(random.choice(sorted(open_pairs, key=repr)))} for row in drawn]
        best = max(drawn, key=lambda row: len(pairs_of(row) & open_pairs))
        if best not in rows:
            rows.append(best)
            open_pairs -= pairs_of(best)
    return rows


@pytest.fixture
def whole_and_halves(tmp_path):
    """A function that trains in one go and in two; gives what differs."""
    (tmp_path / "text.txt").write_text(TEXT[:SHORT], "utf-8")

    def compare(stop_after, threads=(1, 2), **settings):
        first, then = threads
        settings = TINY | {"steps": STEPS} | settings
        text = [tmp_path / "text.txt"]
        for _ in train(text, tmp_path / "whole", threads=first, **settings):
            pass
        for _ in train(text, tmp_path / "halves", threads=first, stop_after=stop_after, **settings):
            pass
        for record in train(text, tmp_path / "halves", resume=True, threads=then):
            if record.event == "start":
                assert record.step == stop_after
            elif record.event == "step":
                assert record.epoch > 1 or record.step < STEPS or settings.get("grad_accum") != 3
        return [
            name
            for name in differing(bits(tmp_path / "whole"), bits(tmp_path / "halves"))
            if not name.startswith("checkpoint/") or f"{STEPS:08}" in name  # where it stopped it has saved, too
        ]

    return compare


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", range(1, STEPS + 1))
def test_stopped_after_each_step(whole_and_halves, stop_after):
    assert whole_and_halves(stop_after, dropout=0.1, eval_every=5, save_every=7) == []


@pytest.mark.slow
@pytest.mark.parametrize("row", covering_rows(ROWS, 1), ids=lambda row: "-".join(map(str, row.values())))
def test_every_pair_of_what_could_matter(whole_and_halves, row):
    if row["tokenizer"].startswith("bpe"):
        pytest.importorskip("tokenizers")
    assert whole_and_halves(**row) == []


def test_every_pair_is_there():
    rows = covering_rows(ROWS, 1)
    assert len(rows) >= ROWS
    seen = set().union(*map(pairs_of, rows))
    for one, other in itertools.combinations(FACTORS, 2):
        for pair in itertools.product(FACTORS[one], FACTORS[other]):
            assert tuple(zip((one, other), pair, strict=True)) in seen


def test_what_is_compared_would_show_a_difference(whole_and_halves, tmp_path):
    """Another rate in the second half is another run."""
    assert whole_and_halves(12) == []
    for _ in train([tmp_path / "text.txt"], tmp_path / "other", threads=1, **TINY, steps=STEPS, seed=5):
        pass
    assert "model.safetensors" in differing(bits(tmp_path / "whole"), bits(tmp_path / "other"))
