"""Where text comes from: files, folders and standard input, found in a fixed order and read in chunks of bytes.

Folders are read recursively in the byte order of their names. What is hidden, no regular file, part of a run folder, or
not wanted is left out and counted; so are binary files (`reading`) unless they were named themselves.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from cllm_cli.errors import CorpusError
from cllm_cli.printable import one_line

STANDARD_INPUT = "-"
RUN_FILES = frozenset({"config.toml", "metrics.jsonl"})
"""A folder that holds these is a run of ours. Reading its log as text would change the corpus with every run."""

HINT = "CORPUS is a text file, a folder of text files, or - for standard input"


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file to read, or standard input (path `-`). `named`: asked for by itself, not found in a folder."""

    path: str
    named: bool

    @property
    def name(self) -> str:
        """What messages call it: safe to print."""
        return "standard input" if self.path == STANDARD_INPUT else shown(self.path)

    def size(self) -> int:
        """Its bytes, if it is a regular file that can be looked at; otherwise 0."""
        try:
            found = Path(self.path).stat()
        except OSError:
            return 0
        return found.st_size if stat.S_ISREG(found.st_mode) else 0


@dataclass(frozen=True)
class Listing:
    """The files of a corpus in order, and how many were left out, by reason."""

    files: list[TextFile]
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def has_stdin(self) -> bool:
        return any(file.path == STANDARD_INPUT for file in self.files)

    def left_out(self) -> str:
        """For messages: "2 binary, 1 hidden"; empty if nothing was left out."""
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.skipped.items()))


def shown(path: str) -> str:
    """A path as messages show it: safe to print, and visible where it is empty."""
    return one_line(path) or "''"


@dataclass(frozen=True)
class Wanted:
    """Which files of a folder are: those that fit one of `include`, if there is any, and none of `exclude`.

    A pattern is of the shell's kind (`*` `?` `[…]`, capitals count). One with a slash has to fit the path within the
    folder that was named, where `*` crosses slashes too; any other the name alone. `exclude` is for folders as well.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def reason(self, relative: str, is_folder: bool) -> str:
        """Why an entry is left out, or an empty string."""
        if _fits(relative, self.exclude):
            return "excluded"
        return "" if is_folder or not self.include or _fits(relative, self.include) else "not included"


def _fits(relative: str, patterns: Sequence[str]) -> bool:
    name = relative.rpartition("/")[2]
    return any(
        fnmatch.fnmatchcase(relative if "/" in pattern else name, pattern)
        for pattern in (pattern.rstrip("/") for pattern in patterns)
    )


def find_files(sources: Iterable[str | Path], wanted: Wanted | None = None) -> Listing:
    """The files that `sources` stand for; of folders those that are wanted. Nothing is read yet.

    Raises CorpusError for a source that is missing or may not be looked into, and for a folder without files.
    """
    listing = Listing([])
    for source in sources:
        path = os.fspath(source)
        before = len(listing.files)
        if path != STANDARD_INPUT and _is_folder(path):
            _walk(path, listing, wanted or Wanted())
        else:
            listing.files.append(TextFile(path, named=True))
        if len(listing.files) == before:
            raise no_text(path, listing)
    if not listing.files:
        raise CorpusError("no text was named", HINT)
    if sum(file.path == STANDARD_INPUT for file in listing.files) > 1:
        raise CorpusError("standard input can be read only once", "name - a single time")
    return listing


def no_text(source: str | Path, listing: Listing) -> CorpusError:
    """The error for a source, the first of several perhaps, in which no text was found."""
    path = os.fspath(source)
    name = TextFile(path, named=True).name
    if listing.skipped.total() == listing.skipped["empty"] == len(listing.files) == 1 and listing.files[0].named:
        return CorpusError(f"{name} is empty", HINT)
    left_out = listing.left_out()
    hint = f"left out: {left_out}; a file that is named itself is always read" if left_out else HINT
    if left_out and listing.files == [TextFile(path, named=True)]:
        hint = f"left out: {left_out}"
    return CorpusError(f"there is no text in {name}", hint)


@contextmanager
def opened(file: TextFile, stdin: BinaryIO | None) -> Iterator[BinaryIO]:
    """The bytes of a file, or of standard input. Raises CorpusError where they cannot be read."""
    with _system_errors(file.path):
        if file.path != STANDARD_INPUT:
            with Path(file.path).open("rb") as regular:
                yield regular
            return
        stream: BinaryIO | None = stdin if stdin is not None else getattr(sys.stdin, "buffer", None)
        if stream is None:
            raise CorpusError("standard input is closed", "pipe text into the command, or name a file")
        yield stream


def _walk(root: str, listing: Listing, wanted: Wanted) -> None:
    """Append what is wanted below `root`; within a folder, files and folders come in the byte order of their names."""
    pending = [(root, True)]
    while pending:
        path, is_folder = pending.pop()
        if not is_folder:
            listing.files.append(TextFile(path, named=False))
            continue
        with _system_errors(path), os.scandir(path) as found:
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name), reverse=True)
        if {entry.name for entry in entries} >= RUN_FILES:
            listing.skipped["in a run folder"] += len(entries)
            continue
        for entry in entries:
            if entry.name.startswith("."):
                listing.skipped["hidden"] += 1
            elif reason := wanted.reason(entry.path[len(root) :].lstrip("/"), entry.is_dir(follow_symlinks=False)):
                listing.skipped[reason] += 1
            elif entry.is_dir(follow_symlinks=False) or _is_file(entry):
                pending.append((entry.path, entry.is_dir()))
            else:
                # A linked folder may lead in circles, a pipe blocks, a broken link leads nowhere, or to itself.
                listing.skipped["no regular file"] += 1


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_folder(path: str) -> bool:
    if "\0" in path:
        raise CorpusError(f"there is no file or folder {shown(path)}", HINT)
    with _system_errors(path):
        return stat.S_ISDIR(Path(path).stat().st_mode)


@contextmanager
def _system_errors(path: str) -> Iterator[None]:
    """What the system says about `path`, as a CorpusError."""
    try:
        yield
    except FileNotFoundError as error:
        raise CorpusError(f"there is no file or folder {shown(path)}", _similar(path) or HINT) from error
    except OSError as error:
        name = TextFile(path, named=True).name
        reason = error.strerror or type(error).__name__
        raise CorpusError(f"cannot read {name}: {reason}", "check its permissions, or name another file") from error


def _similar(path: str) -> str:
    """A hint that names a neighbour with nearly the same name, if there is one."""
    wanted = Path(path)
    try:
        names = [entry.name for entry in islice(wanted.parent.iterdir(), 10_000)]
    except OSError:
        return ""
    close = difflib.get_close_matches(wanted.name, names, n=1)
    return f"did you mean {shown(str(wanted.with_name(close[0])))}?" if close else ""
