"""The memory of a run: what is planned is what is taken, and a limit decides what is computed again."""

from __future__ import annotations

import dataclasses
import mmap
import subprocess
import sys

import pytest

from cllm_cli.config import make_settings
from cllm_cli.errors import ConfigError
from cllm_cli.model.recompute import POLICIES
from cllm_cli.training import memory
from cllm_cli.training.machine import Room
from cllm_cli.training.memory import BATCH, batch_bytes, choose_recompute, parse_size, planned_bytes
from cllm_cli.training.resident import peak_bytes, resident_bytes
from cllm_cli.training.session import rehearsal

SIZES = {"n_layer": 6, "n_head": 2, "n_embd": 32, "n_hidden": 128, "block_size": 64, "batch_size": 8, "vocab_size": 300}


@pytest.fixture
def settings(monkeypatch):
    """Resolved settings, of a process that has taken no memory so far."""
    monkeypatch.setattr(memory, "resident_bytes", lambda: 0)
    return make_settings({**SIZES, "dropout": 0.0})


def total(settings, policy):
    return sum(planned_bytes(settings, policy).values()) + batch_bytes(settings)


def limited(settings, bytes_, **more):
    return dataclasses.replace(settings, memory=f"{bytes_}", **more)


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("2GB", 2 * 10**9),
        ("1.5 GiB", 1.5 * 2**30),
        ("800M", 800 * 10**6),
        ("64kB", 64_000),
        ("123", 123),
        ("7ti", 7 << 40),
    ],
)
def test_sizes(text, bytes_):
    assert parse_size(text) == bytes_


@pytest.mark.parametrize(
    "text", ["", "GB", "2 G B", "-1GB", "1e9", "0MB", "2.GB", "i", "3i", "9" * 400, "٣GB", "2GB; rm"]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError, match="no size"):
        parse_size(text)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adam-embed"])
def test_what_is_planned_is_what_a_session_takes(policy, optimizer):
    given = make_settings({**SIZES, "recompute": policy, "optimizer": optimizer})
    session = rehearsal(given, 300)
    planned = planned_bytes(session.settings, policy)
    assert session.memory == {**planned, "total": sum(planned.values())}


