"""Reading: from files that were found to documents of UTF-8 bytes, by the contract of `documents`.

Nothing said, a file's content decides: compressed bytes are decompressed, UTF-16 and UTF-32 are known by their
byte-order mark, all else stays as it is. A file of a folder that is no text (a NUL in its first SNIFFED bytes) is left
out and counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from cllm_cli.config import Settings
from cllm_cli.errors import ConfigError, CorpusError
from cllm_cli.text.chunks import beyond, chunks_of, peek
from cllm_cli.text.compression import compression_of, decompressed
from cllm_cli.text.decoding import BOM, as_utf8, check_encoding, looks_binary, marked_encoding
from cllm_cli.text.documents import Incoming, Reading, Source
from cllm_cli.text.formats import AUTO, check_format, find_format, format_by_name, may_be_parquet
from cllm_cli.text.sources import STANDARD_INPUT, Listing, TextFile, Wanted, find_files, opened
from cllm_cli.text.store import MAGIC, no_text_but_store
from cllm_cli.text.unnamed import laid_down

SNIFFED = 1 << 16
ERRORS = ("strict", "replace")
BEGINNING = 1 << 14  # bytes in which JSON lines show themselves
LIKE_ROWS = "looks like JSON lines; --format jsonl reads it row by row"
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "\\": "\\"}


def reading_of(settings: Settings) -> Reading:
    """How these settings say that text is to be read. Raises ConfigError for names that are unknown."""
    if settings.encoding is not None:
        check_encoding(settings.encoding)
    if settings.errors not in ERRORS:
        raise ConfigError(
            f"--errors must be {' or '.join(ERRORS)}, not {settings.errors!a}",
            "strict refuses bytes that are none of the encoding, replace puts U+FFFD in their place",
        )
    check_format(settings.format)
    return Reading(
        encoding=settings.encoding,
        replace=settings.errors == "replace",
        format=settings.format,
        field=settings.field,
        separator=b"" if settings.split_on is None else _separator(settings.split_on),
        include=settings.include or (),
        exclude=settings.exclude or (),
    )


def files_in(sources: Sequence[str | Path], reading: Reading) -> Listing:
    """The files that `sources` stand for."""
    return find_files(sources, Wanted(reading.include, reading.exclude))


def incoming(listing: Listing, reading: Reading, stdin: BinaryIO | None, notices: list[str]) -> Iterator[Incoming]:
    """The documents in the files of `listing`, in order; what is left out is counted in it."""
    for file in listing.files:
        with opened(file, stdin) as stream:
            yield from _documents(file, stream, reading, listing, notices)


@contextmanager
def readable_twice(listing: Listing, stdin: BinaryIO | None) -> Iterator[BinaryIO | None]:
    """Standard input in a file without a name, if it is among the files; else just `stdin`."""
    for file in listing.files:
        if file.path != STANDARD_INPUT and file.named and not Path(file.path).is_file():
            raise CorpusError(
                f"{file.name} is a pipe, and this tokenizer has to read the text twice",
                "pipe it into the command, with - for its name",
            )
    if not listing.has_stdin:
        yield stdin
        return
    file = TextFile(STANDARD_INPUT, named=True)
    with laid_down(_piped(file, stdin), file.name) as kept:
        yield kept


def plain_bytes(file: TextFile, reading: Reading) -> int:
    """The size of a file whose bytes all reach the encoder as they are; 0 where they may not, or it is not known."""
    size = file.size()
    if not size or reading.encoding or reading.replace:
        return 0
    if (format_by_name(file.path) if reading.format == AUTO else reading.format) != "text":
        return 0
    try:
        with Path(file.path).open("rb") as stream:
            head = stream.read(SNIFFED)
    except OSError:  # whoever reads it will say so
        return 0
    return 0 if compression_of(head) or marked_encoding(head) else size


def _piped(file: TextFile, stdin: BinaryIO | None) -> Iterator[bytes]:
    with opened(file, stdin) as stream:
        yield from chunks_of(stream)


def _documents(
    file: TextFile, stream: BinaryIO, reading: Reading, listing: Listing, notices: list[str]
) -> Iterator[Incoming]:
    head, chunks = peek(chunks_of(stream), SNIFFED)
    compression = compression_of(head)
    if compression:
        head, chunks = peek(decompressed(chunks, compression, file.name), SNIFFED)
        if compression_of(head):
            raise CorpusError(
                f"{file.name} is compressed twice", "decompress it once and give the result, or leave it out: --exclude"
            )
    if file.named and head.startswith(MAGIC):
        raise no_text_but_store(file.name)
    if not head:
        listing.skipped["empty"] += 1
        return
    seekable = stream if not compression and file.path != STANDARD_INPUT and stream.seekable() else None
    # The end of a pipe is not there to look at before all of it is.
    keep = seekable is None and may_be_parquet(reading.format, file.path, head)
    with laid_down(chunks, file.name) if keep else nullcontext(seekable) as whole:
        form = find_format(reading.format, file.path, head, whole)
        source = Source(file.name, chunks_of(whole) if keep and whole else chunks, file=whole, skipped=listing.skipped)
        if form.text:
            encoding = reading.encoding or marked_encoding(head)
            strict = reading.encoding is None and not reading.replace and not file.named
            binary = looks_binary(head, encoding, "strict" if strict else "replace")
            if binary and not file.named:
                listing.skipped["binary"] += 1
                return
            if encoding or reading.replace:
                source.chunks = as_utf8(source.chunks, encoding or "utf-8", reading.replace, file.name)
            elif head.startswith(BOM):
                source.offset = len(BOM)
                source.chunks = beyond(source.chunks, len(BOM))
            first, source.chunks = peek(source.chunks, BEGINNING)
            if not first:
                listing.skipped["empty"] += 1
                return
            if binary and encoding is None and form.name == "text":
                ids = "; token ids are read by cllm tokenize --ids" if file.path.endswith(".bin") else ""
                notices.append(f"{file.name} looks like a binary file; it is read as it is{ids}")
            told = any(notice.endswith(LIKE_ROWS) for notice in notices)  # of a thousand such files, the first
            if file.named and reading.format == AUTO and form.name == "text" and not told and _are_rows(first):
                notices.append(f"{file.name} {LIKE_ROWS}")
        yield from form.documents(source, reading)


def _are_rows(beginning: bytes) -> bool:
    """Whether a text begins with a line that is a JSON object, and another that begins like one."""
    first, _, rest = beginning.partition(b"\n")
    if not first.startswith(b"{") or not rest.startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _separator(written: str) -> bytes:
    r"""The bytes of `--split-on`, in which \n \r \t \0 \\ \xHH and \uHHHH stand for characters."""

    def character(match: re.Match[str]) -> str:
        code = match[1]
        if len(code) > 1:
            return chr(int(code[1:], 16))
        if code not in _ESCAPES:
            raise ConfigError(
                f"--split-on has an escape that is unknown: {match[0]!a}",
                r"known: \n \r \t \0 \xHH \uHHHH, and \\ for a backslash",
            )
        return _ESCAPES[code]

    text = re.sub(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.|$)", character, written, flags=re.DOTALL)
    try:
        separator = text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"--split-on has half of a character, {text[error.start]!a}", "give whole ones") from error
    if not separator:
        raise ConfigError("--split-on is empty", r"give the text between two documents, for example --split-on '\n\n'")
    return separator
