"""Settings that nobody gave, chosen for the corpus, the model and the optimizer.

The size of a model follows the amount of training text: small enough that its text can teach it, and that a run ends
while one waits for it (minutes for 100 kB, hours for 100 MB on two cores). What is chosen is shown and stored like what
is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from cllm_cli.config import LARGEST, Settings, make_settings, stated
from cllm_cli.errors import ConfigError, RunError, UsageError
from cllm_cli.model.build import ModelConfig
from cllm_cli.optim import OPTIMIZERS
from cllm_cli.optim.base import Optimizer
from cllm_cli.optim.schedule import SCHEDULES, Schedule
from cllm_cli.text.batches import Sampler
from cllm_cli.text.corpus import Corpus
from cllm_cli.text.cuts import cuts_of
from cllm_cli.training.machine import available_cores

NANO = {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "batch_size": 12}
SMALL = {"n_layer": 4, "n_head": 6, "n_embd": 192, "block_size": 128, "batch_size": 16}
MEDIUM = {"n_layer": 6, "n_head": 8, "n_embd": 256, "block_size": 256, "batch_size": 16}
LARGE = {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "batch_size": 16}

SIZES: tuple[tuple[float, Mapping[str, Any]], ...] = (
    (3e5, {**NANO, "dropout": 0.1, "steps": 1500}),
    (3e6, {**SMALL, "dropout": 0.1, "steps": 3000}),
    (3e7, {**MEDIUM, "dropout": 0.0, "steps": 4000}),
    (math.inf, {**LARGE, "dropout": 0.0, "steps": 6000}),
)
"""Up to so many training tokens: this model."""

EVALUATIONS = 10  # in a run
EVALUATION_SHARE = 0.1  # of the training time; a scored token costs a third of a trained one
SAVE_SHARE = 0.02  # of the time: what checkpoints by steps may take where nobody says how often
LEAST_STEP, MOST_FLOPS = 2.5e-4, 2e11  # seconds, and operations a second: the fastest steps that were seen
LEAST_SAVE, LEAST_BANDWIDTH = 0.01, 4e8  # seconds, and bytes a second: a save to an ordinary disk
FULL_RATE_WIDTH = 256  # wider models take a learning rate that falls with the square root of the width


def resolve(given: Settings, corpus: Corpus) -> Settings:
    """Settings without gaps but for val, epochs, minutes, schedule_steps, stop_after, recompute, memory, encoding,
    split_on, include and exclude.

    steps stays None where --minutes decides. Raises ConfigError for unknown names and for settings that do not fit
    together.
    """
    if not given.pack and corpus.tokenizer.end_of_text is None and _has_several(corpus, given):
        raise ConfigError(
            "--no-pack needs an id that ends a document, and the tokenizer has none", "choose another --tokenizer"
        )
    if sum(length is not None for length in (given.steps, given.epochs, given.minutes)) > 1:
        raise ConfigError("--steps, --epochs and --minutes exclude each other", "give one of them")
    optimizer: Optimizer = OPTIMIZERS.load(given.optimizer)
    SCHEDULES.load(given.schedule)
    sized = next(sizes for limit, sizes in SIZES if corpus.train.size <= limit)
    chosen = _filled(given, {name: value for name, value in sized.items() if name != "steps"})
    # A window cannot be longer than the text; one that was asked for is an error that the corpus raises.
    if given.block_size is None and chosen.block_size is not None:
        chosen = replace(chosen, block_size=max(1, min(chosen.block_size, corpus.train.size - 1)))
    if (
        given.n_head is None
        and chosen.n_embd is not None
        and chosen.n_head is not None
        and chosen.n_embd % chosen.n_head
    ):
        chosen = replace(chosen, n_head=math.gcd(chosen.n_embd, chosen.n_head))
    chosen = _filled(chosen, {"n_hidden": 4 * _whole(chosen.n_embd), "vocab_size": corpus.tokenizer.vocab_size})
    if _whole(chosen.vocab_size) < corpus.tokenizer.vocab_size:
        raise ConfigError(
            f"--vocab-size {chosen.vocab_size} is less than the tokenizer's {corpus.tokenizer.vocab_size}",
            "leave it out, or give more",
        )
    chosen = _with_length(chosen, corpus, int(sized["steps"]))
    chosen = _filled(chosen, optimizer.defaults)
    if given.lr is None and chosen.lr is not None and optimizer.name == "adamw":
        chosen = replace(chosen, lr=round(chosen.lr * min(1.0, math.sqrt(FULL_RATE_WIDTH / _whole(chosen.n_embd))), 6))
    lr = chosen.lr or 0.0
    chosen = _filled(chosen, {"lr_embed": lr, "min_lr": lr / 10})
    if chosen.min_lr is not None and chosen.min_lr > lr:
        raise ConfigError(f"--min-lr {chosen.min_lr:g} is above --lr {lr:g}", "the schedule falls from lr to min-lr")
    chosen = _with_intervals(chosen, corpus)
    try:
        return make_settings(stated(chosen))
    except UsageError as error:  # what follows from settings may be out of range although each of them is not
        raise ConfigError(f"{error.message}: that is what the other settings come to", error.hint) from error


def model_config(settings: Settings) -> ModelConfig:
    """The model of resolved settings. Raises RunError where one is missing."""
    names = ("n_layer", "n_head", "n_embd", "n_hidden", "block_size", "vocab_size")
    sizes = {name: getattr(settings, name) for name in names}
    missing = [name for name, value in sizes.items() if value is None]
    if missing:
        raise RunError(f"the run's config.toml lacks {', '.join(missing)}", "restore the run folder, or train again")
    return ModelConfig(arch=settings.arch, dropout=settings.dropout or 0.0, **sizes)


def schedule_of(settings: Settings) -> Schedule:
    """The learning rate over a run of resolved settings; while its steps are unknown it ends beyond any reach."""
    total = settings.schedule_steps or settings.steps or LARGEST
    peak, least = settings.lr or 0.0, settings.min_lr or 0.0
    return Schedule(settings.schedule, peak, least, settings.warmup or 0, total, settings.decay_fraction)


def sampler_of(corpus: Corpus, settings: Settings) -> Sampler:
    """The training windows of a corpus, from the first on."""
    size = _whole(settings.block_size)
    cuts = cuts_of(corpus.train, size, corpus.tokenizer.end_of_text, settings.pack)
    return Sampler(corpus.train, size, settings.seed, cuts=cuts)


def _has_several(corpus: Corpus, given: Settings) -> bool:
    """Whether the training text or that of --val is made of several documents."""
    if corpus.contents is not None:
        return max(map(int, np.bincount(corpus.contents["val"].astype(np.int64)))) > 1
    return corpus.documents - (given.val is not None) > 1


def tokens_in_step(settings: Settings) -> int:
    """Tokens that one optimizer step trains on."""
    return _whole(settings.batch_size) * settings.grad_accum * _whole(settings.block_size)


def _with_length(settings: Settings, corpus: Corpus, steps: int) -> Settings:
    if settings.epochs is not None and settings.steps is None:
        sampler = sampler_of(corpus, settings)
        windows = sampler.windows_in(settings.epochs)
        steps = math.ceil(windows / (_whole(settings.batch_size) * settings.grad_accum))
    if settings.minutes is None:
        settings = _filled(settings, {"steps": max(1, steps)})
    expected = settings.schedule_steps or settings.steps or steps
    return _filled(settings, {"warmup": min(100, expected // 10)})


def _with_intervals(settings: Settings, corpus: Corpus) -> Settings:
    steps = settings.steps or 1000
    every = settings.eval_every or max(1, min(steps // EVALUATIONS, 1000))
    step_tokens = tokens_in_step(settings)
    affordable = 3 * EVALUATION_SHARE * every * settings.grad_accum
    whole = math.ceil((corpus.val.size - 1) / (step_tokens // settings.grad_accum))
    return _filled(
        settings,
        {
            "eval_every": every,
            "eval_batches": max(1, min(whole, max(8, int(affordable)))),
            "save_every": _save_interval(settings, every),
            "sample_every": every,
            "threads": available_cores(),
        },
    )


def _save_interval(settings: Settings, every: int) -> int:
    """As many steps between checkpoints as between evaluations, or a multiple: SAVE_SHARE of the time at most.

    By the sizes of the matrices: where a machine is slower at steps than assumed, or faster at saving, it is less.
    """
    width = _whole(settings.n_embd)
    parameters = _whole(settings.n_layer) * width * (4 * width + 2 * _whole(settings.n_hidden))
    parameters += width * (_whole(settings.vocab_size) + _whole(settings.block_size))
    step = max(LEAST_STEP, 6 * parameters * tokens_in_step(settings) / MOST_FLOPS)
    save = LEAST_SAVE + 12 * parameters / LEAST_BANDWIDTH  # weights and two moments
    return min(LARGEST, every * math.ceil(save / SAVE_SHARE / step / every))


def _filled(settings: Settings, values: Mapping[str, Any]) -> Settings:
    return replace(settings, **{name: value for name, value in values.items() if getattr(settings, name) is None})


def _whole(value: int | None) -> int:
    assert value is not None
    return value
