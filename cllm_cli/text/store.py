"""A token store: the tokens of a corpus in one file, written once by `cllm tokenize` and mapped by `cllm train`.

    64 bytes     magic, byte order, version, and the counts from which the place of everything else follows
    facts        a JSON object: the tokenizer whole and its hash, what the corpus was, how it was read and split
    tokens       those for training, then those for validation, 1, 2 or 4 bytes each, from a multiple of 64 bytes on
    documents    64 bytes each, from a multiple of 64 on: where it lies, its bytes of text, their SHA-256
    32 bytes     SHA-256 of all before

Numbers are in the byte order of the machine that wrote them, so that tokens can be used where they lie. There are no
offsets in the file: nothing can point outside or overlap, and the counts have to add up to the file's own size before
anything is mapped. No part of a file is executed, and no name in it is looked up. A store is replaced as a whole, never
changed in place; one that is cut short or written to while it is mapped is an error when the next batch is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cllm_cli.errors import CorpusError, RunError
from cllm_cli.text.mapped import MappedFile, pieces_of
from cllm_cli.text.pile import Span
from cllm_cli.text.sources import STANDARD_INPUT, shown
from cllm_cli.text.split import Document
from cllm_cli.text.tokenizers.base import TokenArray

# No text begins so; like PNG's, it does not survive a transfer that treats it as text.
MAGIC = b"\x8bCLLM\r\n\x1a"
ORDER = 0x01020304
VERSION = 1
WIDTHS: dict[int, np.dtype[Any]] = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16), 4: np.dtype(np.uint32)}
HEAD = struct.Struct("=8sII6Q")
ALIGNMENT = 64
DIGEST = 32
LARGEST_FACTS = 64 << 20  # bytes of a tokenizer that anyone could mean
PIECE = 1 << 22  # bytes that are hashed at a time: a signal is heeded in between

DocumentTable = npt.NDArray[np.void]
DOCUMENT = np.dtype(
    [("sha256", "V32"), ("bytes", np.uint64), ("first", np.uint64), ("tokens", np.uint64), ("val", np.uint64)]
)
"""`first` counts from the first token for training; `val` is 1 for a document that was named with --val."""

REMEDY = "make it again with cllm tokenize"


class Layout(NamedTuple):
    """The counts of a store's header, in their order."""

    file_bytes: int
    facts_bytes: int
    width: int
    train: int
    val: int
    documents: int

    @property
    def tokens_at(self) -> int:
        return _aligned(HEAD.size + self.facts_bytes)

    @property
    def documents_at(self) -> int:
        return _aligned(self.tokens_at + (self.train + self.val) * self.width)

    @property
    def digest_at(self) -> int:
        return self.documents_at + self.documents * DOCUMENT.itemsize


