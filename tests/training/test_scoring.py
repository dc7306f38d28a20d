"""Many texts scored at once have the scores that they have one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cllm_cli.model.build import Model, ModelConfig
from cllm_cli.model.init import initialize
from cllm_cli.text.tokenizers import builder_of
from cllm_cli.training.evaluate import Evaluator, Score
from cllm_cli.training.scoring import TextScorer

SIZES = [0, 1, 2, 3, 8, 9, 10, 16, 17, 20, 21, 40, 41, 63, 200]


@pytest.fixture(scope="module")
def model():
    made = Model(ModelConfig("gpt2", n_layer=1, n_head=2, n_embd=16, n_hidden=32, block_size=20, vocab_size=260))
    initialize(made.arena, 3)
    made.arena.values[:] *= 4  # far from all tokens being equally likely
    return made


def drawn(sizes, tokenizer, seed=1):
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, size).astype(tokenizer.dtype) for size in sizes]


def one_by_one(model, tokenizer, text):
    """The score of one text by `Evaluator`, which `cllm eval` uses."""
    if tokenizer.end_of_text is not None:
        text = np.array([tokenizer.end_of_text, *text], tokenizer.dtype)
    if text.size < 2:
        return Score(0, 0, 0.0, 0)
    *_, found = Evaluator(model, text, tokenizer, 1).score()
    return found


def test_a_perplexity_that_no_float_holds_is_none():
    assert Score(2, 2, 2 * 709.7, 0).perplexity == pytest.approx(math.exp(709.7))
    assert Score(2, 2, 2 * 709.8, 0).perplexity is None


@pytest.mark.parametrize("end_of_text", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_scores_are_those_of_each_text_by_itself(model, end_of_text, batch):
    tokenizer = builder_of("byte").finish(end_of_text)[0]
    texts = drawn(np.random.default_rng(2).permutation(SIZES * 3), tokenizer)
    found = TextScorer(model, tokenizer, batch).score(texts)
    assert len(found) == len(texts)
    for score, text in zip(found, texts, strict=True):
        expected = one_by_one(model, tokenizer, text)
        assert (score.tokens, score.bytes, score.hits) == (expected.tokens, expected.bytes, expected.hits)
        assert score.tokens == max(0, text.size - 1 + end_of_text)
        assert score.nats == pytest.approx(expected.nats, rel=1e-5)


def test_no_batch_is_larger_than_was_asked_for(model):
    tokenizer = builder_of("byte").finish(False)[0]
    scorer = TextScorer(model, tokenizer, 3)
    scorer.score(drawn(SIZES * 5, tokenizer))
    assert max(batch * time for batch, time in scorer._replays) == 3 * 20
    assert len(scorer._replays) > 2


def test_no_texts_have_no_scores(model):
    assert TextScorer(model, builder_of("byte").finish(False)[0], 2).score([]) == []


@pytest.mark.parametrize("end_of_text", [False, True])
def test_no_score_depends_on_what_else_is_scored(model, end_of_text):
    """To the last bit: so a pipe may come in any pieces."""
    tokenizer = builder_of("byte").finish(end_of_text)[0]
    texts = drawn(SIZES * 3, tokenizer)
    found = [TextScorer(model, tokenizer, batch).score(texts) for batch in (1, 3, 8)]
    alone = TextScorer(model, tokenizer, 8)
    assert found == [[alone.score([text])[0] for text in texts]] * 3
