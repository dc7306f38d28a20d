"""What every tokenizer offers, and the streaming decoder that all of them share.

A token id beyond the vocabulary (a model may have more rows than the tokenizer has ids) decodes to U+FFFD, the
replacement character; the end-of-text id decodes to nothing.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from cllm_cli.errors import CorpusError, RunError
from cllm_cli.text.mapped import pieces_of

TokenArray = npt.NDArray[Any]
"""One-dimensional, contiguous, unsigned: the smallest of uint8, uint16 and uint32 that holds the vocabulary."""

IdArray = npt.NDArray[np.int64]

COUNT_CHUNK = 1 << 16


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest unsigned type that holds the ids below `vocab_size`."""
    if vocab_size <= 1 << 8:
        return np.dtype(np.uint8)
    return np.dtype(np.uint16) if vocab_size <= 1 << 16 else np.dtype(np.uint32)


class Encoder(Protocol):
    """Turns documents into ids chunk by chunk: `begin`, any number of `encode`, `end`; then the next document."""

    size: int
    """How many ids there are so far: those that `encode` has returned are all below it."""
    final: bool
    """Whether they stay as they are; otherwise `finish` has the table that makes them so."""
    dense: bool
    """Whether there are about as many tokens as bytes, so that a file's size says what memory they will take."""

    def begin(self, name: str, offset: int = 0) -> None:
        """A document starts. Its name (safe to print) and the offset of its first byte are for error messages."""

    def encode(self, chunk: bytes) -> TokenArray:
        """The ids of the characters that are complete by now, to be read before the next call. Raises CorpusError."""

    def end(self) -> TokenArray:
        """The document is over: the ids of what is left of it. Raises CorpusError where it ends within a character."""

    def notices(self) -> list[str]:
        """What a user should know of all that was read, safe to print."""


class Builder(Encoder, Protocol):
    """An encoder that learns its tokenizer while it reads.

    `surveys`: it gives no ids but must read all text before there are any; the tokenizer's own encoder reads it again.
    """

    surveys: bool

    def abandon(self) -> None:
        """Reading failed: nothing more will come."""

    def finish(self, end_of_text: bool) -> tuple[Tokenizer, TokenArray | None]:
        """The tokenizer, and the table from provisional to final ids (None: they are final already)."""


class Tokenizer(ABC):
    """Text to ids and back.

    `vocab_size` counts the text ids plus the end-of-text id, if there is one; that is the last, unless a tokenizer's
    file has its own. `token_bytes[id]` is the number of bytes that an id stands for, 0 for the end of text.
    """

    kind: ClassVar[str]
    argument: ClassVar[str] = ""
    """What must follow the name and a colon in a specification."""
    vocab_size: int
    end_of_text: int | None
    token_bytes: npt.NDArray[np.unsignedinteger[Any]]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of token arrays."""
        return token_dtype(self.vocab_size)

    @classmethod
    @abstractmethod
    def builder(cls, argument: str = "") -> Builder:
        """What learns a tokenizer of this kind. Raises ConfigError for an argument that does not fit."""

    @abstractmethod
    def encoder(self) -> Encoder:
        """What turns documents into this tokenizer's ids."""

    @abstractmethod
    def encode(self, text: str) -> TokenArray:
        """The ids of a prompt. Raises CorpusError for a character that has none."""

    @abstractmethod
    def decode_bytes(self, ids: npt.ArrayLike) -> bytes:
        """The UTF-8 bytes that `ids` (whole numbers) stand for."""

    def decode(self, ids: npt.ArrayLike) -> str:
        """The text that `ids` stand for; U+FFFD stands for what is no UTF-8."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def stream(self) -> StreamDecoder:
        """A decoder that takes one id after the other."""
        return StreamDecoder(self)

    def first_token(self) -> int:
        """What generation without a prompt starts from: the end of a text before, or of a line, or any id."""
        if self.end_of_text is not None:
            return self.end_of_text
        for text in ("\n", "a"):  # there are tokenizers that drop line ends
            with contextlib.suppress(CorpusError):
                ids = self.encode(text)
                if ids.size:
                    return int(ids[0])
        return 0

    def boundary(self, tokens: TokenArray, cut: int) -> int:
        """Where to cut `tokens` in two, at or shortly before `cut`, so that no character is torn."""
        return cut

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """What `tokenizer_from_json` needs to make this tokenizer again."""

    def digest(self) -> str:
        """SHA-256 (hex) of `to_json` in canonical JSON: two tokenizers with the same are the same."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    @abstractmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Tokenizer:
        """The tokenizer that `to_json` described. Raises RunError for anything else."""


class StreamDecoder:
    """Text as it is generated: what `push` returned so far, and `flush` at the end, make `decode` of all ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that is complete now that `token` has come; often nothing, within a character of several bytes."""
        return self._utf8.decode(self._tokenizer.decode_bytes([token]))

    def flush(self) -> str:
        """What is left: U+FFFD for an unfinished character. The decoder is as new afterwards."""
        return self._utf8.decode(b"", final=True)


def given_bytes(text: str) -> bytes:
    """UTF-8 of a text that a user gave, its surrogate escapes as the bytes that they were. Raises CorpusError."""
    try:
        return text.encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"{text[error.start]!a} is no character, but half of one (a lone surrogate)", "pass the text in UTF-8"
        ) from error


def count_bytes(tokens: TokenArray, tokenizer: Tokenizer) -> int:
    """The number of bytes that `tokens` stand for. Memory: less than a MiB, whatever their number."""
    sizes = tokenizer.token_bytes
    chunks = pieces_of(tokens, COUNT_CHUNK)
    text = sizes if tokenizer.end_of_text is None else np.delete(sizes, tokenizer.end_of_text)
    if text.size and (text == text[0]).all():  # as bytes are: nothing to look up
        ends = 0
        if tokenizer.end_of_text is not None:
            ends = sum(int(np.count_nonzero(chunk == tokenizer.end_of_text)) for chunk in chunks)
        return int(text[0]) * (tokens.size - ends)
    return sum(int(sizes.take(chunk).sum(dtype=np.int64)) for chunk in chunks)


def as_ids(ids: npt.ArrayLike) -> IdArray:
    """`ids` in one dimension, as int64."""
    return np.asarray(ids, dtype=np.int64).reshape(-1)


def damaged(what: str) -> RunError:
    """The error for a stored tokenizer that is not as `to_json` made it."""
    return RunError(f"the stored tokenizer is damaged: {what}", "restore the run's tokenizer.json, or train again")


def checked_keys(facts: Mapping[str, Any], kind: str, expected: Iterable[str]) -> None:
    """Raise RunError unless `facts` is of this kind and has exactly the expected keys beside."""
    if facts.get("kind") != kind or set(facts) != {"kind", "vocab_size", "end_of_text", *expected}:
        raise damaged(f"a '{kind}' tokenizer has other keys")


def checked_end_of_text(facts: Mapping[str, Any], text_ids: int) -> int | None:
    """The end-of-text id of `facts`: none, or the one after the text ids. Raises RunError where the sizes disagree."""
    end_of_text, vocab_size = facts["end_of_text"], facts["vocab_size"]
    # True == 1 in Python, hence the exact types.
    if end_of_text is not None and (type(end_of_text) is not int or end_of_text != text_ids):
        raise damaged(f"its end-of-text id is not {text_ids}")
    if type(vocab_size) is not int or vocab_size != text_ids + (end_of_text is not None):
        raise damaged("its vocabulary size does not match its ids")
    return text_ids if end_of_text is not None else None
