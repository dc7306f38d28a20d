"""The settings of a tiny run, and how a test changes what one has written."""

from __future__ import annotations

import json

TINY = {
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 16,
    "block_size": 8,
    "batch_size": 2,
    "dropout": 0.0,
    "steps": 6,
    "eval_every": 3,
    "save_every": 3,
    "sample_every": 0,
    "log_every": 1,
    "threads": 2,
}


def edited(path, **changes):
    """Rewrites a JSON file; a change to None removes the key."""
    facts = {**json.loads(path.read_text("utf-8")), **changes}
    path.write_text(json.dumps({key: value for key, value in facts.items() if value is not None}), "utf-8")


def flip_a_byte(path):
    """The last one of a file."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
