"""Text in other encodings, to UTF-8 as it streams by; and what is no text at all."""

from __future__ import annotations

import codecs
import difflib
import itertools
import re
from collections.abc import Iterator

from cllm_cli.errors import ConfigError, CorpusError

BOM = codecs.BOM_UTF8
# Of two marks with the same beginning, the longer one first.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
HINT = "--encoding NAME says what its encoding is, --errors replace goes on with U+FFFD"
# Text codecs of Python for other ends than files of text; they cannot decode a stream either.
NO_CHARSETS = frozenset({"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "rot_13", "mbcs"})
LONGEST_NAME = 40  # of an encoding in a message
_SURROGATES = re.compile("[\ud800-\udfff]")


def check_encoding(name: str) -> None:
    """Raises ConfigError, naming the nearest, unless `name` is an encoding of text that Python knows."""
    try:
        found = codecs.lookup(name).name.replace("-", "_")
        b" ".decode(name)  # LookupError: compression and the like, which are codecs as well
    except UnicodeDecodeError:
        pass  # a blank is no whole character of UTF-16
    except (LookupError, ValueError):  # ValueError: a NUL, or half a character
        found = "undefined"
    if found in NO_CHARSETS:
        from encodings.aliases import aliases

        charsets = [pair for pair in aliases.items() if not pair[1].endswith("_codec") and pair[1] not in NO_CHARSETS]
        known = sorted({other.replace("_", "-") for pair in charsets for other in pair})
        close = difflib.get_close_matches(name[:LONGEST_NAME].lower().replace("_", "-"), known, n=1)
        raise ConfigError(
            f"unknown encoding {name[:LONGEST_NAME]!a}{'…' * (len(name) > LONGEST_NAME)}",
            f"did you mean '{close[0]}'?" if close else "for example utf-8, utf-16, latin-1, cp1252",
        )


def marked_encoding(head: bytes) -> str | None:
    """The encoding that a byte-order mark at the beginning tells; None for UTF-8, which needs none."""
    return next((encoding for mark, encoding in MARKS.items() if head.startswith(mark)), None)


def looks_binary(head: bytes, encoding: str | None, errors: str) -> bool:
    """Whether the beginning of a file has a NUL, or is no text in `encoding` where `errors` is strict."""
    if encoding is None:
        return b"\0" in head
    try:
        return "\0" in codecs.getincrementaldecoder(encoding)(errors).decode(head)
    except UnicodeError:
        return errors == "strict"


def as_utf8(chunks: Iterator[bytes], encoding: str, replace: bool, name: str) -> Iterator[bytes]:
    """A stream in `encoding` as one in UTF-8, without a byte-order mark.

    Raises CorpusError at the first byte that is none of the encoding; with `replace` that becomes U+FFFD.
    """
    decoder = codecs.getincrementaldecoder(encoding)("replace" if replace else "strict")
    position = 0
    begun = False
    for chunk in itertools.chain(chunks, (b"",)):
        position += len(chunk)
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            # What the decoder has held back of earlier chunks is in `error.object` too.
            at = position - len(error.object) + error.start
            raise CorpusError(
                f"{name} is no {encoding}: byte {at} is 0x{error.object[error.start]:02x} ({error.reason})", HINT
            ) from error
        except UnicodeError as error:  # in these words alone: what says its byte order by a mark has none
            raise CorpusError(
                f"{name} is no {encoding}: it has no byte-order mark", f"--encoding {encoding}-le, or {encoding}-be"
            ) from error
        if text and not begun:
            text, begun = text.removeprefix("\ufeff"), True
        if text:
            yield encoded(text, replace, name)


def encoded(text: str, replace: bool, name: str) -> bytes:
    """Text in UTF-8. Half a character (a lone surrogate) is a CorpusError, or U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        if replace:
            return _SURROGATES.sub("\ufffd", text).encode()
        raise CorpusError(
            f"{name} has half of a character, {text[error.start]!a} (a lone surrogate)",
            "--errors replace puts U+FFFD in its place",
        ) from error
