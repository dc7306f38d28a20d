"""The harnesses of storage, with small counts; the full figures take `python -m tests.reliability`."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest

from cllm_cli.training import durable

from . import disk_sizes, faults, flips, kills_in_a_save, power_loss
from .small_runs import in_memory

SEED = 1


@pytest.mark.slow
def test_whatever_a_power_cut_leaves_loads_as_what_it_was():
    found = power_loss.run(2000, SEED)
    assert found["bad"] == {}
    assert found["failures"] == 0
    assert found["gone_on"] == 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "expected"), [("a folder", "lost"), ("a file", "unloadable"), ("metrics.jsonl", "wrong")]
)
def test_a_flush_that_is_forgotten_is_found_out(what, expected):
    def forgotten(call):
        folder = not call.path.suffix
        return call.kind == "fsync" and {"a folder": folder, "a file": not folder}.get(what, call.path.name == what)

    assert power_loss.run(400, SEED, forgotten)["bad"].get(expected)


@pytest.mark.slow
def test_whatever_call_of_a_save_fails_the_path_is_named_and_the_run_goes_on_to_the_same_bits():
    with in_memory() as place:
        calls, wrong = faults.one_save(Path(place))
    found = faults.summary(calls, wrong)
    assert found["wrong"] == {}
    assert found["trials"] == 2 * len(faults.CODES) * calls > 200
    assert 0 < found["went_on"] < found["trials"] / 8


@pytest.mark.slow
def test_a_flush_whose_failure_is_hidden_is_found_out(monkeypatch):
    def forgiving(folder):
        handle = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):
            os.fsync(handle)
        os.close(handle)

    monkeypatch.setattr(durable, "sync_folder", forgiving)
    monkeypatch.setattr(faults, "CODES", {"EIO": errno.EIO})
    with in_memory() as place:
        _, wrong = faults.one_save(Path(place))
    hidden = [each for each in wrong if "no error although 1 calls failed" in each and "fsync" in each]
    assert len(hidden) == 2  # of the checkpoint's own folder, and of that with its name


@pytest.mark.slow
def test_a_save_that_is_killed_leaves_the_checkpoint_before_or_its_own():
    found = kills_in_a_save.run(300, SEED)
    assert found["wrong"] == {}
    assert found["before"] + found["after"] == 300
    assert min(found["before"], found["after"]) > 30


@pytest.mark.slow
def test_a_disk_of_any_size_is_enough_or_named():
    found = disk_sizes.run(10, SEED)
    assert found["wrong"] == {}
    assert found["refused"] > 5
    assert found["ended"] > 0


@pytest.mark.slow
def test_a_bit_that_flipped_and_a_file_that_was_cut_are_named(tmp_path):
    found = flips.run(220, SEED)
    assert found["wrong"] == {}
    assert found["files"] == 7
    assert found["named"] > 120
    assert found["passed over"] > 50
