"""From text to tokens: read files, folders or standard input, learn the tokenizer, split off validation.

Everything is read in chunks: once, or twice where the tokenizer must see all of it before there are ids; standard input
then waits in a file without a name. Memory: up to pile.IN_MEMORY of tokens for each side and for both, beyond which
they are mapped, a few MiB for the chunk in hand, and some 120 bytes for each document.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from cllm_cli.errors import CorpusError
from cllm_cli.text.documents import AS_IT_IS, Reading
from cllm_cli.text.pile import Pile, Span
from cllm_cli.text.reading import files_in, incoming, plain_bytes, readable_twice
from cllm_cli.text.sources import Listing, no_text
from cllm_cli.text.split import SPLIT_RULE, Document, Documents, choose_validation, fingerprint_of, sides_of_one
from cllm_cli.text.store import DocumentTable, document_table
from cllm_cli.text.tokenizers import builder_of
from cllm_cli.text.tokenizers.base import Builder, Encoder, TokenArray, Tokenizer, count_bytes

TRAIN, VAL = 0, 1

FACTS: dict[str, type] = {
    "documents": int,
    "fingerprint": str,
    "train_bytes": int,
    "val_bytes": int,
    "from_stdin": bool,
    "split_rule": int,
}


@dataclass(frozen=True)
class Corpus:
    """Text as a training run takes it.

    `train` and `val` are one-dimensional contiguous arrays of `tokenizer.dtype`. `documents` counts those of both
    sides, `skipped` what was left out, by reason. Bytes are those of the text as it came, without a byte-order mark.
    `notices` are for the user's eyes, safe to print. `contents` says where each document lies, if that was asked for.
    `text_fingerprint` is that of the training text alone, where validation is a text of its own.
    """

    train: TokenArray
    val: TokenArray
    tokenizer: Tokenizer
    documents: int
    fingerprint: str
    train_bytes: int
    val_bytes: int
    from_stdin: bool = False
    skipped: dict[str, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    split_rule: int = SPLIT_RULE
    contents: DocumentTable | None = None
    text_fingerprint: str | None = None

    def facts(self) -> dict[str, Any]:
        """What a run stores beside tokens and tokenizer, ready for JSON; `stored_corpus.restored` takes it back."""
        return {name: getattr(self, name) for name in FACTS}

    def stored_tokens(self) -> dict[str, TokenArray]:
        """What the `data/` of a run has to hold: the validation tokens, and all where the text cannot be read again."""
        return {"train": self.train, "val": self.val} if self.from_stdin else {"val": self.val}


@dataclass(frozen=True)
class Text:
    """Text for an existing tokenizer: its tokens (an end-of-text id after each of several documents) and its bytes."""

    tokens: TokenArray
    bytes: int
    documents: int
    skipped: dict[str, int]
    notices: list[str]
    fingerprint: str


def read_corpus(
    sources: Sequence[str | Path],
    tokenizer_spec: str,
    val_fraction: float,
    val: str | Path | None = None,
    stdin: BinaryIO | None = None,
    tokenizer: Tokenizer | None = None,
    reading: Reading = AS_IT_IS,
    contents: bool = False,
) -> Corpus:
    """The corpus in `sources` (files, folders, `-`), split by `val_fraction` or, if `val` is given, validated on that.

    An end-of-text id exists, and follows each document, only where `sources` hold several documents. With `tokenizer`
    the text is written in the ids of an existing one, whatever the specification says. `contents` asks for the table of
    documents, which a token store has.
    Raises ConfigError for an unknown tokenizer, CorpusError for text that is missing, unreadable, empty or cannot be
    encoded. `stdin` stands in for the process's own standard input.
    """
    learned = builder_of(tokenizer_spec) if tokenizer is None else None
    listing = files_in(sources, reading)
    val_listing = Listing([]) if val is None else files_in([val], reading)
    if listing.has_stdin and val_listing.has_stdin:
        raise CorpusError("standard input cannot be both training and validation text", "give --val a file")
    if learned and learned.surveys:
        with readable_twice(listing, stdin) as again:
            surveyed = learned_from(listing, learned, again, reading)
            corpus = read_corpus(sources, tokenizer_spec, val_fraction, val, again, surveyed, reading, contents)
        corpus.notices[:0] = learned.notices()
        return corpus
    encoder: Encoder = learned or tokenizer.encoder()  # type: ignore[union-attr]  # one of them is there
    notices: list[str] = []
    pile = Pile(_expected_tokens(encoder, reading, listing, val_listing))
    documents = _read(listing, encoder, pile, stdin, notices, reading)
    if not documents:
        raise no_text(sources[0], listing)
    val_documents = _read(val_listing, encoder, pile, stdin, notices, reading)
    if val is not None and not val_documents:
        raise no_text(val, val_listing)
    listing.skipped.update(val_listing.skipped)
    if listing.skipped:
        notices.append(f"left out: {listing.left_out()}")
    notices += encoder.notices()

    table = None
    if learned:
        tokenizer, table = learned.finish(end_of_text=len(documents) > 1)
    assert tokenizer
    end = tokenizer.end_of_text if len(documents) > 1 else None
    if len(documents) > 1 and end is None:
        notices.append(f"the tokenizer has no end-of-text id: {len(documents)} documents follow one another without")
    if val is not None:
        # A single file stays as it is, so that `cllm eval` scores the same tokens when it is given that file.
        val_end = end if len(val_documents) > 1 else None
        spans = _Spans((documents, [TRAIN] * len(documents), end), (val_documents, [VAL] * len(val_documents), val_end))
    elif len(documents) > 1:
        sides, notice = choose_validation(documents, val_fraction)
        notices += [notice] if notice else []
        spans = _Spans((documents, sides, end))
    else:
        spans = _Spans((documents, [TRAIN], None))
    train, *others = pile.join(spans, 1 if len(spans) == 1 else 2, tokenizer.dtype, table)
    if others:
        (held_out,) = others
    else:
        train, held_out = sides_of_one(train, tokenizer, val_fraction)

    size = sum(document.size for document in itertools.chain(documents, val_documents))
    val_bytes = count_bytes(held_out, tokenizer)
    if len(documents) > 1 and val is None and not val_fraction / 2 <= val_bytes / size <= 2 * val_fraction:
        notices.append(
            f"validation is {val_bytes / size:.1%} of the text, not {val_fraction:.1%}, since documents stay whole; "
            "--val FILE chooses by hand"
        )
    notices += _copies(documents, val_documents)
    return Corpus(
        train=train,
        val=held_out,
        tokenizer=tokenizer,
        documents=len(documents) + len(val_documents),
        fingerprint=fingerprint_of(documents, val_documents),
        train_bytes=count_bytes(train, tokenizer),
        val_bytes=val_bytes,
        from_stdin=listing.has_stdin or val_listing.has_stdin,
        skipped=dict(listing.skipped),
        notices=notices,
        contents=document_table(itertools.chain(documents, val_documents), len(documents), spans) if contents else None,
        text_fingerprint=None if val is None else fingerprint_of(documents, ()),
    )


def tokens_of(
    sources: Sequence[str | Path],
    tokenizer: Tokenizer,
    stdin: BinaryIO | None = None,
    reading: Reading = AS_IT_IS,
) -> Text:
    """The text in `sources` in the ids of an existing tokenizer.

    Several documents each end with the end-of-text id, if the tokenizer has one. Raises CorpusError as `read_corpus`,
    and for fewer than two tokens: the first is never scored.
    """
    listing = files_in(sources, reading)
    notices: list[str] = []
    encoder = tokenizer.encoder()
    pile = Pile(_expected_tokens(encoder, reading, listing))
    documents = _read(listing, encoder, pile, stdin, notices, reading)
    if not documents:
        raise no_text(sources[0], listing)
    if listing.skipped:
        notices.append(f"left out: {listing.left_out()}")
    notices += encoder.notices()
    if len(documents) > 1 and tokenizer.end_of_text is None:
        notices.append(f"the tokenizer has no end-of-text id: {len(documents)} documents are scored as one text")
    end = tokenizer.end_of_text if len(documents) > 1 else None
    (tokens,) = pile.join(_Spans((documents, [0] * len(documents), end)), 1, tokenizer.dtype, None)
    if tokens.size < 2:
        raise CorpusError(f"the text is too short: it has {_counted(tokens.size)}, a score needs 2", "give more text")
    size = sum(document.size for document in documents)
    return Text(tokens, size, len(documents), dict(listing.skipped), notices, fingerprint_of(documents, ()))


def check_long_enough(corpus: Corpus, block_size: int) -> None:
    """Raise CorpusError unless a window of `block_size` tokens fits into the training text and validation has a score.

    A window needs one token more than its size, since each position predicts the next; a score needs two tokens.
    """
    train, val = corpus.train.size, corpus.val.size
    if train < block_size + 1:
        raise CorpusError(
            f"the training text is too short: it has {_counted(train)}, a window of {block_size:,} needs "
            f"{block_size + 1:,}",
            f"give more text, or --block-size {train - 1}{' or less' if train > 2 else ''}"
            if train > 1
            else "give more text",
        )
    if val < 2:
        raise CorpusError(
            f"the validation text is too short: it has {_counted(val)}, a score needs 2",
            "give more text, a larger --val-fraction, or --val FILE",
        )


def _read(
    listing: Listing,
    encoder: Encoder,
    pile: Pile,
    stdin: BinaryIO | None,
    notices: list[str],
    reading: Reading,
) -> Documents:
    """Read and encode the documents of `listing` onto `pile`; count in it what is left out after all."""
    documents = Documents()
    for document in incoming(listing, reading, stdin, notices):
        digest = hashlib.sha256()
        start, size = pile.size, 0
        encoder.begin(document.name, document.offset)
        for chunk in document.chunks:
            digest.update(chunk)
            size += len(chunk)
            pile.append(encoder.encode(chunk), encoder.size)
        pile.append(encoder.end(), encoder.size)
        documents.append(Document(start, pile.size, size, digest.digest()))
    return documents


def learned_from(listing: Listing, learned: Builder, stdin: BinaryIO | None, reading: Reading) -> Tokenizer:
    """The tokenizer that is learned from all text in `listing`, which is counted nowhere; `stdin` is rewound."""
    try:
        documents = _read(Listing(listing.files), learned, Pile(), stdin, [], reading)
        if stdin is not None and listing.has_stdin:
            stdin.seek(0)
    except BaseException:
        learned.abandon()
        raise
    return learned.finish(end_of_text=len(documents) > 1)[0]


def _expected_tokens(encoder: Encoder, reading: Reading, *listings: Listing) -> int:
    """An upper bound of the number of tokens, or 0 where none is known or it would be of no use."""
    if not (encoder.final and encoder.dense) or any(len(listing.files) > 1 for listing in listings):
        return 0
    return sum(plain_bytes(file, reading) for listing in listings for file in listing.files)


class _Spans(Collection[Span]):
    """The spans of documents, made when they are asked for. A group: documents, the output of each, the id after it."""

    def __init__(self, *groups: tuple[Sequence[Document], Sequence[int], int | None]) -> None:
        self._groups = groups

    def __len__(self) -> int:
        return sum(len(documents) for documents, _, _ in self._groups)

    def __iter__(self) -> Iterator[Span]:
        for documents, outputs, end in self._groups:
            for document, output in zip(documents, outputs, strict=True):
                yield Span(document.start, document.stop, output, end)

    def __contains__(self, span: object) -> bool:
        return any(span == each for each in self)


def _copies(documents: Sequence[Document], val_documents: Sequence[Document]) -> list[str]:
    """Notices on documents that are there more than once."""
    contents = {document.digest for document in documents}
    notices = []
    if len(contents) < len(documents):
        count = len(documents) - len(contents)
        notices.append(f"{count} of {len(documents)} documents are exact copies of others; copies stay on one side")
    if any(document.digest in contents for document in val_documents):
        notices.append("the validation text is also in the training text: its loss says nothing about new text")
    return notices


def _counted(tokens: int) -> str:
    return f"{tokens:,} token{'' if tokens == 1 else 's'}"
