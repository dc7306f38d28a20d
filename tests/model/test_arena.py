"""The arena: tensors on cache lines, groups as slices, gaps that stay zero."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cllm_cli.layers.base import ONES, Init
from cllm_cli.model.arena import GROUPS, LINE, Arena, Parameter
from cllm_cli.model.build import Model, ModelConfig
from cllm_cli.model.init import initialize
from cllm_cli.model.program import TRAIN

PARAMETERS = [
    Parameter("bias", (5,), "vector", ONES),
    Parameter("matrix", (3, 7), "matrix", Init(0.1)),
    Parameter("table", (11, 2), "embedding", Init(0.1)),
    Parameter("scalar", (1,), "vector", ONES),
    Parameter("exact", (4, 16), "matrix", Init(0.1)),
]
CONFIG = ModelConfig("gpt2", n_layer=2, n_head=3, n_embd=15, n_hidden=7, block_size=5, vocab_size=13, dropout=0.1)

precisions = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def arena_of(dtype):
    return Arena(PARAMETERS, np.dtype(dtype))


def gaps(arena):
    """Whether an element of the flat buffer belongs to no tensor."""
    free = np.ones(arena.size, bool)
    for name in arena.parameters:
        arena.view(free, name)[...] = False
    return free


@precisions
def test_tensors_start_on_cache_lines_and_do_not_overlap(dtype):
    arena = arena_of(dtype)
    arena.make_gradients()
    owners = np.zeros(arena.size, int)
    for name, parameter in arena.parameters.items():
        for values in (arena.parameter(name), arena.gradient(name)):
            assert values.shape == parameter.shape
            assert values.dtype == dtype
            assert values.ctypes.data % LINE == 0
            assert values.flags.c_contiguous
            assert values.flags.writeable
        arena.view(owners, name)[...] += 1
    assert owners.max() == 1
    assert arena.count == owners.sum() == sum(parameter.size for parameter in PARAMETERS)


@precisions
def test_groups_are_slices_in_order(dtype):
    arena = arena_of(dtype)
    assert tuple(arena.groups) == GROUPS == ("embedding", "matrix", "vector")
    bounds = [(part.start, part.stop) for part in arena.groups.values()]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == arena.size
    assert all(one[1] == two[0] for one, two in itertools.pairwise(bounds))
    for parameter in PARAMETERS:
        part, at = arena.groups[parameter.group], arena.offsets[parameter.name]
        assert part.start <= at
        assert at + parameter.size <= part.stop


@precisions
def test_views_show_the_buffer(dtype):
    arena = arena_of(dtype)
    arena.parameter("matrix")[...] = 3
    assert np.count_nonzero(arena.values == 3) == 21
    arena.values.fill(4)
    assert (arena.tensors()["bias"] == 4).all()


def test_gradients_are_made_on_demand_and_start_at_zero():
    arena = arena_of(np.float32)
    assert arena.gradients.size == 0
    arena.make_gradients()
    assert arena.gradients.size == arena.size
    assert not arena.gradients.any()


@precisions
def test_gaps_stay_zero(dtype):
    model = Model(CONFIG, dtype)
    arena = model.arena
    arena.make_gradients()
    initialize(arena, 3)
    free = gaps(arena)
    assert free.any()
    replay = model.replay(TRAIN, 2, 5)
    replay.given["tokens"][:] = np.arange(10)
    replay.given["targets"][:] = np.arange(10) + 1
    step = {"position": 0, "scale": arena.dtype.type(0.1), "key": np.uint64(1), "first_row": 0}
    for _ in range(2):
        replay.forward(**step)
        replay.backward(**step)
        assert not arena.gradients[free].any()
        assert not arena.values[free].any()
        arena.values -= arena.gradients
    for name in arena.parameters:
        assert arena.gradient(name).any(), name


def test_an_architecture_names_each_parameter_once_and_groups_by_rank():
    arena = Model(CONFIG).arena
    for name, parameter in arena.parameters.items():
        table = name in ("transformer.wte.weight", "transformer.wpe.weight")
        assert parameter.group == ("embedding" if table else "vector" if len(parameter.shape) == 1 else "matrix")
    assert len(arena.parameters) == 2 + 12 * CONFIG.n_layer + 2
