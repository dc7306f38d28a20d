"""The launcher, in front of a small folder: it unpacks what fits its hash, once, where nobody else can write."""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import subprocess
from pathlib import Path

import pytest

from binary.conftest import Caller

zstandard = pytest.importorskip("zstandard")

PROGRAM = '#!/bin/sh\necho "$CLLM_BINARY|${0%/*}|$*"; read line < "${0%/*}/deep/er/text"; echo "$line"\n'


@pytest.fixture(scope="module")
def launcher(binary):
    """What stands in front of the frame in the real file."""
    content = binary.read_bytes()
    frame, index, _, magic = struct.unpack("<QQ32s8s", content[-56:])
    assert magic == b"cllmpack"
    return content[: -56 - index - frame]


@pytest.fixture
def tree(tmp_path):
    """A folder to pack."""
    folder = tmp_path / "tree"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "cllm").write_text(PROGRAM)
    (folder / "deep" / "er" / "text").write_text("one\n")
    (folder / "deep" / "twin").write_text("one\n")
    (folder / "empty").write_text("")
    (folder / "a name with spaces").write_bytes(bytes(range(256)) * 10_000)
    return folder


@pytest.fixture
def small(launcher, tree, tmp_path):
    """The program made of it, with a home of its own."""
    return packed(launcher, tree, tmp_path, "small")


def packed(launcher, tree, tmp_path, name):
    from tools.binary.pack import pack

    (tmp_path / "home").mkdir(exist_ok=True)
    pack(launcher, tree, tmp_path / name, lambda path: path)
    return Caller(tmp_path / name, tmp_path / "home")


def only_tree(small):
    (tree,) = (entry for entry in small.cache.iterdir() if entry.is_dir())
    return tree


def test_it_unpacks_and_runs_with_its_arguments(small, tree):
    said = small("train", "a b").stdout.splitlines()
    there = only_tree(small)
    assert said == [f"{small.program}|{there}|train a b", "one"]
    for path in tree.rglob("*"):
        if path.is_file():
            assert (there / path.relative_to(tree)).read_bytes() == path.read_bytes()
    assert (there / "deep" / "twin").samefile(there / "deep" / "er" / "text")


def test_the_manifest_is_what_doctor_reads(small):
    from cllm_cli.checks.unpacked import damage

    small()
    assert not list(damage(only_tree(small)))
    text = only_tree(small) / "deep" / "er" / "text"
    text.chmod(0o700)
    text.write_text("two\n")  # of the same size, and its twin with it
    assert len(list(damage(only_tree(small)))) == 2


def test_nobody_else_can_write_there_and_the_umask_stays(launcher, tree, tmp_path):
    (tree / "cllm").write_text("#!/bin/sh\numask\n")
    small = packed(launcher, tree, tmp_path, "small")
    assert small().stdout == subprocess.run(["sh", "-c", "umask"], capture_output=True, text=True, check=True).stdout
    for path in [small.cache, *small.cache.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_it_is_unpacked_once(small):
    small()
    before = only_tree(small).stat().st_ino
    small()
    assert only_tree(small).stat().st_ino == before


@pytest.mark.parametrize("harm", ["shorter", "gone", "writable", "link", "folder"])
def test_what_was_changed_is_unpacked_anew(small, harm, tmp_path):
    small()
    text = only_tree(small) / "deep" / "er" / "text"
    if harm == "shorter":
        text.chmod(0o700)
        text.write_text("")
    elif harm == "gone":
        text.unlink()
    elif harm == "writable":
        text.chmod(0o522)
    else:
        text.unlink()
        text.mkdir() if harm == "folder" else text.symlink_to(small.program)
    assert small().stdout.splitlines()[-1] == "one"
    assert text.is_file()
    assert not text.is_symlink()


def test_a_damaged_file_is_told_of_and_nothing_of_it_runs(small):
    content = bytearray(small.program.read_bytes())
    content[-56 - struct.unpack("<QQ", content[-56:-40])[1] - 10] ^= 1  # within the frame
    small.program.write_bytes(content)
    done = small(code=1)
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"error: {small.program}: its content does not fit its hash: it is damaged",
        "hint: fetch it again",
    ]
    assert [entry.name for entry in small.cache.iterdir()] == ["lock"]


@pytest.mark.parametrize("cut", [1, 56, 300])
def test_a_file_that_was_cut_short_is_told_of(small, cut):
    content = small.program.read_bytes()
    small.program.write_bytes(content[:-cut])
    assert "was cut short or is damaged" in small(code=1).stderr


def test_sizes_that_cannot_be_are_told_of(small):
    content = bytearray(small.program.read_bytes())
    content[-56:-40] = struct.pack("<QQ", 2**63, 2**63 + 5)
    small.program.write_bytes(content)
    assert "was cut short or is damaged" in small(code=1).stderr


