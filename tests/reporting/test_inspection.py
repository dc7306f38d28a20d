"""What `cllm inspect` shows: every figure, and nothing from a file that a terminal would obey."""

from __future__ import annotations

import io

import pytest

from cllm_cli.reporting.inspection import KINDS, show_inspection

EVIL = "a\x1b[2J\nb\u202e"

ROWS = {
    "text": {
        "documents": 3,
        "bytes": 4000,
        "lines": 50,
        "tokenizer": "byte",
        "tokens": 4003,
        "bytes_per_token": 1.25,
        "vocab_size": 257,
        "used_ids": 61,
        "longest_lines": [{"path": EVIL, "line": 7, "bytes": 1234}],
        "skipped": {EVIL: 2},
        "notices": [f"told: {EVIL}"],
        "problems": [
            {"problem": "invalid UTF-8", "count": 9, "documents": 2, "examples": [{"path": EVIL, "offset": 17}]},
            {"problem": "copies", "count": 1, "documents": 1, "examples": [{"path": EVIL, "copy_of": EVIL}]},
            {"problem": "no tokens", "count": 1, "documents": 1, "examples": [{"path": EVIL, "why": EVIL}]},
        ],
    },
    "store": {
        "path": EVIL,
        "documents": 3,
        "train_tokens": 1000,
        "val_tokens": 100,
        "train_bytes": [EVIL],
        "val_bytes": 2000,
        "tokenizer": "byte",
        "vocab_size": EVIL,
        "val_fraction": None,
        "reading": {"errors": "strict", "field": EVIL, "include": (EVIL, "*.md")},
        "fingerprint": EVIL,
        "file_bytes": 5000,
        "token_bytes": 2,
        "skipped": {EVIL: 2},
        "whole": False,
    },
    "run": {
        "path": EVIL,
        "step": 5,
        "steps": None,
        "complete": False,
        "resumable": True,
        "best_val_loss": 1.5,
        "best_step": 4,
        "val_loss": 1.75,
        "tokenizer": {"spec": EVIL, "vocab_size": 256, "note": f"unchecked: {EVIL}"},
        "config": {"val": EVIL},
        "files": {EVIL: 100},
        "file_bytes": 100,
        "damaged": [EVIL],
        "layers": [{"name": EVIL, "params": 10}],
        "params": 10,
    },
    "tokenizer": {
        "tokenizer": "char",
        "vocab_size": 5,
        "end_of_text": 4,
        "sha256": "00",
        "ids": [{"id": 0, "text": EVIL, "hex": "611b"}],
    },
}

SHOWN = {
    "text": [
        "4,000 in 50 lines",
        "61 of 257 ids",
        "1.23 kB, line 7",
        "invalid UTF-8: 9 in 2 documents",
        "from byte 17",
        "told: a",
    ],
    "store": [
        "1,000 for training, 100",
        "? for training, 2.00 kB",
        "read with        field a",
        " *.md",
        "chosen by hand",
        "wrong:",
        "2 bytes a token",
    ],
    "run": [
        "5 of -",
        "not complete, can be resumed",
        "1.5000 at step 4",
        "1.7500",
        "unchecked: a",
        "damaged",
        "parameters",
    ],
    "tokenizer": ["char, 5 ids", "id 4", "611b"],
}


def test_every_kind_is_here():
    assert ROWS.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", ROWS)
def test_a_pipe_gets_plain_lines(kind):
    stream = io.StringIO()
    show_inspection({"event": kind, **ROWS[kind]}, stream)
    shown = stream.getvalue()
    for fragment in SHOWN[kind]:
        assert fragment in shown
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "x1b[2J" in shown


def test_what_is_unknown_is_left_out():
    stream = io.StringIO()
    nothing = {"tokens": None, "notices": [], "problems": [], "skipped": {}, "longest_lines": []}
    show_inspection({"event": "text", **ROWS["text"], **nothing}, stream)
    assert [line.split("  ")[0] for line in stream.getvalue().splitlines()] == ["documents", "bytes"]
