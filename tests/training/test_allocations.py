"""A training step allocates nothing: no kernel does, and what Python and NumPy take does not grow with the sizes."""

from __future__ import annotations

import gc
import itertools
import tracemalloc

import numba
import numpy as np
import pytest
from numba.core.runtime import rtsys
from numba.core.runtime._nrt_python import memsys_disable_stats, memsys_enable_stats
from test_step import STEADY, stepper_of

from cllm_cli.checks.harness import Bench
from cllm_cli.kernels import cores
from cllm_cli.kernels.jit import JIT_OFF
from cllm_cli.layers import LAYERS
from cllm_cli.model.build import ModelConfig
from cllm_cli.optim import OPTIMIZERS

SMALL = ModelConfig("gpt2", 1, 2, 8, 16, block_size=8, vocab_size=11, dropout=0.1)
LARGE = ModelConfig("gpt2", 2, 4, 64, 256, block_size=256, vocab_size=300, dropout=0.1)
PYTHONS = 3400  # bytes: a dictionary, some tuples of arguments, a few numbers; measured 3,004 at most


def arrays_in(calls):
    """How many arrays the arguments of kernels are: each is given a counted reference when it is passed."""
    return sum(isinstance(argument, np.ndarray) for _, arguments in calls for argument in arguments)


@pytest.fixture
def allocations():
    """A function that gives how often Numba's runtime allocated while another function ran."""
    memsys_enable_stats()

    def of(function):
        before = rtsys.get_allocation_stats()
        function()
        after = rtsys.get_allocation_stats()
        assert after.alloc - before.alloc == after.free - before.free
        return after.alloc - before.alloc

    yield of
    memsys_disable_stats()


@pytest.fixture
def traced():
    """Tracing without the garbage collector, which would free what a step leaves behind."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.enable()


def warm(config, name="adamw", batch=4, accumulate=2, steps=40):
    """A stepper after its first steps; its sampler has not to look ahead for a while."""
    tokens = np.random.default_rng(0).integers(0, 11, 40_000, np.uint8)
    stepper = stepper_of(name, batch, accumulate, config=config, tokens=tokens)
    for step in range(steps):
        stepper.run(step, STEADY)
    return stepper


def peak(stepper, steps=8):
    """The most that any of the steps has in use beyond what it found, in bytes."""
    found = []
    for step in range(steps):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        stepper.run(step, STEADY)
        found.append(tracemalloc.get_traced_memory()[1] - before)
    return max(found)


@pytest.mark.skipif(JIT_OFF, reason="plain Python allocates")
@pytest.mark.parametrize("name", LAYERS)
def test_no_kernel_of_a_layer_allocates(name, allocations):
    layer = LAYERS.load(name)
    for which in ("forward", "backward", "forward_backward", "cached"):
        kernel = getattr(layer, which)
        if kernel is None:
            continue
        bench = Bench(layer, layer.samples[-1], np.float32)
        bench.forward()
        arguments = bench.known()
        names = kernel.py_func.__code__.co_varnames[: kernel.py_func.__code__.co_argcount]
        kernel(*[arguments[each] for each in names])
        found = allocations(lambda bench=bench, kernel=kernel: bench.run(kernel))
        assert found == arrays_in([(kernel, [arguments[each] for each in names])])


@pytest.mark.skipif(JIT_OFF, reason="plain Python allocates")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_kernel_of_a_step_allocates(name, allocations, monkeypatch):
    monkeypatch.setattr(cores, "_free_cores", lambda threads: ())  # whether threads are bound depends on the machine
    stepper = warm(SMALL, name, steps=2)
    passes = stepper.replay.calls(stepper.arguments(0, 1))
    expected = stepper.accumulate * arrays_in(passes) + arrays_in(stepper.calls()) - arrays_in(passes)
    expected -= stepper.accumulate * arrays_in(cores.bind_calls())
    assert allocations(lambda: stepper.run(2, STEADY)) == expected


@pytest.mark.skipif(JIT_OFF, reason="nothing is compiled")
def test_an_allocation_in_a_kernel_would_be_counted(allocations):
    @numba.njit
    def careless(x):
        return np.empty_like(x).size

    x = np.zeros(5)
    careless(x)
    assert allocations(lambda: careless(x)) > arrays_in([(careless, [x])])


@pytest.mark.skipif(JIT_OFF, reason="plain Python allocates")
def test_what_a_step_has_in_use_does_not_grow_with_the_sizes(traced):
    assert peak(warm(SMALL, steps=5)) <= PYTHONS
    assert peak(warm(LARGE, batch=8, steps=5)) <= PYTHONS


@pytest.mark.skipif(JIT_OFF, reason="plain Python allocates")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_leave_nothing_behind(name, traced):
    stepper = warm(SMALL, name)
    before = tracemalloc.get_traced_memory()[0]
    for step in range(60):
        stepper.run(step, STEADY)
    # The sampler looked ahead once and keeps as much as before; Python keeps a few freed tuples for later.
    assert tracemalloc.get_traced_memory()[0] - before <= 2000


@pytest.mark.skipif(JIT_OFF, reason="plain Python allocates")
@pytest.mark.parametrize("every", [1, 2])
def test_an_allocation_in_a_step_would_be_seen(every, traced, monkeypatch):
    """Four kilobytes, in each step or in every second one."""
    stepper = warm(LARGE, batch=2, steps=5)
    forward, calls = stepper.replay.forward, itertools.count()

    def careless(**step):
        extra = np.empty(1024, np.float32) if next(calls) // stepper.accumulate % every == 0 else None
        forward(**step)
        del extra

    monkeypatch.setattr(stepper.replay, "forward", careless)
    assert peak(stepper) > PYTHONS
