"""Parquet (parquet.apache.org), read by pyarrow one row group after the other, a few rows at a time.

Only the field's own column is read; `a.b` is the field b of the structure a. A file that cannot be sought in, such as a
pipe or a compressed one, is laid down in a temporary file first. Rows whose text is empty are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, BinaryIO

from cllm_cli.errors import CorpusError
from cllm_cli.printable import one_line
from cllm_cli.text.chunks import in_chunks
from cllm_cli.text.documents import Incoming, Reading, Source
from cllm_cli.text.formats.base import EMPTY_ROWS, Format, named, quoted, text_within
from cllm_cli.text.unnamed import laid_down

ROWS = 256  # in a batch
LONGEST_REASON = 200  # of pyarrow's words, in a message


def _documents(source: Source, reading: Reading) -> Iterator[Incoming]:
    path = reading.field.split(".")
    number = 0
    with nullcontext(source.file) if source.file else laid_down(source.chunks, source.name) as file:
        for row in _rows(source.name, file, reading.field):
            number += 1
            where = f"{source.name}, row {number}"
            text = text_within(row, path, where).encode()
            if text:
                yield Incoming(where, 0, in_chunks(text))
            else:
                source.skipped[EMPTY_ROWS] += 1


def _rows(name: str, file: BinaryIO, field: str) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise CorpusError(
            f"{name} is Parquet, which needs the package 'pyarrow'",
            "pip install 'cllm[parquet]'; the single-file cllm does without it",
        ) from error

    try:
        table = parquet.ParquetFile(file)
        if not _has_field(table.schema_arrow, field):
            raise CorpusError(
                f"{name} has no column {quoted(field)}",
                f"--field COLUMN says where the text is; it has: {named(table.schema_arrow.names)}",
            )
        for group in range(table.num_row_groups):
            for batch in table.iter_batches(ROWS, row_groups=[group], columns=[field], use_threads=False):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = one_line(str(error).partition("\n")[0][:LONGEST_REASON])
        raise CorpusError(f"{name} cannot be read as Parquet: {reason}", "copy it again, or make it anew") from error


def _has_field(schema: Any, field: str) -> bool:
    """Whether a schema has the field a.b; pyarrow reads nothing, and says nothing, where it has not."""
    import pyarrow

    first, *others = field.split(".")
    found = schema.field(first).type if first in schema.names else None
    for name in others:
        inner = found if found is not None and pyarrow.types.is_struct(found) else None
        at = inner.get_field_index(name) if inner is not None else -1
        found = inner.field(at).type if inner is not None and at >= 0 else None
    return found is not None


PARQUET = Format("parquet", _documents, text=False)
