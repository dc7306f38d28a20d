"""Text that comes from files or from a model, made safe to show in a terminal."""

from __future__ import annotations

import re

# What a terminal obeys rather than shows: C0 but newline and tab, DEL, C1, the controls that reorder text (so that a
# line reads other than it is), invisible tags; and lone surrogates, which no encoding can write.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    r"""`text` with control characters written as escapes (`\x1b`, `\u202e`); newlines and tabs stay.

    Characters are treated one by one, so a text may be passed in pieces.
    """
    return _UNSAFE.sub(_escape, text)


def one_line(text: str) -> str:
    r"""Like `printable`, with newlines and tabs escaped as well: names, paths, messages."""
    return printable(text).replace("\n", r"\n").replace("\t", r"\t")


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
