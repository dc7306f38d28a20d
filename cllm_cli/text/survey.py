"""What is in a text: sizes, tokens, long lines, copies, and what hints at an encoding that went wrong.

Everything is read once, in chunks, and nothing of it is kept but counts, a hash of each document, and the first few
places of each problem. Offsets are bytes of the document as it is read, a byte-order mark not counted.
"""

from __future__ import annotations

import codecs
import hashlib
import heapq
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from cllm_cli.errors import CorpusError
from cllm_cli.text.chunks import peek
from cllm_cli.text.corpus import learned_from
from cllm_cli.text.documents import AS_IT_IS, Reading
from cllm_cli.text.misread import Misread
from cllm_cli.text.reading import SNIFFED, files_in, incoming, readable_twice
from cllm_cli.text.sources import no_text
from cllm_cli.text.tokenizers import builder_of
from cllm_cli.text.tokenizers.base import Builder, Encoder, Tokenizer

INVALID, REPLACED, NUL = "invalid UTF-8", "U+FFFD, a character that was lost before", "NUL bytes"
MOJIBAKE, MIXED, UTF_16 = "looks like UTF-8 that was read as Latin-1", "mixed line ends", "looks like UTF-16"
COPY, NO_TOKENS = "exact copies of other documents", "no tokens"

PATTERNS = {
    REPLACED: b"\xef\xbf\xbd",
    NUL: b"\0",
}
OVERLAP = max(map(len, PATTERNS.values())) - 1
MOST_ERRORS = 1000  # in a document; a file that is no text at all has millions
EXAMPLES = 5
LONGEST = 3


class Problem:
    """One kind of problem: how often, in how many documents, and where it is first found in the first few of them."""

    def __init__(self) -> None:
        self.count = self.documents = 0
        self.examples: list[dict[str, Any]] = []

    def add(self, count: int, **example: Any) -> None:
        self.count += count
        self.documents += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)


class DocumentScan:
    """One document's bytes, chunk by chunk."""

    def __init__(self) -> None:
        self.size = self.lines = self.line_feeds = self.pairs = self.longest = self.longest_line = 0
        self.first: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self._tail = self._undecoded = b""
        self._line = 0  # bytes of the line that is not over
        self._digest = hashlib.sha256()
        self._misread = Misread()

    def push(self, chunk: bytes) -> None:
        data, before = self._tail + chunk, self.size - len(self._tail)
        for problem, pattern in PATTERNS.items():
            # What lies in the tail was counted with the chunk that it ends.
            if count := data.count(pattern) - self._tail.count(pattern):
                self._found(problem, count, before + data.find(pattern))
        self.pairs += data.count(b"\r\n") - self._tail.count(b"\r\n")
        self._measure_lines(chunk)
        self._decode(chunk, final=False)
        self._misread.push(chunk)
        self._digest.update(chunk)
        self._tail = data[-OVERLAP:]
        self.size += len(chunk)

    def end(self) -> bytes:
        """The digest of the document, which is over."""
        self._decode(b"", final=True)
        self._misread.end()
        if self._misread.count:
            self._found(MOJIBAKE, self._misread.count, self._misread.first)
        self._end_line(self._line)
        self.lines = self.line_feeds + (self._line > 0)
        if 0 < self.pairs < self.line_feeds:
            self.counts[MIXED] = min(self.pairs, self.line_feeds - self.pairs)
        return self._digest.digest()

    def _found(self, problem: str, count: int, offset: int) -> None:
        self.first[problem] = min(offset, self.first.get(problem, offset))
        self.counts[problem] = self.counts.get(problem, 0) + count

    def _measure_lines(self, chunk: bytes) -> None:
        ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n"))
        if not ends.size:
            self._line += len(chunk)
            return
        self._end_line(self._line + int(ends[0]))
        lengths = np.diff(ends) - 1
        if lengths.size and int(lengths.max()) > self.longest:
            self.longest, self.longest_line = int(lengths.max()), self.line_feeds + 2 + int(lengths.argmax())
        self.line_feeds += ends.size
        self._line = len(chunk) - 1 - int(ends[-1])

    def _end_line(self, length: int) -> None:
        if length > self.longest:
            self.longest, self.longest_line = length, self.line_feeds + 1

    def _decode(self, chunk: bytes, final: bool) -> None:
        data = self._undecoded + chunk
        at, start = self.size - len(self._undecoded), 0
        while self.counts.get(INVALID, 0) < MOST_ERRORS:
            try:
                _, used = codecs.utf_8_decode(data[start:], "strict", final)
            except UnicodeDecodeError as error:
                self._found(INVALID, 1, at + start + error.start)
                start += error.end
                continue
            self._undecoded = data[start + used :]
            return
        self._undecoded = b""


