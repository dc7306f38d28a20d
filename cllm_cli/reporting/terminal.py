"""What a stream can show: styles and a live display, or plain lines; Unicode, or ASCII alone."""

from __future__ import annotations

import codecs
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from cllm_cli.printable import one_line

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Signs:
    """The characters that drawings are made of.

    `levels` fill a character cell from the left, `heights` from below, emptiest first.
    """

    done: str
    head: str
    rest: str
    side: str
    more: str
    levels: str
    heights: str


UNICODE_SIGNS = Signs(done="━", head="╸", rest="─", side="│", more="…", levels=" ▏▎▍▌▋▊▉█", heights="▁▂▃▄▅▆▇█")
ASCII_SIGNS = Signs(done="=", head=">", rest="-", side="|", more="..", levels=" #", heights=" .:-=+*#")


def is_plain(stream: TextIO) -> bool:
    """Whether `stream` gets plain lines: a pipe or a file, TERM=dumb, or NO_COLOR set and not empty."""
    try:
        interactive = stream.isatty()
    except ValueError:  # a stream that is closed
        return True
    return not interactive or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "") in ("", "dumb", "unknown")


def is_unicode(stream: TextIO) -> bool:
    """Whether `stream` writes UTF-8."""
    try:
        return codecs.lookup(getattr(stream, "encoding", None) or "ascii").name.startswith("utf-8")
    except LookupError:
        return False


def signs_of(stream: TextIO) -> Signs:
    """Drawing characters for `stream`. A plain one gets ASCII, whatever its encoding."""
    return UNICODE_SIGNS if is_unicode(stream) and not is_plain(stream) else ASCII_SIGNS


def console_for(stream: TextIO) -> Console:
    """A Rich console on `stream` that prints text as it is: nothing guessed, marked up or highlighted."""
    from rich.console import Console  # takes a while to import, and a run with --json needs none of it

    class PlainSpoken(Console):
        def on_broken_pipe(self) -> None:
            raise  # Rich would end the process; what a closed pipe means is decided in main

    plain = is_plain(stream)
    return PlainSpoken(
        file=stream,
        force_terminal=not plain,
        force_interactive=not plain,
        force_jupyter=False,
        no_color=plain,
        markup=False,
        emoji=False,
        highlight=False,
    )


def write_line(stream: TextIO, text: str) -> None:
    """One line at once, safe for a terminal; what the stream's encoding cannot write becomes an escape too."""
    text = one_line(text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()


def tell_note(text: str) -> None:
    """A word on standard error for whoever watches, beside a command's results."""
    write_line(sys.stderr, f"note: {text}")


def bar(fraction: float, width: int, signs: Signs) -> tuple[str, str]:
    """A progress bar of `width` cells as its done and its open part."""
    done = round(min(max(fraction, 0.0), 1.0) * width)
    if done >= width:
        return signs.done * width, ""
    head = signs.head if done else ""
    return signs.done * (done - len(head)) + head, signs.rest * (width - done)


def gauge(fraction: float, width: int, signs: Signs) -> str:
    """A small bar of `width` cells, filled to an eighth of a cell where the signs allow."""
    steps = len(signs.levels) - 1
    filled = round(min(max(fraction, 0.0), 1.0) * width * steps)
    whole, part = divmod(filled, steps)
    return (signs.levels[-1] * whole + (signs.levels[part] if part else "")).ljust(width)
