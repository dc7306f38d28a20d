"""Comma- and tab-separated values (RFC 4180) with a header, one column the text; quoted, a text may have line ends.

Bytes that are no UTF-8 stay as they are. Blank lines and rows whose text is empty are left out and counted.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator

from cllm_cli.errors import CorpusError
from cllm_cli.printable import one_line
from cllm_cli.text.chunks import in_chunks
from cllm_cli.text.documents import Incoming, Reading, Source
from cllm_cli.text.formats import base
from cllm_cli.text.formats.base import AS_TEXT, EMPTY_ROWS, Format, lines_of, named, quoted, too_long


def _documents(source: Source, reading: Reading, delimiter: str) -> Iterator[Incoming]:
    rows = _rows(source, delimiter)
    number, header = next(rows, (1, []))
    if header.count(reading.field) != 1:
        count = "no column" if reading.field not in header else "more than one column"
        raise CorpusError(
            f"{source.name} has {count} {quoted(reading.field)}",
            f"--field COLUMN says where the text is; its header, line {number}, has: {named(header)}; {AS_TEXT}",
        )
    column = header.index(reading.field)
    for number, row in rows:
        if len(row) != len(header):
            raise CorpusError(
                f"{source.name}, line {number}: the row has {len(row)} fields, the header {len(header)}",
                f"a field with '{_WORDS[delimiter]}' or a line end in it has to be in quotes; {AS_TEXT}",
            )
        if row[column]:
            text = row[column].encode("utf-8", "surrogateescape")
            yield Incoming(f"{source.name}, line {number}", 0, in_chunks(text))
        else:
            source.skipped[EMPTY_ROWS] += 1


_WORDS = {",": ",", "\t": r"\t"}


def _rows(source: Source, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the number of its first line."""
    # The limit is the process's own. It counts characters, `_Lines` bytes, so that it is never reached.
    csv.field_size_limit(max(csv.field_size_limit(), base.LARGEST_ROW))
    lines = _Lines(source)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.size, number = 0, lines.number + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise CorpusError(
                f"{source.name}, line {number}: the row cannot be read: {one_line(str(error))}",
                f'a quote within a quoted field is written ""; {AS_TEXT}',
            ) from error
        if row is None:
            return
        if row:
            yield number, row
        else:
            source.skipped[EMPTY_ROWS] += 1


class _Lines:
    """Lines as the csv module wants them. `number` is that of the last one, `size` the bytes since it was cleared."""

    def __init__(self, source: Source) -> None:
        self._name, self._lines = source.name, lines_of(source)
        self.number = self.size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        self.size += len(line) + 1
        if self.size > base.LARGEST_ROW:
            raise too_long(self._name, self.number)
        return line.decode("utf-8", "surrogateescape") + "\n"


def _comma(source: Source, reading: Reading) -> Iterator[Incoming]:
    return _documents(source, reading, ",")


def _tab(source: Source, reading: Reading) -> Iterator[Incoming]:
    return _documents(source, reading, "\t")


CSV, TSV = Format("csv", _comma), Format("tsv", _tab)
