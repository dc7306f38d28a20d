"""The memory of a run: planned before it is taken, and chosen to fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from cllm_cli.config import Settings
from cllm_cli.errors import ConfigError
from cllm_cli.model.build import Model
from cllm_cli.model.program import EVALUATE, TRAIN
from cllm_cli.model.recompute import CHEAP, NONE, POLICIES
from cllm_cli.optim import OPTIMIZERS
from cllm_cli.optim.base import Updater
from cllm_cli.training.resident import resident_bytes
from cllm_cli.training.run_folder import model_config

WORTHWHILE = 64 * 10**6  # bytes that computing again what is cheap must save to be done unasked
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_size(text: str) -> int:
    """Bytes of a size such as 2GB, 1.5 GiB or 800M. Raises ConfigError for anything else, and for nothing at all."""
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([kmgt]?i?)b?\s*", text.lower(), re.ASCII)
    bytes_ = round(float(found[1]) * UNITS.get(found[2], 0)) if found else 0
    if not bytes_:
        raise ConfigError(f"--memory {text!r} is no size", "for example 2GB, 1.5GiB or 800MB")
    return bytes_


def planned_bytes(settings: Settings, policy: str) -> dict[str, int]:
    """Bytes of weights, gradients, optimizer state and activations of resolved settings, on the threads set now."""
    model = Model(model_config(settings), recompute=policy)
    updater = Updater(OPTIMIZERS.load(settings.optimizer), model.arena, {})
    batch, time = settings.batch_size or 1, model.config.block_size
    weights = model.arena.values.nbytes
    activations = max(model.plan(mode, batch, time).total for mode in (TRAIN, EVALUATE))
    return {"params": weights, "grads": weights, "optimizer": updater.bytes, "activations": activations}


def choose_recompute(settings: Settings) -> Settings:
    """Resolved settings with a policy of recomputation: the given one, else the first that fits into --memory.

    Without a limit, what is cheap is computed again where that saves much. Raises ConfigError where nothing fits.
    """
    if settings.memory is None:
        return settings if settings.recompute else replace(settings, recompute=_unasked(settings))
    limit, taken = parse_size(settings.memory), resident_bytes() or 0
    policies = [settings.recompute] if settings.recompute else POLICIES[POLICIES.index(_unasked(settings)) :]
    for policy in policies:
        if taken + _total(settings, policy) <= limit:
            return replace(settings, recompute=policy)
    needed = taken + _total(settings, policies[-1])
    raise ConfigError(
        f"training needs {_mega(needed)} of memory, --memory allows {_mega(limit)}",
        _remedy(settings, limit - taken, policies),
    )


def _unasked(settings: Settings) -> str:
    total = _total(settings, NONE)
    if total < WORTHWHILE:  # a second plan could not save as much
        return NONE
    return CHEAP if total - _total(settings, CHEAP) >= WORTHWHILE else NONE


def _total(settings: Settings, policy: str) -> int:
    return sum(planned_bytes(settings, policy).values())


def _remedy(settings: Settings, room: int, policies: Sequence[str]) -> str:
    """What would fit: a policy that saves more, else the largest of the smaller batches, else a smaller model."""
    if policies[-1] != POLICIES[-1] and _total(settings, POLICIES[-1]) <= room:
        return f"--recompute {POLICIES[-1]} fits"
    whole = batch = settings.batch_size or 1
    while batch := batch // 2:
        if _total(replace(settings, batch_size=batch), policies[-1]) <= room:
            return f"--batch-size {batch} --grad-accum {-(-whole * settings.grad_accum // batch)} fits"
    return "train a smaller model: see --n-layer, --n-embd and --block-size"


def _mega(bytes_: int) -> str:
    return f"{-(-bytes_ // 10**6):,} MB"
