"""JSON lines (jsonlines.org): an object a line, one of its fields the text; `a.b` is the field b of the object a.

Blank lines and rows whose text is empty are left out and counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from cllm_cli.errors import CorpusError
from cllm_cli.text.chunks import in_chunks
from cllm_cli.text.decoding import HINT, encoded
from cllm_cli.text.documents import Incoming, Reading, Source
from cllm_cli.text.formats.base import AS_TEXT, EMPTY_ROWS, Format, kind_of, lines_of, text_within


def _documents(source: Source, reading: Reading) -> Iterator[Incoming]:
    path = reading.field.split(".")
    for number, line in lines_of(source):
        where = f"{source.name}, line {number}"
        text = b""
        if line and not line.isspace():
            text = encoded(text_within(_object(line, where), path, where), reading.replace, where)
        if text:
            yield Incoming(where, 0, in_chunks(text))
        else:
            source.skipped[EMPTY_ROWS] += 1


def _object(line: bytes, where: str) -> object:
    hint = f"every line has to be one JSON object; {AS_TEXT}"
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{where} is no UTF-8: its byte {error.start} is 0x{line[error.start]:02x} ({error.reason})", HINT
        ) from error
    except json.JSONDecodeError as error:
        raise CorpusError(f"{where} is no JSON: {error.msg} at column {error.colno}", hint) from error
    except (ValueError, RecursionError) as error:  # a number of too many digits, a nest of brackets
        raise CorpusError(f"{where} is no JSON that can be read: its numbers or nests are too large", hint) from error
    if not isinstance(row, dict):
        raise CorpusError(f"{where} is {kind_of(row)}, not a JSON object", hint)
    return row


JSONL = Format("jsonl", _documents)
