"""From text to tokens: read files, folders or standard input, learn the tokenizer, split off validation.

Everything is read in chunks: once, or twice where the tokenizer must see all of it before there are ids; standard input
then waits in a file without a name. Memory: the tokens, one block of 32 MiB more, and a few MiB for the chunk in hand.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from cllm_cli.errors import CorpusError, RunError
from cllm_cli.text.pile import Pile, Span
from cllm_cli.text.sources import (
    BOM,
    CHUNK,
    SNIFFED,
    STANDARD_INPUT,
    UTF_16_MARKS,
    Listing,
    TextFile,
    find_files,
    no_text,
    opened,
)
from cllm_cli.text.split import SPLIT_RULE, Document, choose_validation, end_of_one, fingerprint_of
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
    `notices` are for the user's eyes, safe to print.
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

    def facts(self) -> dict[str, Any]:
        """What a run stores beside tokens and tokenizer, ready for JSON; `restored` takes it back."""
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


def read_corpus(
    sources: Sequence[str | Path],
    tokenizer_spec: str,
    val_fraction: float,
    val: str | Path | None = None,
    stdin: BinaryIO | None = None,
    tokenizer: Tokenizer | None = None,
) -> Corpus:
    """The corpus in `sources` (files, folders, `-`), split by `val_fraction` or, if `val` is given, validated on that.

    An end-of-text id exists, and follows each document, only where `sources` hold several documents. With `tokenizer`
    the text is written in the ids of an existing one, whatever the specification says.
    Raises ConfigError for an unknown tokenizer, CorpusError for text that is missing, unreadable, empty or cannot be
    encoded. `stdin` stands in for the process's own standard input.
    """
    learned = builder_of(tokenizer_spec) if tokenizer is None else None
    listing = find_files(sources)
    val_listing = Listing([]) if val is None else find_files([val])
    if listing.has_stdin and val_listing.has_stdin:
        raise CorpusError("standard input cannot be both training and validation text", "give --val a file")
    if learned and learned.surveys:
        with _readable_twice(listing, stdin) as again:
            surveyed = _surveyed(listing, learned, again)
            corpus = read_corpus(sources, tokenizer_spec, val_fraction, val, again, surveyed)
        corpus.notices[:0] = learned.notices()
        return corpus
    encoder: Encoder = learned or tokenizer.encoder()  # type: ignore[union-attr]  # one of them is there
    notices: list[str] = []
    pile = Pile(_expected_tokens(encoder, listing, val_listing))
    documents = _read(listing, encoder, pile, stdin, notices)
    if not documents:
        raise no_text(sources[0], listing)
    val_documents = _read(val_listing, encoder, pile, stdin, notices)
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
        spans = _spans(documents, [TRAIN] * len(documents), end)
        spans += _spans(val_documents, [VAL] * len(val_documents), end if len(val_documents) > 1 else None)
    elif len(documents) > 1:
        sides, notice = choose_validation(documents, val_fraction)
        notices += [notice] if notice else []
        spans = _spans(documents, sides, end)
    else:
        spans = _spans(documents, [TRAIN], None)
    train, *others = pile.join(spans, 1 if len(spans) == 1 else 2, tokenizer.dtype, table)
    if others:
        (held_out,) = others
    else:
        cut = end_of_one(train.size, val_fraction)
        cut = tokenizer.boundary(train, cut) or cut
        train, held_out = train[:cut], train[cut:]

    size = sum(document.size for document in (*documents, *val_documents))
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
    )


def tokens_of(sources: Sequence[str | Path], tokenizer: Tokenizer, stdin: BinaryIO | None = None) -> Text:
    """The text in `sources` in the ids of an existing tokenizer.

    Several documents each end with the end-of-text id, if the tokenizer has one. Raises CorpusError as `read_corpus`,
    and for fewer than two tokens: the first is never scored.
    """
    listing = find_files(sources)
    notices: list[str] = []
    encoder = tokenizer.encoder()
    pile = Pile(_expected_tokens(encoder, listing))
    documents = _read(listing, encoder, pile, stdin, notices)
    if not documents:
        raise no_text(sources[0], listing)
    if listing.skipped:
        notices.append(f"left out: {listing.left_out()}")
    notices += encoder.notices()
    if len(documents) > 1 and tokenizer.end_of_text is None:
        notices.append(f"the tokenizer has no end-of-text id: {len(documents)} documents are scored as one text")
    end = tokenizer.end_of_text if len(documents) > 1 else None
    (tokens,) = pile.join(_spans(documents, [0] * len(documents), end), 1, tokenizer.dtype, None)
    if tokens.size < 2:
        raise CorpusError(f"the text is too short: it has {_counted(tokens.size)}, a score needs 2", "give more text")
    size = sum(document.size for document in documents)
    return Text(tokens, size, len(documents), dict(listing.skipped), notices)


def restored(facts: Mapping[str, Any], tokenizer: Tokenizer, train: TokenArray, val: TokenArray) -> Corpus:
    """The corpus whose `facts` and `stored_tokens` a run has kept. Raises RunError where they do not fit together."""
    for name, kind in FACTS.items():
        if type(facts.get(name)) is not kind:
            raise _damaged(f"'{name}' is missing or of the wrong type")
    for tokens, side in ((train, "train"), (val, "val")):
        check_tokens(tokens, tokenizer)
        if count_bytes(tokens, tokenizer) != facts[f"{side}_bytes"]:
            raise _damaged(f"the {side} tokens stand for another number of bytes")
    return Corpus(train=train, val=val, tokenizer=tokenizer, **{name: facts[name] for name in FACTS})


def check_tokens(tokens: TokenArray, tokenizer: Tokenizer) -> None:
    """Raise RunError unless `tokens`, which come from a file, can be this tokenizer's."""
    if tokens.ndim != 1 or tokens.dtype != tokenizer.dtype or not tokens.flags.c_contiguous:
        raise _damaged(f"its tokens are no plain array of {tokenizer.dtype}")
    if tokens.size and int(tokens.max()) >= tokenizer.vocab_size:
        raise _damaged("it has tokens outside the vocabulary")


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


