"""What the stages of reading pass on, from a file that was found to the documents that an encoder gets.

    opened file → decompressed bytes → UTF-8 → format → documents        (`reading` puts them together)

Every stage is a generator over the one before and obeys one contract:

- Bytes are an iterator of pieces that are not empty (`chunks`). A stage holds a piece in hand or a row, never a file.
- Documents come one by one; the bytes of one are read to their end before the next one is asked for.
- What is wrong with the input is a CorpusError that names file and place. What is left out is counted, by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO


@dataclass(frozen=True)
class Reading:
    """How files become documents: the settings of these names, checked (`reading_of`).

    `separator`: what stands between the documents of a plain text. Text in UTF-8, with nothing said, stays as it is.
    """

    encoding: str | None = None
    replace: bool = False
    format: str = "auto"
    field: str = "text"
    separator: bytes = b""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


AS_IT_IS = Reading()


@dataclass
class Source:
    """The bytes of a file as a format takes them: in UTF-8, unless the format is no text.

    `name` is safe to print, `offset` where the bytes begin for whoever looks for one of them, `file` the open file
    itself where it can be sought in and holds nothing else.
    """

    name: str
    chunks: Iterator[bytes]
    offset: int = 0
    file: BinaryIO | None = None
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A document that is about to be read; it has at least one byte. `name` and `offset` are for messages."""

    name: str
    offset: int
    chunks: Iterator[bytes]
