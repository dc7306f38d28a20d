"""What a checkpoint may say, how large it may be, and which of several is taken."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import edited, flip_a_byte

from cllm_cli.errors import RunError
from cllm_cli.training import checkpoint, durable, tensor_files
from cllm_cli.training.checkpoint import LARGEST_MANIFEST, MOST_LOSSES
from cllm_cli.training.durable import entries_hash
from cllm_cli.training.resolve import model_config


def stating(folder, spaces=0, **figures):
    """Where the newest checkpoint stands that states these figures and is whole; and why others are passed over."""
    path = max(folder.checkpoints.iterdir()) / "manifest.json"
    manifest = json.loads(path.read_text("utf-8")) | figures
    text = json.dumps(manifest | {"sha256": entries_hash(manifest)})
    path.write_text(text.ljust(spaces), "utf-8")
    _, found, passed = checkpoint.newest(folder)
    return found["step"], passed


def tensors_of(folder):
    return load_file(newest(folder) / "state.safetensors")


def newest(folder):
    return max(folder.checkpoints.glob("step-*"))


def load(folder, fingerprint=None, **changes):
    settings = folder.read_settings()
    for name, value in changes.items():
        settings = type(settings)(**{**vars(settings), name: value})
    found = folder.read_facts()["fingerprint"] if fingerprint is None else fingerprint
    return checkpoint.load(folder, tensors_of(folder), settings, found)


# ---- what it may say


@pytest.mark.parametrize(
    "figures",
    [
        {"recent_losses": [1.0] * MOST_LOSSES},
        {"recent_losses": []},
        {"val_loss": None, "best_step": None, "best_val_loss": None, "evaluated_step": None, "sampled_step": None},
        {"seconds": 1e300, "loss_sum": -1e300, "val_loss": 0, "bits_per_byte": 1.5},
        {"position": 2**63 - 1, "metrics_bytes": 0, "loss_count": 0},
        {"something": "of a later version"},
    ],
)
def test_figures_of_a_run_are_read(folder, figures):
    assert stating(folder, **figures) == (2, [])


@pytest.mark.parametrize(
    "figures",
    [
        {"recent_losses": [1.0] * (MOST_LOSSES + 1)},
        {"recent_losses": [float("nan")]},
        {"recent_losses": ["1"]},
        {"recent_losses": 1},
        {"position": 2**63},
        {"position": -1},
        {"position": True},
        {"position": 1.0},
        {"position": None},
        {"loss_sum": None},
        {"seconds": float("inf")},
        {"seconds": -float("inf")},
        {"seconds": True},
        {"val_loss": float("nan")},
        {"best_step": "1"},
        {"step": 10**9},
        {"parts": {"state.safetensors": {}}},
        {"parts": {}},
        {"format": 0},
        {"format": "3"},
    ],
)
def test_figures_of_no_run_are_passed_over(folder, figures):
    """Their hash is right: anyone can compute it."""
    step, passed = stating(folder, **figures)
    assert step == 1
    assert "step-00000002" in passed[0]


def test_a_manifest_is_no_larger_than_a_mebibyte(folder):
    assert LARGEST_MANIFEST == 2**20
    assert MOST_LOSSES == 2**10
    assert stating(folder, spaces=LARGEST_MANIFEST) == (2, [])
    assert stating(folder, spaces=LARGEST_MANIFEST + 1)[0] == 1


def test_a_state_of_another_size_is_passed_over(folder):
    """Its hash is right, and the manifest's size is not."""
    path = max(folder.checkpoints.iterdir()) / "manifest.json"
    part = json.loads(path.read_text("utf-8"))["parts"]["state.safetensors"]
    step, passed = stating(folder, parts={"state.safetensors": part | {"bytes": part["bytes"] + 1}})
    assert (step, "its state is not as it was written" in passed[0]) == (1, True)


# ---- which is taken


