"""What is packed twice is the same file; and what is in the file is told by it."""

from __future__ import annotations

import hashlib
import os
import random
import struct
from pathlib import Path

import pytest

pack = pytest.importorskip("tools.binary.pack", reason="pip install -e '.[binary]'")
TRAILER = struct.Struct("<QQ32s8s")
FILES = {"cllm": 10, "_internal/b.so": 40_000, "_internal/a.so": 30_000, "_internal/c/é x.py": 0}


def contents(file: Path) -> list[tuple[str, int, str]]:
    """Path, size and SHA-256 of each file, as the index says."""
    content = file.read_bytes()
    frame, index, digest, magic = TRAILER.unpack(content[-TRAILER.size :])
    assert magic == pack.MAGIC
    assert hashlib.sha256(content[-TRAILER.size - index - frame : -TRAILER.size]).digest() == digest
    lines = content[-TRAILER.size - index : -TRAILER.size].decode().splitlines()
    return [(path, int(size), digest) for digest, size, path in (line.split(" ", 2) for line in lines)]


def make(folder: Path, names: list[str], time: int) -> None:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        draw = random.Random(FILES[name])
        file.write_bytes(bytes(draw.choices(b"abcdefgh", k=FILES[name])))
        os.utime(file, (time, time))


def part(path: str) -> str:
    return "libraries" if path.endswith(".so") else "rest"


def test_two_packings_are_the_same_file(tmp_path):
    """Whatever the order and the time in which the files came, and whoever may read them."""
    make(tmp_path / "one", sorted(FILES), 1_000_000_000)
    make(tmp_path / "two", sorted(FILES, reverse=True), 1_500_000_000)
    (tmp_path / "two" / "cllm").chmod(0o700)
    parts = [pack.pack(b"launcher", tmp_path / name, tmp_path / f"{name}.bin", part) for name in ("one", "two")]
    assert parts[0] == parts[1]
    assert (tmp_path / "one.bin").read_bytes() == (tmp_path / "two.bin").read_bytes()
    assert {(path, size) for path, size, _ in contents(tmp_path / "one.bin")} == set(FILES.items())
    assert sum(part["files"] for part in parts[0]) == len(FILES)


def test_the_binary_holds_what_it_unpacks(binary, cllm):
    cllm("--version")
    (folder,) = (entry for entry in cllm.cache.iterdir() if entry.is_dir())
    listed = contents(binary)
    assert [(path, (folder / path).stat().st_size) for path, _, _ in listed] == [each[:2] for each in listed]
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {path for path in there - {path for path, _, _ in listed} if not path.startswith(".")} == set()
