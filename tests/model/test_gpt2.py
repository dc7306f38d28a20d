"""The model against the oracle's, and laws of training it: parts of a batch add up, nothing depends on threads."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tolerances
from reference import gpt2 as oracle

from cllm_cli.model.build import Model, ModelConfig
from cllm_cli.model.decode import Decoder
from cllm_cli.model.init import initialize
from cllm_cli.model.program import EVALUATE, TRAIN

CONFIG = ModelConfig("gpt2", n_layer=2, n_head=2, n_embd=12, n_hidden=20, block_size=9, vocab_size=11)
WIDE = dataclasses.replace(CONFIG, n_head=3, n_embd=48, n_hidden=100, block_size=70, vocab_size=97)
SIZES = ("n_layer", "n_embd", "n_hidden", "vocab_size", "block_size")
BATCH, TIME = 4, 7

precisions = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def model_of(config=CONFIG, dtype=np.float64, seed=0):
    """A model with parameters that hide no mistake, and the oracle's copy of them."""
    rng = np.random.default_rng(seed)
    sizes = {name: getattr(config, name) for name in SIZES}
    params = {name: value.astype(np.float32) for name, value in oracle.random_parameters(rng, **sizes).items()}
    model = Model(config, dtype)
    model.arena.make_gradients()
    assert params.keys() == model.arena.parameters.keys()
    for name, value in params.items():
        model.arena.parameter(name)[...] = value
    return model, {name: value.astype(np.float64) for name, value in params.items()}


def data_of(config=CONFIG, batch=BATCH, time=TIME, seed=1):
    """tokens and targets (B, T): a token that repeats, the parts of the batch with different numbers of targets."""
    rng = np.random.default_rng(seed)
    tokens, targets = rng.integers(0, config.vocab_size, (2, batch, time))
    tokens[0, :3] = 5
    targets[0, 2:5] = -1
    targets[-1, 0] = -1
    return tokens, targets


def step(model, tokens, targets, parts=1):
    """Losses (B, T) and the gradient of every parameter, the batch cut into micro-batches."""
    batch, time = tokens.shape
    size = batch // parts
    replay = model.replay(TRAIN, size, time)
    model.arena.gradients.fill(0)
    losses = []
    for part in range(parts):
        rows = slice(part * size, (part + 1) * size)
        replay.given["tokens"][:] = tokens[rows].ravel()
        replay.given["targets"][:] = targets[rows].ravel()
        scale = model.dtype.type(1 / np.count_nonzero(targets != -1))
        more = {"position": 0, "scale": scale, "key": np.uint64(2**63 + 9), "first_row": part * size * time}
        replay.forward(**more)
        replay.backward(**more)
        losses.append(replay.results["losses"].reshape(size, time).copy())
    return np.concatenate(losses), {name: model.arena.gradient(name).copy() for name in model.arena.parameters}


def assert_all_near(actual, wanted, tolerance):
    """Each tensor to `tolerance` of its largest element, or of the root mean square of all where a tensor cancels."""
    floor = np.sqrt(np.mean([np.mean(np.square(value)) for value in wanted.values()]))
    assert actual.keys() == wanted.keys()
    for name, value in wanted.items():
        worst = np.abs(actual[name] - value).max()
        assert worst <= tolerance * max(np.abs(value).max(), floor), f"{name}: {worst}"


