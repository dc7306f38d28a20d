"""A run folder says what is in it: what stands there is not lost, what is damaged is named."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import edited, flip_a_byte, handles_within

from cllm_cli.errors import CllmError, ConfigError, RunError
from cllm_cli.text.tokenizers import tokenizer_from_json
from cllm_cli.training import checkpoint, folder_lock, run_folder
from cllm_cli.training.checkpoint import Progress
from cllm_cli.training.durable import TEMPORARY
from cllm_cli.training.folder_lock import LOCK
from cllm_cli.training.json_files import LARGEST_TEXT
from cllm_cli.training.resolve import model_config
from cllm_cli.training.run_folder import RunFolder


def names(path):
    return sorted(item.name for item in path.iterdir())


def contents(path):
    """All that lies below a folder, with what files hold."""
    return {item: item.read_bytes() if item.is_file() else None for item in path.rglob("*")}


def by_hand(config):
    """What config.toml says, without the line that tells whether somebody has edited it."""
    return config.read_text("utf-8").split("\n", 1)[1]


# ---- what may be made anew


def test_a_new_folder_and_an_empty_one_will_do(tmp_path):
    RunFolder(tmp_path / "new").check_new(force=False)
    RunFolder(tmp_path).check_new(force=False)


def test_a_run_that_was_trained_is_not_overwritten_unless_told(folder):
    with pytest.raises(RunError, match="there is a run in"):
        folder.check_new(force=False)
    folder.check_new(force=True)


def test_what_is_no_run_is_not_touched(tmp_path):
    (tmp_path / "letter.txt").write_text("dear", "utf-8")
    for force in (False, True):
        with pytest.raises(RunError, match="is not empty and no run"):
            RunFolder(tmp_path).check_new(force)
    with pytest.raises(RunError, match="is no folder"):
        RunFolder(tmp_path / "letter.txt").check_new(force=True)


def test_a_run_that_trained_nothing_may_be_started_over(folder):
    folder.model.unlink()
    shutil.rmtree(folder.checkpoints)
    folder.check_new(force=False)
    edited(folder.data / "corpus.json", from_stdin=True, sha256=None)  # its text cannot be read again
    with pytest.raises(RunError, match="there is a run in"):
        folder.check_new(force=False)
    (folder.data / "corpus.json").write_text("{", "utf-8")  # nobody knows
    with pytest.raises(RunError, match="there is a run in"):
        folder.check_new(force=False)


def test_weights_from_elsewhere_are_no_work(folder):
    folder.model.unlink()
    shutil.rmtree(folder.checkpoints)
    (folder.checkpoints / "step-00000000").mkdir(parents=True)
    folder.check_new(force=False)


def test_a_checkpoint_alone_is_work(folder):
    folder.model.unlink()
    with pytest.raises(RunError, match="there is a run in"):
        folder.check_new(force=False)


def test_a_folder_that_is_called_much_like_a_checkpoint_is_none(folder):
    shutil.rmtree(folder.checkpoints)
    folder.model.unlink()
    (folder.checkpoints / "step-x1").mkdir(parents=True)
    folder.check_new(force=False)


def test_a_link_that_leads_out_is_not_followed_to_see_whether_there_is_work(folder, tmp_path):
    facts = folder.data / "corpus.json"
    facts.rename(tmp_path / "outside.json")
    facts.symlink_to(tmp_path / "outside.json")
    with pytest.raises(RunError, match="leads out"):
        folder.check_new(force=False)


def test_what_a_killed_start_leaves_may_be_started_over(folder):
    folder.config.unlink()
    folder.model.unlink()
    folder.metrics.unlink()
    shutil.rmtree(folder.checkpoints)
    folder.check_new(force=False)
    folder.checkpoints.mkdir()
    folder.check_new(force=False)  # all that there may be
    (folder.path / LOCK).unlink()
    with pytest.raises(RunError, match="is not empty and no run"):
        folder.check_new(force=False)


def test_a_folder_that_cannot_be_listed_is_named(folder, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(RunFolder, "exists", refuse)
    with pytest.raises(RunError, match=r"cannot use .*: Permission denied"):
        folder.check_new(force=False)


def test_what_says_that_there_is_a_run_goes_when_the_rest_is_gone_for_good(folder, monkeypatch):
    """A power cut between the two must not leave a folder that is no run and not empty either."""
    monkeypatch.setattr(run_folder, "sync_folder", lambda path: left.append(names(path)))
    left = []
    folder.clear()
    assert left == [[LOCK, "config.toml"]]
    assert names(folder.path) == [LOCK]


def test_a_lock_is_on_the_disk_before_anything_else(tmp_path, monkeypatch):
    """What a start that failed leaves is known by it."""
    monkeypatch.setattr(folder_lock, "sync_folder", lambda path: left.append(names(path)))
    left = []
    folder = RunFolder(tmp_path / "run")
    folder.lock()
    folder.unlock()
    assert left == [[LOCK]]


def test_clearing_removes_the_run_and_nothing_else(folder):
    (folder.path / "notes.txt").write_text("mine", "utf-8")
    folder.clear()
    assert {item.name for item in folder.path.iterdir()} == {"notes.txt", LOCK}


def test_what_cannot_be_removed_is_named(folder, monkeypatch):
    def refuse(*args, **more):
        raise OSError(5, "Input/output error")

    (folder.path / f"{TEMPORARY}1-left").touch()
    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(RunError, match=r"cannot use .*/run: Input/output error"):
        folder.clear()
    with pytest.raises(RunError, match=r"cannot write to .*/run: Input/output error"):
        folder.lock()
    monkeypatch.undo()
    RunFolder(folder.path).lock()  # it was given back


# ---- the lock


def test_a_lock_is_held_until_it_is_given_back(folder):
    other = RunFolder(folder.path)
    with folder.locked():
        pass
    with pytest.raises(RunError, match="another process is training"):
        other.lock()
    folder.unlock()
    folder.unlock()
    with pytest.raises(ZeroDivisionError), other.locked():
        raise ZeroDivisionError
    folder.lock()
    folder.unlock()


def test_a_folder_that_was_made_goes_where_nothing_came_of_it(tmp_path, folder):
    def nothing(where):
        with where.locked():
            raise ZeroDivisionError

    for where in (RunFolder(tmp_path / "new"), folder):
        with pytest.raises(ZeroDivisionError):
            nothing(where)
    assert not (tmp_path / "new").exists()
    assert folder.model.exists()


def test_a_folder_that_is_gone_already_hides_no_error(tmp_path):
    def gone():
        with RunFolder(tmp_path / "new").locked():
            shutil.rmtree(tmp_path / "new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gone()


def test_a_lock_that_is_not_had_leaves_no_handle(folder):
    folder.lock()
    with pytest.raises(RunError, match="another process is training"):
        RunFolder(folder.path).lock()
    assert len(handles_within(folder.path)) == 1
    folder.unlock()
    assert handles_within(folder.path) == []


@pytest.mark.parametrize("left", ["nothing", "the folder", "another run"])
def test_what_has_taken_a_runs_place_is_left_alone(folder, left):
    """It was removed while it was trained, and perhaps somebody has begun another one there."""
    folder.lock()
    model, settings, tokenizer = folder.load_model(), folder.read_settings(), folder.read_tokenizer()
    other = shutil.copytree(folder.path, folder.path.with_name("other"))
    shutil.rmtree(folder.path)
    if left == "the folder":
        folder.path.mkdir()
    elif left == "another run":
        other.rename(folder.path)
    before = contents(folder.path)
    for write in (
        lambda: folder.write_model(model.arena, 7, 1.0),
        lambda: folder.write_settings(settings),
        lambda: folder.write_sizes(model, tokenizer),
        lambda: checkpoint.save(folder, Progress(step=7), model.arena.tensors(), settings, ""),
        lambda: checkpoint.tidy(folder, 0, 1),
    ):
        with pytest.raises(RunError, match="not the folder that this run has locked"):
            write()
    assert contents(folder.path) == before
    folder.unlock()


def test_a_lock_that_cannot_be_looked_at_is_told_as_that(folder, monkeypatch):
    def stale(_):
        raise OSError(errno.ESTALE, "Stale file handle")

    folder.lock()
    monkeypatch.setattr(folder_lock.os, "fstat", stale)
    with pytest.raises(RunError, match=r"cannot use .*: Stale file handle"):
        folder.check_held()
    monkeypatch.undo()
    folder.check_held()
    folder.unlock()


def test_a_lock_whose_file_was_replaced_meanwhile_is_none(folder, monkeypatch):
    def replaced(*_):
        (folder.path / LOCK).unlink()
        (folder.path / LOCK).touch()

    monkeypatch.setattr(folder_lock.fcntl, "flock", replaced)
    with pytest.raises(RunError, match="not the folder that this run has locked"):
        folder.lock()
    assert handles_within(folder.path) == []


def test_a_run_that_another_process_has_trained_meanwhile_stays(trained, tmp_path, monkeypatch):
    """Between making the folder and locking it."""
    new = RunFolder(tmp_path / "new")

    def made_and_used(path):
        shutil.copytree(trained, path)
        return True

    monkeypatch.setattr(folder_lock, "make_folder", made_and_used)
    with pytest.raises(RunError, match="there is a run"), new.locked():
        new.check_new(force=False)
    assert new.model.exists()
    assert new.saved()


def test_a_start_that_fails_removes_no_folder_that_took_the_place_of_its_own(tmp_path):
    new = RunFolder(tmp_path / "new")

    def fail():
        shutil.rmtree(new.path)
        new.path.mkdir()
        raise RunError("of a start")

    with pytest.raises(RunError, match="of a start"), new.locked():
        fail()
    assert names(tmp_path) == ["new"]
    assert handles_within(tmp_path) == []


def test_weights_that_were_never_saved_are_told_as_that(folder):
    folder.model.unlink()
    with pytest.raises(RunError, match=r"has no weights: .*model.safetensors is missing"), folder.open_model():
        pass


@pytest.mark.parametrize("name", [".tmp-notes", ".tmp-", ".tmp-1", ".tmp-x-model", "tmp-1-model"])
def test_a_file_that_no_writer_calls_so_is_somebody_elses(folder, tmp_path, name):
    (folder.path / name).write_text("mine", "utf-8")
    folder.lock()
    folder.unlock()
    assert (folder.path / name).exists()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / name).touch()
    with pytest.raises(RunError, match="is not empty and no run"):
        RunFolder(tmp_path / "new").check_new(force=False)


def test_a_lock_that_was_given_back_closes_nothing_more(folder, tmp_path):
    """The number of its handle is another file's by then."""
    folder.lock()
    folder.unlock()
    with (tmp_path / "other").open("wb") as file:
        folder.unlock()
        file.write(b"1")
    assert (tmp_path / "other").read_bytes() == b"1"


