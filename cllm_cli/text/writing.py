"""Tokens that are being generated, as text: piece by piece, up to a number of tokens or a text that ends it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from cllm_cli.text.tokenizers.base import Tokenizer


def until(tokens: Iterable[int], tokenizer: Tokenizer, most: int, stops: Sequence[str]) -> Iterator[str]:
    """The text of at most `most` tokens, in pieces as they become certain; it ends before the first of `stops` in it.

    What may still turn out to be the beginning of a stop is held back until it is clear.
    """
    stops = [stop for stop in stops if stop]
    stream = tokenizer.stream()
    pieces = itertools.chain((stream.push(token) for token in itertools.islice(tokens, most)), [stream.flush()])
    held = ""
    for piece in pieces:
        held += piece
        found = [held.index(stop) for stop in stops if stop in held]
        if found:
            yield held[: min(found)]
            return
        kept = max((_overlap(held, stop) for stop in stops), default=0)
        yield held[: len(held) - kept]
        held = held[len(held) - kept :]
    yield held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
