"""What a run starts from: new, resumed, from another's weights, or for timing alone."""

from __future__ import annotations

import errno
import io
import os
import shutil
from pathlib import Path

import numba
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny import TINY, flip_a_byte, handles_within
from tokenizer_files import byte_level

from cllm_cli.config import Settings
from cllm_cli.errors import ConfigError, CorpusError, RunError
from cllm_cli.kernels import ahead
from cllm_cli.text.corpus import read_corpus
from cllm_cli.text.tokenized import corpus_chunks, how_read
from cllm_cli.training import checkpoint, compiling, session, tensor_files, train
from cllm_cli.training.loop import Loop
from cllm_cli.training.records import json_line
from cllm_cli.training.run_folder import RunFolder


def names_below(folder):
    return sorted(item.name for item in folder.rglob("*"))


def losses(records):
    return [record.loss for record in records if record.event == "step"]


def notices(records):
    return [record.message for record in records if record.event == "notice"]


def test_a_run_on_standard_input_goes_on_from_what_it_kept(text, tmp_path):
    data = text.read_bytes()
    whole = losses(train(["-"], tmp_path / "whole", stdin=io.BytesIO(data), **TINY))
    first = losses(train(["-"], tmp_path / "out", stdin=io.BytesIO(data), **TINY | {"stop_after": 3}))
    assert first + losses(train(["-"], tmp_path / "out", resume=True)) == whole


def test_another_text_is_refused_on_resuming(run, text, tmp_path):
    list(run(stop_after=3))
    text.write_text(text.read_text("utf-8").replace("line 1 ", "line one "), "utf-8")
    with pytest.raises(RunError, match="the corpus is not the one"):
        list(run(resume=True))


def test_without_a_checkpoint_a_run_starts_again(run, tmp_path):
    whole = losses(run())
    for path in (tmp_path / "out" / "checkpoint").iterdir():
        for item in path.iterdir():
            item.unlink()
        path.rmdir()
    (tmp_path / "out" / "metrics.jsonl").unlink()
    records = list(run(resume=True))
    assert any("starts again from step 0" in each for each in notices(records))
    assert losses(records) == whole


def test_the_file_that_a_tokenizer_was_read_from_is_not_needed_again(run, tmp_path):
    """One of characters is made of the text once more, since it cannot read another text's."""
    list(run("first", tokenizer="char"))
    whole = losses(run("whole", tokenizer=str(tmp_path / "first" / "tokenizer.json")))
    first = losses(run(tokenizer=str(tmp_path / "first" / "tokenizer.json"), stop_after=3))
    (tmp_path / "first").rename(tmp_path / "elsewhere")
    assert first + losses(run(resume=True)) == whole


def test_a_run_that_never_saved_and_lost_an_empty_folder_starts_again(run, tmp_path):
    """As when it was copied by what leaves empty folders out."""
    next(run())
    folder = RunFolder(tmp_path / "out")
    shutil.rmtree(folder.checkpoints)
    assert len(losses(run(resume=True))) == 6


@pytest.mark.parametrize("left", ["nothing", "the folder", "the folder, and no metrics"])
def test_a_run_whose_checkpoints_are_gone_keeps_its_best_weights_and_its_metrics(run, tmp_path, left):
    list(run())
    folder = RunFolder(tmp_path / "out")
    before = folder.model.read_bytes(), folder.metrics.read_bytes()
    shutil.rmtree(folder.checkpoints)
    if left != "nothing":
        folder.checkpoints.mkdir()
    if left.endswith("no metrics"):  # nor was anything saved, for all that is known
        folder.metrics.write_text(json_line({"event": "sample", "text": '"event":"checkpoint"'}), "utf-8")
        assert losses(run(resume=True))
        return
    with pytest.raises(RunError, match="are gone") as caught:
        list(run(resume=True))
    assert "--init-from" in caught.value.hint
    assert (folder.model.read_bytes(), folder.metrics.read_bytes()) == before
    assert handles_within(folder.path) == []


def test_checkpoints_that_are_removed_meanwhile_are_made_again(run, tmp_path):
    folder = RunFolder(tmp_path / "out")
    for record in run(save_every=3):
        if record.event == "checkpoint":
            shutil.rmtree(folder.checkpoints)
            saved = record.step
    assert saved > 3
    assert not folder.saved()