def test_the_newest_checkpoint_is_taken(folder):
    progress, passed = load(folder)
    assert progress.step == 2
    assert passed == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: edited(path / "manifest.json", format=99),
        lambda path: edited(path / "manifest.json", step=None),
        lambda path: edited(path / "manifest.json", parts=None),
        lambda path: edited(path / "manifest.json", parts=[]),
        lambda path: (path / "manifest.json").write_text("{", "utf-8"),
        lambda path: (path / "manifest.json").unlink(),
        lambda path: flip_a_byte(path / "state.safetensors"),
        lambda path: os.truncate(path / "state.safetensors", 100),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_named(folder, damage):
    tensors, settings = tensors_of(folder), folder.read_settings()
    fingerprint = folder.read_facts()["fingerprint"]
    damage(newest(folder))
    progress, passed = checkpoint.load(folder, tensors, settings, fingerprint)
    assert progress.step == 1
    assert len(passed) == 1
    assert "step-00000002" in passed[0]
    assert newest(folder).name == "step-00000002"  # reading removes nothing
    checkpoint.tidy(folder, progress.step, 2)
    assert newest(folder).name == "step-00000001"
    damage(folder.checkpoints / "step-00000001")
    with pytest.raises(RunError, match="is whole: "):
        checkpoint.load(folder, tensors, settings, fingerprint)


def test_a_checkpoint_of_the_format_before_is_read(folder):
    """It has no losses of recent steps."""
    path = newest(folder) / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    assert len(manifest.pop("recent_losses")) == 2
    for number in (1, 2):
        manifest["format"] = number
        manifest["sha256"] = entries_hash(manifest)
        path.write_text(json.dumps(manifest), "utf-8")
        progress, passed = load(folder)
        if number == 1:
            assert (progress.step, progress.recent_losses, passed) == (2, (), [])
    assert progress.step == 1
    assert "its manifest is incomplete" in passed[0]


def test_a_checkpoint_under_another_name_is_passed_over(folder):
    newest(folder).rename(folder.checkpoints / "step-00000009")
    progress, passed = load(folder)
    assert progress.step == 1
    assert "it is of step 2" in passed[0]


def test_another_text_and_other_settings_are_refused(folder):
    with pytest.raises(RunError, match="the corpus is not the one"):
        load(folder, fingerprint="of another text")
    with pytest.raises(RunError, match="are not those of its checkpoint"):
        load(folder, lr=0.5)
    progress, _ = load(folder, steps=99)  # the length may change
    assert progress.step == 2
    progress, _ = load(folder, warmup=7)  # which follows from it, and is fixed late with --minutes
    assert progress.step == 2


def test_a_checkpoint_that_was_bound_to_its_warm_up_is_read(folder):
    path = newest(folder) / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    manifest["settings"] = checkpoint.settings_hash(folder.read_settings(), frozenset())
    path.write_text(json.dumps(manifest | {"sha256": entries_hash(manifest)}), "utf-8")
    assert load(folder)[0].step == 2
    with pytest.raises(RunError, match="are not those of its checkpoint"):
        load(folder, warmup=7)


def test_as_many_checkpoints_are_kept_as_the_settings_say(folder):
    settings = folder.read_settings()
    assert settings.keep == 2
    checkpoint.save(folder, checkpoint.Progress(step=3), {}, settings, "")
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["step-00000002", "step-00000003"]


def test_a_run_begins_at_nothing():
    assert set(vars(checkpoint.Progress()).values()) == {0, None, ()}


def test_without_checkpoints_there_is_no_progress(folder):
    tensors, settings = tensors_of(folder), folder.read_settings()
    shutil.rmtree(folder.checkpoints)
    assert checkpoint.load(folder, tensors, settings, "") == (None, [])


def test_a_checkpoint_is_saved_where_their_folder_is_gone(folder):
    shutil.rmtree(folder.checkpoints)
    checkpoint.save(folder, checkpoint.Progress(step=3), {}, folder.read_settings(), "")
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-00000003"]


def test_steps_of_nine_digits_come_after_those_of_eight(folder):
    for step in (99_999_999, 100_000_000):
        (folder.checkpoints / f"step-{step}").mkdir()
    passed = checkpoint.newest(folder)[2]
    assert ["step-100000000" in passed[0], "step-99999999" in passed[1]] == [True, True]


