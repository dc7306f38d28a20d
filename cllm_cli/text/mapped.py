"""Arrays that lie in a file: read when they are used, and let go once they were.

A page that was used counts as this process's memory until it is let go. It is no more than a copy of the file: the
system takes it back where it needs room, and it is read again where it is used again.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from cllm_cli.errors import CorpusError

# Bytes: using a page maps those around it too, in blocks that lie as this size does or a part of it (a huge page).
REACH = 1 << 21


class MappedFile(mmap.mmap):
    """A whole file, to be read where it lies; it can tell whether somebody has written to it since."""

    def __new__(cls, file: BinaryIO) -> MappedFile:
        return super().__new__(cls, file.fileno(), 0, access=mmap.ACCESS_READ)

    def __init__(self, file: BinaryIO) -> None:
        self._path = Path(file.name).absolute() if isinstance(file.name, str) else None  # else it has no name
        self._opened = os.fstat(file.fileno())

    def is_as_it_was(self) -> bool:
        """Looked up by its name, since more handles may be too many; one that was replaced stays as it is."""
        if self._path is None:
            return True
        try:
            now = self._path.stat()
        except OSError:
            return True
        return not os.path.samestat(now, self._opened) or now.st_mtime_ns == self._opened.st_mtime_ns


def mapped(file: BinaryIO, dtype: np.dtype[Any], count: int, offset: int = 0) -> npt.NDArray[Any]:
    """`count` elements of a file from byte `offset` on, not to be written. Raises ValueError where it has fewer."""
    if not count:
        return np.empty(0, dtype)
    return np.frombuffer(MappedFile(file), dtype, count, offset)


def let_go(array: npt.NDArray[Any]) -> None:
    """Take the pages of a contiguous array out of this process's memory, and those near it; nothing where it is none
    that was mapped to be read.
    """
    memory = _mapping_of(array)
    if memory is None or not array.size:
        return
    first = np.frombuffer(memory, np.uint8, 1).ctypes.data
    start = max(first, array.ctypes.data // REACH * REACH)
    stop = min(first + len(memory), -(-(array.ctypes.data + array.nbytes) // REACH) * REACH)
    memory.madvise(mmap.MADV_DONTNEED, start - first, stop - start)


def check_there(array: npt.NDArray[Any]) -> None:
    """Raise CorpusError where the file that an array lies in was cut short: using what is gone ends the process
    (SIGBUS); or written to: what was checked when it was opened need not be so any more. Nothing where it lies in no
    file. Before and after elements are used, so that neither happens unseen in between.
    """
    memory = _mapping_of(array)
    if memory is None:
        return
    cut = memory.size() < len(memory)
    if cut or not memory.is_as_it_was():
        raise CorpusError(
            f"a file of tokens was {'cut short' if cut else 'written to'} while it was read",
            "make it again, and go on with --resume if it was a run",
        )


def copied(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy of what may lie in a file, which was all there while it was made. Raises CorpusError."""
    check_there(array)
    copy = array.copy()
    check_there(array)
    return copy


def pieces_of(array: npt.NDArray[Any], size: int) -> Iterator[npt.NDArray[Any]]:
    """An array in pieces of `size` elements, each of which is let go when the next one is asked for.

    Raises CorpusError where its file is cut short or written to meanwhile.
    """
    for start in range(0, len(array), size):
        check_there(array)
        piece = array[start : start + size]
        yield piece
        check_there(array)
        let_go(piece)


def _mapping_of(array: npt.NDArray[Any]) -> MappedFile | None:
    """The file that an array lies in; memory that can be written is none: what was written must not be let go."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if not isinstance(owner, memoryview) or not isinstance(owner.obj, MappedFile):
        return None
    return owner.obj
