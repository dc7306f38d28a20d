"""Laws of the whole model at any size: causality, windows by themselves, parts that add up, tying."""

from __future__ import annotations

import numpy as np
import pytest
import tolerances
from hypothesis import strategies as st
from laws import SEEDS, law
from micro_batches import in_parts, run

from cllm_cli.model.arena import Arena
from cllm_cli.model.build import Model, ModelConfig
from cllm_cli.model.gpt2 import WTE, gpt2
from cllm_cli.model.plan import make_plan
from cllm_cli.model.program import TRAIN, Program
from cllm_cli.model.workspace import Replay, Workspace

LONGEST = 12
HEAD = "lm_head.weight"


@st.composite
def configs(draw, dropouts=(0.0,)):
    heads = draw(st.integers(1, 3))
    return ModelConfig(
        "gpt2",
        n_layer=draw(st.integers(1, 2)),
        n_head=heads,
        n_embd=heads * draw(st.integers(3, 6)),
        n_hidden=draw(st.integers(1, 20)),
        block_size=LONGEST,
        vocab_size=draw(st.integers(2, 30)),
        dropout=draw(st.sampled_from(dropouts)),
    )


def fill(arena, seed):
    """Parameters that hide no mistake, the same for a name in every arena."""
    for name, values in arena.tensors().items():
        rng = np.random.default_rng([seed, *name.encode()])
        values[...] = (0.3 * rng.standard_normal(values.shape)).astype(np.float32)


def model_of(config, dtype, seed):
    model = Model(config, dtype)
    model.arena.make_gradients()
    fill(model.arena, seed)
    return model


def data_of(config, batch, time, seed):
    """tokens and targets (B, T), some of these ignored but never all."""
    rng = np.random.default_rng(seed)
    tokens, targets = rng.integers(0, config.vocab_size, (2, batch, time))
    targets[rng.random(targets.shape) < 0.2] = -1
    targets[0, 0] = 0
    return tokens, targets


def terms_of(model, tokens, targets):
    """Of every gradient, by name, the magnitudes of what each window adds to it, added up."""
    replay = model.replay(TRAIN, 1, tokens.shape[1])
    scale, found = model.dtype.type(1 / np.count_nonzero(targets >= 0)), 0
    for row in range(len(tokens)):
        model.arena.gradients.fill(0)
        run(replay, tokens[row : row + 1], targets[row : row + 1], scale, row * tokens.shape[1])
        found += np.abs(model.arena.gradients)
    return {name: model.arena.view(found, name) for name in model.arena.parameters}


def assert_near(actual, wanted, terms, tolerance):
    """Of gradients tensor by tensor, relative to the largest of their terms: windows may cancel in a small tensor.

    A key's bias is compared as a third of its tensor, c_attn.bias: its own gradient is zero but for rounding, since
    softmax does not see it.
    """
    assert actual.keys() == wanted.keys() == terms.keys()
    for name, value in wanted.items():
        assert np.abs(actual[name] - value).max() <= tolerance * terms[name].max(), name


precisions = pytest.mark.parametrize("dtype", [np.float32, np.float64])
times = st.integers(1, LONGEST)
times_and_later_tokens = st.integers(2, LONGEST).flatmap(
    lambda time: st.tuples(st.just(time), st.integers(1, time - 1))
)
batches = {"batch": st.integers(1, 5), "seed": SEEDS}


@precisions
@law(4, 50, config=configs(dropouts=(0.0, 0.3)), time_and_token=times_and_later_tokens, **batches)
def test_losses_before_a_changed_token_stay(dtype, config, batch, time_and_token, seed):
    time, changed = time_and_token
    model = model_of(config, dtype, seed)
    tokens, targets = data_of(config, batch, time, seed)
    losses, _ = in_parts(model, tokens, targets, [batch])
    tokens[:, changed] = (tokens[:, changed] + 1) % config.vocab_size
    others, _ = in_parts(model, tokens, targets, [batch])
    assert np.array_equal(others[:, :changed], losses[:, :changed])
    counted = targets[:, changed] >= 0
    assert (others[counted, changed] != losses[counted, changed]).all()


@precisions
@law(4, 50, config=configs(), time=times, **batches)
def test_a_permuted_batch_gives_permuted_losses_and_the_same_gradient(config, batch, time, dtype, seed):
    model = model_of(config, dtype, seed)
    tokens, targets = data_of(config, batch, time, seed)
    losses, whole = in_parts(model, tokens, targets, [batch])
    order = np.random.default_rng(seed).permutation(batch)
    others, gradients = in_parts(model, tokens[order], targets[order], [batch])
    assert np.array_equal(others, losses[order])
    tolerance = tolerances.rounding({"N": batch * time}, dtype)
    assert_near(gradients, whole, terms_of(model, tokens, targets), tolerance)


