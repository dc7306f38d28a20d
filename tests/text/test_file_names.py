"""`--files0-from`: the contract of GNU sort."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from text_files import refused

from cllm_cli.text.file_names import read_file_names


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"a\0b\0", ["a", "b"]),
        (b"a\0b", ["a", "b"]),
        (b"a b\nc\0", ["a b\nc"]),
        ("möwe\0".encode(), ["möwe"]),
        (b"caf\xe9\0", [os.fsdecode(b"caf\xe9")]),
        (b"./-\0", ["./-"]),
    ],
)
def test_names_end_with_a_nul_which_the_last_may_lack(tmp_path, content, names):
    Path(tmp_path, "names").write_bytes(content)
    assert read_file_names(str(tmp_path / "names")) == names
    assert read_file_names("-", io.BytesIO(content)) == names


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("no file names", "standard input", "-print0")),
        (b"\0", ("name 1", "is empty")),
        (b"a\0\0b\0", ("name 2", "is empty")),
        (b"\0a\0", ("name 1", "is empty")),
        (b"a\0\0", ("name 2", "is empty")),
        (b"a\0-\0", ("name 2", "standard input", "./-")),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(content, words):
    refused(lambda: read_file_names("-", io.BytesIO(content)), *words)


def test_standard_input_may_be_in_a_list_that_does_not_come_from_it(tmp_path):
    Path(tmp_path, "names").write_bytes(b"a\0-\0")
    assert read_file_names(str(tmp_path / "names")) == ["a", "-"]


def test_a_list_that_is_not_there_is_named(tmp_path):
    Path(tmp_path, "names").write_bytes(b"a")
    refused(lambda: read_file_names(str(tmp_path / "nams")), "nams", "did you mean", "names")
    refused(lambda: read_file_names(str(tmp_path)), "cannot read")
