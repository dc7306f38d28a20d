"""The files that the single-file binary has unpacked, each against the list that came with them.

`.manifest` in the unpacked folder has a line for every other file: its SHA-256, its size in bytes and its path within
the folder, with a space between them. Files that are not in it could be loaded as well, so they are told of too, but
for the one that running programs lock, which has to be there and empty.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MANIFEST = ".manifest"
LOCK = ".lock"
LINE = re.compile(r"(?P<sha256>[0-9a-f]{64}) (?P<size>[0-9]+) (?P<path>[^\n]+)")


def damage(folder: Path) -> Iterator[str]:
    """What is not as it was packed, a line for each file; every file is read in full. Nothing where all is well."""
    try:
        text = (folder / MANIFEST).read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        yield f"{MANIFEST}: {error.strerror}"
        return
    if wrong := _fault_of_lock(folder / LOCK):
        yield f"{LOCK}: {wrong}"
    listed = {MANIFEST, LOCK}
    for line in text.splitlines():
        found = LINE.fullmatch(line)
        if not found or not _is_within(found["path"]):
            yield f"{MANIFEST}: a line that is none: {line[:80]}"
            continue
        listed.add(str(PurePosixPath(found["path"])))
        if wrong := _difference(folder, found["path"], int(found["size"]), found["sha256"]):
            yield f"{found['path']}: {wrong}"
    if not text:
        yield f"{MANIFEST}: it is empty"
    for path in sorted(_files(folder) - listed):
        yield f"{path}: it was not packed"


def _fault_of_lock(place: Path) -> str:
    """What is wrong about it, in words; nothing where it is an empty file."""
    try:
        found = place.lstat()
    except OSError as error:
        return str(error.strerror)
    if not stat.S_ISREG(found.st_mode):
        return "it is no file"
    return f"{found.st_size} bytes instead of 0" if found.st_size else ""


def _difference(folder: Path, path: str, size: int, sha256: str) -> str:
    """How a file differs from its line, in words; nothing where it does not."""
    place = folder / path
    try:
        if not place.resolve(strict=True).is_relative_to(folder.resolve()):
            return "it is a link to elsewhere"
        with place.open("rb") as file:
            actual = os.fstat(file.fileno()).st_size
            if actual != size:
                return f"{actual} bytes instead of {size}"
            same = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError as error:
        return str(error.strerror)
    return "" if same else "its content is another"


def _is_within(path: str) -> bool:
    parts = PurePosixPath(path)
    return not parts.is_absolute() and ".." not in parts.parts


def _files(folder: Path) -> set[str]:
    """Everything in a folder that is no folder, links to folders among them."""
    found = set()
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        found |= {str((Path(place) / name).relative_to(folder)) for name in (*files, *links)}
    return found
