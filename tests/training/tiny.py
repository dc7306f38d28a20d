"""The settings of a tiny run, how a test changes what one has written, and what a test looks at."""

from __future__ import annotations

import json
import os

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


def handles_within(path):
    """Links of this process's handles of a file or of what is in a folder; those of other tests may close any time."""
    names = os.listdir("/proc/self/fd")  # noqa: PTH208 - Path.iterdir holds a handle itself
    links = [os.path.realpath(f"/proc/self/fd/{name}") for name in names]
    return [link for link in links if link.startswith(os.path.realpath(path))]
