"""The memory of a run: planned before it is taken, and chosen to fit."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from cllm_cli.config import Settings
from cllm_cli.errors import ConfigError
from cllm_cli.model.build import Model
from cllm_cli.model.program import EVALUATE, TRAIN
from cllm_cli.model.recompute import CHEAP, NONE, POLICIES, check_policy
from cllm_cli.optim import OPTIMIZERS
from cllm_cli.optim.base import state_bytes
from cllm_cli.training.machine import Room, available_memory
from cllm_cli.training.resident import resident_bytes
from cllm_cli.training.resolve import model_config

BATCH, MODEL = "batch", "model"  # what may be chosen smaller where memory is too little
OTHERWISE = "free memory, or allow more of it"
WORTHWHILE = 64 * 10**6  # bytes that computing again what is cheap must save to be done unasked
MOST_PARTS = 4096  # that a batch is tried in, to name some that fit
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
    batch, time = settings.batch_size or 1, model.config.block_size
    weights, state = model.arena.bytes, state_bytes(OPTIMIZERS.load(settings.optimizer), model.arena)
    activations = max(model.plan(mode, batch, time).total for mode in (TRAIN, EVALUATE))
    return {"params": weights, "grads": weights, "optimizer": state, "activations": activations}


def choose_recompute(
    settings: Settings, asked: bool = True, flexible: Collection[str] = (BATCH, MODEL), otherwise: str = OTHERWISE
) -> Settings:
    """Resolved settings with a policy of recomputation: the given one, else the first that fits into the memory.

    One that was not `asked` for, but chosen when the run was begun, is the first that is tried. The memory is --memory,
    which counts what the process has taken already, else what the machine has left. What is cheap is computed again
    also where that saves much. Raises ConfigError where nothing fits, naming what would by changing what is `flexible`,
    else what is to be done `otherwise`; or the policy is none.
    """
    if settings.recompute:
        check_policy(settings.recompute)
    total = functools.cache(functools.partial(_total, settings))
    policies = POLICIES[POLICIES.index(settings.recompute or _unasked(total)) :]
    if settings.recompute and asked:
        policies = policies[:1]
    taken = resident_bytes() or 0 if settings.memory else 0
    room = Room(parse_size(settings.memory), "--memory allows") if settings.memory else available_memory()
    if room is None:
        return replace(settings, recompute=policies[0])
    for policy in policies:
        if taken + total(policy) <= room.bytes:
            return replace(settings, recompute=policy)
    raise ConfigError(
        f"training needs {_mega(taken + total(policies[-1]))} of memory, {room.whose} {_mega(room.bytes)}",
        _remedy(settings, room.bytes - taken, policies, flexible) or otherwise,
    )


def _unasked(total: Callable[[str], int]) -> str:
    if total(NONE) < WORTHWHILE:  # a second plan could not save as much
        return NONE
    return CHEAP if total(NONE) - total(CHEAP) >= WORTHWHILE else NONE


def _total(settings: Settings, policy: str) -> int:
    return sum(planned_bytes(settings, policy).values()) + batch_bytes(settings)


def batch_bytes(settings: Settings) -> int:
    """Of the tokens and targets of a step, and which of them count (`Stepper`)."""
    return 9 * settings.grad_accum * (settings.batch_size or 1) * (settings.block_size or 1)


def _remedy(settings: Settings, room: int, policies: Sequence[str], flexible: Collection[str]) -> str:
    """What would fit: a policy that saves more, else the same step in smaller parts, else the largest of some models.

    Parts are as large as fit and divide the batch, so that a step has the very windows that were asked for. Empty
    where nothing fits that is `flexible`.
    """
    if policies[-1] != POLICIES[-1] and _total(settings, POLICIES[-1]) <= room:
        return f"--recompute {POLICIES[-1]} fits"
    whole = settings.batch_size or 1
    divisors = [*(n for n in range(2, min(whole, MOST_PARTS)) if whole % n == 0), whole]
    for parts in divisors if BATCH in flexible else []:
        smaller = replace(settings, batch_size=whole // parts, grad_accum=settings.grad_accum * parts)
        if _total(smaller, policies[-1]) <= room:
            return f"--batch-size {smaller.batch_size} --grad-accum {smaller.grad_accum} fits"
    if MODEL not in flexible:
        return ""
    layers, time = settings.n_layer or 1, settings.block_size or 1
    models = [(layers >> halved, time >> short) for short in range(4) for halved in range(layers.bit_length())]
    for n_layer, block_size in (model for model in models if all(model)):
        smaller = replace(settings, batch_size=1, grad_accum=1, n_layer=n_layer, block_size=block_size)
        if _total(smaller, policies[-1]) <= room:
            one = "--batch-size 1 --grad-accum 1" if settings.grad_accum > 1 else "--batch-size 1"
            return f"{one} --n-layer {n_layer} --block-size {block_size} fits"
    return "train a smaller model: see --n-embd, --n-layer and --block-size"


def _mega(bytes_: int) -> str:
    return f"{-(-bytes_ // 10**6):,} MB"