def test_what_a_killed_one_left_is_removed(small):
    left = small.cache / ".cllm-unpacking"
    (left / "half").mkdir(parents=True)
    (left / "half" / "file").write_text("x")
    small.cache.chmod(0o700)
    small()
    assert not left.exists()


def test_what_others_keep_beside_it_stays(small, tmp_path):
    for name in ("results", "new", "0" * 32):
        (tmp_path / "project" / "binary" / name).mkdir(parents=True)
        (tmp_path / "project" / "binary" / name / "file").write_text("mine")
    small(CLLM_CACHE_DIR=str(tmp_path / "project"))
    for name in ("results", "new", "0" * 32):
        assert (tmp_path / "project" / "binary" / name / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes what belongs to another")
def test_a_link_that_another_user_has_laid_is_not_followed(small, tmp_path):
    victim = tmp_path / "victim"
    (victim / "documents").mkdir(parents=True)
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "binary").symlink_to(victim)
    os.chown(trap, 65534, 65534)
    os.chown(trap / "binary", 65534, 65534, follow_symlinks=False)
    small(CLLM_CACHE_DIR=str(trap))
    assert [entry.name for entry in victim.iterdir()] == ["documents"]
    assert only_tree(small)


def test_other_versions_are_removed_unless_they_run(launcher, tree, tmp_path):
    first = packed(launcher, tree, tmp_path, "first")
    first()
    old = only_tree(first)
    (tree / "cllm").write_text(PROGRAM + "# another version\n")
    second = packed(launcher, tree, tmp_path, "second")
    handle = os.open(old, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)  # as the running program does
    second()
    assert old.is_dir()
    os.close(handle)
    (tree / "cllm").write_text(PROGRAM + "# a third version\n")
    third = packed(launcher, tree, tmp_path, "third")
    third()
    assert not old.exists()
    assert only_tree(third)


def test_a_running_program_holds_the_lock(launcher, tree, tmp_path):
    (tree / "cllm").write_text("#!/bin/sh\necho here; read line\n")
    small = packed(launcher, tree, tmp_path, "small")
    with subprocess.Popen(
        [small.program], env=small.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"here\n"
        handle = os.open(only_tree(small), os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process.stdin.close()
        process.wait()
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)


def test_many_first_starts_at_once(small):
    processes = [
        subprocess.Popen([small.program, str(n)], env=small.environment(), stdout=subprocess.PIPE, text=True)
        for n in range(8)
    ]
    for n, process in enumerate(processes):
        said, _ = process.communicate()
        assert process.returncode == 0
        assert said.splitlines() == [f"{small.program}|{only_tree(small)}|{n}", "one"]
    assert sorted(entry.name for entry in small.cache.iterdir()) == sorted(["lock", only_tree(small).name])


def test_the_cache_folder_can_be_chosen(small, tmp_path):
    small(CLLM_CACHE_DIR=str(tmp_path / "chosen"))
    assert (tmp_path / "chosen" / "binary").is_dir()
    small(XDG_CACHE_HOME=str(tmp_path / "xdg"))
    assert (tmp_path / "xdg" / "cllm" / "binary").is_dir()
    assert not small.cache.exists()


def test_a_folder_where_others_can_write_is_not_used(small, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    small(CLLM_CACHE_DIR=str(shared / "cache"))
    assert not any((shared / "cache" / "binary").iterdir())
    assert small.cache.is_dir()  # the home was next


def test_a_home_that_cannot_be_written_to_leaves_the_temporary_folder(small, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = small(HOME=str(blocked), TMPDIR=str(temporary))
    there = Path(done.stdout.split("|")[1])
    assert there.parent.name == "binary"
    assert f"cllm-{os.geteuid()}" in there.parts


def test_where_nothing_runs_it_says_so(small, tmp_path):
    # A program that cannot run stands for a file system without programs.
    content = small.program.read_bytes()
    frame, index, _, _ = struct.unpack("<QQ32s8s", content[-56:])
    bad = content[-56 - index : -56].replace(b" cllm\n", b" none\n")
    body = content[-56 - index - frame : -56 - index]
    digest = hashlib.sha256(body + bad).digest()
    small.program.write_bytes(
        content[: -56 - index - frame] + body + bad + struct.pack("<QQ32s8s", frame, index, digest, b"cllmpack")
    )
    done = small(code=1, TMPDIR=str(tmp_path))
    assert done.stderr.startswith(f"error: {small.home}/.cache/cllm/binary/")
    assert "the C library (glibc) that it needs" in done.stderr
    assert len([*tmp_path.glob("cllm-*")]) == 0  # no other place was tried
