"""The table of bad inputs in docs/text.md, run again: the messages are these, and nothing is written or touched."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("tokenizers")

ROOT = Path(__file__).parent.parent.parent
TABLE = runpy.run_path(str(ROOT / "tools" / "bad_inputs.py"))
CASES = TABLE["CASES"]


@pytest.fixture(scope="module")
def shown():
    """Message and hint by what the input is, as the page has them."""
    text = (ROOT / "docs" / "text.md").read_text("utf-8")
    table = text.partition(TABLE["BEGIN"])[2].partition(TABLE["END"])[0]
    rows = [re.split(r" (?<!\\)\| ", line.removeprefix("| ").removesuffix(" |")) for line in table.splitlines()[2:]]
    return {what: (message.replace("\\|", "|"), hint.replace("\\|", "|")) for what, message, hint in rows}


def without_figures(text):
    """Compressed sizes are those of a version of a library."""
    return re.sub(r"\d[\d,]*", "N", text)


def test_the_table_has_every_case(shown):
    assert list(shown) == [case.what for case in CASES]
    assert len(shown) >= 40


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_a_bad_input_gets_its_message_and_nothing_is_touched(case, shown, tmp_path, contents):
    TABLE["prepare"](tmp_path)
    TABLE["make"](case, tmp_path)
    before = contents(tmp_path)
    code, out, err = TABLE["run"](case.command, tmp_path, case.stdin)
    message, hint = shown[case.what]
    assert code in (1, 2)
    assert out == ""
    assert without_figures(err) == without_figures(f"error: {message}\nhint: {hint}\n")
    assert contents(tmp_path) == before
