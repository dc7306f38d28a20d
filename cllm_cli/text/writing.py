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
    held = ""
    for piece in _pieces(itertools.islice(tokens, most), tokenizer):
        held += piece
        found = [held.index(stop) for stop in stops if stop in held]
        if found:
            yield held[: min(found)]
            return
        kept = max((_overlap(held, stop) for stop in stops), default=0)
        yield held[: len(held) - kept]
        held = held[len(held) - kept :]
    yield held


def _pieces(tokens: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    """The text of each token, and last of an unfinished character."""
    stream = tokenizer.stream()
    for token in tokens:
        yield stream.push(token)
    yield stream.flush()


def recorded(tokens: Iterable[int], record: list[int]) -> Iterator[int]:
    """`tokens` as they are taken, each of which is noted in `record`."""
    for token in tokens:
        record.append(token)
        yield token


def tokens_within(ids: Sequence[int], tokenizer: Tokenizer, text: str) -> list[int]:
    """Those of `ids`, from the first on, whose text is no longer than `text`, with which theirs begins."""
    stream, size, kept = tokenizer.stream(), 0, 0
    for number, token in enumerate(ids, start=1):
        piece = stream.push(token)
        size += len(piece)
        if size > len(text):
            break
        if piece:
            kept = number
    else:
        if size + len(stream.flush()) <= len(text):
            kept = len(ids)
    return list(ids[:kept])


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
