"""Lines and documents, each a text of its own: what `cllm eval --per-line` and `--per-document` score.

They come in groups, of what was there to read, so that a pipe is answered as it goes. Memory: a group, which is a
chunk's lines or some documents, and the line or document in hand.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from cllm_cli.errors import CorpusError
from cllm_cli.text.chunks import CHUNK, beyond, in_chunks, peek, piece_of
from cllm_cli.text.compression import compression_of, decompressed
from cllm_cli.text.decoding import BOM, as_utf8, marked_encoding
from cllm_cli.text.documents import Reading
from cllm_cli.text.reading import SNIFFED, incoming
from cllm_cli.text.sources import Listing, TextFile, opened
from cllm_cli.text.store import MAGIC, no_text_but_store
from cllm_cli.text.tokenizers.base import Encoder, TokenArray, Tokenizer

HEAD = len(MAGIC)  # bytes that tell what a file is; a pipe is waited for to give so many
GROUP = 1 << 16  # tokens of documents that are scored together, more or less


@dataclass(frozen=True, slots=True)
class Passage:
    """A line, `id` is its number from 1, or a document, `id` is its file, or where it stands in one that holds several.

    `file` is a path as it was given.
    """

    id: int | str
    file: str
    tokens: TokenArray


def lines_of(
    listing: Listing, tokenizer: Tokenizer, stdin: BinaryIO | None, reading: Reading, notices: list[str]
) -> Iterator[list[Passage]]:
    r"""The lines of the listed files, without their ends (`\n` or `\r\n`), whatever their format.

    Raises CorpusError for a file that cannot be read or a line that cannot be encoded, after those before it. What a
    user should know in the end goes to `notices`.
    """
    encoder = tokenizer.encoder()
    for file, pieces in _files(listing, stdin, reading):
        number = 0
        for lines in _lines(pieces):
            group: list[Passage] = []
            for line in lines:
                number += 1
                try:
                    content = in_chunks(line.removesuffix(b"\r"))
                    tokens = _encoded(content, encoder, tokenizer, f"line {number} of {file.name}")
                except CorpusError:
                    yield group
                    raise
                group.append(Passage(number, file.path, tokens))
            yield group
    notices += encoder.notices()


def documents_of(
    listing: Listing, tokenizer: Tokenizer, stdin: BinaryIO | None, reading: Reading, notices: list[str]
) -> Iterator[list[Passage]]:
    """The documents in the listed files, each of them whole. Raises CorpusError as `lines_of`."""
    encoder = tokenizer.encoder()
    group: list[Passage] = []
    size = 0
    try:
        for file in listing.files:
            found = incoming(Listing([file], listing.skipped), reading, stdin, notices)
            for number, document in enumerate(found, start=1):
                tokens = _encoded(document.chunks, encoder, tokenizer, document.name, document.offset)
                name = file.path if document.name == file.name else document.name
                name = f"{name}, document {number}" if reading.separator and name == file.path else name
                group.append(Passage(name, file.path, tokens))
                size += 1 + tokens.size
                if size >= GROUP:
                    yield group
                    group, size = [], 0
    except CorpusError:
        yield group
        raise
    yield group
    notices += encoder.notices()


def _files(listing: Listing, stdin: BinaryIO | None, reading: Reading) -> Iterator[tuple[TextFile, Iterator[bytes]]]:
    """Each file with its bytes in UTF-8, in pieces as they come, without a byte-order mark; binary ones only if named.

    The same as `reading` makes of it, which waits for more of a file before it tells what that is.
    """
    for file in listing.files:
        with opened(file, stdin) as stream:
            head, pieces = peek(_pieces(stream), HEAD)
            compression = compression_of(head)
            if compression:
                head, pieces = peek(decompressed(pieces, compression, file.name), HEAD)
            if head.startswith(MAGIC):
                raise no_text_but_store(file.name)
            encoding = reading.encoding or marked_encoding(head)
            if encoding or reading.replace:
                pieces = as_utf8(pieces, encoding or "utf-8", reading.replace, file.name)
            first = next(pieces, b"")
            if b"\0" in first[:SNIFFED] and not file.named:
                listing.skipped["binary"] += 1
            else:
                yield file, beyond(itertools.chain([first] if first else [], pieces), len(BOM) * head.startswith(BOM))


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    while piece := piece_of(stream, CHUNK):
        yield piece


def _lines(pieces: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The lines that each piece completes, and the last one, which may have no end."""
    held: list[bytes] = []
    for piece in pieces:
        first, *others = piece.split(b"\n")
        held.append(first)
        if others:
            yield [b"".join(held), *others[:-1]]
            held = others[-1:]
    last = b"".join(held)
    if last:
        yield [last]


def _encoded(chunks: Iterable[bytes], encoder: Encoder, tokenizer: Tokenizer, name: str, offset: int = 0) -> TokenArray:
    """Ids of a text by itself; the encoder's own memory is used again."""
    encoder.begin(name, offset)
    parts = [encoder.encode(chunk).astype(tokenizer.dtype) for chunk in chunks]
    return np.concatenate([*parts, encoder.end().astype(tokenizer.dtype)])
