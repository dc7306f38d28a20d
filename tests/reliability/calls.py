"""The file calls that change something below a folder, seen or made to fail one by one.

`watching` puts itself between Python and the system: what `open` gives writes through it, and so do the functions of
`os`. That no call goes unseen is shown by replaying what was seen (power_loss.py): the folder must come out the same.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Call(NamedTuple):
    """One call: "create", "write", "truncate", "fsync", "close", "mkdir", "replace", "unlink", "rmdir" or "open".

    at and data are of a write, at also of truncate; target is of replace.
    """

    kind: str
    path: Path
    at: int = 0
    data: bytes = b""
    target: Path | None = None


Hook = Callable[[Call], None]


@contextlib.contextmanager
def watching(root: Path, before: Hook) -> Iterator[None]:
    """Tells `before` of every call below `root` just before it is made; what it raises the call raises instead."""
    real = {name: getattr(os, name) for name in ("open", "close", "fsync", "mkdir", "replace", "unlink", "rmdir")}
    real_io_open = io.open

    def below(path: Any, dir_fd: int | None = None) -> Path | None:
        if isinstance(path, int):
            path = Path(f"/proc/self/fd/{path}").readlink()
        elif dir_fd is not None:
            path = Path(f"/proc/self/fd/{dir_fd}").readlink() / path
        path = Path(path).absolute()
        return path if path.is_relative_to(root) else None

    class Raw(io.FileIO):
        """A file whose writes are told."""

        def __init__(self, path: Path, mode: str) -> None:
            self.where = path
            before(Call("open" if "r" in mode or ("a" in mode and path.exists()) else "create", path))
            super().__init__(path, mode)

        def write(self, data: Any) -> int:
            data = bytes(data)
            at = os.fstat(self.fileno()).st_size if "a" in self.mode else self.tell()
            before(Call("write", self.where, at, data))
            return super().write(data)

        def truncate(self, size: int | None = None) -> int:
            before(Call("truncate", self.where, self.tell() if size is None else size))
            return super().truncate(size)

        def close(self) -> None:
            if not self.closed:
                try:
                    before(Call("close", self.where))
                finally:
                    super().close()

    def open_file(file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        path = None if isinstance(file, int) else below(file)
        if path is None or mode not in ("wb", "xb", "ab"):
            return real_io_open(file, mode, *args, **more)
        return io.BufferedWriter(Raw(path, mode))

    def open_handle(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if found := below(path, dir_fd):
            made = flags & os.O_CREAT and not found.exists()
            before(Call("create" if made else "open", found))
        return real["open"](path, flags, mode, dir_fd=dir_fd)

    def on_handle(name: str) -> Callable[[int], None]:
        def called(handle: int) -> None:
            try:
                if found := below(handle):
                    before(Call(name, found))
            except OSError:
                if name == "close":  # Linux gives the handle back, whatever it says
                    real[name](handle)
                raise
            real[name](handle)

        return called

    def on_path(name: str) -> Callable[..., None]:
        def called(path: Any, *args: Any, dir_fd: int | None = None) -> None:
            if found := below(path, dir_fd):
                before(Call(name, found))
            real[name](path, *args, dir_fd=dir_fd)

        return called

    def replace(source: Any, target: Any) -> None:
        if found := below(source):
            before(Call("replace", found, target=below(target)))
        real["replace"](source, target)

    ours = {"open": open_handle, "replace": replace} | {name: on_handle(name) for name in ("close", "fsync")}
    ours |= {name: on_path(name) for name in ("mkdir", "unlink", "rmdir")}
    io.open = open_file  # type: ignore[assignment]
    for name, function in ours.items():
        setattr(os, name, function)
    try:
        yield
    finally:
        io.open = real_io_open
        for name, function in real.items():
            setattr(os, name, function)


class Fault:
    """Lets call number `number` fail, counted from 1, and with `forever` all that come after it.

    It fails with the error `code`; without one the process dies of SIGKILL. `hits` are the calls that did.
    """

    def __init__(self, number: int, code: int | None, forever: bool = False) -> None:
        self.number, self.code, self.forever = number, code, forever
        self.seen = 0
        self.hits: list[Call] = []

    def __call__(self, call: Call) -> None:
        self.seen += 1
        if self.seen == self.number or (self.forever and self.seen > self.number):
            self.hits.append(call)
            if self.code is None:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(self.code, os.strerror(self.code), str(call.path))