@precisions
@law(4, 50, config=configs(), time=times, row=st.integers(0, 4), **batches)
def test_a_window_that_changes_changes_no_other(config, batch, time, dtype, seed, row):
    model = model_of(config, dtype, seed)
    tokens, targets = data_of(config, batch, time, seed)
    losses, _ = in_parts(model, tokens, targets, [batch])
    row %= batch
    tokens[row] = (tokens[row] + 1) % config.vocab_size
    others, _ = in_parts(model, tokens, targets, [batch])
    assert np.array_equal(np.delete(others, row, axis=0), np.delete(losses, row, axis=0))


@precisions
@law(
    4,
    50,
    config=configs(dropouts=(0.0, 0.3)),
    parts=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    time=times,
    seed=SEEDS,
)
def test_any_split_of_a_batch_adds_up_to_it(config, parts, time, dtype, seed):
    """Parts with different numbers of targets, some perhaps without any."""
    model = model_of(config, dtype, seed)
    tokens, targets = data_of(config, sum(parts), time, seed)
    targets[-1] = -1 if len(parts) > 1 else targets[-1]
    losses, whole = in_parts(model, tokens, targets, [sum(parts)])
    others, gradients = in_parts(model, tokens, targets, parts)
    assert np.array_equal(others, losses)
    tolerance = tolerances.rounding({"N": sum(parts) * time}, dtype)
    assert_near(gradients, whole, terms_of(model, tokens, targets), tolerance)


class Untied(Program):
    """Records a head with a weight of its own."""

    def __call__(self, layer, *inputs, **more):
        if layer == "cross_entropy":
            more["weight"] = HEAD
        return super().__call__(layer, *inputs, **more)


@precisions
@law(4, 50, config=configs(dropouts=(0.0, 0.3)), time=times, **batches)
def test_the_tied_gradient_is_the_sum_of_the_untied_ones(config, batch, time, dtype, seed):
    model = model_of(config, dtype, seed)
    tokens, targets = data_of(config, batch, time, seed)
    losses, _ = in_parts(model, tokens, targets, [batch])
    program = Untied(TRAIN, model.record(TRAIN, batch, time).sizes)
    gpt2(program, config)
    arena = Arena(list(program.parameters.values()), np.dtype(dtype))
    assert arena.parameters.keys() - model.arena.parameters.keys() == {HEAD}
    arena.make_gradients()
    fill(arena, seed)
    arena.parameter(HEAD)[...] = arena.parameter(WTE)
    replay = Replay(program, make_plan(program, np.dtype(dtype)), arena, Workspace(), {})
    scale = model.dtype.type(1 / np.count_nonzero(targets >= 0))
    assert np.array_equal(run(replay, tokens, targets, scale), losses)
    # To the bit, since it is added up in the same order: the head's gradient first, then the embedding's onto it.
    head = arena.gradient(HEAD).copy()
    arena.gradients.fill(0)
    arena.gradient(WTE)[...] = head
    run(replay, tokens, targets, scale)
    assert np.array_equal(model.arena.gradient(WTE), arena.gradient(WTE))
    for name in model.arena.parameters.keys() - {WTE}:
        assert np.array_equal(model.arena.gradient(name), arena.gradient(name)), name


def test_the_laws_see_what_breaks_them():
    """A split that forgets a part, and one entry of the smallest tensor that is a little off, are reported."""
    config = ModelConfig("gpt2", 1, 1, 4, 4, LONGEST, 7)
    model = model_of(config, np.float64, 1)
    tokens, targets = data_of(config, 3, 5, 1)
    _, whole = in_parts(model, tokens, targets, [3])
    _, part = in_parts(model, tokens, targets, [2])
    terms, tolerance = terms_of(model, tokens, targets), tolerances.rounding({"N": 15}, np.float64)
    with pytest.raises(AssertionError):
        assert_near(part, whole, terms, tolerance)
    smallest = min(terms, key=lambda name: terms[name].max())
    assert terms[smallest].max() < 0.1 * max(values.max() for values in terms.values())
    wrong = whole[smallest].copy()
    wrong[0] += 2 * tolerance * terms[smallest].max()
    with pytest.raises(AssertionError, match=smallest):
        assert_near(whole | {smallest: wrong}, whole, terms, tolerance)
    assert_near(whole, whole, terms, tolerance)
