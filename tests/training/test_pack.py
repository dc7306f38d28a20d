"""--no-pack: a run whose windows keep to their documents."""

from __future__ import annotations

import numpy as np
import pytest
import tolerances
from safetensors.numpy import load_file
from test_step import CONFIG, STEADY, stepper_of

from cllm_cli.errors import ConfigError
from cllm_cli.text.batches import Sampler
from cllm_cli.text.cuts import cuts_of
from cllm_cli.training.evaluate import Evaluator, Score
from cllm_cli.training.run_folder import RunFolder
from cllm_cli.training.scoring import TextScorer

END = 10


@pytest.fixture
def rows(tmp_path):
    """Documents of a few bytes to a few windows."""
    path = tmp_path / "rows.txt"
    path.write_text("|".join(f"{n} and {n * n % 7 * 'more '}" for n in range(60)), "utf-8")
    return path


def packed(stepper, pack):
    """The stepper on documents of a few tokens."""
    sizes = np.random.default_rng(2).integers(1, 14, 50)
    tokens = np.concatenate([np.append(np.arange(size - 1) % END, END) for size in sizes]).astype(np.uint8)
    cuts = cuts_of(tokens, CONFIG.block_size, END, pack)
    stepper.sampler = Sampler(tokens, CONFIG.block_size, 1, cuts=cuts)
    return stepper


def test_micro_batches_with_padding_are_one_large_batch():
    """Each target weighs the same, however many of them a micro-batch has."""
    outcomes, gradients = [], []
    for batch, accumulate in ((8, 1), (2, 4), (1, 8)):
        stepper = packed(stepper_of(batch=batch, accumulate=accumulate, dtype=np.float64), pack=False)
        stepper.updater.update = lambda *_, stepper=stepper: (
            gradients.append(stepper.model.arena.gradients.copy()) or True
        )
        outcomes.append(stepper.run(0, STEADY))
    allowed = tolerances.rounding({"N": 64, "C": 16}, np.float64)
    for outcome, gradient in zip(outcomes, gradients, strict=True):
        assert outcome.tokens == outcomes[0].tokens < 64
        assert outcome.loss == pytest.approx(outcomes[0].loss, rel=allowed)
        np.testing.assert_allclose(gradient, gradients[0], rtol=0, atol=allowed * np.abs(gradients[0]).max())


def test_what_is_idle_changes_nothing(monkeypatch):
    """Other ids where a window is not filled: the same gradient."""
    found = []
    for filler in (0, 7):
        stepper = packed(stepper_of(), pack=False)
        take = stepper.sampler.next_batch

        def filled(x, y, take=take, filler=filler):
            take(x, y)
            x[y < 0] = filler

        monkeypatch.setattr(stepper.sampler, "next_batch", filled)
        stepper.run(0, STEADY)
        found.append(stepper.model.arena.values.copy())
    assert np.array_equal(*found)


def finished(folder, step=6):
    return load_file(folder / f"checkpoint/step-{step:08d}/state.safetensors")


@pytest.mark.parametrize("source", ["file", "pipe"])
def test_it_resumes_to_the_same_bits(run, rows, tmp_path, source):
    given = {"split_on": "|", "pack": False, "grad_accum": 2}
    sources = [rows] if source == "file" else ["-"]

    def started(name, **more):
        with rows.open("rb") as file:
            return list(run(name, *sources, stdin=file, **more))

    started("whole", **given)
    started("parts", **given, stop_after=2)
    started("parts", resume=True)
    one, two = finished(tmp_path / "whole"), finished(tmp_path / "parts")
    assert all(np.array_equal(one[name], two[name]) for name in one)
    started("other", **given | {"pack": True})
    other = finished(tmp_path / "other")
    assert not all(np.array_equal(one[name], other[name]) for name in one)


def test_it_belongs_to_a_run(run, rows):
    list(run("out", rows, split_on="|", stop_after=2))
    with pytest.raises(ConfigError, match="--pack False is not what the run was started with"):
        next(run("out", rows, resume=True, pack=False))


def test_tokens_a_second_are_those_that_are_learned_from(run, rows):
    records = list(run("out", rows, split_on="|", pack=False))
    rates = [record for record in records if record.event == "step"]
    tokens = [record.tokens_per_s * record.ms / 1e3 for record in rates]
    assert tokens == pytest.approx([round(each) for each in tokens])
    assert max(tokens) < 16.5  # of 2 x 8 places
    assert sum(tokens) < 16 * len(tokens)


def test_epochs_are_of_these_windows(run, rows):
    records = list(run("out", rows, split_on="|", pack=False, steps=None, epochs=1))
    start, end = records[0], records[-1]
    last = [record for record in records if record.event == "step"][-1]
    assert end.stopped == "epochs"
    assert 1 <= last.epoch < 1 + 2 / 60
    assert start.train_tokens < 16 * start.steps


def test_a_score_is_the_sum_of_its_documents(run, rows, tmp_path):
    """As `eval --per-document` scores them; here the first one has nothing before it, so it is left out."""
    list(run("out", rows, split_on="|", pack=False))
    folder = RunFolder(tmp_path / "out")
    tokenizer = folder.read_tokenizer()
    model, tokens = folder.load_model(), folder.read_validation(tokenizer)
    first, *others = np.split(tokens, np.flatnonzero(tokens == tokenizer.end_of_text) + 1)[:-1]
    *_, score = Evaluator(model, tokens[first.size - 1 :], tokenizer, 2, pack=False).score()
    assert isinstance(score, Score)
    each = TextScorer(model, tokenizer, 2).score(others)
    assert len(each) > 1
    assert score.tokens == sum(part.tokens for part in each)
    assert score.bytes == sum(part.bytes for part in each)
    assert score.nats == pytest.approx(sum(part.nats for part in each), rel=1e-5)


def test_one_text_with_another_for_validation_needs_no_end_of_text(run, rows, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("another text, and one text alone " * 9, "utf-8")
    assert list(run("out", rows, val=str(other), pack=False))[-1].stopped == "steps"
