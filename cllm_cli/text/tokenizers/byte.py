"""One id a byte: id = byte value, 256 ids, and 256 itself for the end of text where a corpus has several documents.

Any input can be encoded, whatever its encoding. What a model generates is decoded as UTF-8 with U+FFFD for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from cllm_cli.text.tokenizers.base import (
    Builder,
    Encoder,
    TokenArray,
    Tokenizer,
    as_ids,
    checked_end_of_text,
    checked_keys,
    given_bytes,
)

BYTES = 256
REPLACEMENT = np.frombuffer("\ufffd".encode(), dtype=np.uint8)


class ByteTokenizer(Tokenizer):
    """See the module."""

    kind: ClassVar[str] = "byte"

    def __init__(self, end_of_text: bool = False) -> None:
        self.end_of_text = BYTES if end_of_text else None
        self.vocab_size = BYTES + end_of_text
        self.token_bytes = np.ones(self.vocab_size, dtype=np.uint8)
        self.token_bytes[BYTES:] = 0

    @classmethod
    def builder(cls, argument: str = "") -> Builder:
        return ByteEncoder()

    def encoder(self) -> Encoder:
        return ByteEncoder()

    def encode(self, text: str) -> TokenArray:
        """The bytes of `text` in UTF-8. Bytes of the command line that are none (surrogate escapes) stay as they were.

        Raises CorpusError for other lone surrogates, which no bytes stand for.
        """
        return np.frombuffer(given_bytes(text), dtype=np.uint8).astype(self.dtype)

    def decode_bytes(self, ids: npt.ArrayLike) -> bytes:
        numbers = as_ids(ids)
        text = numbers[numbers != self.end_of_text] if self.end_of_text is not None else numbers
        known = (text >= 0) & (text < BYTES)
        if known.all():
            return text.astype(np.uint8).tobytes()
        # An id beyond the bytes takes the three bytes of U+FFFD.
        width = np.where(known, 1, REPLACEMENT.size)
        out = np.repeat(np.where(known, text, 0), width).astype(np.uint8)
        first = (np.cumsum(width) - width)[~known]
        for byte, value in enumerate(REPLACEMENT):
            out[first + byte] = value
        return out.tobytes()

    def boundary(self, tokens: TokenArray, cut: int) -> int:
        """The start of the UTF-8 sequence that `cut` falls into; `cut` itself where it falls into none."""
        if not 0 < cut < tokens.size or not continues(int(tokens[cut])):
            return cut
        for start in range(cut - 1, max(cut - 4, -1), -1):
            lead = int(tokens[start])
            if not continues(lead):
                length = 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)
                return start if start + length > cut else cut
        return cut

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "vocab_size": self.vocab_size, "end_of_text": self.end_of_text}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> ByteTokenizer:
        checked_keys(facts, cls.kind, ())
        return cls(end_of_text=checked_end_of_text(facts, BYTES) is not None)


class ByteEncoder:
    """Bytes are ids: nothing to learn, nothing that can fail."""

    size = BYTES
    final = dense = True
    surveys = False

    def begin(self, name: str, offset: int = 0) -> None:
        pass

    def encode(self, chunk: bytes) -> TokenArray:
        return np.frombuffer(chunk, dtype=np.uint8)

    def end(self) -> TokenArray:
        return np.empty(0, dtype=np.uint8)

    def notices(self) -> list[str]:
        return []

    def abandon(self) -> None:
        pass

    def finish(self, end_of_text: bool) -> tuple[Tokenizer, TokenArray | None]:
        return ByteTokenizer(end_of_text), None


def continues(byte: int) -> bool:
    """Whether a byte is one of those that follow the first of a UTF-8 sequence (RFC 3629: 10xxxxxx)."""
    return byte & 0xC0 == 0x80
