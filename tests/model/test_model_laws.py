"""Laws of the whole model at any size: causality, windows by themselves, parts that add up, tying."""

from __future__ import annotations

import numpy as np
import pytest
import tolerances
from hypothesis import strategies as st
from laws import SEEDS, law

from cllm_cli.model.arena import Arena
from cllm_cli.model.build import Model, ModelConfig
from cllm_cli.model.gpt2 import WTE, gpt2
from cllm_cli.model.plan import make_plan
from cllm_cli.model.program import TRAIN, Program
from cllm_cli.model.workspace import Replay, Workspace

LONGEST = 12
HEAD = "lm_head.weight"
PRECISIONS = st.sampled_from([np.float32, np.float64])


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


def run(replay, tokens, targets, scale, first_row=0):
    """Forward and backward; losses (B, T). Gradients are added up in the arena."""
    replay.given["tokens"][:] = tokens.ravel()
    replay.given["targets"][:] = targets.ravel()
    step = {"position": 0, "scale": scale, "key": np.uint64(77), "first_row": first_row}
    replay.forward(**step)
    losses = replay.results["losses"].reshape(tokens.shape).copy()
    replay.backward(**step)
    return losses


def in_parts(model, tokens, targets, parts):
    """Losses, and the gradients of the batch whose rows are cut into parts of these sizes."""
    model.arena.gradients.fill(0)
    scale, losses, row = model.dtype.type(1 / np.count_nonzero(targets >= 0)), [], 0
    for size in parts:
        replay = model.replay(TRAIN, size, tokens.shape[1])
        rows = slice(row, row + size)
        losses.append(run(replay, tokens[rows], targets[rows], scale, row * tokens.shape[1]))
        row += size
    return np.concatenate(losses), model.arena.gradients.copy()


def assert_near(actual, wanted, tolerance):
    assert np.abs(actual - wanted).max() <= tolerance * np.abs(wanted).max()


batches = {"batch": st.integers(1, 5), "time": st.integers(1, LONGEST), "dtype": PRECISIONS, "seed": SEEDS}


@law(6, 100, config=configs(dropouts=(0.0, 0.3)), place=st.floats(0, 1), **batches)
def test_losses_before_a_changed_token_stay(config, batch, time, dtype, seed, place):
    model = model_of(config, dtype, seed)
    tokens, targets = data_of(config, batch, time, seed)
    losses, _ = in_parts(model, tokens, targets, [batch])
    changed = min(int(place * time), time - 1)
    tokens[:, changed] = (tokens[:, changed] + 1) % config.vocab_size
    others, _ = in_parts(model, tokens, targets, [batch])
    assert np.array_equal(others[:, :changed], losses[:, :changed])
    counted = targets[:, changed] >= 0
    assert (others[counted, changed] != losses[counted, changed]).all()


@law(6, 100, config=configs(), **batches)
def test_a_permuted_batch_gives_permuted_losses_and_the_same_gradient(config, batch, time, dtype, seed):
    model = model_of(config, dtype, seed)
    tokens, targets = data_of(config, batch, time, seed)
    losses, whole = in_parts(model, tokens, targets, [batch])
    order = np.random.default_rng(seed).permutation(batch)
    others, gradients = in_parts(model, tokens[order], targets[order], [batch])
    assert np.array_equal(others, losses[order])
    assert_near(gradients, whole, tolerances.rounding({"N": batch * time}, dtype))


@law(6, 100, config=configs(), row=st.integers(0, 4), **batches)
def test_a_window_that_changes_changes_no_other(config, batch, time, dtype, seed, row):
    model = model_of(config, dtype, seed)
    tokens, targets = data_of(config, batch, time, seed)
    losses, _ = in_parts(model, tokens, targets, [batch])
    row %= batch
    tokens[row] = (tokens[row] + 1) % config.vocab_size
    others, _ = in_parts(model, tokens, targets, [batch])
    assert np.array_equal(np.delete(others, row, axis=0), np.delete(losses, row, axis=0))


@law(
    6,
    100,
    config=configs(dropouts=(0.0, 0.3)),
    parts=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    time=st.integers(1, LONGEST),
    dtype=PRECISIONS,
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
    assert_near(gradients, whole, tolerances.rounding({"N": sum(parts) * time}, dtype))


class Untied(Program):
    """Records a head with a weight of its own."""

    def __call__(self, layer, *inputs, **more):
        if layer == "cross_entropy":
            more["weight"] = HEAD
        return super().__call__(layer, *inputs, **more)


@law(6, 100, config=configs(dropouts=(0.0, 0.3)), **batches)
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
    """A split that forgets a part, and a head that is not tied, are reported."""
    config = ModelConfig("gpt2", 1, 1, 4, 4, LONGEST, 7)
    model = model_of(config, np.float64, 1)
    tokens, targets = data_of(config, 3, 5, 1)
    _, whole = in_parts(model, tokens, targets, [3])
    _, part = in_parts(model, tokens, targets, [2])
    with pytest.raises(AssertionError):
        assert_near(part, whole, tolerances.rounding({"N": 15}, np.float64))