def test_a_folder_with_a_link_that_leads_out_is_not_locked(tmp_path, folder):
    """What is left over in it would be removed."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / f"{TEMPORARY}1-mine").write_text("mine", "utf-8")
    shutil.rmtree(folder.data)
    folder.data.symlink_to(tmp_path / "outside")
    with pytest.raises(RunError, match=r"data is a link that leads out of the run folder"):
        folder.lock()
    assert names(tmp_path / "outside") == [f"{TEMPORARY}1-mine"]


def test_a_folder_that_cannot_be_locked_is_named(tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(RunError, match="cannot write to"):
        RunFolder(tmp_path / "file" / "run").lock()


# ---- what is damaged


def test_a_run_is_read_as_it_was_written(folder):
    settings = folder.read_settings()
    assert settings.n_embd == 16
    tokenizer = folder.read_tokenizer()
    assert folder.read_facts()["from_stdin"] is False
    assert folder.read_validation(tokenizer).size > 1
    assert folder.load_model().arena.count == model_count(folder)


def model_count(folder):
    return sum(values.size for values in load_file(folder.model).values())


@pytest.mark.parametrize(
    ("damage", "read"),
    [
        (lambda folder: folder.config.write_text("lr = ", "utf-8"), "read_settings"),
        (lambda folder: folder.config.write_text("lr = -1.0", "utf-8"), "read_settings"),
        (lambda folder: os.truncate(folder.config, LARGEST_TEXT + 1), "read_settings"),
        (lambda folder: folder.config.unlink(), "read_settings"),
        (lambda folder: folder.tokenizer.unlink(), "read_tokenizer"),
        (lambda folder: folder.tokenizer.write_text("[]", "utf-8"), "read_tokenizer"),
        (lambda folder: folder.tokenizer.write_text("{", "utf-8"), "read_tokenizer"),
        (lambda folder: folder.tokenizer.write_bytes(b"\xff"), "read_tokenizer"),
        (lambda folder: edited(folder.data / "corpus.json", fingerprint=7), "read_facts"),
        (lambda folder: edited(folder.data / "corpus.json", from_stdin=None), "read_facts"),
        (lambda folder: folder.model.write_bytes(b"short"), "load_model"),
        (lambda folder: os.truncate(folder.model, folder.model.stat().st_size - 4), "load_model"),
        (lambda folder: folder.model.unlink(), "load_model"),
    ],
)
def test_what_is_damaged_or_missing_is_a_run_error(folder, damage, read):
    damage(folder)
    with pytest.raises(RunError):
        getattr(folder, read)()


def test_settings_that_were_changed_or_cut_are_seen(folder):
    whole = folder.config.read_text("utf-8")
    for text in (whole.replace("log_every = 1", "log_every = 3"), whole[:-20]):
        folder.config.write_text(text, "utf-8")
        with pytest.raises(RunError, match=r"config\.toml is not as it was written"):
            folder.read_settings()


def test_settings_may_be_edited_by_hand(folder):
    folder.config.write_text(by_hand(folder.config).replace("log_every = 1", "log_every = 3"), "utf-8")
    assert folder.read_settings().log_every == 3


def test_a_token_and_a_fact_that_were_changed_are_seen(folder):
    facts = json.loads(folder.tokenizer.read_text("utf-8"))
    folder.tokenizer.write_text(json.dumps(facts | {"sha256": "0" * 64}), "utf-8")
    with pytest.raises(RunError, match="tokenizer is damaged: it is not as it was written"):
        folder.read_tokenizer()
    del facts["sha256"]  # as earlier versions wrote it
    folder.tokenizer.write_text(json.dumps(facts), "utf-8")
    assert folder.read_tokenizer().vocab_size == 256
    edited(folder.data / "corpus.json", train_bytes=1)
    with pytest.raises(RunError, match=r"corpus\.json is damaged"):
        folder.read_facts()
    edited(folder.data / "corpus.json", sha256=None)
    assert folder.read_facts()["train_bytes"] == 1


def test_a_token_of_the_validation_text_that_was_changed_is_seen(folder):
    flip_a_byte(folder.data / "tokens.safetensors")
    with pytest.raises(RunError, match=r"tokens\.safetensors is damaged"):
        folder.read_validation(folder.read_tokenizer())


def test_a_run_with_a_link_that_leads_out_is_not_read(tmp_path, folder):
    (tmp_path / "outside").mkdir()
    (folder.checkpoints / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(RunError, match="link is a link that leads out of the run folder"):
        folder.read_settings()


def test_a_weight_that_was_changed_is_seen(folder):
    flip_a_byte(folder.model)
    with pytest.raises(RunError, match="is not as it was written"):
        folder.load_model()


def test_weights_of_another_precision_are_refused(folder):
    save_file({name: values.astype("float64") for name, values in load_file(folder.model).items()}, folder.model)
    with pytest.raises(RunError, match="is of type F64, not F32"):
        folder.load_model()


def test_tensors_of_another_model_are_refused(folder):
    text = by_hand(folder.config)
    folder.config.write_text(text.replace("n_embd = 16", "n_embd = 32"), "utf-8")
    with pytest.raises(RunError, match=r"is .*, not "):
        folder.load_model()
    folder.config.write_text(text.replace("n_layer = 1", "n_layer = 2"), "utf-8")
    with pytest.raises(RunError, match="has no tensor"):
        folder.load_model()


def test_a_model_with_fewer_rows_than_the_tokenizer_has_ids_is_refused(folder):
    text = by_hand(folder.config)
    folder.config.write_text(text.replace("vocab_size = 256", "vocab_size = 100"), "utf-8")
    with pytest.raises(RunError, match="has 256 ids, the model 100"):
        folder.read_tokenizer()


def test_a_configuration_without_sizes_is_named(folder):
    lines = [line for line in by_hand(folder.config).splitlines() if not line.startswith("n_hidden")]
    folder.config.write_text("\n".join(lines), "utf-8")
    with pytest.raises(RunError, match="lacks n_hidden"):
        model_config(folder.read_settings())


def test_where_there_is_no_run_none_is_read(tmp_path):
    with pytest.raises(RunError, match="there is no run in"):
        RunFolder(tmp_path / "none").read_settings()


def test_weights_that_are_not_finite_are_refused(folder):
    """Someone else's, or of a version that saved them."""
    tensors = dict(load_file(folder.model))
    name = next(iter(tensors))
    tensors[name] = np.full_like(tensors[name], np.nan)
    save_file(tensors, folder.model)
    with pytest.raises(RunError, match=f"{re.escape(name)} is not finite"):
        folder.load_model()