def test_what_is_beyond_is_removed_as_far_as_it_can_be(folder):
    """A file is no checkpoint, and does not stand in the way of anything."""
    (folder.checkpoints / "step-00000009").write_text("", "utf-8")
    (folder.checkpoints / "step-100000000").mkdir()
    checkpoint.tidy(folder, 1, 2)
    assert sorted(item.name for item in folder.checkpoints.iterdir()) == ["step-00000001", "step-00000009"]


def test_one_that_cannot_be_removed_is_left(folder, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "not yours")

    before = sorted(folder.checkpoints.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(os, "rmdir", denied)
        checkpoint.tidy(folder, 1, 2)
        checkpoint.tidy(folder, 2, 1)
    assert sorted(folder.checkpoints.iterdir()) == before


def test_all_but_the_last_are_removed_as_far_as_they_can_be(folder):
    (folder.checkpoints / "step-00000000").write_text("", "utf-8")
    checkpoint.tidy(folder, 2, 1)
    assert sorted(item.name for item in folder.checkpoints.iterdir()) == ["step-00000000", "step-00000002"]


def test_the_hash_of_settings_does_not_depend_on_their_order(folder, monkeypatch):
    settings, stated = folder.read_settings(), checkpoint.stated
    before = checkpoint.settings_hash(settings)
    monkeypatch.setattr(checkpoint, "stated", lambda one: dict(reversed(stated(one).items())))
    assert checkpoint.settings_hash(settings) == before


# ---- whether it fits, before memory is taken


def test_weights_of_another_size_are_told_before_memory_is_taken(folder):
    config = model_config(folder.read_settings())
    checkpoint.check_fits(folder, config)
    with pytest.raises(RunError, match=r"no checkpoint in .* is whole: .* is \(16,\), not \(32,\)|not \("):
        checkpoint.check_fits(folder, replace(config, n_embd=32))
    newest = max(folder.checkpoints.iterdir())
    (newest / "state.safetensors").write_bytes(b"")
    checkpoint.check_fits(folder, config)  # the one before has them
    shutil.rmtree(folder.checkpoints)
    folder.checkpoints.mkdir()
    checkpoint.check_fits(folder, config)
    with pytest.raises(RunError) as raised:
        checkpoint.check_fits(folder, replace(config, n_embd=32))
    assert str(folder.model) in raised.value.message
    assert "no checkpoint" not in raised.value.message
    folder.model.unlink()
    checkpoint.check_fits(folder, replace(config, n_embd=32))  # there is nothing that could not fit


def test_the_faults_of_the_newest_are_told(folder):
    config = model_config(folder.read_settings())
    for path in folder.checkpoints.iterdir():
        (path / "state.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match=r"no checkpoint in .* is whole: .*step-00000002"):
        checkpoint.check_fits(folder, config)


def test_weights_that_are_not_finite_are_not_resumed_from(folder):
    path = max(folder.checkpoints.iterdir()) / "state.safetensors"
    tensors = load_file(path)
    tensors["transformer.ln_f.weight"][0] = np.nan
    save_file(tensors, path)
    with pytest.raises(RunError, match="is not finite"):
        settled(folder, path)


def settled(folder, path):
    """Loads a state whose manifest was made to fit."""
    from cllm_cli.training.durable import file_hash

    part = {"bytes": path.stat().st_size, "sha256": file_hash(path)}
    assert stating(folder, parts={"state.safetensors": part}) == (2, [])
    tensors = {name: np.zeros_like(values) for name, values in load_file(path).items()}
    checkpoint.load(folder, tensors, folder.read_settings(), folder.read_facts()["fingerprint"])


# ---- what is no checkpoint of this run


@pytest.mark.parametrize("keep", [1, 2])
def test_what_has_another_name_takes_no_place(folder, keep):
    """A copy that somebody keeps beside the checkpoints is neither counted nor removed."""
    others = ["step-00000002.good", "step-000000009", "step-2", "step-x1", "step-٠٠٠٠٠٠٠٢"]
    for name in others:
        shutil.copytree(folder.checkpoints / "step-00000002", folder.checkpoints / name)
    (folder.checkpoints / "step-00000008").write_text("a file", "utf-8")
    checkpoint.tidy(folder, 2, keep)
    assert load(folder)[0].step == 2
    checkpoint.save(folder, checkpoint.Progress(step=3), {}, replace(folder.read_settings(), keep=keep), "")
    there = sorted(path.name for path in folder.checkpoints.iterdir())
    kept = ["step-00000002", "step-00000003"][-keep:]
    assert there == sorted([*kept, *others, "step-00000008"])


def test_one_of_a_later_format_is_refused_and_not_removed(folder):
    path = newest(folder) / "manifest.json"
    manifest = json.loads(path.read_text("utf-8")) | {"format": 3, "cllm": "9.1"}
    del manifest["parts"]  # it may keep its state in other files
    path.write_text(json.dumps(manifest | {"sha256": entries_hash(manifest)}), "utf-8")
    with pytest.raises(RunError, match=r"of format 3, of cllm '9.1'; cllm .* reads 1 and 2") as caught:
        load(folder)
    assert "move it out" in caught.value.hint


@pytest.mark.parametrize("name", ["manifest.json", "state.safetensors"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ETIMEDOUT])
def test_one_that_cannot_be_read_now_is_not_passed_over(folder, monkeypatch, name, number):
    """It would be removed."""
    path, real = newest(folder) / name, Path.open

    def failing(self, *args, **more):
        if self == path:
            raise OSError(number, os.strerror(number), str(self))
        return real(self, *args, **more)

    tensors, settings = tensors_of(folder), folder.read_settings()
    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(RunError, match=f"cannot read .*step-00000002: {os.strerror(number)}") as caught:
        checkpoint.load(folder, tensors, settings, folder.read_facts()["fingerprint"])
    assert "try again" in caught.value.hint


def test_the_only_one_of_a_later_format_is_refused_in_its_own_words(folder):
    """Not as damaged, with the advice to start over."""
    shutil.rmtree(folder.checkpoints / "step-00000001")
    path = newest(folder) / "manifest.json"
    manifest = json.loads(path.read_text("utf-8")) | {"format": 3, "cllm": "9.1"}
    path.write_text(json.dumps(manifest | {"sha256": entries_hash(manifest)}), "utf-8")
    (newest(folder) / "state.safetensors").rename(newest(folder) / "state.other")
    with pytest.raises(RunError, match="of format 3") as caught:
        checkpoint.check_fits(folder, model_config(folder.read_settings()))
    assert "--force" not in caught.value.hint


def test_checkpoints_that_cannot_be_listed_are_not_none(folder, monkeypatch):
    """The run would begin anew."""

    def failing(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(RunError, match=r"cannot use .*checkpoint: Input/output error"):
        folder.saved()


def test_too_little_address_space_is_no_damage(folder, monkeypatch):
    """What is damaged is passed over, and removed when the run goes on."""

    def full(*_):
        raise RunError("too large") from MemoryError()

    monkeypatch.setattr(checkpoint, "_read_manifest", full)
    with pytest.raises(RunError, match=r"cannot read .*step-00000002: too large"):
        checkpoint.newest(folder)


def test_what_can_be_done_about_one_that_cannot_be_read_is_told_before_memory_is_taken(folder, monkeypatch):
    opening = tensor_files.open_regular
    state = newest(folder) / "state.safetensors"

    def denied(path):
        if path == state:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opening(path)

    monkeypatch.setattr(tensor_files, "open_regular", denied)
    monkeypatch.setattr(durable, "open_regular", denied)
    with pytest.raises(RunError, match=r"cannot read .*step-00000002: Permission denied") as caught:
        checkpoint.check_fits(folder, model_config(folder.read_settings()))
    assert caught.value.hint == f"try again, or {checkpoint.MOVE_AWAY}"


def test_nor_does_it_say_that_none_is_whole(folder, monkeypatch):
    """Who is told to start over would remove a good run."""

    def full(*_, **more):
        raise MemoryError

    monkeypatch.setattr(tensor_files, "safe_open", full)
    with pytest.raises(RunError, match="do not fit into the address space") as caught:
        checkpoint.check_fits(folder, model_config(folder.read_settings()))
    assert "ulimit -v" in caught.value.hint
