"""A folder as one file that unpacks itself: launcher, zstd frame, index, trailer (pack.zig reads them)."""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

MAGIC = b"cllmpack"
WINDOW_LOG = 25  # who unpacks it needs as much memory, 32 MB
LEVEL = 20


Part = Callable[[str], str]


@dataclass(frozen=True)
class File:
    """A file of the folder; `path` is relative, with slashes. What has the same content is of the same part."""

    part: str
    digest: str
    size: int
    path: str


def files_of(folder: Path, part: Part) -> list[File]:
    """Every file below a folder, links followed, part by part; files of the same content are neighbours."""
    first: dict[str, str] = {}
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content, name = path.read_bytes(), path.relative_to(folder).as_posix()
            digest = hashlib.sha256(content).hexdigest()
            first.setdefault(digest, name)
            found.append(File(part(first[digest]), digest, len(content), name))
    # What is alike lies together: the window of the frame is smaller than the whole.
    return sorted(found, key=lambda file: (file.part, Path(first[file.digest]).suffix, first[file.digest], file.path))


def index_of(files: list[File]) -> bytes:
    """A line a file: "sha256 size path". Raises ValueError for a path that does not fit into one."""
    for file in files:
        if "\n" in file.path or "\0" in file.path:
            raise ValueError(f"a path with a line break: {file.path!r}")
    return "".join(f"{file.digest} {file.size} {file.path}\n" for file in files).encode()


def pack(launcher: bytes, folder: Path, target: Path, part: Part) -> list[dict[str, Any]]:
    """Writes `target`, which unpacks what is in `folder` and runs its file `cllm`.

    `part` names the part that a path belongs to. Gives each part's name, files, bytes, and bytes in the frame.
    """
    files = files_of(folder, part)
    index = index_of(files)
    parameters = zstandard.ZstdCompressionParameters.from_level(LEVEL, window_log=WINDOW_LOG, threads=-1)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame, parts, before = bytearray(), [], ""
    for name, group in itertools.groupby(files, lambda file: file.part):
        start, members = len(frame), list(group)
        for file in members:
            if file.digest != before:
                frame += compressor.compress((folder / file.path).read_bytes())
            before = file.digest
        frame += compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        size = sum(file.size for file in members)
        parts.append({"name": name, "files": len(members), "bytes": size, "packed": len(frame) - start})
    frame += compressor.flush()
    digest = hashlib.sha256(frame + index).digest()
    target.write_bytes(launcher + frame + index + struct.pack("<QQ32s8s", len(frame), len(index), digest, MAGIC))
    target.chmod(0o755)
    return parts
