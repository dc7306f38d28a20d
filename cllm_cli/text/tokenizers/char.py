"""One id for every character (Unicode code point) that the corpus holds, in order of code points.

Readable, and small for plain text; a prompt may use no character that the corpus did not have.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

import numpy as np
import numpy.typing as npt

from cllm_cli.errors import CorpusError
from cllm_cli.text.decoding import HINT
from cllm_cli.text.tokenizers.base import (
    Builder,
    Encoder,
    TokenArray,
    Tokenizer,
    as_ids,
    checked_end_of_text,
    checked_keys,
    damaged,
    token_dtype,
)

CODE_POINTS = 0x110000
SURROGATES = range(0xD800, 0xE000)
UNKNOWN = -1
REPLACEMENT = 0xFFFD


class CharTokenizer(Tokenizer):
    """`characters` are distinct, no surrogates, and sorted by code point; id = their index."""

    kind: ClassVar[str] = "char"

    def __init__(self, characters: str, end_of_text: bool = False) -> None:
        self.characters = characters
        self.end_of_text = len(characters) if end_of_text else None
        self.vocab_size = len(characters) + end_of_text
        # Code points by id, and one entry more, U+FFFD, for whatever is not in the vocabulary.
        self._table = np.append(_code_points(characters), np.uint32(REPLACEMENT))
        self._points = self._table[:-1]
        self.token_bytes = np.zeros(self.vocab_size, dtype=np.uint8)
        self.token_bytes[: len(characters)] = 1 + sum(
            (self._points >= first).astype(np.uint8) for first in (0x80, 0x800, 0x10000)
        )

    @classmethod
    def builder(cls, argument: str = "") -> Builder:
        return CharEncoder("")

    def encoder(self) -> Encoder:
        return CharEncoder(self.characters, learning=False, size=self.vocab_size)

    def encode(self, text: str) -> TokenArray:
        """One id a character. Raises CorpusError, naming the first character that the corpus did not have."""
        points = _code_points(text)
        ids = np.searchsorted(self._points, points)
        known = (ids < self._points.size) & (self._table[ids] == points)
        if not known.all():
            index = int(np.argmin(known))
            raise CorpusError(
                f"the tokenizer has no id for character {index + 1} of the text, {_shown(text[index])}",
                "this model knows only the characters of its corpus: leave this one out, or train with "
                "--tokenizer byte",
            )
        return ids.astype(self.dtype)

    def decode(self, ids: npt.ArrayLike) -> str:
        numbers = as_ids(ids)
        text = numbers[numbers != self.end_of_text] if self.end_of_text is not None else numbers
        outside = (text < 0) | (text > self._points.size)
        return self._table[np.where(outside, self._points.size, text)].tobytes().decode("utf-32-le")

    def decode_bytes(self, ids: npt.ArrayLike) -> bytes:
        return self.decode(ids).encode()

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "vocab_size": self.vocab_size,
            "end_of_text": self.end_of_text,
            "characters": self.characters,
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> CharTokenizer:
        checked_keys(facts, cls.kind, ("characters",))
        characters = facts["characters"]
        if not isinstance(characters, str) or not 0 < len(characters) <= CODE_POINTS:
            raise damaged("its characters are no string of a possible length")
        points = _code_points(characters).astype(np.int64)
        if not (np.diff(points) > 0).all():
            raise damaged("its characters are not distinct and sorted")
        if ((points >= SURROGATES.start) & (points < SURROGATES.stop)).any():
            raise damaged("its characters include half of one (a lone surrogate)")
        return cls(characters, end_of_text=checked_end_of_text(facts, len(characters)) is not None)


class CharEncoder:
    """UTF-8 to ids. While `learning`, a character that is new gets the next free id; otherwise it is an error.

    A table over all code points (4 MiB) turns a chunk into ids in one NumPy call.
    """

    dense = True
    surveys = False

    def __init__(self, characters: str, learning: bool = True, size: int = 0) -> None:
        self.final = not learning
        self._seen = _code_points(characters)
        self._ids = np.full(CODE_POINTS, UNKNOWN, dtype=np.int32)
        self._ids[self._seen] = np.arange(self._seen.size, dtype=np.int32)
        self._index, self._found = np.empty(0, dtype=np.intp), np.empty(0, dtype=np.int32)
        self.size = size
        self.begin("the text")

    def begin(self, name: str, offset: int = 0) -> None:
        self._name, self._offset, self._rest = name, offset, b""

    def encode(self, chunk: bytes) -> TokenArray:
        data = self._rest + chunk
        points = _code_points(self._decoded(data, final=False))
        ids = self._looked_up(points)
        if ids.size and ids.min() == UNKNOWN:
            new = np.unique(points[ids == UNKNOWN])
            if self.final:
                self._refuse(points, int(np.argmin(ids)))
            self._ids[new] = np.arange(self.size, self.size + new.size, dtype=np.int32)
            self._seen = np.concatenate([self._seen, new])
            self.size += new.size
            ids = self._looked_up(points)
        self._offset += len(data) - len(self._rest)
        return ids

    def end(self) -> TokenArray:
        self._decoded(self._rest, final=True)
        return np.empty(0, dtype=np.uint8)

    def notices(self) -> list[str]:
        return []

    def abandon(self) -> None:
        pass

    def finish(self, end_of_text: bool) -> tuple[Tokenizer, TokenArray | None]:
        order = np.argsort(self._seen)
        tokenizer = CharTokenizer(self._seen[order].tobytes().decode("utf-32-le"), end_of_text)
        table = np.empty(order.size, dtype=token_dtype(tokenizer.vocab_size))
        table[order] = np.arange(order.size)
        return tokenizer, table

    def _looked_up(self, points: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
        """The ids of code points, in memory that the next call uses again: fresh pages cost more than the look-up."""
        if points.size > self._index.size:
            self._index, self._found = np.empty(points.size, dtype=np.intp), np.empty(points.size, dtype=np.int32)
        index, found = self._index[: points.size], self._found[: points.size]
        index[:] = points
        # Every code point is in the table; "clip" is the mode in which NumPy needs no buffer for `out`.
        return self._ids.take(index, out=found, mode="clip")

    def _decoded(self, data: bytes, final: bool) -> str:
        """The complete characters of `data`; what is left, at most three bytes, waits for the next chunk."""
        try:
            text, used = codecs.utf_8_decode(data, "strict", final)
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{self._name} is no UTF-8: byte {self._offset + error.start} is 0x{data[error.start]:02x} "
                f"({error.reason})",
                f"{HINT}; --tokenizer byte takes any bytes",
            ) from error
        self._rest = data[used:]
        return text

    def _refuse(self, points: npt.NDArray[np.uint32], index: int) -> NoReturn:
        before = points[:index].tobytes().decode("utf-32-le").encode()
        raise CorpusError(
            f"{self._name} has a character that the tokenizer has no id for: {_shown(chr(points[index]))} "
            f"at byte {self._offset + len(before)}",
            "this model knows only the characters of its corpus; one trained with --tokenizer byte takes any text",
        )


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")


def _shown(character: str) -> str:
    """A character in plain ASCII, whatever it does to a terminal: 'é' is '\\xe9' (U+00E9)."""
    return f"{character!a} (U+{ord(character):04X})"
