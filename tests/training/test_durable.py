"""The one writer: what it has written is whole, and nothing is replaced before the new file is on the disk."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import handles_within

from cllm_cli.errors import RunError
from cllm_cli.training import durable
from cllm_cli.training.durable import mapped_tensor, remove_temporaries, tensor_chunks, write_file, write_folder


def names_in(folder):
    return sorted(item.name for item in folder.iterdir())


@pytest.fixture
def journal(monkeypatch):
    """What was flushed and renamed, in order."""
    done = []
    fsync, replace = os.fsync, Path.replace

    def flushed(handle):
        done.append(("fsync", Path(f"/proc/self/fd/{handle}").readlink().name))
        fsync(handle)

    def renamed(path, target):
        done.append(("rename", path.name, Path(target).name))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", renamed)
    return done


def test_a_file_is_flushed_then_renamed_then_its_folder_flushed(tmp_path, journal):
    facts = write_file(tmp_path / "file", [b"ab", memoryview(b"cd")])
    temporary = journal[0][1]
    assert durable.is_temporary(temporary)
    assert journal == [("fsync", temporary), ("rename", temporary, "file"), ("fsync", tmp_path.name)]
    assert (tmp_path / "file").read_bytes() == b"abcd"
    assert facts == {"bytes": 4, "sha256": hashlib.sha256(b"abcd").hexdigest()}


def test_a_folder_appears_when_all_of_it_is_on_the_disk(tmp_path, journal):
    write_folder(tmp_path / "step-1", {"a": [b"1"], "b": [b"22"]}, {"step": 1})
    temporary = journal[3][1]
    assert durable.is_temporary(temporary)
    names = [entry[1] for entry in journal]
    assert names == ["a", "b", "manifest.json", temporary, temporary, tmp_path.name]
    assert journal[-2] == ("rename", temporary, "step-1")
    manifest = json.loads((tmp_path / "step-1" / "manifest.json").read_text("utf-8"))
    assert manifest["step"] == 1
    assert manifest["parts"]["b"] == {"bytes": 2, "sha256": hashlib.sha256(b"22").hexdigest()}


def test_folders_that_are_made_are_in_those_that_were_there(tmp_path, journal):
    durable.make_folder(tmp_path / "runs" / "first")
    assert journal == [("fsync", tmp_path.name), ("fsync", "runs")]
    durable.make_folder(tmp_path / "runs" / "first")
    assert len(journal) == 2


def test_a_folder_that_is_there_is_replaced(tmp_path):
    for content in (b"old", b"new"):
        write_folder(tmp_path / "step-1", {"a": [content]}, {})
    assert (tmp_path / "step-1" / "a").read_bytes() == b"new"
    assert [item.name for item in tmp_path.iterdir()] == ["step-1"]


@pytest.mark.parametrize("failing", ["write", "fsync", "rename"])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    write_file(tmp_path / "file", [b"old"])
    write_folder(tmp_path / "folder", {"a": [b"old"]}, {})

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def chunks():
        yield b"new"
        if failing == "write":
            fail()

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    if failing == "rename":
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(RunError, match="No space left on device"):
        write_file(tmp_path / "file", chunks())
    with pytest.raises(RunError, match="No space left on device"):
        write_folder(tmp_path / "other", {"a": chunks()}, {})
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_tensors_are_a_safetensors_file(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "matrix": rng.standard_normal((3, 5)).astype(np.float32),
        "double": rng.standard_normal(7),
        "ids": np.arange(300, dtype=np.uint16),
        "none": np.zeros((0, 4), np.float32),
    }
    write_file(tmp_path / "file.safetensors", tensor_chunks(tensors, {"format": "pt"}))
    found = load_file(tmp_path / "file.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert np.array_equal(found[name], tensor)


def test_a_large_tensor_is_written_a_piece_at_a_time():
    tensor = np.zeros(3 * durable.PIECE // 4, np.float32)
    sizes = [len(chunk) for chunk in tensor_chunks({"large": tensor}, {})][1:]
    assert sizes == [durable.PIECE] * 3


def test_a_save_takes_little_memory_however_large_it_is(tmp_path):
    """Nothing is copied as a whole."""
    tensors = {name: np.ones((8 << 20,), np.float32) for name in "ab"}
    tracemalloc.start()
    write_folder(tmp_path / "step-1", {"state": tensor_chunks(tensors, {})}, {})
    write_file(tmp_path / "model", tensor_chunks(tensors, {}, hashed=True))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_temporaries_of_the_dead_are_removed_and_nothing_else(tmp_path):
    (tmp_path / f"{durable.TEMPORARY}1-file").write_bytes(b"")
    (tmp_path / f"{durable.TEMPORARY}1-folder").mkdir()
    (tmp_path / f"{durable.TEMPORARY}1-folder" / "a").write_bytes(b"")
    (tmp_path / "tmp-file").write_bytes(b"")
    remove_temporaries(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["tmp-file"]


def test_an_interrupted_file_leaves_nothing_behind(tmp_path):
    def chunks():
        yield b"new"
        raise KeyboardInterrupt

    write_file(tmp_path / "file", [b"old"])
    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "file", chunks())
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_failure_has_the_hint_of_whoever_writes(tmp_path):
    with pytest.raises(RunError) as caught:
        write_file(tmp_path / "none" / "file", [b"new"], hint="elsewhere")
    assert caught.value.hint == "elsewhere"


def test_a_link_in_the_place_of_a_temporary_is_not_followed(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").write_bytes(b"")
    (tmp_path / f"{durable.TEMPORARY}1-file").symlink_to(tmp_path / "precious")
    write_file(tmp_path / "file", [b"new"])
    (tmp_path / f"{durable.TEMPORARY}1-folder").symlink_to(tmp_path / "folder")
    remove_temporaries(tmp_path)
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert sorted(item.name for item in tmp_path.rglob("*")) == ["file", "folder", "kept", "precious"]


def test_what_appears_in_the_place_of_a_temporary_is_not_written_to(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError):
        durable._write_new(tmp_path / "link", [b"new"])
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_nor_where_a_file_is_written(tmp_path, monkeypatch):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    monkeypatch.setattr(durable, "_temporary", lambda path: path.with_name("link"))
    with pytest.raises(RunError, match="File exists"):
        write_file(tmp_path / "file", [b"new"])
    assert (tmp_path / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["uint8", "uint16", "uint32", "float32"])
def test_a_tensor_is_mapped_where_it_lies(tmp_path, name):
    tensors = {part: np.arange(1, size, dtype=name) for part, size in (("a", 8), ("b", 100), ("c", 1))}
    write_file(tmp_path / "t", tensor_chunks(tensors, {}, hashed=True))
    for part, tensor in tensors.items():
        found = mapped_tensor(tmp_path / "t", part)
        assert found.dtype == tensor.dtype
        assert found.tolist() == load_file(tmp_path / "t")[part].tolist() == tensor.tolist()
        assert found.size == 0 or not found.flags.writeable
    with pytest.raises(KeyError):
        mapped_tensor(tmp_path / "t", "d")


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """As in two containers, whose processes may have the same number: the last one's is there, whole."""

    def chunks():
        yield b"first, "
        write_file(tmp_path / "file", [b"second"])
        durable.remove_abandoned(tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == b"second"
        yield b"whole"

    write_file(tmp_path / "file", chunks())
    assert (tmp_path / "file").read_bytes() == b"first, whole"
    assert names_in(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot write .*step-1"):
        write_folder(tmp_path / "file" / "step-1", {"a": [b"1"]}, {})


def test_the_folder_of_a_folder_is_made_again(tmp_path, journal):
    write_folder(tmp_path / "checkpoint" / "step-1", {"a": [b"1"]}, {})
    assert names_in(tmp_path / "checkpoint" / "step-1") == ["a", "manifest.json"]
    assert journal[0] == ("fsync", tmp_path.name)


def test_a_folder_that_another_process_makes_meanwhile_will_do(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    found = iter([False])
    real = Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda self: next(found, None) is not False and real(self))
    durable.make_folder(tmp_path / "run")
    assert list(found) == []


@pytest.mark.parametrize("folder", [True, False])
def test_temporaries_that_go_by_themselves_are_no_error(tmp_path, monkeypatch, folder):
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [self / ".tmp-1-gone"])
    monkeypatch.setattr(Path, "is_dir", lambda self: folder)
    remove_temporaries(tmp_path)


def test_what_a_killed_writer_of_a_file_has_left_goes_and_nothing_else(tmp_path):
    names = {
        f"{durable.TEMPORARY}12-a[1].tok": False,
        f"{durable.TEMPORARY}34-a[1].tok": True,  # of a writer that lives
        f"{durable.TEMPORARY}12-b-a[1].tok": True,  # of the file b-a[1].tok
        f"{durable.TEMPORARY}12-a1.tok": True,
        f"{durable.TEMPORARY}mine-a[1].tok": True,
        "a[1].tok": True,
    }
    for name in names:
        (tmp_path / name).write_text("mine", "utf-8")
    (tmp_path / f"{durable.TEMPORARY}34-a[1].tok").unlink()
    with durable._held(tmp_path / f"{durable.TEMPORARY}34-a[1].tok"):
        durable.remove_abandoned(tmp_path / "a[1].tok")
    assert {name: (tmp_path / name).exists() for name in names} == names


def test_what_is_being_written_beside_a_run_stays(tmp_path):
    left = f"{durable.TEMPORARY}7-old.tok"
    (tmp_path / left).touch()

    def chunks():
        remove_temporaries(tmp_path)
        (name,) = names_in(tmp_path)
        assert name.endswith("-new.tok")
        yield b"whole"

    write_file(tmp_path / "new.tok", chunks())
    assert (tmp_path / "new.tok").read_bytes() == b"whole"


def test_a_file_that_is_taken_for_left_behind_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    locking, taken = fcntl.flock, [True, False]

    def meanwhile(file, kind):
        if not isinstance(file, int) and taken.pop(0):
            durable.remove_abandoned(tmp_path / "a.tok")
            assert names_in(tmp_path) == []
        locking(file, kind)

    monkeypatch.setattr(durable.fcntl, "flock", meanwhile)
    write_file(tmp_path / "a.tok", [b"whole"])
    assert taken == []
    assert (tmp_path / "a.tok").read_bytes() == b"whole"
    assert handles_within(tmp_path) == []


@pytest.fixture
def keeping(monkeypatch):
    """Handles of somebody else, who locks each new file before its writer does."""
    opened, found = Path.open, []

    def kept(path, mode="r", *more, **options):
        file = opened(path, mode, *more, **options)
        if mode == "xb":
            found.append(opened(path, "rb"))
            fcntl.flock(found[-1], fcntl.LOCK_SH)
        return file

    monkeypatch.setattr(Path, "open", kept)
    return found


def test_a_lock_that_somebody_keeps_holds_nobody_up(tmp_path, monkeypatch, keeping):
    """Any user who can read the folder can lock a file in it, and a signal does not end a wait for a lock."""
    monkeypatch.setattr(durable, "PAUSE", 0.0)
    write_file(tmp_path / "a.tok", [b"whole"])
    assert (tmp_path / "a.tok").read_bytes() == b"whole"
    (file,) = keeping
    file.close()


def test_where_a_file_has_no_links_by_what_the_system_says_it_is_written_all_the_same(tmp_path, monkeypatch):
    """As on file systems of programs (FUSE) that count none."""
    monkeypatch.setattr(
        os, "fstat", lambda handle, real=os.fstat: os.stat_result((*real(handle)[:3], 0, *real(handle)[4:]))
    )
    write_file(tmp_path / "a.tok", [b"whole"])
    assert (tmp_path / "a.tok").read_bytes() == b"whole"


def test_a_lock_that_somebody_has_for_a_moment_is_waited_for(tmp_path, monkeypatch, keeping):
    """Who tries once would write without one, and lose what it has written to the next who looks."""

    def chunks():
        durable.remove_abandoned(tmp_path / "a.tok")
        yield b"whole"

    monkeypatch.setattr(durable.time, "sleep", lambda _: keeping.pop().close())
    write_file(tmp_path / "a.tok", chunks())
    assert (tmp_path / "a.tok").read_bytes() == b"whole"
    assert keeping == []


@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_what_another_removes_meanwhile_is_removed(tmp_path, monkeypatch, kind):
    left = tmp_path / f"{durable.TEMPORARY}7-a.tok"
    if kind == "file":
        left.touch()
        monkeypatch.setattr(durable.fcntl, "flock", lambda *_: left.unlink())
    else:
        os.mkfifo(left)
        looked = left.lstat()
        left.unlink()
        monkeypatch.setattr(Path, "glob", lambda *_: [left])
        monkeypatch.setattr(Path, "lstat", lambda _: looked)
    remove_temporaries(tmp_path)
    assert not os.path.lexists(left)


def test_what_is_no_file_is_not_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / f"{durable.TEMPORARY}7-a.tok")
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened"))
    remove_temporaries(tmp_path)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("failing", ["open", "flock"])
