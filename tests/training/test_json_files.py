"""JSON objects from files that anyone may have written."""

from __future__ import annotations

import pytest

from cllm_cli.errors import RunError
from cllm_cli.training.json_files import read_json


def test_an_object_of_the_largest_size_is_read_and_one_beyond_is_not(tmp_path):
    path = tmp_path / "some.json"
    path.write_text('{"a": 1}', "utf-8")
    assert read_json(path, 8) == {"a": 1}
    with pytest.raises(RunError, match="too large"):
        read_json(path, 7)


def test_what_the_system_says_is_said_without_its_number(tmp_path):
    path = tmp_path / "none.json"
    with pytest.raises(RunError) as caught:
        read_json(path)
    assert caught.value.message == f"cannot read {path}: No such file or directory"


@pytest.mark.parametrize("content", [b"[1]", b"1", b'"a"', b"null"])
def test_what_is_no_object_is_damaged(tmp_path, content):
    (tmp_path / "some.json").write_bytes(content)
    with pytest.raises(RunError, match="no JSON object"):
        read_json(tmp_path / "some.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_told_with_a_reason(tmp_path, content):
    (tmp_path / "some.json").write_bytes(content)
    with pytest.raises(RunError, match=r"some.json: ."):
        read_json(tmp_path / "some.json")