def test_a_damaged_checkpoint_is_told(run, tmp_path):
    list(run(save_every=2))
    (tmp_path / "out" / "checkpoint" / "step-00000006" / "manifest.json").unlink()
    records = list(run(resume=True))
    assert any(each.startswith("passed over: ") for each in notices(records))
    assert len(losses(records)) == 2


def test_weights_are_taken_from_a_model_of_the_same_sizes(run, tmp_path):
    list(run("first"))
    with pytest.raises(ConfigError, match="the model's sizes are not those of"):
        list(run("second", init_from=tmp_path / "first", n_embd=32))
    with pytest.raises(RunError):
        list(run("second", init_from=tmp_path / "none"))


def test_weights_are_of_use_with_their_own_tokenizer_alone(run, tmp_path):
    list(run("first"))
    with pytest.raises(ConfigError, match="needs the tokenizer of that run, byte"):
        list(run("second", init_from=tmp_path / "first", tokenizer="char"))


def test_a_width_that_was_given_gets_heads_that_divide_it(text):
    corpus = session.load_corpus([text], "byte", 0.1, None, None)
    found = session.resolve(Settings(n_embd=50), corpus)
    assert found.n_embd % found.n_head == 0


def test_kernels_that_are_made_ready_are_told_one_by_one(monkeypatch):
    ready = [("one", 0, 2, ahead.HERE), ("two", 1, 2, ahead.LOAD)]
    monkeypatch.setattr(compiling, "compile_ahead", lambda calls, workers: iter(ready))
    notice, one, two, done = compiling.compile_kernels([])
    assert "one had to be compiled in this process" in notice.message
    assert (one.loading, two.loading) == (False, True)
    assert done.kernels == 2


def test_kernels_that_no_folder_keeps_are_told_once(monkeypatch):
    ready = [("one", 0, 2, ahead.UNKEPT), ("two", 1, 2, ahead.UNKEPT)]
    monkeypatch.setattr(compiling, "compile_ahead", lambda calls, workers: iter(ready))
    notice, one, two, _ = compiling.compile_kernels([])
    assert "every command compiles anew: set CLLM_CACHE_DIR" in notice.message
    assert (one.loading, two.loading) == (False, False)


@pytest.mark.parametrize(
    ("target", "doing", "told"),
    [
        (compiling.NATIVE, ahead.COMPILE, 1),
        (compiling.NATIVE, ahead.LOAD, 0),
        ("x86-64-v3", ahead.COMPILE, 0),
    ],
)
def test_a_cpu_that_the_kernels_that_came_along_are_not_for_is_told_once(monkeypatch, target, doing, told):
    monkeypatch.setattr(compiling, "TARGET", target)
    monkeypatch.setattr(compiling, "shipped_levels", lambda: ["x86-64-v4", "x86-64-v3"])
    monkeypatch.setattr(compiling, "compile_ahead", lambda *_: iter([("one", 0, 2, doing), ("two", 1, 2, doing)]))
    notices = [record.message for record in compiling.compile_kernels([]) if record.event == "notice"]
    message = "the kernels that came along are for x86-64-v4 and x86-64-v3: compiling for this CPU, once"
    assert notices == [message] * told


