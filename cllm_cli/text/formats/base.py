"""What formats share: their declaration, rows of lines, and the value that is the text of a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from cllm_cli.errors import CorpusError
from cllm_cli.printable import one_line
from cllm_cli.text.documents import Incoming, Reading, Source

LARGEST_ROW = 64 << 20  # bytes; a row is held in memory as a whole
EMPTY_ROWS = "empty rows"
AS_TEXT = "--format text reads it as plain text"
MOST_NAMES, LONGEST_NAME = 8, 40  # of fields and columns in a message

_KINDS: dict[type, str] = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True)
class Format:
    """`documents` makes a source's documents; `text` says that it takes UTF-8, not the file's own bytes."""

    name: str
    documents: Callable[[Source, Reading], Iterator[Incoming]]
    text: bool = True


def lines_of(source: Source) -> Iterator[tuple[int, bytes]]:
    """The lines of a source, numbered from 1, without their ends. Raises CorpusError for one beyond LARGEST_ROW."""
    held: list[bytes] = []
    size, number = 0, 1
    for chunk in source.chunks:
        for index, piece in enumerate(chunk.split(b"\n")):
            if index:
                yield number, b"".join(held)
                held, size, number = [], 0, number + 1
            held.append(piece)
            size += len(piece)
            if size > LARGEST_ROW:
                raise too_long(source.name, number)
    if size:
        yield number, b"".join(held)


def too_long(name: str, number: int) -> CorpusError:
    """The error for a row that is not taken into memory."""
    return CorpusError(
        f"{name}, line {number}: the row has more than {LARGEST_ROW >> 20} MiB", f"split it up; {AS_TEXT}"
    )


def text_within(row: object, path: Sequence[str], where: str) -> str:
    """The string at `path` of nested objects. Raises CorpusError, saying what there is instead."""
    value, name = row, ".".join(path)
    for key in path:
        if not isinstance(value, dict) or key not in value:
            there = f"it has: {named(value)}" if isinstance(value, dict) else f"there is {kind_of(value)} in its place"
            raise CorpusError(f"{where} has no field {quoted(name)}", f"--field NAME says where the text is; {there}")
        value = value[key]
    if not isinstance(value, str):
        raise CorpusError(
            f"{where}: field {quoted(name)} is {kind_of(value)}, not a string", "--field NAME says where the text is"
        )
    return value


def kind_of(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def quoted(name: str) -> str:
    """A name from a file or a flag, safe to print and not too long."""
    return "'" + one_line(name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…") + "'"


def named(names: Iterable[object]) -> str:
    """The first few names of fields or columns."""
    found = [quoted(str(name)) for name in names]
    return ", ".join(found[:MOST_NAMES] + ["…"] * (len(found) > MOST_NAMES)) or "nothing"