class TokenCount:
    """How many tokens a text has, and how often each id occurs."""

    def __init__(self, builder: Builder | None, tokenizer: Tokenizer | None) -> None:
        self._builder, self._tokenizer = builder, tokenizer
        self.encoder: Encoder | None = builder or (tokenizer.encoder() if tokenizer else None)
        self._counts: npt.NDArray[np.int64] = np.zeros(0, np.int64)

    def push(self, chunk: bytes | None) -> None:
        """A chunk of the document that has begun, or None where it ends. Raises CorpusError where it has no ids."""
        if self.encoder is None:
            return
        try:
            ids = self.encoder.end() if chunk is None else self.encoder.encode(chunk)
            found = np.bincount(ids, minlength=self._counts.size)
        except CorpusError:
            self.encoder = None
            raise
        found[: self._counts.size] += self._counts
        self._counts = found

    def facts(self, documents: int, size: int) -> dict[str, Any]:
        if self.encoder is None:
            return dict.fromkeys(("tokens", "bytes_per_token", "vocab_size", "used_ids"))
        tokenizer = self._tokenizer
        if self._builder is not None:
            tokenizer, _ = self._builder.finish(end_of_text=documents > 1)
        assert tokenizer is not None
        tokens = int(self._counts.sum())
        return {
            "tokens": tokens + (documents if documents > 1 and tokenizer.end_of_text is not None else 0),
            "bytes_per_token": size / tokens if tokens else None,
            "vocab_size": tokenizer.vocab_size,
            "used_ids": int(np.count_nonzero(self._counts)),
        }


def survey(
    sources: Sequence[str | Path],
    spec: str,
    stdin: BinaryIO | None = None,
    tokenizer: Tokenizer | None = None,
    reading: Reading = AS_IT_IS,
) -> dict[str, Any]:
    """What is in the text of `sources`, as `read_corpus` would read it; ready for JSON, texts safe to print.

    Tokens are those of `tokenizer`, or of the one that `spec` names; they include the end-of-text ids that training
    puts between documents. Raises CorpusError where there is no text.
    """
    listing = files_in(sources, reading)
    builder = None if tokenizer else builder_of(spec)
    if builder is not None and builder.surveys:
        with readable_twice(listing, stdin) as again:
            tokenizer = learned_from(listing, builder, again, reading)
            row = survey(sources, spec, again, tokenizer, reading)
            return {**row, "tokenizer": spec, "notices": builder.notices() + row["notices"]}
    tokens, problems = TokenCount(builder, tokenizer), dict[str, Problem]()
    notices: list[str] = []
    seen: dict[bytes, str] = {}
    longest: list[tuple[int, int, str]] = []
    documents = size = lines = 0
    for document in incoming(listing, reading, stdin, notices):
        head, chunks = peek(document.chunks, SNIFFED)
        if tokens.encoder is not None:
            tokens.encoder.begin(document.name, document.offset)
        if _looks_like_utf_16(head):
            problems.setdefault(UTF_16, Problem()).add(1, path=document.name)
        scan = _scanned(document.name, chunks, tokens, problems)
        digest = scan.end()
        documents, size = documents + 1, size + scan.size
        lines += scan.lines
        longest = heapq.nlargest(LONGEST, [*longest, (scan.longest, scan.longest_line, document.name)])
        for problem, count in scan.counts.items():
            place = {"offset": scan.first[problem]} if problem in scan.first else {}
            problems.setdefault(problem, Problem()).add(count, path=document.name, **place)
        if digest in seen:
            problems.setdefault(COPY, Problem()).add(1, path=document.name, copy_of=seen[digest])
        else:
            seen[digest] = document.name
    if not documents:
        raise no_text(sources[0], listing)
    return {
        "documents": documents,
        "bytes": size,
        "lines": lines,
        "tokenizer": tokenizer.kind if tokenizer else spec,
        **tokens.facts(documents, size),
        "notices": notices + (tokens.encoder.notices() if tokens.encoder else []),
        "longest_lines": [{"path": name, "line": line, "bytes": length} for length, line, name in longest],
        "skipped": dict(listing.skipped),
        "problems": [
            {"problem": kind, "count": found.count, "documents": found.documents, "examples": found.examples}
            for kind, found in problems.items()
        ],
    }


def _scanned(name: str, chunks: Iterator[bytes], tokens: TokenCount, problems: dict[str, Problem]) -> DocumentScan:
    scan = DocumentScan()
    for chunk in itertools.chain(chunks, [None]):
        try:
            tokens.push(chunk)
        except CorpusError as error:
            problems.setdefault(NO_TOKENS, Problem()).add(1, path=name, why=error.message)
        if chunk is not None:
            scan.push(chunk)
    return scan


def _looks_like_utf_16(head: bytes) -> bool:
    """Without a mark: NULs at every other place, as the ASCII in UTF-16 has them."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    return max(even, odd) > len(head) // 4 and min(even, odd) < max(even, odd) // 10