# ---- the oracle


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float64, tolerances.MODEL64), (np.float32, tolerances.MODEL32)], ids=["f64", "f32"]
)
@pytest.mark.parametrize(("config", "time"), [(CONFIG, TIME), (CONFIG, 1), (WIDE, 61)], ids=["small", "one", "wide"])
def test_losses_and_gradients_are_the_oracles(config, time, dtype, tolerance):
    model, params = model_of(config, dtype)
    tokens, targets = data_of(config, time=time)
    targets[1, 0] = 3
    losses, gradients = step(model, tokens, targets)
    wanted = oracle.losses(params, tokens, targets, n_head=config.n_head)
    np.testing.assert_allclose(losses, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
    _, wanted = oracle.loss_and_gradients(params, tokens, targets, n_head=config.n_head)
    assert_all_near(gradients, wanted, tolerance)


@precisions
def test_evaluation_is_training_without_dropout(dtype):
    model, _ = model_of(dtype=dtype)
    tokens, targets = data_of()
    trained, _ = step(model, tokens, targets)
    replay = model.replay(EVALUATE, BATCH, TIME)
    replay.given["tokens"][:] = tokens.ravel()
    replay.given["targets"][:] = targets.ravel()
    replay.forward(position=0)
    assert np.array_equal(replay.results["losses"], trained.ravel())


@precisions
def test_generation_gives_the_logits_of_the_whole_window(dtype):
    model, params = model_of(dtype=dtype)
    tokens = data_of(time=9)[0][0]
    wanted = oracle.logits(params, tokens[None], n_head=CONFIG.n_head)[0]
    allowed = (tolerances.MODEL64 if dtype == np.float64 else tolerances.MODEL32) * np.abs(wanted).max()
    for prompt in (1, 4, 9):
        decoder = Decoder(model)
        np.testing.assert_allclose(decoder.read(tokens[:prompt]), wanted[prompt - 1], rtol=0, atol=allowed)
        for at in range(prompt, 9):
            np.testing.assert_allclose(decoder.advance(int(tokens[at])), wanted[at], rtol=0, atol=allowed)


def test_the_tied_weight_gets_both_gradients():
    model, params = model_of()
    tokens, targets = data_of()
    _, gradients = step(model, tokens, targets)
    # Untied: the head's own gradient is d loss / d logits against the final normalised rows, the embedding's the rest.
    embedded, head = (np.zeros_like(params["transformer.wte.weight"]) for _ in range(2))
    for row in range(11):
        for which in (embedded, head):
            h = 1e-6
            shifted = [dict(params), dict(params)]
            sides = []
            for sign, copy in zip((1, -1), shifted, strict=True):
                moved = params["transformer.wte.weight"].copy()
                moved[row, 4] += sign * h
                copy["transformer.wte.weight"] = moved
                sides.append(untied_loss(params, copy, which is head, tokens, targets))
            which[row, 4] = (sides[0] - sides[1]) / (2 * h)
    np.testing.assert_allclose(gradients["transformer.wte.weight"][:, 4], (embedded + head)[:, 4], atol=1e-8, rtol=1e-6)
    assert np.abs(embedded[:, 4]).max() > 1e-3
    assert np.abs(head[:, 4]).max() > 1e-3


def untied_loss(params, moved, in_head, tokens, targets):
    """The mean loss when the moved table is used in the head alone, or in the embedding alone."""
    table = params["transformer.wte.weight"]
    output, saved = oracle._forward(params if in_head else moved, tokens, CONFIG.n_head, oracle.EPS)
    output = saved["norm"] @ (moved["transformer.wte.weight"] if in_head else table).T
    return oracle.cross_entropy_forward(output, targets).sum() / np.count_nonzero(targets != -1)


# ---- parts of a batch


@precisions
@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_are_one_batch(dtype, dropout, parts):
    model, _ = model_of(dataclasses.replace(CONFIG, dropout=dropout), dtype)
    tokens, targets = data_of()
    whole_losses, whole = step(model, tokens, targets)
    losses, gradients = step(model, tokens, targets, parts)
    assert np.array_equal(losses, whole_losses)
    # The same sums in another order.
    rows = {"N": BATCH * TIME}
    assert_all_near(gradients, whole, tolerances.rounding(rows, dtype))


@precisions
def test_dropout_drops_and_follows_the_rows(dtype):
    tokens, targets = data_of()
    plain, _ = step(model_of(dtype=dtype)[0], tokens, targets)
    model, _ = model_of(dataclasses.replace(CONFIG, dropout=0.25), dtype)
    dropped, _ = step(model, tokens, targets)
    counted = targets != -1
    assert (plain != dropped)[counted].all()
    tokens[1], targets[1] = tokens[0], targets[0]  # the same window in another place of the batch drops otherwise
    dropped, _ = step(model, tokens, targets)
    assert not np.array_equal(dropped[0], dropped[1])


@precisions
def test_windows_of_a_batch_know_nothing_of_each_other(dtype):
    model, _ = model_of(dtype=dtype)
    tokens, targets = data_of()
    losses, _ = step(model, tokens, targets)
    for row in range(BATCH):
        alone, _ = step(model, tokens[row : row + 1], targets[row : row + 1])
        assert np.array_equal(alone[0], losses[row])


@precisions
def test_losses_do_not_see_the_future(dtype):
    model, _ = model_of(dtype=dtype)
    tokens, targets = data_of()
    losses, _ = step(model, tokens, targets)
    tokens[:, 4:] = (tokens[:, 4:] + 1) % CONFIG.vocab_size
    changed, _ = step(model, tokens, targets)
    assert np.array_equal(changed[:, :4], losses[:, :4])
    assert (changed != losses)[:, 4:][targets[:, 4:] != -1].all()


# ---- bits


@precisions
@pytest.mark.parametrize("config", [CONFIG, dataclasses.replace(WIDE, dropout=0.1)], ids=["small", "wide"])
def test_same_bits_for_every_number_of_threads(config, dtype, set_threads):
    tokens, targets = data_of(config, time=config.block_size)
    found = []
    for threads in (1, 2, 3, 7):
        set_threads(threads)
        model, _ = model_of(config, dtype)
        losses, gradients = step(model, tokens, targets)
        found.append([losses, *gradients.values()])
    for other in found[1:]:
        assert all(one.tobytes() == two.tobytes() for one, two in zip(found[0], other, strict=True))


# ---- initial values


def test_one_more_block_leaves_the_others_as_they_are():
    small, large = Model(CONFIG), Model(dataclasses.replace(CONFIG, n_layer=3))
    for model in (small, large):
        initialize(model.arena, 42)
    for name, values in small.arena.tensors().items():
        other = large.arena.parameter(name)
        if name.endswith("c_proj.weight"):  # into the residual stream: smaller the more blocks there are
            np.testing.assert_allclose(other * np.sqrt(3 / 2), values, rtol=1e-6)
        else:
            assert np.array_equal(other, values), name


def test_initial_values_are_those_of_gpt2():
    config = dataclasses.replace(CONFIG, n_embd=96, n_hidden=384, vocab_size=257, block_size=64)
    model = Model(config)
    model.arena.values.fill(3)  # whatever was there before
    initialize(model.arena, 42)
    for name, values in model.arena.tensors().items():
        if values.ndim == 1:
            assert np.all(values == (1 if ".ln_" in name and name.endswith("weight") else 0)), name
        else:
            std = 0.02 / np.sqrt(2 * 2) if name.endswith("c_proj.weight") else 0.02
            # Six standard deviations of the sample's deviation, and of its mean.
            assert abs(values.std() / std - 1) < 6 / np.sqrt(2 * values.size), name
            assert abs(values.mean()) < 6 * std / np.sqrt(values.size), name


def test_initial_values_follow_the_seed_and_not_the_precision():
    first, second, other, double = Model(CONFIG), Model(CONFIG), Model(CONFIG), Model(CONFIG, np.float64)
    for model, seed in [(first, 7), (second, 7), (other, 8), (double, 7)]:
        initialize(model.arena, seed)
    assert np.array_equal(first.arena.values, second.arena.values)
    assert not np.array_equal(first.arena.values, other.arena.values)
    for name, values in first.arena.tensors().items():
        assert np.array_equal(values, double.arena.parameter(name).astype(np.float32)), name
