"""The tokens of a text that was cut off before a stop."""

from __future__ import annotations

import pytest

from cllm_cli.text.tokenizers import builder_of
from cllm_cli.text.writing import recorded, tokens_within, until

BYTE = builder_of("byte").finish(end_of_text=False)[0]


@pytest.mark.parametrize(
    ("data", "stops", "kept"),
    [
        ("ab…c", [], "ab…c"),
        ("ab…c", ["c"], "ab…"),
        ("ab…c", ["…"], "ab"),
        ("ab…c", ["a"], ""),
        ("ab…c", ["never"], "ab…c"),
        ("", [], ""),
    ],
)
def test_they_are_the_tokens_of_the_text_that_was_written(data, stops, kept):
    record = []
    text = "".join(until(recorded(iter(data.encode()), record), BYTE, 100, stops))
    assert text == kept
    assert tokens_within(record, BYTE, text) == list(kept.encode())


@pytest.mark.parametrize("data", [b"ab\xe2\x80", b"\xff\xfe", b"a\xe2b\xff", b"\xe2"])
def test_bytes_that_are_no_text_stay(data):
    record = []
    text = "".join(until(recorded(iter(data), record), BYTE, 100, []))
    assert tokens_within(record, BYTE, text) == list(data)


def test_no_more_are_recorded_than_were_written():
    record = []
    assert "".join(until(recorded(iter(b"abcdef"), record), BYTE, 4, [])) == "abcd"
    assert record == list(b"abcd")
