"""A stranger's tokenizer.json whose regular expression never comes to an end: the library gives up, we say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cllm_cli.main import main

pytest.importorskip("tokenizers")

ENDLESS = {"a group of groups": r"(a+)+$", "a reference back": r"(a+)+\1b", "twice the same": r"(a+a+)+b"}
PARTS = {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None}
MODEL = {"type": "WordLevel", "vocab": {"a": 0, "x": 1}, "unk_token": "x"}


@pytest.mark.parametrize("pattern", ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("part", ["pre_tokenizer", "normalizer"])
def test_a_pattern_that_tries_for_ever(pattern, part, tmp_path, monkeypatch, capfd):
    """Without a limit the first of them would try 2⁶⁰ ways."""
    monkeypatch.chdir(tmp_path)
    if part == "normalizer":
        one = {"type": "Replace", "pattern": {"Regex": pattern}, "content": "b"}
    else:
        one = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    description = {**PARTS, "decoder": None, "added_tokens": [], "pre_tokenizer": None, "model": MODEL, part: one}
    Path("tokenizer.json").write_text(json.dumps(description), "utf-8")
    Path("text.txt").write_text(("a" * 60 + "!\n") * 4, "utf-8")
    assert main(["train", "text.txt", "--tokenizer", "tokenizer.json"]) == 1
    said = capfd.readouterr().err
    assert "error: the tokenizer cannot encode the text: " in said
    assert "retry-limit-in-match over" in said
    assert "Traceback" not in said