# A process of its own: what a model takes shows only where nothing was freed before. The small one loads the kernels.
GROWTH = """
import sys
from cllm_cli.config import make_settings
from cllm_cli.optim.schedule import Schedule
from cllm_cli.training.resident import resident_bytes
from cllm_cli.kernels.threads import use_threads
from cllm_cli.training.session import rehearsal

use_threads(2)
schedule = Schedule("constant", 1e-3, 1e-3, 0, 10)
small = {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 4, "batch_size": 1}
large = {"n_layer": 4, "n_head": 8, "n_embd": 512, "block_size": 256, "batch_size": 4}
taken, kept = [], []
for sizes, vocabulary in [(small, 256), (large, 8192)]:
    settings = make_settings({**sizes, "steps": 9, "dropout": 0.1, "recompute": sys.argv[1]})
    kept.append(rehearsal(settings, vocabulary))
    for step in range(2):
        kept[-1].stepper.run(step, schedule)
    taken.append(resident_bytes())
print(taken[1] - taken[0], kept[-1].memory["total"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_planned_is_what_the_system_counts(policy):
    """Within 5 %, of some 400 MB: the corpus and the buffers of batches come on top."""
    command = [sys.executable, "-W", "error", "-c", GROWTH, policy]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown, planned = map(int, done.stdout.split())
    assert planned > 3e8
    assert abs(grown - planned) <= 0.05 * planned


def test_each_policy_needs_less(settings):
    totals = [total(settings, policy) for policy in POLICIES]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == len(totals)


def test_a_limit_takes_the_first_policy_that_fits(settings):
    for policy in POLICIES:
        assert choose_recompute(limited(settings, total(settings, policy))).recompute == policy
    assert choose_recompute(limited(settings, 10**12)).recompute == "none"


def test_what_the_process_has_already_counts(settings, monkeypatch):
    limit = limited(settings, total(settings, "none"))
    monkeypatch.setattr(memory, "resident_bytes", lambda: 1)
    assert choose_recompute(limit).recompute == "cheap"


def test_what_was_asked_for_is_not_changed(settings):
    asked = dataclasses.replace(settings, recompute="block")
    assert choose_recompute(asked).recompute == "block"
    assert choose_recompute(limited(asked, 10**12)).recompute == "block"
    with pytest.raises(ConfigError, match="training needs") as caught:
        choose_recompute(limited(settings, total(settings, "cheap"), recompute="none"))
    assert caught.value.hint == "--recompute block fits"


def test_too_small_a_limit_names_a_batch_that_fits(settings):
    smaller = dataclasses.replace(settings, batch_size=2, grad_accum=4)
    with pytest.raises(ConfigError, match=r"training needs \d+ MB of memory, --memory allows \d+ MB") as caught:
        choose_recompute(limited(settings, total(smaller, "block")))
    assert caught.value.hint == "--batch-size 2 --grad-accum 4 fits"
    with pytest.raises(ConfigError) as caught:
        choose_recompute(limited(settings, 1000))
    assert "smaller model" in caught.value.hint


@pytest.mark.parametrize(("whole", "parts", "hint"), [(75, 3, "25 --grad-accum 6"), (7, 7, "1 --grad-accum 14")])
def test_a_batch_that_fits_has_the_windows_that_were_asked_for(settings, whole, parts, hint):
    asked = dataclasses.replace(settings, batch_size=whole, grad_accum=2, recompute="block")
    smaller = dataclasses.replace(asked, batch_size=whole // parts, grad_accum=2 * parts)
    with pytest.raises(ConfigError) as caught:
        choose_recompute(limited(asked, total(smaller, "block")))
    assert caught.value.hint == f"--batch-size {hint} fits"


def test_only_what_may_be_changed_is_named(settings):
    """A run that goes on keeps its batch and its sizes, one from another's weights its sizes."""
    batch = dataclasses.replace(settings, batch_size=2, grad_accum=4)
    for flexible, room, hint in [
        ((BATCH,), total(batch, "block"), "--batch-size 2 --grad-accum 4 fits"),
        ((BATCH,), 1000, "free memory, or allow more of it"),
        ((), total(batch, "block"), "free memory, or allow more of it"),
    ]:
        with pytest.raises(ConfigError) as caught:
            choose_recompute(limited(settings, room), flexible=flexible)
        assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("allowed", "more", "hint"),
    [
        ("1.5MB", {}, "--batch-size 1 --grad-accum 2 fits"),
        ("0.5MB", {}, "train a smaller model"),
        ("1.5MB", {"init_from": "out"}, "--batch-size 1 --grad-accum 2 fits"),
        ("0.5MB", {"init_from": "out"}, "free memory"),
        ("1.5MB", {"resume": True}, "free memory"),
    ],
)
def test_a_run_is_told_what_it_may_change(run, tmp_path, monkeypatch, allowed, more, hint):
    list(run(stop_after=2))
    if "init_from" in more:
        more = {"init_from": tmp_path / "out"}
    monkeypatch.setattr(memory, "_total", lambda found, policy: 10**6 * found.batch_size)
    monkeypatch.setattr(memory, "resident_bytes", lambda: 0)
    with pytest.raises(ConfigError, match="training needs") as caught:
        list(run("out" if "resume" in more else "other", memory=allowed, **more))
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("given", "told"), [({}, "free memory"), ({"otherwise": "see --batch-size"}, "see --batch-size")]
)
def test_a_rehearsal_is_told_what_its_command_has(monkeypatch, given, told):
    """A policy that the settings have is no flag of it."""
    settings = make_settings({"n_layer": 1, "n_head": 1, "n_embd": 8, "recompute": "none", "memory": "1MB"})
    monkeypatch.setattr(memory, "_total", lambda found, policy: 10**7)
    with pytest.raises(ConfigError) as caught:
        rehearsal(settings, 300, **given)
    assert told in caught.value.hint


