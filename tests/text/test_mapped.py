"""Arrays in files: what was read leaves the process's memory, and what it is stays."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from cllm_cli.errors import CorpusError
from cllm_cli.text.batches import HELD, Sampler, Windows
from cllm_cli.text.mapped import REACH, check_there, copied, let_go, mapped, pieces_of

SIZE = 16 * REACH


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(np.random.default_rng(5).bytes(SIZE))
    with path.open("rb") as stream:
        yield stream


def resident(array) -> int:
    """Bytes of the mapping that an array lies in which the system counts as this process's memory."""
    address = f"{array.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE:x}-"
    lines = Path("/proc/self/smaps").read_text().splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.lstrip("0").startswith(address)]
    return next(int(line.split()[1]) << 10 for line in lines[at:] if line.startswith("Rss:"))


def test_an_array_is_what_the_file_has_and_cannot_be_written(file):
    content = file.read()
    array = mapped(file, np.dtype("<u2"), 1000, 3)
    assert array.tobytes() == content[3:2003]
    assert not array.flags.writeable
    assert mapped(file, np.dtype(np.uint8), 0).size == 0
    with pytest.raises(ValueError, match="smaller than requested"):
        mapped(file, np.dtype(np.uint8), SIZE + 1)


class Watched(np.ndarray):
    """An array that tells when it is copied."""

    def copy(self, *order):
        self.told()
        return np.asarray(self).copy()


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_copy_is_of_what_was_there_all_the_time(file, when):
    array = mapped(file, np.dtype(np.uint8), 1000).view(Watched)
    done = []
    array.told = lambda: done.append(os.utime(file.name, ns=(0, 0)) if when == "meanwhile" else None)
    if when == "before":
        os.utime(file.name, ns=(0, 0))
    with pytest.raises(CorpusError, match="was written to"):
        copied(array)
    assert len(done) == (when == "meanwhile")


def test_a_file_without_a_name_is_as_it_was(tmp_path):
    """Nobody else can write to it."""
    with tempfile.TemporaryFile(dir=tmp_path) as unnamed:
        unnamed.write(b"tokens")
        unnamed.flush()
        array = mapped(unnamed, np.dtype(np.uint8), 6)
    check_there(array)
    assert array.tobytes() == b"tokens"


def test_a_mapping_holds_one_handle_and_gives_it_back(file):
    """Hundreds of files of ids may be mapped at once, and a process has 1,024 handles as a rule."""

    def handles():
        names = os.listdir("/proc/self/fd")  # noqa: PTH208 - Path.iterdir holds a handle itself
        return [os.path.realpath(f"/proc/self/fd/{name}") for name in names].count(os.path.realpath(file.name))

    before = handles()
    array = mapped(file, np.dtype(np.uint8), SIZE)
    assert handles() == before + 1
    del array
    assert handles() == before


def test_pieces_make_the_array_and_are_let_go(file):
    array = mapped(file, np.dtype(np.uint8), SIZE)
    total, most = 0, 0
    for piece in pieces_of(array, REACH + 777):
        total += int(piece.sum(dtype=np.int64))
        most = max(most, resident(array))
    assert total == int(np.frombuffer(file.read(), np.uint8).sum(dtype=np.int64))
    assert most <= 4 * REACH
    assert resident(array) == 0


def test_what_was_let_go_is_read_again(file):
    array = mapped(file, np.dtype(np.uint8), SIZE)
    expected = file.read()
    assert array.tobytes() == expected
    assert resident(array) == SIZE
    let_go(array[5:-5])
    assert resident(array) == 0
    assert array.tobytes() == expected


@pytest.mark.parametrize("access", [mmap.ACCESS_WRITE, mmap.ACCESS_COPY, None])
def test_memory_that_can_be_written_is_never_let_go(file, access):
    """In a private mapping that would lose what was written."""
    memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE) if access is None else None
    if memory is None:
        with Path(file.name).open("r+b") as writable:
            memory = mmap.mmap(writable.fileno(), 0, access=access)
    array = np.frombuffer(memory, np.uint8)
    array[:] = 7
    let_go(array)
    assert (array == 7).all()


@pytest.mark.slow
def test_windows_leave_little_of_a_mapped_text_in_memory(file):
    array = mapped(file, np.dtype(np.uint8), SIZE)
    most = 0
    windows = Windows(array, 1 << 16, 4)
    for _ in windows:
        most = max(most, resident(array))
    assert len(windows) > 100
    assert most <= 2 * REACH


@pytest.mark.slow
def test_windows_for_training_are_let_go_after_some_batches(file):
    array = mapped(file, np.dtype(np.uint8), SIZE)
    sampler = Sampler(array, 8, seed=1)
    x, y = (np.empty((4, 8), np.int32) for _ in range(2))
    left = []
    while sampler.position < 10 * HELD:
        sampler.next_batch(x, y)
        left.append(resident(array))
    assert left.count(0) == 10
