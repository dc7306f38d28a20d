"""Generation: a token is drawn from the distribution that was asked for, and the window slides on."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from reference import gpt2 as oracle

from cllm_cli.errors import ConfigError, TrainingError
from cllm_cli.model.build import Model, ModelConfig
from cllm_cli.model.decode import Decoder, Sampling, draw, generate
from cllm_cli.model.init import initialize

V, T = 11, 9
SIZES = {"n_layer": 2, "n_embd": 12, "n_hidden": 20, "vocab_size": V, "block_size": T}
PROBABILITIES = np.array([0.25, 0.1, 0.5, 0.15])
DRAWS = 10_000


def frequencies(sampling):
    random = np.random.default_rng(3)
    drawn = [draw(np.log(PROBABILITIES), sampling, random) for _ in range(DRAWS)]
    return np.bincount(drawn, minlength=PROBABILITIES.size) / DRAWS


@pytest.mark.parametrize(
    ("sampling", "weights"),
    [
        (Sampling(), PROBABILITIES),
        (Sampling(temperature=0.5), PROBABILITIES**2),
        (Sampling(temperature=2.0), PROBABILITIES**0.5),
        (Sampling(temperature=0), [0, 0, 1, 0]),
        (Sampling(temperature=1e-310), [0, 0, 1, 0]),
        (Sampling(top_k=1), [0, 0, 1, 0]),
        (Sampling(top_k=3), [0.25, 0, 0.5, 0.15]),
        (Sampling(top_k=9), PROBABILITIES),
        (Sampling(top_p=0.0), [0, 0, 1, 0]),
        (Sampling(top_p=0.6), [0.25, 0, 0.5, 0]),
        (Sampling(top_p=0.8), [0.25, 0, 0.5, 0.15]),
        (Sampling(top_k=3, top_p=0.6), [0.25, 0, 0.5, 0]),
        (Sampling(temperature=0.5, top_p=0.8), [0.25**2, 0, 0.5**2, 0]),
    ],
    ids=str,
)
def test_tokens_come_as_often_as_they_should(sampling, weights):
    wanted = np.array(weights) / np.sum(weights)
    # Four standard deviations of a share of so many draws.
    drawn = frequencies(sampling)
    np.testing.assert_allclose(drawn, wanted, rtol=0, atol=4 * 0.5 / DRAWS**0.5)
    assert np.all((drawn == 0) == (wanted == 0))


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_is_drawn_from_numbers_that_are_not_finite(number, temperature):
    with pytest.raises(TrainingError, match="not finite"):
        draw(np.array([1.0, number, 2.0]), Sampling(temperature), np.random.default_rng(0))


@pytest.fixture
def model():
    made = Model(ModelConfig("gpt2", n_head=2, **SIZES), np.float64)
    parameters = oracle.random_parameters(np.random.default_rng(0), **SIZES)
    for name, values in parameters.items():
        made.arena.parameter(name)[...] = values
    made.oracle = lambda context: oracle.logits(parameters, np.array(context)[None], n_head=2)[0, -1]
    return made


def test_a_full_window_goes_on_from_its_second_half(model):
    tokens = np.random.default_rng(1).integers(0, V, 60).tolist()
    decoder, context = Decoder(model), tokens[:3]
    np.testing.assert_allclose(decoder.read(context), model.oracle(context), rtol=0, atol=1e-12)
    for token in tokens[3:]:
        context = [*context, token] if len(context) < T else [*context, token][-(T // 2) :]
        np.testing.assert_allclose(decoder.advance(token), model.oracle(context), rtol=0, atol=1e-12)


def test_of_a_long_prompt_the_last_window_counts(model):
    tokens = np.random.default_rng(2).integers(0, V, 30).tolist()
    np.testing.assert_allclose(Decoder(model).read(tokens), model.oracle(tokens[-T:]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_the_smallest_windows_write_on_for_ever(block_size):
    small = Model(ModelConfig("gpt2", **{**SIZES, "block_size": block_size}, n_head=2))
    initialize(small.arena, 0)
    drawn = list(islice(generate(small, [1, 2, 3, 4], Sampling(), 1, V, None), 12))
    assert len(drawn) == 12
    assert set(drawn) <= set(range(V))


def test_an_empty_prompt_is_refused(model):
    with pytest.raises(ConfigError, match="a window has 1 to 9"):
        Decoder(model).read([])


def test_two_sequences_of_one_model_do_not_mix(model):
    """Each decoder has caches of its own."""
    first, second = Decoder(model), Decoder(model)
    first.read([1, 2])
    second.read([3, 4, 5])
    np.testing.assert_allclose(first.advance(6), model.oracle([1, 2, 6]), rtol=0, atol=1e-12)
    np.testing.assert_allclose(second.advance(7), model.oracle([3, 4, 5, 7]), rtol=0, atol=1e-12)


def test_only_ids_that_the_tokenizer_has_are_drawn(model):
    drawn = list(islice(generate(model, [1], Sampling(temperature=50.0), 1, 3, None), 200))
    assert set(drawn) == {0, 1, 2}


def test_the_end_of_the_text_ends_it_and_is_not_given_out(model):
    drawn = list(generate(model, [1], Sampling(temperature=50.0), 1, V, 4))
    assert 4 not in drawn
    assert drawn == list(islice(generate(model, [1], Sampling(temperature=50.0), 1, V, None), len(drawn)))
