from __future__ import annotations

import unicodedata

import pytest

from cllm_cli.printable import one_line, printable


def test_text_newlines_and_tabs_stay():
    text = "Grüße\n\t日本 🙂 ‘quoted’ a\u0301"
    assert printable(text) == text
    assert one_line(text).count("\n") == one_line(text).count("\t") == 0


@pytest.mark.parametrize(
    ("character", "escape"),
    [
        ("\x1b", r"\x1b"),
        ("\r", r"\x0d"),
        ("\x9b", r"\x9b"),
        ("\u202e", r"\u202e"),
        ("\u2066", r"\u2066"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_a_terminal_obeys_is_escaped(character, escape):
    assert printable(f"a{character}b") == f"a{escape}b"


def test_no_control_character_or_surrogate_comes_through():
    for code in range(0x10000):
        if unicodedata.category(chr(code)) in ("Cc", "Cs", "Zl", "Zp") and chr(code) not in "\n\t":
            assert printable(chr(code)) != chr(code)


def test_text_may_come_in_pieces():
    text = "a\x1b[31m\u202eb\n"
    assert "".join(printable(character) for character in text) == printable(text)