class Store:
    """A mapped store. Raises CorpusError where the header, the file's size and the facts do not fit together.

    `facts` is a JSON object from a file that anyone may have written. Nothing is verified beyond that: see `check`.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, shown(str(path))
        with _system_errors(self.name), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.layout = _read_layout(file.read(HEAD.size), size, self.name)
            self._memory = MappedFile(file)
        if len(self._memory) != size:
            raise damaged(self.name, "its size changes while it is read")
        self.facts = self._parsed()

    @property
    def train(self) -> TokenArray:
        """The tokens for training, where they lie in the file: read from the disk when they are used."""
        return self._array(WIDTHS[self.layout.width], self.layout.train, self.layout.tokens_at)

    @property
    def val(self) -> TokenArray:
        """The tokens for validation, likewise."""
        layout = self.layout
        return self._array(WIDTHS[layout.width], layout.val, layout.tokens_at + layout.train * layout.width)

    @property
    def tokens(self) -> TokenArray:
        """All tokens, those for validation after those for training."""
        layout = self.layout
        return self._array(WIDTHS[layout.width], layout.train + layout.val, layout.tokens_at)

    @property
    def documents(self) -> DocumentTable:
        """The documents in their order, as DOCUMENT."""
        return self._array(DOCUMENT, self.layout.documents, self.layout.documents_at)

    @property
    def digest(self) -> bytes:
        """The SHA-256 that the file states."""
        return self._memory[self.layout.digest_at :]

    def is_whole(self) -> bool:
        """Whether the file is as it was written. Reads all of it: a second or two for a GB."""
        digest = hashlib.sha256()
        for piece in pieces_of(self._array(np.dtype(np.uint8), self.layout.digest_at, 0), PIECE):
            digest.update(piece.data)
        return digest.digest() == self.digest

    def check(self) -> None:
        """Raise CorpusError unless the file is as it was written."""
        if not self.is_whole():
            raise damaged(self.name, "its checksum is not that of its content")

    def _array(self, dtype: np.dtype[Any], count: int, at: int) -> npt.NDArray[Any]:
        return np.frombuffer(self._memory, dtype, count, at)

    def _parsed(self) -> dict[str, Any]:
        text = self._memory[HEAD.size : HEAD.size + self.layout.facts_bytes]
        try:
            facts = json.loads(text.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise damaged(self.name, "its facts are no JSON") from error
        if not isinstance(facts, dict):
            raise damaged(self.name, "its facts are no JSON object")
        return facts


def store_chunks(
    facts: Mapping[str, Any], train: TokenArray, val: TokenArray, documents: DocumentTable
) -> Iterator[bytes | memoryview]:
    """The bytes of a store, straight from the memory of tokens that are there already; nothing is copied."""
    text = json.dumps(facts, separators=(",", ":")).encode()
    width = train.dtype.itemsize
    layout = Layout(0, len(text), width, train.size, val.size, documents.size)
    layout = layout._replace(file_bytes=layout.digest_at + DIGEST)
    digest = hashlib.sha256()
    head = HEAD.pack(MAGIC, ORDER, VERSION, *layout) + text.ljust(layout.tokens_at - HEAD.size)
    padding = layout.documents_at - layout.tokens_at - (train.size + val.size) * width
    parts = (np.frombuffer(head, np.uint8), train, val, np.zeros(padding, np.uint8), documents)
    for part in parts:
        for piece in pieces_of(part.view(np.uint8), PIECE):
            digest.update(piece.data)
            yield piece.data
    yield digest.digest()


def document_table(documents: Iterable[Document], texts: int, spans: Collection[Span]) -> DocumentTable:
    """Where documents lie that were joined by `spans` into tokens for training (0) and, after them, validation (1).

    Those after the first `texts` are of --val.
    """
    table = np.zeros(len(spans), DOCUMENT)
    filled = [0, sum(_joined_size(span) for span in spans if not span.output)]
    for number, (document, span) in enumerate(zip(documents, spans, strict=True)):
        size = _joined_size(span)
        table[number] = (document.digest, document.size, filled[span.output], size, number >= texts)
        filled[span.output] += size
    return table


def _joined_size(span: Span) -> int:
    return span.stop - span.start + (span.end is not None)


def is_store(path: str | Path) -> bool:
    """Whether a regular file begins as a store does; False for what cannot be read."""
    with contextlib.suppress(OSError, ValueError):  # a NUL in the name
        if stat.S_ISREG(Path(path).stat().st_mode):
            with Path(path).open("rb") as file:
                return file.read(len(MAGIC)) == MAGIC
    return False


def single_store(sources: Sequence[str | Path]) -> Path | None:
    """The store that `sources` name and nothing else, if they do."""
    alone = len(sources) == 1 and os.fspath(sources[0]) != STANDARD_INPUT and is_store(sources[0])
    return Path(sources[0]) if alone else None


def check_place(path: Path, force: bool) -> None:
    """Raise RunError where a store may not be written. Only a store is ever overwritten, and only with `force`."""
    name = shown(str(path))
    if os.path.lexists(path):
        if not is_store(path):
            raise RunError(f"{name} is there already, and is no token store", "choose another file with --out")
        if not force:
            raise RunError(f"there is a token store {name}", "--force overwrites it, --out FILE is another place")
    elif not path.name or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise RunError(
            f"cannot write {name}: its folder is missing or may not be written", "choose another file with --out"
        )


def damaged(name: str, what: str) -> CorpusError:
    return CorpusError(f"the token store {name} is damaged: {what}", REMEDY)


def no_text_but_store(name: str) -> CorpusError:
    """The error where a store was given in place of text."""
    return CorpusError(
        f"{name} is a token store, no text",
        "cllm train and cllm eval take a single one by its path; elsewhere give text",
    )


def _read_layout(head: bytes, size: int, name: str) -> Layout:
    """The counts of a header, after they were compared with the size of the file."""
    if not head.startswith(MAGIC):
        raise CorpusError(f"{name} is no token store", "cllm tokenize makes one")
    if len(head) < HEAD.size:
        raise damaged(name, f"it ends after {size} bytes, within its header")
    _, order, version, *counts = HEAD.unpack(head)
    if order != ORDER:
        if order == int.from_bytes(ORDER.to_bytes(4, "little"), "big"):
            raise CorpusError(f"{name} was written on a machine of another byte order", REMEDY + " on this one")
        raise damaged(name, "its byte order is none")
    if version != VERSION:
        raise CorpusError(f"{name} is a token store of version {version}; this program reads version {VERSION}", REMEDY)
    layout = Layout(*counts)
    if layout.width not in WIDTHS:
        raise damaged(name, f"its tokens take {layout.width} bytes each")
    if layout.facts_bytes > LARGEST_FACTS:
        raise damaged(name, f"its facts take {layout.facts_bytes} bytes")
    if layout.file_bytes != size:
        raise damaged(name, f"it says that it has {layout.file_bytes} bytes, and has {size}")
    if layout.digest_at + DIGEST != size:
        raise damaged(name, f"what its header counts takes {layout.digest_at + DIGEST} bytes, and it has {size}")
    return layout


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


@contextlib.contextmanager
def _system_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CorpusError(
            f"cannot read {name}: {error.strerror or error}", "check its permissions, or name another file"
        ) from error