def test_what_another_process_has_trained_while_the_text_was_read_stays(run, trained, tmp_path, monkeypatch):
    lock = RunFolder.lock

    def lock_late(folder):
        shutil.copytree(trained, folder.path)
        lock(folder)

    monkeypatch.setattr(RunFolder, "lock", lock_late)
    with pytest.raises(RunError, match="there is a run in"):
        list(run())
    before = {item.relative_to(trained): item.read_bytes() for item in trained.rglob("*") if item.is_file()}
    assert {name: (tmp_path / "out" / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("at", ["create", "write_sizes"])
def test_a_run_that_takes_a_new_ones_place_is_not_cleared(run, trained, tmp_path, monkeypatch, at):
    made = getattr(RunFolder, at)

    def replaced(folder, *arguments):
        if folder.path.name == "out":
            shutil.rmtree(folder.path)
            shutil.copytree(trained, folder.path)
        made(folder, *arguments)

    monkeypatch.setattr(RunFolder, at, replaced)
    with pytest.raises(RunError, match="not the folder that this run has locked"):
        list(run())
    before = {item.relative_to(trained): item.read_bytes() for item in trained.rglob("*") if item.is_file()}
    assert {name: (tmp_path / "out" / name).read_bytes() for name in before} == before


def test_a_run_that_takes_the_place_of_a_resumed_one_keeps_its_metrics(run, trained, tmp_path):
    list(run(stop_after=2))
    records = train([tmp_path / "text.txt"], tmp_path / "out", resume=True)
    ready = session.resume([tmp_path / "text.txt"], tmp_path / "out", {})
    shutil.rmtree(tmp_path / "out")
    shutil.copytree(trained, tmp_path / "out")
    before = (tmp_path / "out" / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match="not the folder that this run has locked"):
        list(Loop(ready).run())
    assert (tmp_path / "out" / "metrics.jsonl").read_bytes() == before
    records.close()


@pytest.mark.parametrize("fault", ["flipped", "gone", "short", "another model's"])
@pytest.mark.parametrize("stop_after", [4, 6])
def test_a_run_whose_best_weights_are_lost_goes_on_and_has_some_again(run, tmp_path, fault, stop_after):
    whole = losses(run("whole"))
    first = losses(run(stop_after=stop_after))
    folder = RunFolder(tmp_path / "out")
    if fault == "flipped":
        flip_a_byte(folder.model)
    elif fault == "gone":
        folder.model.unlink()
    elif fault == "short":
        os.truncate(folder.model, folder.model.stat().st_size - 1)
    else:
        save_file({"w": np.zeros(3, np.float32)}, folder.model)
    found = list(run(resume=True))
    assert first + losses(found) == whole
    (told,) = notices(found)
    assert f"instead of the best weights, of step {3 * (stop_after // 3)}, there are those of step {stop_after}" in told
    assert np.isfinite(folder.load_model().arena.values).all()
    again = notices(run(resume=True, steps=9))
    _, manifest, _ = checkpoint.newest(folder)
    assert manifest["best_step"] in (6, 9)
    assert notices(run(resume=True)) == []
    if stop_after == 6:  # nothing was scored since, so what there is says that it is not the best
        (told,) = again
        assert "has not the best weights any more; instead of the best weights, of step 6" in told
    else:
        assert again == []


def test_best_weights_that_cannot_be_read_at_the_moment_are_no_lost_ones(run, tmp_path, monkeypatch):
    list(run(stop_after=4))
    folder = RunFolder(tmp_path / "out")
    before, opening = folder.model.read_bytes(), tensor_files.open_regular

    def denied(path):
        if path == folder.model:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return opening(path)

    monkeypatch.setattr(tensor_files, "open_regular", denied)
    with pytest.raises(RunError, match=r"cannot read .*model.safetensors: Input/output error"):
        list(run(resume=True))
    assert folder.model.read_bytes() == before
    monkeypatch.undo()
    assert notices(run(resume=True)) == []


def test_nor_are_those_that_cannot_even_be_looked_at(run, tmp_path, monkeypatch):
    """Path.exists() says of a stale handle that there is nothing, from Python 3.14 on."""
    list(run(stop_after=4))
    folder = RunFolder(tmp_path / "out")

    def stale(path, **_):
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(Path, "stat", stale)
    with (
        pytest.raises(RunError, match=r"cannot read .*model.safetensors: Stale file handle") as caught,
        folder.open_model(),
    ):
        pass
    assert not checkpoint.is_damage(caught.value)
    with pytest.raises(RunError, match="Stale file handle"):
        folder.check_links()


def test_a_start_that_fails_leaves_no_run(run, tmp_path, monkeypatch):
    def full(*_):
        raise RunError("cannot write: no space left")

    list(run("first"))
    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(RunError, match="no space left"):
        list(run("second", init_from=tmp_path / "first"))
    assert not RunFolder(tmp_path / "second").exists()
    RunFolder(tmp_path / "second").check_new(force=False)


def test_a_text_that_is_too_short_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "short.txt").write_text("short", "utf-8")
    with pytest.raises(CorpusError):
        list(train([tmp_path / "short.txt"], tmp_path / "out", **TINY))
    assert not (tmp_path / "out").exists()


def test_a_window_longer_than_the_text_is_refused_before_anything_is_written(run, tmp_path):
    with pytest.raises(CorpusError, match="a window of 10,000 needs"):
        list(run(block_size=10_000))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_has_the_threads_that_were_asked_for(run, set_threads, resume):
    for threads in (2, 1):
        if resume:
            list(run(f"{threads}", threads=3 - threads, stop_after=2))
        records = run(f"{threads}", threads=threads, resume=resume)
        next(records)
        assert numba.get_num_threads() == threads
        records.close()


def test_weights_that_do_not_fit_are_refused_before_memory_is_taken(run, monkeypatch):
    def misfit(*_):
        raise RunError("they do not fit")

    list(run(stop_after=2))
    monkeypatch.setattr(checkpoint, "check_fits", misfit)
    monkeypatch.setattr(session, "Model", lambda *_, **__: pytest.fail("memory was taken"))
    with pytest.raises(RunError, match="they do not fit"):
        list(run(resume=True))


def test_a_run_with_a_text_of_its_own_to_validate_on_goes_on_from_a_store_of_both(run, text, tmp_path):
    val = tmp_path / "val.txt"
    val.write_text("another text to be scored\n" * 9, "utf-8")
    whole = losses(run("whole", val=str(val)))
    first = losses(run(val=str(val), stop_after=3))
    corpus = read_corpus([text], "byte", 0.1, val, contents=True)
    (tmp_path / "both.tok").write_bytes(b"".join(corpus_chunks(corpus, "byte", None, how_read(Settings()))))
    val.unlink()
    assert first + losses(run("out", tmp_path / "both.tok", resume=True)) == whole


@pytest.fixture
def store(text, tmp_path):
    """A token store of that text, which was read as UTF-8."""
    corpus = read_corpus([text], "byte", 0.1, contents=True)
    path = tmp_path / "text.tok"
    path.write_bytes(b"".join(corpus_chunks(corpus, "byte", 0.1, how_read(Settings()))))
    return path


@pytest.mark.parametrize("resume", [False, True])
def test_how_a_store_was_read_cannot_be_changed(run, store, resume):
    if resume:
        list(run("out", store, stop_after=2))
    with pytest.raises(ConfigError, match="encoding"):
        list(run("out", store, resume=resume, encoding="latin-1"))


def test_a_run_goes_on_without_the_file_of_its_tokenizer(run, text, tmp_path):
    path = tmp_path / "tokenizer.json"
    byte_level(300).save(str(path))
    first = losses(run("out", text, tokenizer=str(path), stop_after=3))
    path.unlink()
    assert len(first + losses(run("out", text, resume=True))) == 6


def test_another_text_is_told_of_also_where_a_tokenizer_knows_none_of_its_characters(run, text):
    list(run(tokenizer="char", stop_after=3))
    text.write_text("ÄÖÜ" * 600, "utf-8")
    with pytest.raises(RunError, match="the corpus is not the one"):
        list(run(resume=True))


def test_a_run_that_starts_over_has_nothing_of_the_one_before(run, tmp_path):
    list(run(steps=6))
    list(run(force=True, steps=2, save_every=1))
    folder = RunFolder(tmp_path / "out")
    assert sorted(folder.saved()) == [1, 2]
    assert folder.metrics.read_text("utf-8").count('"event":"start"') == 1


def test_a_start_over_that_fails_leaves_no_half_a_run(run, tmp_path, monkeypatch):
    list(run())
    monkeypatch.setattr(RunFolder, "write_settings", lambda *_: pytest.fail("full"))
    with pytest.raises(pytest.fail.Exception):
        list(run(force=True))
    assert names_below(tmp_path / "out") == [".lock"]


def test_the_length_of_a_run_may_change(run, tmp_path):
    list(run(stop_after=2))
    assert len(losses(run(resume=True, steps=8))) == 6
    list(run("other", stop_after=2))
    settings = RunFolder(tmp_path / "other").read_settings()
    assert session.resumed_settings(settings, {"epochs": 2.0}).epochs == 2.0
    assert session.resumed_settings(settings, {"epochs": 2.0}).steps is None
    assert session.resumed_settings(settings, {}).stop_after is None


def test_a_rehearsal_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = session.rehearsal(Settings(n_layer=1, n_head=2, n_embd=16, block_size=8, steps=3), 50, {"batch_size": 3})
    assert found.stepper.batch == 3
    assert found.model.config.vocab_size == 50
    plain = session.rehearsal(Settings(n_layer=1, n_head=2, n_embd=16, block_size=8, steps=3, batch_size=2), 300)
    assert plain.stepper.batch == 2
    assert list(tmp_path.iterdir()) == []