def test_every_error_above_is_one_of_ours():
    assert issubclass(RunError, CllmError)
    assert issubclass(ConfigError, CllmError)


def test_a_folder_of_others_is_not_searched(tmp_path, monkeypatch):
    """--out / would walk through all disks."""
    (tmp_path / "etc").mkdir()
    monkeypatch.setattr(type(tmp_path), "rglob", lambda *_: pytest.fail("searched"))
    with pytest.raises(RunError, match="is not empty and no run"):
        RunFolder(tmp_path).check_new(force=False)


# ---- what is read of it, and where it goes


def test_validation_tokens_that_the_tokenizer_does_not_know_are_refused(folder):
    path = folder.data / "tokens.safetensors"
    tokens = {name: values.copy() for name, values in load_file(path).items()}
    tokens["val"][-1] = 255
    save_file(tokens, path)
    small = tokenizer_from_json({"kind": "char", "vocab_size": 2, "end_of_text": None, "characters": "ab"})
    with pytest.raises(CllmError):
        folder.read_validation(small)
    assert folder.read_validation(folder.read_tokenizer())[-1] == 255


def test_no_memory_is_taken_for_a_model_that_its_file_does_not_hold(folder, monkeypatch):
    def taken(*args):
        raise AssertionError

    settings = folder.read_settings()
    monkeypatch.setattr(run_folder, "Model", taken)
    monkeypatch.setattr(folder, "read_settings", lambda: replace(settings, n_embd=32, n_hidden=128))
    with pytest.raises(RunError, match=r"is \(.*\), not \("):
        folder.load_model()


def test_the_best_weights_are_read_into_an_arena(folder):
    arena = folder.load_model().arena
    best = arena.values.copy()
    arena.values[...] = 0
    folder.read_weights(arena)
    assert np.array_equal(arena.values, best)
    assert best.any()


def test_a_model_has_the_dropout_of_its_settings(folder):
    settings = folder.read_settings()
    assert model_config(replace(settings, dropout=0.25)).dropout == 0.25
    assert model_config(replace(settings, dropout=None)).dropout == 0.0


def test_a_link_to_a_checkpoint_is_none(tmp_path):
    run = RunFolder(tmp_path)
    (run.checkpoints / "step-00000007").mkdir(parents=True)
    (run.checkpoints / "step-00000009").symlink_to("step-00000007")
    assert run.saved() == {7: run.checkpoints / "step-00000007"}
