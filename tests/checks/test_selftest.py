"""The self-test of kernels: it has all of them, what is stored is right, and what is wrong is seen."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reference import expected

import cllm_cli
from cllm_cli.checks import selftest
from cllm_cli.checks.known_outputs import KNOWN
from cllm_cli.commands.preparing import every_call
from cllm_cli.kernels.ahead import describe
from cllm_cli.kernels.cores import BINDING
from cllm_cli.kernels.jit import JIT_OFF
from cllm_cli.layers import LAYERS

PACKAGE = Path(cllm_cli.__file__).parent
ROOT = PACKAGE.parent


def signature(kernel, args):
    function = getattr(kernel, "py_func", kernel)
    return (function.__module__, function.__name__, *map(describe, args))


@pytest.fixture(scope="module")
def ran():
    """Every case after it was run, with a copy of what it has written."""
    found = []
    with np.errstate(over="ignore"):  # with the JIT off
        for case in selftest.every_case():
            case.kernel(*case.arguments)
            copies = {name: values.copy() for name, values in case.written.items()}
            found.append(selftest.Case(**{**vars(case), "written": copies}))
    return found


def test_here_every_kernel_computes_what_it_should(ran):
    results = [selftest.judged(case) for case in ran]
    assert [result for result in results if not result.ok] == []
    # The tolerance leaves room for other CPUs, not for anything.
    assert max(result.error / result.tolerance for result in results if result.tolerance) < 0.2


def test_every_kernel_of_the_package_is_tested(ran):
    kernels = {
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.FunctionDef) and "kernel" in {getattr(name, "id", "") for name in node.decorator_list}
    }
    untested = set() if BINDING else {"bind_threads"}
    assert {case.name for case in ran} == kernels - untested


@pytest.mark.skipif(JIT_OFF, reason="nothing is compiled")
def test_it_is_the_compiled_code_of_the_commands_that_is_tested(ran):
    """In each precision that is used; and doctor has nothing more to compile than the other commands."""
    asked = {signature(kernel, args) for kernel, args in every_call()}
    assert {signature(case.kernel, case.arguments) for case in ran} == asked


def test_all_that_is_stored_is_looked_at(ran):
    assert {case.key(tensor) for case in ran for tensor in case.written} == KNOWN.keys()


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_stored_is_what_the_oracle_computes(name):
    """The oracle is an independent derivation; the gradients of the same kernels are held against differences."""
    layer = LAYERS.load(name)
    seen = 0
    for sample in layer.samples[1:]:
        known = selftest.FixedBench(layer, sample, np.float64).known()
        for case in selftest.layer_cases(np.float64):
            if case.kernel in (layer.forward, layer.forward_backward, layer.cached) and case.inputs == inputs(sample):
                for tensor, wanted in expected(name, known).items():
                    if tensor in case.written:
                        total, scale = KNOWN[case.key(tensor)]
                        assert abs(selftest.weighted_sum(wanted) - total) <= 1e-13 * scale
                        seen += 1
    assert seen or name == "split"  # which copies nothing forward


def inputs(sample):
    return " ".join(f"{letter}={size}" for letter, size in sample.items() if letter.isupper())


def test_one_element_that_is_off_is_seen(ran):
    """A hundredth of the tensor's largest, anywhere in it; one more, of whole numbers."""
    rng = np.random.default_rng(1)
    for case in ran:
        for tensor, values in case.written.items():
            kept = values.copy()
            largest = np.abs(values).max() or 1
            for flat in rng.choice(values.size, min(values.size, 8), replace=False):
                values.flat[flat] += 1 if values.dtype.kind == "i" else 0.01 * largest
                assert not selftest.judged(case).ok, (case.key(tensor), flat)
                values[...] = kept


def test_an_element_that_was_not_written_is_seen(ran):
    for case in ran:
        for tensor, values in case.written.items():
            if values.dtype.kind == "f":
                kept = values.copy()
                values.flat[-1] = np.nan
                result = selftest.judged(case)
                assert (result.ok, result.tensor) == (False, tensor)
                values[...] = kept


def test_a_tensor_that_nothing_is_known_of_fails(ran):
    assert not selftest.judged(ran[0], {}).ok


def test_inputs_are_exact_in_float32_and_the_same_for_ever():
    drawn = selftest.numbers((1000,), "x")
    assert np.array_equal(drawn.astype(np.float32).astype(np.float64), drawn)
    assert -1 <= drawn.min() < -0.9 < 0.9 < drawn.max() < 1
    assert drawn[:3].tolist() == [0.6517133712768555, 0.015592575073242188, -0.5272598266601562]
    whole = selftest.whole_numbers((1000,), "x", 7)
    assert set(whole.tolist()) == set(range(7))


@pytest.mark.slow
def test_what_is_stored_is_what_plain_python_computes():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", str(ROOT / "tools" / "make_known.py"), "--check"]
    subprocess.run(command, env=environment, check=True, timeout=300)