def _read(listing: Listing, encoder: Encoder, pile: Pile, stdin: BinaryIO | None, notices: list[str]) -> list[Document]:
    """Read and encode the files of `listing` onto `pile`; count in it what is left out after all."""
    documents = []
    for file in listing.files:
        with opened(file, stdin) as stream:
            chunk = _chunk(stream)
            binary = b"\0" in chunk[:SNIFFED]
            if binary and not file.named:
                listing.skipped["binary"] += 1
                continue
            offset = len(BOM) if chunk.startswith(BOM) else 0
            if len(chunk) == offset:
                listing.skipped["empty"] += 1
                continue
            if binary:
                kind = "UTF-16, not UTF-8" if chunk.startswith(UTF_16_MARKS) else "a binary file"
                notices.append(f"{file.name} looks like {kind}; it is read as it is")
            digest = hashlib.sha256()
            start, size = pile.size, 0
            encoder.begin(file.name, offset)
            chunk = chunk[offset:]
            while chunk:
                digest.update(chunk)
                size += len(chunk)
                pile.append(encoder.encode(chunk), encoder.size)
                chunk = _chunk(stream)
            pile.append(encoder.end(), encoder.size)
            documents.append(Document(start, pile.size, size, digest.digest()))
    return documents


def _surveyed(listing: Listing, learned: Builder, stdin: BinaryIO | None) -> Tokenizer:
    """The tokenizer that is learned from all text in `listing`, which is counted nowhere; `stdin` is rewound."""
    try:
        documents = _read(Listing(listing.files), learned, Pile(), stdin, [])
        if stdin is not None and listing.has_stdin:
            stdin.seek(0)
    except BaseException:
        learned.abandon()
        raise
    return learned.finish(end_of_text=len(documents) > 1)[0]


@contextmanager
def _readable_twice(listing: Listing, stdin: BinaryIO | None) -> Iterator[BinaryIO | None]:
    """Standard input in a file without a name, if it is among the text; else just `stdin`."""
    if not listing.has_stdin:
        yield stdin
        return
    with tempfile.TemporaryFile() as kept:
        with opened(TextFile(STANDARD_INPUT, named=True), stdin) as stream:
            while chunk := _chunk(stream):
                try:
                    kept.write(chunk)
                except OSError as error:
                    raise CorpusError(
                        f"cannot keep standard input to read it twice: {error.strerror}",
                        "name a file instead, or set TMPDIR to a folder with more room",
                    ) from error
        kept.seek(0)
        # Its raw file is a FileIO, its own type a buffer over it, which has read1.
        yield kept


def _chunk(stream: BinaryIO) -> bytes:
    """The next CHUNK bytes, or what is left. A signal is heeded between the pieces that a pipe gives."""
    pieces: list[bytes] = []
    missing = CHUNK
    # BinaryIO does not tell of read1; sources are buffered.
    while missing and (piece := stream.read1(missing)):  # type: ignore[attr-defined]
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _expected_tokens(encoder: Encoder, *listings: Listing) -> int:
    """An upper bound of the number of tokens, or 0 where none is known or it would be of no use."""
    if not (encoder.final and encoder.dense) or any(len(listing.files) > 1 for listing in listings):
        return 0
    return sum(file.size() for listing in listings for file in listing.files)


def _spans(documents: Sequence[Document], outputs: Iterable[int], end: int | None) -> list[Span]:
    return [
        Span(document.start, document.stop, output, end) for document, output in zip(documents, outputs, strict=True)
    ]


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


def _damaged(what: str) -> RunError:
    return RunError(f"the run's data is damaged: {what}", "train again, or restore the run folder")
