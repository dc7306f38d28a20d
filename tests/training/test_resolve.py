"""What is chosen where nobody chose."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cllm_cli.config import Settings, make_settings
from cllm_cli.errors import ConfigError
from cllm_cli.optim import OPTIMIZERS
from cllm_cli.presets import preset
from cllm_cli.text.corpus import Corpus
from cllm_cli.text.tokenizers.byte import ByteTokenizer
from cllm_cli.training.resolve import resolve, tokens_in_step


def corpus(tokens, val=None):
    """A corpus of so many training tokens; nobody reads them."""
    train = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (tokens,), (0,))
    val = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (val or max(2, tokens // 9),), (0,))
    return Corpus(train, val, ByteTokenizer(), 1, "", tokens, val.size)


OPEN = {"val", "epochs", "minutes", "schedule_steps", "stop_after", "recompute", "memory"}
OPEN |= {"encoding", "split_on", "include", "exclude"}


@pytest.mark.parametrize("size", [10, 1_000, 100_000, 1_000_000, 100_000_000])
def test_nothing_is_left_open(size):
    found = resolve(Settings(), corpus(size))
    assert {field.name for field in dataclasses.fields(found) if getattr(found, field.name) is None} == OPEN
    assert found.block_size < size
    assert found.n_embd % found.n_head == 0
    assert found.warmup < found.steps
    assert found.eval_every <= found.steps


@pytest.mark.parametrize("size", [10**5, 10**6, 10**7, 10**8])
def test_a_model_that_is_chosen_is_saved_at_each_evaluation(size):
    found = resolve(Settings(), corpus(size))
    assert found.save_every == found.eval_every


def test_where_steps_are_faster_than_saving_there_is_less_of_it():
    """A step of 0.25 ms and a save of 10.6 ms: after 2,130 steps a save is 2 % of the time."""
    tiny = {"n_layer": 1, "n_embd": 32, "n_head": 2, "block_size": 32, "batch_size": 4, "steps": 3000}
    found = resolve(make_settings(tiny), corpus(10**5))
    assert (found.eval_every, found.save_every) == (300, 2400)
    assert resolve(make_settings(tiny, {"save_every": 300}), corpus(10**5)).save_every == 300


def test_more_text_takes_a_larger_model_and_more_of_it_is_seen():
    found = [resolve(Settings(), corpus(size)) for size in (10**5, 10**6, 10**7, 10**8)]
    sizes = [12 * each.n_layer * each.n_embd**2 for each in found]
    seen = [tokens_in_step(each) * each.steps for each in found]
    assert sizes == sorted(set(sizes))
    assert seen == sorted(set(seen))
    # 100 kB: a few dozen passes in minutes, with dropout. 100 MB: no passage twice, and a night is enough.
    assert 5 < seen[0] / 10**5 < 40
    assert found[0].dropout > 0
    assert seen[-1] <= 10**8
    assert found[-1].dropout == 0
    flops = 6 * sizes[-1] * seen[-1]
    assert flops / 60e9 / 3600 < 8  # at 60 GFLOP/s


def test_what_is_given_stays():
    given = make_settings(preset("reference"), {"lr": 3e-4, "warmup": 7, "eval_every": 11, "n_hidden": 100})
    found = resolve(given, corpus(10**6))
    for field in dataclasses.fields(Settings):
        if getattr(given, field.name) is not None:
            assert getattr(found, field.name) == getattr(given, field.name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rates_are_the_optimizers_own(name):
    found = resolve(make_settings({"optimizer": name, "n_embd": 64}), corpus(10**5))
    defaults = OPTIMIZERS.load(name).defaults
    assert found.lr == defaults["lr"]
    assert found.lr_embed == defaults.get("lr_embed", defaults["lr"])
    assert found.min_lr == pytest.approx(found.lr / 10)
    assert found.weight_decay == defaults["weight_decay"]


def test_wide_models_take_smaller_rates():
    def rate(width):
        return resolve(make_settings({"n_embd": width, "n_head": 1}), corpus(10**5)).lr

    assert rate(64) == rate(256) == 1e-3
    assert rate(1024) == pytest.approx(5e-4)


def test_epochs_become_steps():
    found = resolve(make_settings({"epochs": 2, "block_size": 10, "batch_size": 5}), corpus(5_001))
    assert found.steps in (199, 200)  # 500 windows an epoch, or 499 where it starts later


def test_minutes_leave_the_steps_open():
    assert resolve(make_settings({"minutes": 3}), corpus(10**5)).steps is None


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"steps": 5, "epochs": 1}, "exclude each other"),
        ({"minutes": 5, "epochs": 1}, "exclude each other"),
        ({"vocab_size": 100}, "--vocab-size"),
        ({"min_lr": 0.5, "lr": 0.1}, "--min-lr"),
        ({"optimizer": "adma"}, "unknown optimizer 'adma'"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'"),
    ],
)
def test_what_does_not_fit_together_is_refused(given, word):
    with pytest.raises(ConfigError, match=word):
        resolve(make_settings(given), corpus(10**5))
