"""Files of token ids that other programs wrote. They say nothing of their tokenizer, so one has to be named.

    nanoGPT   ids as little-endian uint16 and nothing else            (karpathy/nanoGPT, data/openwebtext/prepare.py)
    llm.c     256 int32 (magic, version, number of ids, zeros), ids   (karpathy/llm.c, dev/data/data_common.py)
              20240520, 1: uint16          20240801, 7: uint32

A file is mapped; several are one text in their order. What lies beside them, such as nanoGPT's meta.pkl, is not read.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cllm_cli.errors import CorpusError
from cllm_cli.text.corpus import TRAIN, VAL, Corpus
from cllm_cli.text.mapped import MappedFile, pieces_of
from cllm_cli.text.pile import Row, Span
from cllm_cli.text.sources import shown
from cllm_cli.text.split import Document, fingerprint_of, sides_of_one
from cllm_cli.text.store import MAGIC, document_table, no_text_but_store
from cllm_cli.text.tokenizers.base import TokenArray, Tokenizer, count_bytes

LLMC_HEADER = 1024
LLMC_KINDS: dict[tuple[int, int], np.dtype[Any]] = {(20240520, 1): np.dtype("<u2"), (20240801, 7): np.dtype("<u4")}
PIECE = 1 << 20  # ids that are looked at together
HINT = "nanoGPT's .bin files (uint16 ids) and llm.c's are read, one or several"


def read_ids(
    sources: Sequence[str | Path], tokenizer: Tokenizer, val_fraction: float, val: str | Path | None = None
) -> Corpus:
    """The corpus in files of ids: validation is in the file `val`, or the end of the whole.

    Memory: nothing beyond the mapped file where there is one of the tokenizer's own type, otherwise that of `Row`.
    Raises CorpusError for what is no file of ids, and for an id that the tokenizer does not have.
    """
    parts, documents = _read(sources, tokenizer, 0)
    val_parts, val_documents = _read([] if val is None else [val], tokenizer, documents[-1].stop)
    train, held_out = _joined(parts, tokenizer), _joined(val_parts, tokenizer)
    if val is None:
        train, held_out = sides_of_one(train, tokenizer, val_fraction)
    spans = [Span(document.start, document.stop, TRAIN) for document in documents]
    spans += [Span(document.start, document.stop, VAL) for document in val_documents]
    return Corpus(
        train=train,
        val=held_out,
        tokenizer=tokenizer,
        documents=len(documents) + len(val_documents),
        fingerprint=fingerprint_of(documents, val_documents),
        train_bytes=count_bytes(train, tokenizer),
        val_bytes=count_bytes(held_out, tokenizer),
        contents=document_table((*documents, *val_documents), len(documents), spans),
        text_fingerprint=None if val is None else fingerprint_of(documents, ()),
    )


def open_ids(path: Path) -> TokenArray:
    """The ids in a file, mapped. Raises CorpusError unless the file's size is the one that its kind asks for."""
    name = shown(str(path))
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CorpusError(f"{name} is no regular file", HINT)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise CorpusError(f"{name} is empty", HINT)
            memory = MappedFile(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CorpusError(f"cannot read {name}: {reason}", HINT) from error
    if memory[: len(MAGIC)] == MAGIC:
        raise no_text_but_store(name)
    at = 0
    dtype: np.dtype[Any] = np.dtype("<u2")
    if size >= LLMC_HEADER:
        magic, version, count = (int(number) for number in np.frombuffer(memory, "<i4", 3))
        if magic in {known for known, _ in LLMC_KINDS}:
            if (magic, version) not in LLMC_KINDS:
                raise CorpusError(f"{name} is a file of llm.c, of an unknown version {version}", HINT)
            at, dtype = LLMC_HEADER, LLMC_KINDS[magic, version]
            if size != at + count * dtype.itemsize:
                raise CorpusError(
                    f"{name} is damaged: its header counts {count} ids of {dtype.itemsize} bytes, and {size - at} "
                    "bytes follow",
                    "make it again",
                )
    if (size - at) % dtype.itemsize:
        raise CorpusError(f"{name} is no file of uint16 ids: it has an odd number of bytes, {size}", HINT)
    return np.frombuffer(memory, dtype, offset=at)


def _read(sources: Iterable[str | Path], tokenizer: Tokenizer, first: int) -> tuple[list[TokenArray], list[Document]]:
    parts, documents = [], []
    for source in sources:
        ids = open_ids(Path(source))
        digest, size = hashlib.sha256(), 0
        start = 0
        for piece in pieces_of(ids, PIECE):
            if int(piece.max()) >= tokenizer.vocab_size:
                at = int(np.argmax(piece >= tokenizer.vocab_size))
                raise CorpusError(
                    f"{shown(str(source))}: id {int(piece[at])} at place {start + at} is none of the tokenizer's "
                    f"{tokenizer.vocab_size}",
                    "name the tokenizer that the ids were made with; a file that holds no ids is read without --ids",
                )
            digest.update(piece.data)
            size += count_bytes(piece, tokenizer)
            start += piece.size
        documents.append(Document(first, first + ids.size, size, digest.digest()))
        parts.append(ids)
        first += ids.size
    return parts, documents


def _joined(parts: Sequence[TokenArray], tokenizer: Tokenizer) -> TokenArray:
    """All ids in one array of the tokenizer's type; a single one that has it already stays where it is."""
    if len(parts) == 1 and parts[0].dtype == tokenizer.dtype:
        return parts[0]
    row = Row(sum(part.size for part in parts), tokenizer.dtype)
    for part in parts:
        for piece in pieces_of(part, PIECE):
            row.append(piece)
    return row.whole()
