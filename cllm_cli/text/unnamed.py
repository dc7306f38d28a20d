"""Files without a name, for what is too large for memory: gone with the process, whatever ends it.

They lie in the folder for temporary files, which TMPDIR names. What they hold is in memory while there is room, and on
the disk where there is none.
"""

from __future__ import annotations

import contextlib
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from cllm_cli.errors import CorpusError
from cllm_cli.printable import one_line

BUFFER = 1 << 18  # bytes; small pieces are written together


class UnnamedFile:
    """A file to be written from its beginning to its end, then read or mapped. `content` says what it is to hold.

    `close` lets go of it, as does whoever forgets it; what is mapped stays. Raises CorpusError where it finds no room.
    """

    def __init__(self, content: str) -> None:
        self._content = content
        with self._system_errors():
            self._file: Any = tempfile.TemporaryFile(buffering=BUFFER)  # noqa: SIM115  # open as long as this is there
        self.close = weakref.finalize(self, _close, self._file)

    def write(self, data: Any) -> None:
        """Add what has a buffer."""
        with self._system_errors():
            self._file.write(data)

    def rewind(self) -> BinaryIO:
        """The whole file, from its beginning on."""
        with self._system_errors():
            self._file.flush()  # a mapping sees what the file has, not its buffer
            self._file.seek(0)
        file: BinaryIO = self._file
        return file

    @contextlib.contextmanager
    def _system_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            folder = one_line(tempfile.tempdir or "a folder for temporary files")
            raise CorpusError(
                f"cannot keep {self._content} in {folder}: {error.strerror or error}",
                "make room there, or set TMPDIR to a folder with more",
            ) from error


@contextlib.contextmanager
def laid_down(chunks: Iterable[bytes], content: str) -> Iterator[BinaryIO]:
    """A stream of bytes as a file that can be read anywhere and again. Raises CorpusError where it finds no room."""
    kept = UnnamedFile(content)
    try:
        for chunk in chunks:
            kept.write(chunk)
        # Its raw file is a FileIO, its own type a buffer over it, which has read1.
        yield kept.rewind()
    finally:
        kept.close()


def _close(file: Any) -> None:
    with contextlib.suppress(OSError):  # where there was no room, there is none for the rest either
        file.close()
