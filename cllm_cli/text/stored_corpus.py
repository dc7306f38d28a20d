"""A corpus made again from what a run or a token store has kept of it: files that anyone may have changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cllm_cli.errors import RunError
from cllm_cli.text.corpus import FACTS, Corpus
from cllm_cli.text.mapped import pieces_of
from cllm_cli.text.tokenizers.base import TokenArray, Tokenizer, count_bytes

PIECE = 1 << 20  # tokens that are looked at together


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
    if any(int(piece.max()) >= tokenizer.vocab_size for piece in pieces_of(tokens, PIECE)):
        raise _damaged("it has tokens outside the vocabulary")


def _damaged(what: str) -> RunError:
    return RunError(f"the stored tokens are damaged: {what}", "train again, or restore the run folder")
