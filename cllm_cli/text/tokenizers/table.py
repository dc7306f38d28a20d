"""What tokenizers share whose ids stand for stretches of several bytes: a table from ids to bytes, and one encoder.

Text is cut into pieces, which a library encodes; bytes that are no UTF-8 become ids of single bytes where the table has
them, and U+FFFD where it has none.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cllm_cli.text.tokenizers.base import TokenArray, Tokenizer, as_ids, damaged, given_bytes, token_dtype
from cllm_cli.text.tokenizers.byte import continues
from cllm_cli.text.tokenizers.cutting import Cutter, runs

REPLACEMENT = "\ufffd".encode()
MOST_IDS = 1 << 21
"""What no vocabulary needs to exceed: the largest of today has an eighth of it."""
LONGEST_CHARACTER = 4

EOS_NAMES = ("<|endoftext|>", "<|end_of_text|>", "<|end▁of▁sentence|>", "</s>", "<eos>", "<|eos|>", "[EOS]")
"""What files call the token that ends a text, among those that they declare as special."""


class TableTokenizer(Tokenizer):
    """`table[id]` is what an id stands for; an id that is special stands for nothing. `own_end` is the end-of-text id
    that the tokenizer's file declares, if any. `end_of_text` is that one, or the one after the table.
    """

    lossless = False
    """Whether every text is known to come back as it was."""

    def __init__(self, table: Sequence[bytes], own_end: int | None, end_of_text: int | None) -> None:
        self._table = list(table)
        self.own_end = own_end
        self._single = {piece[0]: token for token, piece in reversed([*enumerate(table)]) if len(piece) == 1}
        self.set_end_of_text(end_of_text)

    def set_end_of_text(self, end_of_text: int | None) -> None:
        """Choose the end of text, of a tokenizer that nobody uses yet."""
        text_ids = len(self._table)
        self.end_of_text = end_of_text
        self.vocab_size = text_ids + (end_of_text == text_ids)
        self.token_bytes = np.zeros(self.vocab_size, dtype=np.uint32)
        self.token_bytes[:text_ids] = [len(piece) for piece in self._table]
        beyond = [b""] * (self.vocab_size - text_ids) + [REPLACEMENT]
        self._pieces = np.array([*self._table, *beyond], dtype=object)

    @property
    def possible_end(self) -> int:
        """The end-of-text id of a corpus of several documents."""
        return len(self._table) if self.own_end is None else self.own_end

    @functools.cached_property
    def drops_space(self) -> bool:
        """Whether text is encoded as if a space stood before it: two words are the ids of one, then of the other."""
        first, second, both = (ids.tolist() for ids in self.encode_texts(["the", "cat", "the cat"]))
        return bool(first + second == both)

    @abstractmethod
    def encode_texts(self, texts: list[str]) -> list[TokenArray]:
        """The ids of each of several texts, without surrogates. Raises CorpusError."""

    def encoder(self) -> TableEncoder:
        return TableEncoder(self)

    def encode(self, text: str) -> TokenArray:
        """The ids of `text`. Bytes of the command line that are none (surrogate escapes) stay as they were.

        Raises CorpusError for other lone surrogates, which no bytes stand for.
        """
        encoder = self.encoder()
        encoder.begin("the text")
        return np.concatenate([encoder.encode(given_bytes(text)), encoder.end()]).astype(self.dtype)

    def encode_bytes(self, data: bytes) -> TokenArray:
        """The ids of bytes that are no UTF-8."""
        if all(byte in self._single for byte in data):
            return np.array([self._single[byte] for byte in data], dtype=self.dtype)
        return self.encode_texts([REPLACEMENT.decode() * len(data)])[0]

    def decode_bytes(self, ids: npt.ArrayLike) -> bytes:
        # Without a sign a negative id is a large one: all that have no piece share the last.
        numbers = np.minimum(as_ids(ids).view(np.uint64), np.uint64(self.vocab_size))
        return b"".join(self._pieces[numbers].tolist())

    def boundary(self, tokens: TokenArray, cut: int) -> int:
        """The last place up to `cut` where no character is torn, a few tokens away at most; else `cut` itself."""
        if not 0 < cut < tokens.size:
            return cut
        for place in range(cut, max(cut - LONGEST_CHARACTER, -1), -1):
            begun = self.decode_bytes(tokens[place : place + 1])
            if not begun or not continues(begun[0]):
                return place
        return cut


class TableEncoder:
    """Encodes pieces of documents; counts the documents that do not come back. With `finish`, it is the builder of a
    tokenizer that is there already.
    """

    final = True
    dense = False
    surveys = False

    def __init__(self, tokenizer: TableTokenizer) -> None:
        self._tokenizer = tokenizer
        self.size = tokenizer.vocab_size
        self._dtype = token_dtype(self.size)
        self._cutter = Cutter(tokenizer.drops_space)
        self._documents = self._altered = 0
        self._same = True

    def begin(self, name: str, offset: int = 0) -> None:
        self._cutter = Cutter(self._tokenizer.drops_space)
        self._documents += 1
        self._same = True

    def encode(self, chunk: bytes) -> TokenArray:
        return self._ids(self._cutter.push(chunk))

    def end(self) -> TokenArray:
        ids = self._ids(self._cutter.flush())
        self._altered += not self._same
        return ids

    def notices(self) -> list[str]:
        if not self._altered:
            return []
        return [
            f"{self._altered} of {self._documents} documents do not come back from this tokenizer as they are; bits "
            "per byte count the bytes that do"
        ]

    def abandon(self) -> None:
        pass

    def finish(self, end_of_text: bool) -> tuple[Tokenizer, TokenArray | None]:
        self._tokenizer.set_end_of_text(self._tokenizer.possible_end if end_of_text else None)
        return self._tokenizer, None

    def _ids(self, pieces: list[str]) -> TokenArray:
        texts, parts = [], []
        for piece in pieces:
            for run in [piece] if _is_text(piece) else runs(piece):
                parts.append(run)
                if isinstance(run, str):
                    texts.append(run)
        encoded = iter(self._tokenizer.encode_texts(texts) if texts else [])
        ids = [next(encoded) if isinstance(run, str) else self._tokenizer.encode_bytes(run) for run in parts]
        if not self._tokenizer.lossless and self._same:
            self._same = all(self._comes_back(run, found) for run, found in zip(parts, ids, strict=True))
        return np.concatenate(ids) if ids else np.empty(0, dtype=self._dtype)

    def _comes_back(self, run: str | bytes, ids: TokenArray) -> bool:
        data = run if isinstance(run, bytes) else run.encode()
        if self._tokenizer.drops_space and isinstance(run, str):
            data = b" " + data
        return self._tokenizer.decode_bytes(ids) == data


def stored(tokenizer: TableTokenizer, /, **own: Any) -> dict[str, Any]:
    """What `to_json` gives."""
    sizes = {"vocab_size": tokenizer.vocab_size, "end_of_text": tokenizer.end_of_text}
    return {"kind": tokenizer.kind, **sizes, **own}


def checked_end(facts: Mapping[str, Any], table: Sequence[bytes]) -> int | None:
    """The end-of-text id of `facts`: none, a special one of the table, or the one after it. Raises RunError."""
    end, size, ids = facts["end_of_text"], facts["vocab_size"], len(table)
    if end is not None and (type(end) is not int or not 0 <= end <= ids or (end < ids and table[end])):
        raise damaged("its end-of-text id stands for text, or is none of its ids")
    if type(size) is not int or size != ids + (end == ids):
        raise damaged("its vocabulary size does not match its ids")
    return end


def end_among(specials: Mapping[str, int], named: Iterable[str] = ()) -> int | None:
    """The end-of-text id among the special tokens that a file declares: one that is named so, or has a usual name."""
    return next((specials[name] for name in (*named, *EOS_NAMES) if name in specials), None)


def _is_text(piece: str) -> bool:
    try:
        piece.encode()
    except UnicodeEncodeError:
        return False
    return True
