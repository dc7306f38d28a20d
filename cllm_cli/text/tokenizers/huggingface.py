"""A `tokenizer.json` of the library `tokenizers` (Hugging Face), as it is.

What an id stands for is what the file's decoder makes of it after another id: bytes where the file works on bytes, text
otherwise. Special tokens stand for nothing, and text that looks like one stays text. The template that puts special
tokens around a text, padding and truncation are not used: a corpus is one stream of tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from cllm_cli.errors import CllmError, CorpusError
from cllm_cli.text.tokenizers.base import Builder, TokenArray, checked_keys, damaged
from cllm_cli.text.tokenizers.bpe import ALPHABET
from cllm_cli.text.tokenizers.extras import library
from cllm_cli.text.tokenizers.table import MOST_IDS, TableEncoder, TableTokenizer, checked_end, end_among, stored

PARTS = ("model", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")
"""What a tokenizer.json has; padding, truncation and its version are left out."""
FREE_IDS, ROOM = 1 << 16, 4
"""Ids may go up to the first, or to so many times their number: a table has room for each id below the largest."""
LONGEST_PIECE = 1 << 12  # characters: the library takes pieces apart by recursion, and long ones end the process
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


class HuggingFaceTokenizer(TableTokenizer):
    """`description` is the parsed tokenizer.json."""

    kind: ClassVar[str] = "huggingface"
    argument: ClassVar[str] = "FILE"

    def __init__(
        self, description: Mapping[str, Any], end_of_text: int | None = None, named: Iterable[str] = ()
    ) -> None:
        """Raises ValueError where the library cannot make a tokenizer of it, ConfigError without the library."""
        self.description = {name: description[name] for name in PARTS if name in description}
        with _guarded():
            self._library = _loaded(self.description)
            added = self._library.get_added_tokens_decoder()
            self.specials = {token.content: number for number, token in added.items() if token.special}
            plain = {number: token.content for number, token in added.items() if not token.special}
            table = self._bytes_of_ids(plain)
        super().__init__(table, end_among(self.specials, named), end_of_text)

    @classmethod
    def builder(cls, argument: str = "") -> Builder:
        from cllm_cli.text.tokenizers.files import builder_from

        return builder_from(argument)

    def encode_texts(self, texts: list[str]) -> list[TokenArray]:
        try:
            found = self._library.encode_batch_fast(texts, add_special_tokens=False)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a regular expression that gives up on a text ends in a panic, as in _guarded
            raise CorpusError(
                f"the tokenizer cannot encode the text: {error!a:.200}", "use --tokenizer byte, which takes any bytes"
            ) from error
        return [np.array(encoding.ids, dtype=self.dtype) for encoding in found]

    def to_json(self) -> dict[str, Any]:
        return stored(self, tokenizer=self.description)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> HuggingFaceTokenizer:
        checked_keys(facts, cls.kind, ("tokenizer",))
        if not isinstance(facts["tokenizer"], dict):
            raise damaged("its description is no object")
        try:
            made = cls(facts["tokenizer"])
        except ValueError as error:
            raise damaged(str(error)) from error
        made.set_end_of_text(checked_end(facts, made._table))
        return made

    def _bytes_of_ids(self, plain: Mapping[int, str]) -> list[bytes]:
        """What each id stands for. Ids without a token stand for nothing."""
        vocabulary = self._library.get_vocab(with_added_tokens=False)
        ids = [*vocabulary.values(), *plain, *self.specials.values()]
        if not ids or max(ids) >= MOST_IDS:
            raise ValueError("it has no ids, or too large ones")
        if max(ids) >= max(FREE_IDS, ROOM * len(ids)):
            raise ValueError(f"it has {len(ids):,} ids, and they go up to {max(ids):,}")
        # The library numbers added tokens itself, from the size of the vocabulary on: it may have a token there.
        named = {**vocabulary, **{content: number for number, content in plain.items()}, **self.specials}
        if len(set(named.values())) != len(named):
            raise ValueError("its ids are not distinct")
        table = [b""] * (max(ids) + 1)
        tokens = {number: token for token, number in vocabulary.items() if token not in self.specials}
        decoders = _types(self.description.get("decoder"))
        if "ByteLevel" in decoders:
            for number, token in tokens.items():
                table[number] = b"".join(
                    bytes([ALPHABET[char]]) if char in ALPHABET else char.encode() for char in token
                )
        else:
            fallback = "ByteFallback" in decoders
            for number, piece in self._decoded(tokens).items():
                single = fallback and BYTE_TOKEN.fullmatch(tokens[number])
                table[number] = bytes([int(tokens[number][3:5], 16)]) if single else piece.encode()
        for number, content in plain.items():
            table[number] = content.encode()
        return table

    def _decoded(self, tokens: Mapping[int, str]) -> dict[int, str]:
        """What the decoder adds for each id after another one: at the beginning of a text it may leave out a space."""
        numbers = sorted(tokens)
        anchor = next((number for number in numbers if tokens[number].isalpha()), numbers[0] if numbers else 0)
        before = self._library.decode([anchor], skip_special_tokens=False)
        found = self._library.decode_batch([[anchor, number] for number in numbers], skip_special_tokens=False)
        return {number: text.removeprefix(before) for number, text in zip(numbers, found, strict=True)}


def builder_of(description: Mapping[str, Any], named: Iterable[str]) -> Builder:
    """A builder whose tokenizer is there already. Raises ValueError and ConfigError as the tokenizer does."""
    return TableEncoder(HuggingFaceTokenizer(description, named=named))


def _loaded(description: Mapping[str, Any]) -> Any:
    if isinstance(description.get("model"), dict):
        _check_pieces(description["model"])
        _check_merges(description["model"])
    text = json.dumps({"version": "1.0", "truncation": None, "padding": None, **description})
    made = library("tokenizers").Tokenizer.from_str(text)
    made.encode_special_tokens = True
    made.encode("a b", add_special_tokens=False)  # whether it works at all
    return made


def _check_pieces(model: Mapping[str, Any]) -> None:
    """Raise ValueError where a piece of a Unigram model is beyond LONGEST_PIECE."""
    vocabulary = model.get("vocab")
    for entry in vocabulary if isinstance(vocabulary, list) else ():
        piece = entry[0] if isinstance(entry, list) and entry else ""
        if isinstance(piece, str) and len(piece) > LONGEST_PIECE:
            raise ValueError(f"a token has {len(piece)} characters, more than {LONGEST_PIECE}")


def _check_merges(model: Mapping[str, Any]) -> None:
    """Raise ValueError where a merge of a BPE model makes no token, which may end the process within the library."""
    vocabulary, merges, prefix = (model.get(name) for name in ("vocab", "merges", "continuing_subword_prefix"))
    if not isinstance(vocabulary, dict) or not isinstance(merges, list):
        return
    prefix = prefix if isinstance(prefix, str) else ""
    for merge in merges:
        if isinstance(merge, str) and merge.startswith("#version"):  # the first line of a merges.txt, in older files
            continue
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair):
            first, second = pair
            if not second.startswith(prefix) or first + second.removeprefix(prefix) not in vocabulary:
                raise ValueError("a merge makes no token")


@contextmanager
def _guarded() -> Iterator[None]:
    """Whatever goes wrong in the library as a ValueError. A file that it did not expect may end in a panic of its own,
    which is no Exception.
    """
    try:
        yield
    except (CllmError, ValueError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise ValueError(f"the library tokenizers refuses it: {error!a:.120}") from error


def _types(part: Any) -> set[str]:
    """The types of a part of the description, those within a sequence included."""
    if not isinstance(part, dict):
        return set()
    inner = [found for value in part.values() if isinstance(value, list) for found in value]
    return {str(part.get("type"))}.union(*map(_types, inner))