def test_where_no_batch_fits_a_model_is_named_that_does(settings):
    smallest = dataclasses.replace(settings, batch_size=1, grad_accum=1, recompute="block")
    halved = dataclasses.replace(smallest, n_layer=smallest.n_layer // 2)
    with pytest.raises(ConfigError) as caught:
        choose_recompute(limited(smallest, total(halved, "block")))
    size = f"--n-layer {halved.n_layer} --block-size {settings.block_size}"
    assert caught.value.hint == f"--batch-size 1 {size} fits"
    with pytest.raises(ConfigError) as caught:
        choose_recompute(limited(dataclasses.replace(smallest, grad_accum=10**6), total(halved, "block")))
    assert caught.value.hint == f"--batch-size 1 --grad-accum 1 {size} fits"
    assert choose_recompute(limited(halved, total(halved, "block")))


def test_unasked_it_is_done_where_it_saves_much(settings, monkeypatch):
    assert choose_recompute(settings).recompute == "none"
    saved = total(settings, "none") - total(settings, "cheap")
    monkeypatch.setattr(memory, "WORTHWHILE", saved)
    assert choose_recompute(settings).recompute == "cheap"
    monkeypatch.setattr(memory, "WORTHWHILE", saved + 1)
    assert choose_recompute(settings).recompute == "none"


def test_this_process_is_measured():
    size = 64 * 10**6
    before = resident_bytes()
    with mmap.mmap(-1, size) as block:  # an array might be given memory that is resident already
        block.write(bytes(size))
        assert resident_bytes() - before > 0.9 * size
    assert peak_bytes() > 0.95 * resident_bytes()  # the system counts in batches


def test_what_the_machine_has_left_decides_too(settings, monkeypatch):
    totals = {policy: total(settings, policy) for policy in POLICIES}
    for bytes_, policy in [(totals["none"], "none"), (totals["none"] - 1, "cheap"), (totals["block"], "block")]:
        monkeypatch.setattr(memory, "available_memory", lambda bytes_=bytes_: Room(bytes_, "this machine has"))
        assert choose_recompute(settings).recompute == policy
    monkeypatch.setattr(memory, "available_memory", lambda: Room(totals["block"] - 1, "this machine has"))
    with pytest.raises(ConfigError, match=r"training needs \d+ MB of memory, this machine has \d+ MB") as raised:
        choose_recompute(settings)
    assert raised.value.hint == "--batch-size 4 --grad-accum 2 fits"
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    assert choose_recompute(settings).recompute == "none"


def test_a_plan_of_any_size_takes_no_memory(settings):
    """Terabytes are said to be too much, not tried."""
    huge = dataclasses.replace(settings, n_embd=2**20, n_hidden=2**22, n_head=2**10)
    before = resident_bytes()
    with pytest.raises(ConfigError, match=r"training needs [\d,]{10,} MB of memory, .* [\d,]+ MB"):
        choose_recompute(huge)
    assert resident_bytes() - before < 50 * 10**6


def test_a_policy_that_nobody_asked_for_is_where_to_begin(settings, monkeypatch):
    """A run that is resumed has its policy from its start, and less memory perhaps."""
    chosen = dataclasses.replace(settings, recompute="cheap")
    monkeypatch.setattr(memory, "available_memory", lambda: Room(total(settings, "block"), "this machine has"))
    assert choose_recompute(chosen, asked=False).recompute == "block"
    with pytest.raises(ConfigError, match="training needs"):
        choose_recompute(chosen)
    monkeypatch.setattr(memory, "available_memory", lambda: Room(10**12, "this machine has"))
    assert choose_recompute(chosen, asked=False).recompute == "cheap"


def test_tokens_of_a_step_count():
    """Nine bytes each, whose number is one of --grad-accum: they may be more than the model."""
    settings = make_settings({**SIZES, "memory": "4GB"})
    assert batch_bytes(settings) == 9 * 8 * 64
    assert choose_recompute(settings).recompute
    with pytest.raises(ConfigError, match="training needs"):
        choose_recompute(dataclasses.replace(settings, grad_accum=1_000_000))
