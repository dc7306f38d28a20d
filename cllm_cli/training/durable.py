"""The one writer of a run's files: what it has written is there after a crash or a power cut, whole or not at all.

A file is written under a temporary name, flushed to the disk, renamed, and the folder is flushed, since without the
last step the old name may come back. A folder of several files is made the same way and renamed as one.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import math
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from cllm_cli.errors import RunError
from cllm_cli.regular import open_regular
from cllm_cli.text.mapped import mapped, pieces_of

TEMPORARY = ".tmp-"
OURS = re.compile(rf"{re.escape(TEMPORARY)}[0-9]+-.+", re.DOTALL)  # with a number that no other writer has
TRIES, PAUSE = 20, 0.005  # seconds between them
PIECE = 1 << 22  # bytes of a tensor that are written and hashed at a time

SAFETENSORS_TYPES = {
    "float32": "F32",
    "float64": "F64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "int64": "I64",
}


def write_file(path: Path, chunks: Iterable[Any], hint: str = "") -> dict[str, Any]:
    """Writes bytes-like chunks to `path` and gives {"bytes": …, "sha256": …}.

    Raises RunError when it cannot, with `hint` or that of a run.
    """
    temporary = _temporary(path)
    try:
        with _held(temporary) as file:
            facts = _write(file, chunks)
            temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise _failed(path, error, hint) from error
    finally:  # an interruption must not leave gigabytes behind either
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return facts


def write_folder(path: Path, files: Mapping[str, Iterable[Any]], manifest: Mapping[str, Any]) -> None:
    """Writes a folder of files and `manifest.json`, to which the files' sizes and hashes and its own are added.

    The folder that it is to lie in is made where it is gone. Raises RunError when it cannot.
    """
    temporary = _temporary(path)
    try:
        make_folder(path.parent)
        temporary.mkdir()
        parts = {name: _write_new(temporary / name, chunks) for name, chunks in files.items()}
        whole = {**manifest, "parts": parts}
        text = json.dumps({**whole, "sha256": entries_hash(whole)}, indent=1)
        _write_new(temporary / "manifest.json", [text.encode()])
        sync_folder(temporary)
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise _failed(path, error) from error
        raise


def make_folder(path: Path) -> bool:
    """Makes a folder, and those that it lies in, unless they are there; their names are on the disk.

    Whether it was made, and by nobody else meanwhile. Raises OSError.
    """
    if path.is_dir():
        return False
    make_folder(path.parent)
    try:
        path.mkdir()
    except FileExistsError:
        if not path.is_dir():
            raise
        return False
    sync_folder(path.parent)
    return True


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_temporary(name: str) -> bool:
    """Whether a writer, this one or another, has named a file or a folder so."""
    return OURS.fullmatch(name) is not None


def remove_temporaries(folder: Path) -> None:
    """Removes what writers that died have left behind; call it under the run's lock.

    A file that somebody is writing at this moment, such as a token store beside the run, stays.
    """
    for left in folder.glob(f"{TEMPORARY}*"):
        if not is_temporary(left.name):
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            _remove_unless_held(left)


def remove_abandoned(path: Path) -> None:
    """Removes what writers of this one file have left that were killed."""
    for left in path.parent.glob(f"{TEMPORARY}*-{glob.escape(path.name)}"):
        number = left.name.removeprefix(TEMPORARY).split("-")[0]
        if is_temporary(left.name) and left.name == f"{TEMPORARY}{number}-{path.name}":
            with contextlib.suppress(OSError):
                _remove_unless_held(left)


def _temporary(path: Path) -> Path:
    """The name of `path` while it is written. Processes of two containers may have the same number, so it is random."""
    return path.with_name(f"{TEMPORARY}{int.from_bytes(os.urandom(4), 'big')}-{path.name}")


def _held(path: Path) -> BinaryIO:
    """A new file at `path`, locked until it is closed, or its process ends: its writer lives. Raises OSError."""
    while True:
        file = path.open("xb")  # not what somebody else has put there, such as a link to another file
        _lock(file)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.lstat()):
                return file
        file.close()  # removed before it was locked


def _lock(file: BinaryIO) -> None:
    """Locks a file of one's own, if that can be done: not every file system has locks.

    Whoever looks whether it is held has the lock for a moment. Who keeps it does no harm: its writer does not wait.
    """
    for _ in range(TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE)
        except OSError:
            return
        else:
            return


def _remove_unless_held(path: Path) -> None:
    """Removes a temporary file that nobody writes at this moment; where that cannot be known, it stays.

    Raises OSError where it cannot be removed.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # no writer's: a link, say
            path.unlink()
            return
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)  # NFS locks no file that is only read
    except OSError:
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def tensor_chunks(
    tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str], hashed: bool = False
) -> Iterator[bytes | memoryview]:
    """A safetensors file, header first, straight from the tensors' memory (C-contiguous arrays).

    `hashed` puts the data's sha256 into the metadata, for files that no manifest speaks of.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    if hashed:
        digest = hashlib.sha256()
        for tensor in tensors.values():
            for piece in pieces_of(tensor.reshape(-1).view(np.uint8), PIECE):
                digest.update(piece.data)
        header["__metadata__"]["sha256"] = digest.hexdigest()
    at = 0
    for name, tensor in tensors.items():
        kind = SAFETENSORS_TYPES[tensor.dtype.name]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts aligned
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        for piece in pieces_of(tensor.reshape(-1).view(np.uint8), PIECE):
            yield piece.data


def mapped_tensor(path: Path, name: str) -> npt.NDArray[Any]:
    """A tensor where it lies in a safetensors file that is whole. Raises OSError, and KeyError where there is none."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(size))[name]
        dtype = {kind: np.dtype(known) for known, kind in SAFETENSORS_TYPES.items()}[entry["dtype"]]
        first = 8 + size + entry["data_offsets"][0]
        return mapped(file, dtype, math.prod(entry["shape"]), first).reshape(entry["shape"])


def entries_hash(facts: Mapping[str, Any]) -> str:
    """The sha256 of a JSON object's entries, whatever their order, that hash itself left out."""
    entries = {name: value for name, value in facts.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits. Raises OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_hash(path: Path) -> str:
    """The sha256 of a safetensors file's data, in hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        file.seek(int.from_bytes(file.read(8), "little"), os.SEEK_CUR)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_new(path: Path, chunks: Iterable[Any]) -> dict[str, Any]:
    with path.open("xb") as file:
        return _write(file, chunks)


def _write(file: BinaryIO, chunks: Iterable[Any]) -> dict[str, Any]:
    """Writes chunks down to the disk, and gives their size and sha256."""
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        file.write(chunk)
        digest.update(chunk)
        size += len(chunk)
    file.flush()
    os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _failed(path: Path, error: OSError, hint: str = "") -> RunError:
    return RunError(
        f"cannot write {path}: {error.strerror or error}",
        hint or "make room and go on with --resume, or choose another --out; what this run saved before is whole",
    )
