"""Fixtures of the training tests: a text, and runs on it through the library."""

from __future__ import annotations

import shutil

import pytest
from tiny import TINY

from cllm_cli.training import train
from cllm_cli.training.run_folder import RunFolder


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


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a short run; not to be changed."""
    place = tmp_path_factory.mktemp("trained")
    (place / "text.txt").write_text("what is here is here. " * 60, "utf-8")
    list(train([place / "text.txt"], place / "run", **TINY | {"steps": 2, "save_every": 1}))
    return place / "run"


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of that run."""
    return RunFolder(shutil.copytree(trained, tmp_path / "run"))
