r"""UTF-8 that was read as Latin-1 or Windows-1252, "cafÃ©", told from text that is as it should be.

Such text has characters that these encodings write as the bytes of a character in UTF-8: a lead (C2 to F4) and as many
continuations (80 to BF) as it asks for. True text has that too, where a letter and what may follow a word stand for
them: "IRMÃ”", "Spaß“", "été\xa0»", "VÝŠKA". So where all continuations may follow a word, it counts only

- in a row with others, as those of Cyrillic, Greek and Arabic letters are; or
- with Â or Ã for a lead where that is no capital among capitals, nor quoted by itself.
"""

from __future__ import annotations

import re

MOST = 1000  # in a document; all of a text may be so


def _read_as(first: int, last: int, without: str = "") -> str:
    """What matches one of the characters that the bytes `first` to `last` are read as."""
    data = bytes(range(first, last + 1))
    characters = {*data.decode("latin-1"), *data.decode("cp1252", "ignore")} - {*without}
    return f"[{re.escape(''.join(sorted(characters)))}]"


LETTERS = "ŠŽŒšžœ"
AFTER_WORDS = "\xa0«»‹›“”‘’…–—®©™°ªº¹²³·•†‡§´" + LETTERS
CAPITALS = "".join(chr(code) for code in (*range(0x180), *range(0x1EA0, 0x1F00)) if chr(code).isupper())
REST, OTHER_REST = _read_as(0x80, 0xBF), _read_as(0x80, 0xBF, AFTER_WORDS)
THREE = (
    f"(?:{_read_as(0xE0, 0xE0)}{_read_as(0xA0, 0xBF)}"
    f"|{_read_as(0xE1, 0xEC)}{REST}|{_read_as(0xEE, 0xEF)}{REST}"
    f"|{_read_as(0xED, 0xED)}{_read_as(0x80, 0x9F)}){REST}"
)
FOUR = (
    f"(?:{_read_as(0xF0, 0xF0)}{_read_as(0x90, 0xBF)}"
    f"|{_read_as(0xF1, 0xF3)}{REST}"
    f"|{_read_as(0xF4, 0xF4)}{_read_as(0x80, 0x8F)}){REST}{REST}"
)
ANY = f"(?:{_read_as(0xC2, 0xDF)}{REST}|{THREE}|{FOUR})"
MISREAD = re.compile(
    f"[ÂÃ]{OTHER_REST}"
    f"|(?<![{CAPITALS}\xa0“‘«‹„‚])[ÂÃ]{REST}"
    # A blank ends a word: what comes after it, "à\xa0½", is the next one.
    f"|(?!.\xa0|.[{AFTER_WORDS}]{{2}}){THREE}"
    f"|(?!.[{AFTER_WORDS}]{{3}}){FOUR}"
    f"|(?!.[{LETTERS}]){ANY}(?={ANY})"
)
BEGINNING = re.compile(rb"\xc3[\x82-\xb4][\xc2\xc5\xc6\xcb\xe2]")
"""What all of them begin with, as UTF-8, and true text seldom has: a search for these bytes is fast."""
BEFORE, AHEAD = 4, 24  # bytes around a place that may tell whether it counts: a character, and two of four each


class Misread:
    """How often bytes of UTF-8 look like it, and where first; the same however they are cut into chunks."""

    def __init__(self) -> None:
        self.count = self.first = 0
        self._held = b""  # what was not looked at yet, and the `_looked` bytes before it
        self._looked = self._size = 0

    def push(self, chunk: bytes) -> None:
        self._size += len(chunk)
        data = self._held + chunk
        self._look(data, max(len(data) - AHEAD, self._looked))

    def end(self) -> None:
        """There is no more."""
        self._look(self._held, len(self._held))

    def _look(self, data: bytes, limit: int) -> None:
        """Count what begins before `limit`."""
        for found in BEGINNING.finditer(data, self._looked):
            at = found.start()
            if at >= limit or self.count == MOST:
                break
            before = data[max(at - BEFORE, 0) : at].decode("utf-8", "replace")
            if MISREAD.match(before + data[at : at + AHEAD].decode("utf-8", "replace"), len(before)):
                self.first = self.first if self.count else self._size - len(data) + at
                self.count += 1
        self._held = data[max(limit - BEFORE, 0) :]
        self._looked = min(limit, BEFORE)
