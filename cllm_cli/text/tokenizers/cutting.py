"""A document in pieces that can be encoded one by one, cut where a tokenizer would cut anyway.

Tokenizers for words first split text into stretches that no token crosses: words, numbers, punctuation. A piece ends
before a space between words or, where there is none, before a blank or a punctuation mark after a word, so the ids of
all pieces are those of the whole. Only where a piece's length of text has no such place is it cut at that length.

Where the cuts are follows from the document alone, not from the chunks in which it comes. Bytes that are no UTF-8
become surrogates (PEP 383), which no text in UTF-8 has.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

PIECE = 1 << 14
"""Characters in a piece, at most."""
NEAR = 1 << 9
"""Characters at a piece's end in which a place is looked for first."""

# GPT-2's pattern and those after it have a cut at each of these, and look from none of them to what is before it.
CUTS = (
    re.compile(r"(?<=\w) (?=\w)"),
    re.compile(r"(?<=\S)[ \n]"),
    re.compile(r"(?<=[^\W_])(?=[!-/:-@\[-`{-~、。，！？；：])"),
)
DROPPED_CUTS = (re.compile(r"(?<=\S) (?=\S)"),)


class Cutter:
    """Bytes of one document in, pieces out. `drops_space`: the tokenizer puts a space before each piece by itself, so
    that the one at a cut belongs to neither side. `most`: characters in a piece, instead of `PIECE`.
    """

    def __init__(self, drops_space: bool = False, most: int | None = None) -> None:
        self._most = PIECE if most is None else most
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self._cuts = DROPPED_CUTS if drops_space else CUTS
        self._drops_space = drops_space
        self._rest = ""

    def push(self, chunk: bytes) -> list[str]:
        """The pieces that are complete by now."""
        self._rest += self._decoder.decode(chunk)
        return self._taken()

    def flush(self) -> list[str]:
        """The last pieces: the document is over."""
        self._rest += self._decoder.decode(b"", final=True)
        pieces = self._taken()
        return [*pieces, self._rest] if self._rest else pieces

    def _taken(self) -> list[str]:
        pieces, start, text = [], 0, self._rest
        while len(text) - start > self._most:
            stop = self._cut(text, start)
            pieces.append(text[start:stop])
            start = stop + (self._drops_space and stop < start + self._most)
        self._rest = text[start:]
        return pieces

    def _cut(self, text: str, start: int) -> int:
        """The last place for a cut in the piece that begins at `start`; its end where there is none."""
        end = start + self._most
        for cut in self._cuts:
            for first in (max(start + 1, end - NEAR), start + 1):
                places = [found.start() for found in cut.finditer(text, first, end)]
                if places:
                    return places[-1]
        return end


def runs(piece: str) -> Iterator[str | bytes]:
    """The stretches of a piece that are text, and those that are no UTF-8, as they were."""
    for index, run in enumerate(_SURROGATES.split(piece)):
        if run:
            yield run.encode("utf-8", errors="surrogateescape") if index % 2 else run


_SURROGATES = re.compile("([\udc80-\udcff]+)")