def test_what_may_be_held_and_cannot_be_known_stays(tmp_path, monkeypatch, failing):
    """Another user's file, say, or one where there are no locks."""

    def refuse(*_):
        raise OSError(errno.EACCES if failing == "open" else errno.ENOLCK, "refused")

    left = tmp_path / f"{durable.TEMPORARY}7-a.tok"
    left.touch()
    monkeypatch.setattr(*((os, "open") if failing == "open" else (durable.fcntl, "flock")), refuse)
    durable.remove_abandoned(tmp_path / "a.tok")
    remove_temporaries(tmp_path)
    write_file(tmp_path / "b.tok", [b"1"]) if failing == "flock" else None
    monkeypatch.undo()
    assert left.exists()
    assert handles_within(tmp_path) == []


def test_a_folder_is_told_to_be_made_by_whom_has_made_it(tmp_path, monkeypatch):
    assert durable.make_folder(tmp_path / "a" / "b") is True
    assert durable.make_folder(tmp_path / "a" / "b") is False

    def other(path, *_, made=Path.mkdir):
        made(path)
        raise FileExistsError(errno.EEXIST, "File exists", str(path))

    monkeypatch.setattr(Path, "mkdir", other)
    assert durable.make_folder(tmp_path / "c") is False
    monkeypatch.undo()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        durable.make_folder(tmp_path / "file")


