"""The launcher, in front of a small folder: it unpacks what fits its hash, once, where nobody else can write."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import pty
import resource
import shutil
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from binary.conftest import Caller

zstandard = pytest.importorskip("zstandard")

# The numbers of the system's calls on x86-64.
OPEN, CLOSE, FLOCK, UNLINKAT, RENAMEAT, LINKAT, RENAMEAT2, STATX = 2, 3, 73, 263, 264, 265, 316, 332
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


@pytest.fixture
def mount(tmp_path):
    """Mounts a file system of its own, and gives the folder."""
    place = tmp_path / "mount"
    place.mkdir()

    def mounted(options, kind="tmpfs", what="tmpfs"):
        command = ["mount", "-t", kind, "-o", options, what, place]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip(f"no {kind} can be mounted here")
        place.chmod(0o700)
        return place

    yield mounted
    subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)


def refusing(call, error):
    """For `preexec_fn`: from then on the system answers a call with an error (a filter of seccomp's)."""
    load, compare, answer = 0x20, 0x15, 0x06
    lines = [(load, 0, 0, 0), (compare, 0, 1, call), (answer, 0, 0, 0x50000 | error), (answer, 0, 0, 0x7FFF0000)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    whole = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(lines), ctypes.addressof(program)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def refuse():
        assert prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
        assert prctl(22, 2, whole, program, 0) == 0  # PR_SET_SECCOMP

    return refuse


def alone(small, script, prepare=None):
    """Runs a script of the shell where the program is /mnt/small, and /tmp and /var/tmp have room for 1 MB each."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    mounts = (
        f"mount -t tmpfs -o mode=700 none /mnt && cp {small.program} /mnt/small && mkdir /mnt/home &&"
        "mount -t tmpfs -o size=1m,mode=1777 none /tmp && mount -t tmpfs -o size=1m,mode=1777 none /var/tmp || exit 77;"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounts + script],
        env={"PATH": os.environ["PATH"], "HOME": "/mnt/home"},
        preexec_fn=prepare,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip(f"nothing can be mounted here: {done.stderr}")
    return done


def hiding_temporary_folders(prepare):
    """For `preexec_fn`: prepares, and then /tmp and /var/tmp are empty. What is to run is opened before."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    system = ctypes.CDLL(None)

    def hide():
        assert system.unshare(0x20000) == 0  # CLONE_NEWNS
        assert system.mount(b"none", b"/", None, 0x44000, None) == 0  # MS_REC | MS_PRIVATE
        for place in (b"/tmp", b"/var/tmp"):
            assert system.mount(b"none", place, b"tmpfs", 0, None) == 0
        prepare()

    return hide


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
    left = small.cache / ".cllm-unpacking-0"
    (left / "half").mkdir(parents=True)
    (left / "half" / "file").write_text("x")
    small()
    assert not left.exists()


def test_what_others_keep_beside_it_stays(small, tmp_path):
    place = tmp_path / "project" / "binary"
    folders = ["results", "new", "0" * 32, ".cllm-0", ".cllm-unpacking-", ".cllm-unpacking-old", ".cllm-unpacking-1x"]
    for name in folders:
        (place / name).mkdir(parents=True)
        (place / name / "file").write_text("mine")
    files = [".cllm-notes.txt", ".cllm-unpacking-7"]
    for name in files:
        (place / name).write_text("mine")
    place.chmod(0o755)
    small(CLLM_CACHE_DIR=str(tmp_path / "project"))
    for name in (*files, *(f"{name}/file" for name in folders)):
        assert (place / name).read_text() == "mine"
    assert place.stat().st_mode & 0o777 == 0o755


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
    handle = os.open(old / ".lock", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)  # as the running program does
    second()
    assert old.is_dir()
    os.close(handle)
    (tree / "cllm").write_text(PROGRAM + "# a third version\n")
    third = packed(launcher, tree, tmp_path, "third")
    third()
    assert not old.exists()
    assert only_tree(third)


def test_a_removal_that_was_stopped_goes_on(launcher, tree, tmp_path):
    packed(launcher, tree, tmp_path, "first")()
    (tree / "cllm").write_text(PROGRAM + "# another version\n")
    second = packed(launcher, tree, tmp_path, "second")
    old = only_tree(second)
    stopped = refusing(UNLINKAT, errno.EIO)  # before anything is gone
    subprocess.run([second.program], env=second.environment(), preexec_fn=stopped, stdout=subprocess.PIPE, check=True)
    assert not old.exists()
    (second.cache / ".cllm-unpacking-0" / ".manifest").unlink()  # or later
    (tree / "cllm").write_text(PROGRAM + "# a third version\n")
    third = packed(launcher, tree, tmp_path, "third")
    third()
    assert only_tree(third)


def test_a_running_program_holds_the_lock(launcher, tree, tmp_path):
    (tree / "cllm").write_text("#!/bin/sh\necho here; read line\n")
    small = packed(launcher, tree, tmp_path, "small")
    with subprocess.Popen(
        [small.program], env=small.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"here\n"
        handle = os.open(only_tree(small) / ".lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process.stdin.close()
        process.wait()
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)


def test_a_running_program_keeps_its_files_also_where_its_lock_is_gone(launcher, tree, tmp_path):
    (tree / "cllm").write_text("#!/bin/sh\necho here; read line; exit 0\n")
    small = packed(launcher, tree, tmp_path, "small")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([small.program], env=small.environment(), **pipes) as process:
        assert process.stdout.readline() == b"here\n"
        old = os.open(only_tree(small), os.O_RDONLY)
        (only_tree(small) / ".lock").unlink()  # as what cleans up by age does
        subprocess.run([small.program], env=small.environment(), stdin=subprocess.DEVNULL, check=True)
        assert sorted(os.listdir(old)) == [".manifest", "a name with spaces", "cllm", "deep", "empty"]  # noqa: PTH208  # of what is open
        os.close(old)
        process.communicate()


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
    assert not any(shared.iterdir())
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
    assert "hint: it runs on systems with glibc" in done.stderr
    assert len([*tmp_path.glob("cllm-*")]) == 0  # no other place was tried


# By exchanging two names at once, and where the file system cannot.
@pytest.mark.parametrize("refused", [RENAMEAT, RENAMEAT2])
def test_what_runs_from_a_damaged_tree_goes_on_while_it_is_replaced(launcher, tree, tmp_path, refused):
    (tree / "cllm").write_text('#!/bin/sh\necho here; read line; read line < "${0%/*}/deep/er/text"; echo "$line"\n')
    small = packed(launcher, tree, tmp_path, "small")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": small.environment()}
    with subprocess.Popen([small.program], **pipes) as running:
        assert running.stdout.readline() == "here\n"
        there = only_tree(small)
        old = os.open(there, os.O_RDONLY)
        (there / "empty").unlink()
        done = subprocess.run(
            [small.program], input="", capture_output=True, preexec_fn=refusing(refused, errno.EINVAL), env=pipes["env"]
        )
        assert done.stdout == b"here\none\n", done.stderr
        assert there.stat().st_ino != os.fstat(old).st_ino
        assert (there / "empty").is_file()
        assert sorted(os.listdir(old)) == [".lock", ".manifest", "a name with spaces", "cllm", "deep"]  # noqa: PTH208  # of what is open
        assert running.communicate()[0] == "one\n"
    os.close(old)
    (tree / "cllm").write_text("#!/bin/sh\n")
    another = packed(launcher, tree, tmp_path, "another")
    another()
    assert len(list(small.cache.iterdir())) == 2  # the lock and the tree


def test_a_damaged_tree_is_there_until_the_new_one_is(small, mount):
    place = mount("size=4m")
    small(CLLM_CACHE_DIR=str(place))
    (there,) = (place / "binary").glob("*/empty")
    there.unlink()
    small(CLLM_CACHE_DIR=str(place))  # no room for two
    assert (there.parent / "cllm").is_file()
    assert only_tree(small)


def test_with_too_many_open_files_nothing_is_removed(small):
    done = alone(small, "/mnt/small; (ulimit -n 5; /mnt/small); cd /mnt/home/.cache/cllm/binary/*/ && echo *")
    assert done.stderr.splitlines()[0] == "error: /mnt/home/.cache/cllm: No file descriptors available"
    assert done.stdout.splitlines()[-1] == "a name with spaces cllm deep empty"


def test_a_full_disk_is_told_of_and_nothing_is_left(small):
    done = alone(small, "HOME=/tmp/home /mnt/small; find /tmp /var/tmp -type f -size +0; exit 1")
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == "error: /tmp/home/.cache/cllm: no space left to unpack into"


def test_on_a_full_disk_the_next_folder_is_used(small, mount):
    place = mount("size=1m")
    small(CLLM_CACHE_DIR=str(place))
    assert only_tree(small)
    assert [entry.name for entry in (place / "binary").iterdir()] == ["lock"]


def test_the_memory_of_a_failure_is_given_back(small, mount):
    place = mount("size=1m")
    done = subprocess.run(
        [small.program],
        env=small.environment(CLLM_CACHE_DIR=f"{place}/a", XDG_CACHE_HOME=f"{place}/b"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (90 << 20, 90 << 20)),  # one takes 65 MB
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert only_tree(small)


def test_too_little_memory_is_not_called_damage(small):
    done = alone(small, "ulimit -v 40000; exec /mnt/small")
    assert done.stderr.splitlines() == [
        "error: /mnt/home/.cache/cllm: not enough memory",
        "hint: free some, or raise the limit (ulimit -v, control group)",
    ]


def test_where_no_program_runs_nothing_is_left_and_the_next_folder_is_used(small, mount):
    place = mount("noexec")
    small(CLLM_CACHE_DIR=str(place))
    assert only_tree(small)
    assert [entry.name for entry in (place / "binary").iterdir()] == ["lock"]


@pytest.mark.parametrize("lock", ["lock", "no lock"])
def test_a_whole_tree_on_a_read_only_file_system_is_used(small, mount, lock):
    place = mount("size=8m")
    small(CLLM_CACHE_DIR=str(place))
    if lock == "no lock":
        (place / "binary" / "lock").unlink()
    (place / "binary").chmod(0o755)
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    said = small(CLLM_CACHE_DIR=str(place)).stdout
    assert said.split("|")[1].startswith(f"{place}/binary/")
    assert not small.cache.exists()


def test_an_empty_read_only_file_system_is_not_used(small, mount):
    place = mount("size=1m")
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    small(CLLM_CACHE_DIR=str(place))
    assert only_tree(small)


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_nothing_can_be_locked_nothing_is_written(small, error):
    done = alone(small, "/mnt/small; find /mnt/home -name cllm -type f", refusing(FLOCK, error))
    assert done.stderr.splitlines()[0] == "error: /mnt/home/.cache/cllm: files cannot be locked there"
    assert done.stdout == ""


def test_where_nothing_can_be_locked_a_whole_tree_is_used(small):
    small()
    done = subprocess.run(
        [small.program], env=small.environment(), preexec_fn=refusing(FLOCK, errno.ENOLCK), capture_output=True
    )
    assert done.stdout.endswith(b"one\n"), done.stderr


def test_where_there_are_no_links_files_are_copied(small):
    from cllm_cli.checks.unpacked import damage

    subprocess.run([small.program], env=small.environment(), preexec_fn=refusing(LINKAT, errno.EPERM), check=True)
    there = only_tree(small)
    assert (there / "deep" / "twin").read_text() == "one\n"
    assert not (there / "deep" / "twin").samefile(there / "deep" / "er" / "text")
    assert not list(damage(there))


def test_a_file_system_that_does_not_tell_what_a_name_is_of(small, mount, tmp_path):
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    maker = shutil.which("mkfs.ext2", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if maker is None:
        pytest.skip("no mkfs.ext2")
    subprocess.run([maker, "-q", "-O", "^filetype", image], check=True)
    place = mount("loop", "ext2", image)
    left = place / "binary" / ".cllm-unpacking-7"
    (left / "deep" / "er").mkdir(parents=True)
    (left / "deep" / "er" / "text").write_text("x")
    (place / "binary").chmod(0o700)
    said = small(CLLM_CACHE_DIR=str(place)).stdout
    assert said.split("|")[1].startswith(f"{place}/binary/")
    assert not left.exists()


@pytest.mark.parametrize(
    ("error", "said", "hint"),
    [
        (errno.EACCES, "Permission denied", "it has to be a file that you may read"),
        (errno.EIO, "I/O error", "fetch it again, onto another disk"),
    ],
)
def test_a_file_that_cannot_be_read_is_not_called_damaged(small, error, said, hint):
    done = subprocess.run([small.program], preexec_fn=refusing(OPEN, error), capture_output=True, text=True)
    assert done.stderr.splitlines() == [f"error: {small.program}: {said}", f"hint: {hint}"]


def test_on_an_old_system_it_names_the_one_that_it_needs(small):
    refuse = refusing(STATX, errno.ENOSYS)
    done = subprocess.run([small.program], preexec_fn=refuse, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines() == [
        f"error: {small.program}: the system is too old",
        "hint: it needs Linux 4.11 or later",
    ]


def test_too_large_an_environment_is_told_of(small):
    said = small(LD_LIBRARY_PATH="x" * 131_000, code=1).stderr  # one variable may have 131,072 characters
    assert "the arguments and the environment are too large" in said
    assert "hint: give it fewer of them" in said


def test_without_proc_nothing_runs_and_it_says_why(small):
    done = alone(small, "cd /mnt && mount -t tmpfs none /proc && exec ./small")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: /proc/self/exe: No such file or directory",
        "hint: it needs /proc to be mounted",
    ]


def test_in_a_user_namespace_it_does_not_run_what_another_user_has_unpacked(small):
    trap = (
        "chmod 755 /mnt; mkdir /mnt/trap; chown 2000 /mnt/trap; "
        "CLLM_CACHE_DIR=/mnt/trap setpriv --reuid=2000 --clear-groups /mnt/small > /mnt/said || exit 78;"
        "chmod -R go+rX /mnt/trap; "
    )
    use = "cat /mnt/said; CLLM_CACHE_DIR=/mnt/trap unshare --user /mnt/small"
    done = alone(small, "unshare --user true || exit 77; " + trap + use)
    assert done.returncode == 0, done.stderr
    assert [line.split("|")[1].rsplit("/", 1)[0] for line in done.stdout.splitlines()[::2]] == [
        "/mnt/trap/binary",
        "/mnt/home/.cache/cllm/binary",
    ]


def test_where_the_root_folder_is_another_users_it_says_so(small):
    other = (
        "chmod 755 /mnt; chown -R 2000 /mnt/home; setpriv --reuid=2000 --clear-groups unshare --user --map-root-user"
    )
    done = alone(small, f"{other} true || exit 77; {other} /mnt/small")
    assert done.stderr.splitlines() == [
        "error: /mnt/home/.cache/cllm: the root folder is neither root's nor yours, as in a user namespace",
        "hint: run it outside of that, or where the root folder is your own (a container)",
    ]


def test_a_root_folder_of_ones_own_that_others_can_write_to_is_called_that(small):
    done = alone(small, "mkdir /mnt/proc && mount --bind /proc /mnt/proc && chmod 777 /mnt && chroot /mnt /small")
    assert "others can write there" in done.stderr


def test_a_tree_of_roots_is_used_where_nobody_else_can_write(small):
    make = "chmod 755 /mnt; mkdir /mnt/image; CLLM_CACHE_DIR=/mnt/image /mnt/small; chmod -R go+rX /mnt/image; "
    use = "CLLM_CACHE_DIR=/mnt/image setpriv --reuid=2000 --clear-groups /mnt/small"
    first, _, second, _ = alone(small, make + use).stdout.splitlines()
    assert second == first
    own = "mkdir /mnt/own; chown 2000 /mnt/own; chmod o+w /mnt/image/binary/*/empty; HOME=/mnt/own "
    said = alone(small, make + own + use).stdout.splitlines()[2]
    assert said.split("|")[1].startswith("/mnt/own/.cache/cllm/binary/")


def test_what_is_closed_in_a_tree_is_unpacked_anew(small):
    user = "setpriv --reuid=2000 --clear-groups /mnt/small"
    make = f"chmod 755 /mnt; chown 2000 /mnt/home; {user}; cd /mnt/home/.cache/cllm/binary; "
    spoils = [f"chmod 0 {closed}" for closed in ("*/deep", "*/deep/er", "[0-9a-f]*", "*/.lock")]
    for spoil in (*spoils, "(cd */ && rm .lock && mkdir .lock)"):
        done = alone(small, f"{make} {spoil}; {user}; ls -A")
        assert done.stdout.splitlines()[1] == done.stdout.splitlines()[3] == "one", done.stderr
        assert len(done.stdout.splitlines()) == 6, done.stdout  # the lock and the tree


def test_what_closing_a_file_tells_is_heard(small):
    handle = os.open(small.program, os.O_RDONLY)
    done = subprocess.run(
        [f"/proc/self/fd/{handle}"],
        env=small.environment(HOME="/tmp/home"),
        pass_fds=[handle],
        preexec_fn=hiding_temporary_folders(refusing(CLOSE, errno.EDQUOT)),
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(handle)
    assert done.stderr.splitlines()[0] == "error: /tmp/home/.cache/cllm: no space left to unpack into"


def test_the_limit_of_the_stack_stays(launcher, tree, tmp_path):
    (tree / "cllm").write_text("#!/bin/sh\nulimit -Ss\n")
    small = packed(launcher, tree, tmp_path, "small")
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    limit = lambda: resource.setrlimit(resource.RLIMIT_STACK, (2 << 20, most))  # noqa: E731
    assert subprocess.check_output([small.program], env=small.environment(), preexec_fn=limit) == b"2048\n"


def test_a_start_says_that_it_waits_for_one_that_unpacks(small):
    small()
    (only_tree(small) / "empty").unlink()
    handle = os.open(small.cache / "lock", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": small.environment()}
    release = threading.Timer(10, os.close, [handle])  # also where it says nothing
    release.start()
    with subprocess.Popen([small.program], **pipes) as process:
        assert process.stderr.readline() == "waiting for another cllm that unpacks\n"
        release.cancel()
        os.close(handle)
        assert process.communicate()[0].endswith("|\none\n")


def test_a_start_from_a_whole_tree_does_not_wait(small):
    small()
    handle = os.open(small.cache / "lock", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    subprocess.run([small.program], env=small.environment(), check=True, timeout=10)
    os.close(handle)


def test_a_tree_that_is_being_removed_is_not_used(small):
    small()
    there = only_tree(small)
    old = os.open(there / ".lock", os.O_RDWR)
    fcntl.flock(old, fcntl.LOCK_EX)
    small()
    assert (there / ".lock").stat().st_ino != os.fstat(old).st_ino
    os.close(old)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("xterm", b"unpacking cllm, once\r\x1b[K"),
        ("dumb", b"unpacking cllm, once\r\n"),
        ("", b"unpacking cllm, once\r\n"),
    ],
)
def test_a_terminal_is_told_in_its_words(small, kind, said):
    ours, theirs = pty.openpty()
    subprocess.run([small.program], env=small.environment(TERM=kind), stderr=theirs, check=True)
    os.close(theirs)  # so that there is an end to what is read
    assert os.read(ours, 1000) == said
    os.close(ours)


def test_a_folder_that_was_passed_over_is_let_go(launcher, tree, tmp_path, mount):
    (tree / "cllm").write_text("#!/bin/sh\nfor link in /proc/$$/fd/*; do readlink $link; done\n")
    small = packed(launcher, tree, tmp_path, "small")
    place = mount("size=8m")
    small(CLLM_CACHE_DIR=str(place), PATH=os.environ["PATH"])
    subprocess.run(["mount", "-o", "remount,noexec", place], check=True)
    said = small(CLLM_CACHE_DIR=str(place), PATH=os.environ["PATH"]).stdout
    assert f"{only_tree(small)}/.lock" in said.splitlines()
    assert str(place) not in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes what belongs to another")
def test_nothing_is_made_in_the_home_of_another_user(small, tmp_path):
    home = tmp_path / "other"
    home.mkdir()
    os.chown(home, 65534, 65534)
    (tmp_path / "temporary").mkdir()
    said = small(HOME=str(home), TMPDIR=str(tmp_path / "temporary")).stdout
    assert said.split("|")[1].startswith(f"{tmp_path}/temporary/")
    assert not any(home.iterdir())


def test_nothing_is_made_where_a_link_leads_to_a_folder_of_all(small, tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "all")
    small(CLLM_CACHE_DIR=str(tmp_path / "link" / "cache"))
    assert not any((tmp_path / "all").iterdir())
    assert only_tree(small)


@pytest.mark.parametrize("mode", [0o755, 0o775, 0o777, 0o1777])
@pytest.mark.parametrize("group", ["own", "other"])
def test_it_decides_about_a_folder_as_the_kernels_cache_does(small, tmp_path, mode, group):
    from cllm_cli.kernels.private import make_private

    folder = tmp_path / "folder"
    folder.mkdir()
    if group == "other":
        if os.geteuid() != 0:
            pytest.skip("only root gives a folder to another group")
        os.chown(folder, -1, 65534)
    folder.chmod(mode)
    small(CLLM_CACHE_DIR=str(folder / "cache"))
    assert small.cache.exists() != make_private(folder / "kernels")


@pytest.mark.parametrize("name", ["a:b", "a;b", "$LIB"])
def test_a_path_that_the_loader_would_take_apart_is_not_used(small, tmp_path, name):
    small(CLLM_CACHE_DIR=str(tmp_path / name))
    assert not (tmp_path / name).exists()
    assert only_tree(small)
