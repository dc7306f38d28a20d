"""The text of a token store for a model to score: all of it, in the order of its documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cllm_cli.text.mapped import check_there, copied, let_go, pieces_of
from cllm_cli.text.passages import GROUP, Passage
from cllm_cli.text.pile import Row
from cllm_cli.text.tokenized import opened_for
from cllm_cli.text.tokenizers.base import TokenArray, Tokenizer

HELD = 1 << 22  # tokens that may be mapped while they are put in order
ROWS = 1 << 16  # documents that are looked up at a time


def tokens_in(path: Path, tokenizer: Tokenizer) -> TokenArray:
    """What `tokens_of` gives for the text that the store at `path` was made of; after it comes what was named by --val.

    They are mapped, from a file without a name where they are many and validation documents lay between others. Raises
    ConfigError where the ids are another tokenizer's, CorpusError for a damaged store or where there is no room.
    """
    store, _ = opened_for(path, tokenizer)
    tokens, rows = store.tokens, store.documents
    if (rows["first"][1:] >= rows["first"][:-1]).all():
        return tokens
    ordered, used = Row(tokens.size, tokens.dtype), 0
    for first, count in _places(rows):
        for at in range(first, first + count, HELD):
            piece = tokens[at : min(at + HELD, first + count)]
            ordered.append(piece)
            used += piece.size
            if used >= HELD:
                check_there(tokens)
                let_go(tokens)
                used = 0
    check_there(tokens)
    return ordered.whole()


def documents_in(path: Path, tokenizer: Tokenizer) -> Iterator[list[Passage]]:
    """The documents of the store at `path`, in groups as `passages.documents_of` gives them, numbered from 1.

    Raises as `tokens_in`, before the first group.
    """
    store, _ = opened_for(path, tokenizer)
    tokens, end = store.tokens, tokenizer.end_of_text
    group: list[Passage] = []
    size = 0
    for number, (first, count) in enumerate(_places(store.documents), start=1):
        document = copied(tokens[first : first + count])  # scored when others are read
        if end is not None and count and document[-1] == end:
            document = document[:-1]
        group.append(Passage(number, str(path), document))
        size += 1 + count
        if size >= GROUP:
            yield group
            group, size = [], 0
            let_go(tokens)
    yield group


def _places(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    for some in pieces_of(rows, ROWS):
        yield from zip(some["first"].tolist(), some["tokens"].tolist(), strict=True)