def test_no_handle_stays_open(tmp_path):
    for _ in range(3):
        durable.sync_folder(tmp_path)
        write_file(tmp_path / "file", [b"1"])
        write_folder(tmp_path / "folder", {"a": [b"1"]}, {})
        list(tensor_chunks({"a": np.zeros(3, np.float32)}, {}))
        durable.file_hash(tmp_path / "file")
    assert handles_within(tmp_path) == []


def test_all_of_a_file_is_with_the_system_when_it_is_flushed(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda handle: sizes.append(os.fstat(handle).st_size))
    write_file(tmp_path / "file", [b"abc", b"de"])
    assert sizes[0] == 5


@pytest.mark.parametrize("size", range(1, 10))
def test_data_is_aligned_whatever_its_names_are(size):
    header = next(tensor_chunks({"a" * size: np.zeros(3, np.float32)}, {}))
    assert len(header) % 8 == 0
    assert int.from_bytes(header[:8], "little") == len(header) - 8


def test_a_hash_of_entries_does_not_depend_on_their_order():
    entries = {"b": 1, "a": [2, {"d": 3, "c": 4}]}
    assert durable.entries_hash(entries) == durable.entries_hash(dict(reversed(entries.items())))
    assert durable.entries_hash(entries) == durable.entries_hash(entries | {"sha256": "any"})
    assert durable.entries_hash(entries) != durable.entries_hash(entries | {"b": 2})
