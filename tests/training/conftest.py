"""Fixtures of the training tests: a text, and runs on it through the library."""

from __future__ import annotations

import pytest

from cllm_cli.training import train

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


@pytest.fixture
def text(tmp_path):
    """A text of about 2 kB."""
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {n} of {n * n % 97}, and {n * 7 % 13}\n" for n in range(90)), "utf-8")
    return path


@pytest.fixture
def run(text, tmp_path):
    """A function that trains a tiny model on `text`: run("name", steps=3, …) gives the generator of records."""

    def start(name="out", *sources, resume=False, force=False, init_from=None, stop=lambda: 0, stdin=None, **settings):
        return train(
            sources or [text],
            tmp_path / name,
            resume=resume,
            force=force,
            init_from=init_from,
            stop=stop,
            stdin=stdin,
            **({} if resume else TINY) | settings,
        )

    return start
