"""A core for each thread, only while kernels run, and only where that harms nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numba
import numpy as np
import pytest

from cllm_cli.kernels import jit
from cllm_cli.kernels.cores import bind_calls, masks_of, own_cores

pytestmark = pytest.mark.skipif(not jit.BINDING, reason="threads are left alone here")
TASKS = Path("/proc/self/task")


def allowed(thread=Path("/proc/thread-self")):
    """The cores that a thread of this process may run on, the calling one if not told otherwise."""
    (line,) = [line for line in (thread / "status").read_text().splitlines() if line.startswith("Cpus_allowed:")]
    mask = int(line.split(":")[1].strip().replace(",", ""), 16)
    return {core for core in range(mask.bit_length()) if mask >> core & 1}


def bound_cores(tasks):
    """The cores of threads that have one alone."""
    return {core for task in tasks for core in allowed(task) if len(allowed(task)) == 1}


@pytest.fixture
def all_cores(set_threads):
    """Every core that this process may use; a machine of one core has nothing to share out."""
    found = tuple(sorted(os.sched_getaffinity(0)))
    if len(found) < 2:
        pytest.skip("one core")
    set_threads(1)
    yield found
    os.sched_setaffinity(0, found)


def test_each_thread_stays_on_its_own_core_and_the_caller_is_let_go(all_cores):
    for _ in range(2):
        with own_cores(len(all_cores)):
            assert allowed() == {all_cores[0]}
            assert bound_cores(TASKS.iterdir()) == set(all_cores)
            with own_cores(len(all_cores)):
                assert allowed() == {all_cores[0]}
            assert allowed() == {all_cores[0]}
        assert allowed() == set(all_cores)


def test_threads_that_others_moved_are_bound_again(all_cores):
    """By taskset -a, for one; and OpenMP starts threads anew after loops on fewer, where the caller is."""
    with own_cores(len(all_cores)):
        workers = [task for task in TASKS.iterdir() if allowed(task) in ({core} for core in all_cores[1:])]
    assert len(workers) == len(all_cores) - 1
    for task in workers:
        os.sched_setaffinity(int(task.name), all_cores[:1])
    with own_cores(len(all_cores)):
        assert bound_cores(workers) == set(all_cores[1:])


@pytest.mark.parametrize("change", [-1, 1])
def test_fewer_or_more_threads_than_cores_are_left_alone(all_cores, change):
    """Runs side by side, a few threads each, would all sit on the first cores."""
    with own_cores(len(all_cores) + change):
        assert allowed() == set(all_cores)


def test_another_threading_layer_is_left_alone(all_cores, monkeypatch):
    """There the calling thread may take no part in a loop, or one thread may do the work of two."""
    monkeypatch.setattr(numba, "threading_layer", lambda: "workqueue")
    with own_cores(len(all_cores)):
        assert allowed() == set(all_cores)


def test_a_process_that_was_moved_meanwhile_stays_where_it_was_put(all_cores):
    with own_cores(len(all_cores)):
        os.sched_setaffinity(0, {all_cores[1]})
    assert allowed() == {all_cores[1]}


def test_an_error_inside_lets_the_caller_go_too(all_cores):
    with pytest.raises(ZeroDivisionError), own_cores(len(all_cores)):
        raise ZeroDivisionError
    assert allowed() == set(all_cores)


def test_cores_that_are_taken_away_meanwhile_are_no_error(all_cores, monkeypatch):
    def refuse(*args):
        raise OSError(22, "Invalid argument")

    with own_cores(len(all_cores)):
        monkeypatch.setattr(os, "sched_setaffinity", refuse)
    assert allowed() == {all_cores[0]}
    monkeypatch.undo()


def test_another_python_thread_has_threads_of_its_own(all_cores):
    found = []

    def work():
        before = set(TASKS.iterdir())
        with own_cores(len(all_cores)):
            found.append(allowed())
            found.append(bound_cores(set(TASKS.iterdir()) - before))
        found.append(allowed())

    with own_cores(len(all_cores)):
        pass
    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert found == [{all_cores[0]}, set(all_cores[1:]), set(all_cores)]


def test_masks_have_a_bit_for_each_core_beyond_the_first_word_too():
    masks = masks_of((1, 63, 64, 200))
    assert masks.shape == (4, 4)
    assert masks.dtype == np.uint64
    numbers = [sum(int(word) << 64 * at for at, word in enumerate(row)) for row in masks]
    assert numbers == [1 << 1, 1 << 63, 1 << 64, 1 << 200]


def test_what_is_compiled_ahead_binds_nobody_when_it_is_run(all_cores):
    ((kernel, arguments),) = bind_calls()
    kernel(*arguments)
    assert allowed() == set(all_cores)


PROGRAM = """
import os, sys
from cllm_cli.kernels import jit
print(jit.BINDING, os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "True 6000"),
        ({"OMP_PROC_BIND": "false"}, "False 1000"),
        ({"OMP_PLACES": "cores"}, "False 1000"),
        ({"GOMP_SPINCOUNT": "7"}, "True 7"),
        ({"OMP_WAIT_POLICY": "passive"}, "True None"),
    ],
)
def test_what_the_user_tells_openmp_holds(given, expected):
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    ran = subprocess.run([sys.executable, "-c", PROGRAM], env=mine | given, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == expected
