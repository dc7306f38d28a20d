"""Recomputation: forward calls that run again within backward, so that what they wrote need not be kept till then.

    none     every value that backward reads is kept
    cheap    what layers declare as cheap to compute is computed again: layer norms and GELUs
    block    only what goes into each block is kept; the rest of a block is computed again when its turn comes
                                                                        (Chen et al. 2016, arXiv:1604.06174)

The kernels are the same and so are their inputs, so no result depends on the policy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from cllm_cli.errors import ConfigError, nearest
from cllm_cli.model.program import Program
from cllm_cli.model.runs import SAVED, VALUE, Key, Run

NONE, CHEAP, BLOCK = POLICIES = ("none", "cheap", "block")
AGAIN = "again"  # the last part of the key of what is computed again


def check_policy(name: str) -> None:
    """Raises ConfigError for a policy that there is not."""
    if name not in POLICIES:
        raise ConfigError(f"unknown --recompute '{name}'", nearest(name, POLICIES))


def dropped_calls(program: Program, policy: str) -> set[int]:
    """The numbers of the calls whose outputs and saved tensors are not kept for backward.

    Of the last block everything is kept: backward starts with it, when as much would be computed again at once.
    """
    if policy == CHEAP:
        return {number for number, call in enumerate(program.calls) if call.layer.cheap}
    if policy == BLOCK and program.kept:
        kept = set(program.kept)
        return {
            number
            for number, call in enumerate(program.calls[: program.kept[max(kept)]])
            if not any(tensor.index in kept for tensor in call.outputs.values())
        }
    return set()


def with_replays(
    program: Program,
    backward: Sequence[Run],
    dropped: set[int],
    owner: Callable[[Key], Key],
    forward_again: Callable[[int], Run],
) -> list[Run]:
    """The runs of backward, each preceded by the forward runs whose results it reads and that were not kept.

    `owner` gives the tensor whose memory a key shares; `forward_again` makes the run of a call's forward.
    """
    maker = {(VALUE, tensor.index): n for n, call in enumerate(program.calls) for tensor in call.outputs.values()}
    runs: list[Run] = []
    replayed: set[int] = set()

    def source(key: Key) -> Key:
        """Where backward finds what forward wrote to `key`."""
        number = key[1] if key[0] == SAVED else maker.get(owner(key))
        # What a cheap layer saves is small beside its outputs, and is kept.
        if number not in dropped or (key[0] == SAVED and program.calls[number].layer.cheap):
            return key
        replay(number)
        return (*owner(key), AGAIN)

    def replay(number: int) -> None:
        if number in replayed:
            return
        replayed.add(number)
        run = forward_again(number)
        inputs = {name: source(place.key) for name, place in run.places.items() if name in run.call.inputs}
        keys = {name: inputs.get(name, (*owner(place.key), AGAIN)) for name, place in run.places.items()}
        runs.append(_moved(run, keys))

    for run in backward:
        keys = {name: source(place.key) for name, place in run.places.items()}
        runs.append(_moved(run, keys))
    return runs


def _moved(run: Run, keys: dict[str, Key]) -> Run:
    return replace(run, places={name: replace(place, key=keys[name]) for name, place in run.places.items()})
