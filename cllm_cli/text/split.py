"""Which text is for validation, and the fingerprint of a corpus.

One document: its end. Several: whole documents, each by the hash of its content, so that a document's side depends on
no other document, exact copies stay on one side, and adding a document moves no other one. A change to this rule needs
a new `SPLIT_RULE`: a run remembers by which one its corpus was split.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, overload

from cllm_cli.text.tokenizers.base import TokenArray, Tokenizer

SPLIT_RULE = 1


class Document(NamedTuple):
    """A document that was read: tokens `start` to `stop` of the pile, bytes of text, SHA-256 of these bytes."""

    start: int
    stop: int
    size: int
    digest: bytes


class Documents(Sequence[Document]):
    """Documents in order, in 56 bytes each: every row of a large table may be one."""

    def __init__(self) -> None:
        self._numbers, self._digests = array("Q"), bytearray()

    def append(self, document: Document) -> None:
        self._numbers.extend(document[:3])
        self._digests += document.digest

    def __len__(self) -> int:
        return len(self._numbers) // 3

    def __iter__(self) -> Iterator[Document]:
        numbers = iter(self._numbers)
        for at, (start, stop, size) in enumerate(zip(numbers, numbers, numbers, strict=True)):
            yield Document(start, stop, size, bytes(self._digests[32 * at : 32 * at + 32]))

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...
    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        start, stop, size = self._numbers[3 * at : 3 * at + 3]
        return Document(start, stop, size, bytes(self._digests[32 * at : 32 * at + 32]))


def sides_of_one(tokens: TokenArray, tokenizer: Tokenizer, val_fraction: float) -> tuple[TokenArray, TokenArray]:
    """A single document for training, and its end for validation.

    Each side gets a token, if it can; no character is torn where that can be.
    """
    cut = tokens.size - max(1, min(tokens.size - 1, round(tokens.size * val_fraction)))
    cut = tokenizer.boundary(tokens, cut) or cut
    return tokens[:cut], tokens[cut:]


def choose_validation(documents: Sequence[Document], val_fraction: float) -> tuple[list[bool], str]:
    """For each of several documents whether it is for validation, and a notice where the rule alone did not do.

    A document is for validation if its hash, read as a fraction, is below `val_fraction`. Should that leave one side
    empty, the one content that brings the sizes nearest to `val_fraction` changes sides.
    """
    threshold = int(val_fraction * 2**64)
    sides = [int.from_bytes(document.digest[:8], "big") < threshold for document in documents]
    first = documents[0].digest
    if all(document.digest == first for document in documents):
        side = [False] * (len(documents) - 1) + [True]
        return side, "all documents are the same text: validation measures nothing but memory"
    notice = ""
    if len(set(sides)) == 1:
        sizes = dict.fromkeys((document.digest for document in documents), 0)
        for document in documents:
            sizes[document.digest] += document.size
        to_validation = not sides[0]
        wanted = (val_fraction if to_validation else 1 - val_fraction) * sum(sizes.values())
        moved = min(sizes, key=lambda digest: (abs(sizes[digest] - wanted), digest))
        sides = [to_validation == (document.digest == moved) for document in documents]
        side_name = "validation" if to_validation else "training"
        notice = f"the hash of their content chose no document for {side_name}: the one of the fittest size was taken"
    return sides, notice


def fingerprint_of(documents: Iterable[Document], validation: Iterable[Document]) -> str:
    """SHA-256 (hex) over the split rule's version and the documents' contents in order, those of `--val` after them."""
    whole = hashlib.sha256(f"cllm corpus, split rule {SPLIT_RULE}\n".encode())
    for mark, group in ((b"text", documents), (b"val ", validation)):
        for document in group:
            whole.update(mark + document.size.to_bytes(8, "little") + document.digest)
    return whole.hexdigest()
