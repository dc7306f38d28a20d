"""A core for each thread, only while kernels run, and only where that harms nobody."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from cllm_cli.kernels import cores
from cllm_cli.kernels.cores import bind_threads, masks_of, own_cores

pytestmark = pytest.mark.skipif(not cores.POSSIBLE, reason="threads are left alone here")


def allowed(thread=Path("/proc/thread-self")):
    """The cores that a thread of this process may run on, the calling one if not told otherwise."""
    (line,) = [line for line in (thread / "status").read_text().splitlines() if line.startswith("Cpus_allowed:")]
    mask = int(line.split(":")[1].strip().replace(",", ""), 16)
    return {core for core in range(mask.bit_length()) if mask >> core & 1}


@pytest.fixture
def all_cores():
    """Every core that this process may use; a machine of one core has nothing to share out."""
    found = tuple(sorted(os.sched_getaffinity(0)))
    if len(found) < 2:
        pytest.skip("one core")
    cores._pool.cores = ()
    yield found
    os.sched_setaffinity(0, found)
    cores._pool.cores = ()


def test_each_thread_stays_on_its_own_core_and_the_caller_is_let_go(all_cores, set_threads):
    set_threads(1)
    for _ in range(2):  # the second time the other threads are bound already
        with own_cores(len(all_cores)):
            assert allowed() == {all_cores[0]}
            bound = [allowed(thread) for thread in Path("/proc/self/task").iterdir()]
            assert {frozenset(each) for each in bound if len(each) == 1} == {frozenset({core}) for core in all_cores}
            with own_cores(len(all_cores)):
                assert allowed() == {all_cores[0]}
            assert allowed() == {all_cores[0]}
        assert allowed() == set(all_cores)


def test_threads_that_were_started_anew_are_bound_anew(all_cores, set_threads, monkeypatch):
    """OpenMP ends threads when a loop runs on fewer, and starts others."""
    bound = []
    monkeypatch.setattr(cores, "bind_threads", lambda masks: bound.append(masks.shape[0]))
    count = len(all_cores)
    for before in (count, count, 1, count):
        set_threads(before)
        with own_cores(count):
            pass
    assert bound == [count, count]


@pytest.mark.parametrize("change", [-1, 1])
def test_fewer_or_more_threads_than_cores_are_left_alone(all_cores, set_threads, change):
    """Runs side by side, a few threads each, would all sit on the first cores."""
    set_threads(1)
    with own_cores(len(all_cores) + change):
        assert allowed() == set(all_cores)


def test_a_process_that_was_moved_meanwhile_stays_where_it_was_put(all_cores):
    with own_cores(len(all_cores)):
        os.sched_setaffinity(0, {all_cores[1]})
    assert allowed() == {all_cores[1]}


def test_an_error_inside_lets_the_caller_go_too(all_cores):
    with pytest.raises(ZeroDivisionError), own_cores(len(all_cores)):
        raise ZeroDivisionError
    assert allowed() == set(all_cores)


def test_where_the_system_refuses_the_threads_stay_free(all_cores, monkeypatch):
    def refuse(*args):
        raise OSError(22, "Invalid argument")

    with own_cores(len(all_cores)):
        pass
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with own_cores(len(all_cores)):
        assert allowed() == set(all_cores)
    monkeypatch.undo()
    with own_cores(len(all_cores)):
        assert allowed() == {all_cores[0]}


def test_another_python_thread_has_threads_of_its_own(all_cores):
    found = []

    def work():
        with own_cores(len(all_cores)):
            found.append(allowed())
        found.append(allowed())

    with own_cores(len(all_cores)):
        assert allowed() == {all_cores[0]}
    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert found == [{all_cores[0]}, set(all_cores)]


def test_masks_have_a_bit_for_each_core_beyond_the_first_word_too():
    masks = masks_of((1, 63, 64, 200))
    assert masks.shape == (4, 4)
    assert masks.dtype == np.uint64
    assert [int(row.sum()).bit_count() for row in masks] == [1, 1, 1, 1]
    assert [int(sum(int(word) << 64 * at for at, word in enumerate(row))) for row in masks] == [
        1 << 1,
        1 << 63,
        1 << 64,
        1 << 200,
    ]


def test_a_mask_of_no_core_that_there_is_changes_nothing(all_cores, set_threads):
    """Cores can be taken away between the question and the answer."""
    set_threads(1)
    before = allowed()
    bind_threads(np.zeros((1, 1), np.uint64))
    assert allowed() == before
