"""A model file of SentencePiece. (Kudo & Richardson 2018, arXiv:1808.06226)

In its pieces U+2581 stands for a space. What its normalizer changes comes back changed, which the reader is told of.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from cllm_cli.errors import ConfigError
from cllm_cli.text.tokenizers.base import Builder, TokenArray, checked_keys, damaged
from cllm_cli.text.tokenizers.extras import library
from cllm_cli.text.tokenizers.table import (
    MOST_IDS,
    REPLACEMENT,
    TableEncoder,
    TableTokenizer,
    checked_end,
    stored,
)

SPACE = "\u2581"
SILENT = 5  # a level above all that the library logs on standard error by itself


class SentencePieceTokenizer(TableTokenizer):
    """`model` are the bytes of the model file."""

    kind: ClassVar[str] = "sentencepiece"
    argument: ClassVar[str] = "FILE"

    def __init__(self, model: bytes, end_of_text: int | None = None) -> None:
        """Raises ValueError where it is no model, ConfigError without the library."""
        self.model = model
        self._library = _loaded(model)
        ids = self._library.get_piece_size()
        if not 0 < ids <= MOST_IDS:
            raise ValueError("it has no ids, or too many")
        end = self._library.eos_id()
        super().__init__(
            [self._bytes_of(number) for number in range(ids)], end if 0 <= end < ids else None, end_of_text
        )

    @classmethod
    def builder(cls, argument: str = "") -> Builder:
        from cllm_cli.text.tokenizers.files import builder_from

        return builder_from(argument)

    def encode_texts(self, texts: list[str]) -> list[TokenArray]:
        return [np.array(ids, dtype=self.dtype) for ids in self._library.encode(texts, out_type=int)]

    def to_json(self) -> dict[str, Any]:
        return stored(self, model=base64.b64encode(self.model).decode())

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> SentencePieceTokenizer:
        checked_keys(facts, cls.kind, ("model",))
        try:
            made = cls(base64.b64decode(facts["model"], validate=True))
        except (ValueError, TypeError, binascii.Error) as error:
            raise damaged(f"its model is none: {error!a:.120}") from error
        made.set_end_of_text(checked_end(facts, made._table))
        return made

    def _bytes_of(self, number: int) -> bytes:
        if self._library.is_control(number):
            return b""
        if self._library.is_unknown(number):
            return REPLACEMENT
        piece: str = self._library.id_to_piece(number)
        if self._library.is_byte(number):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(SPACE, " ").encode()


def builder_of(model: bytes) -> Builder:
    """A builder whose tokenizer is there already. Raises ValueError and ConfigError as the tokenizer does."""
    return TableEncoder(SentencePieceTokenizer(model))


def _loaded(model: bytes) -> Any:
    sentencepiece = library("sentencepiece")
    sentencepiece.SetMinLogLevel(SILENT)
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except ConfigError:
        raise
    except Exception as error:  # RuntimeError today; the binding promises none
        raise ValueError(f"the library sentencepiece refuses it: {error!a:.120}") from error
