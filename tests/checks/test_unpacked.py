"""The unpacked files of the single-file binary: each is read in full, and whatever is not as it was packed is named."""

from __future__ import annotations

import hashlib

import pytest

from cllm_cli.checks.unpacked import LOCK, MANIFEST, damage

FILES = {"cllm": b"program", "lib/a b.so": b"library" * 1000, "lib/empty": b""}


@pytest.fixture
def tree(tmp_path):
    """An unpacked folder with its manifest."""
    lines = []
    for path, content in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
        lines.append(f"{hashlib.sha256(content).hexdigest()} {len(content)} {path}\n")
    (tmp_path / MANIFEST).write_text("".join(lines), "utf-8")
    (tmp_path / LOCK).touch()
    return tmp_path


def _link_lock(tree):
    (tree / LOCK).unlink()
    (tree / LOCK).symlink_to("lib/empty")


def test_what_is_as_it_was_packed_is_not_told_of(tree):
    assert list(damage(tree)) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda tree: (tree / "cllm").unlink(), "cllm: No such file or directory"),
        (lambda tree: (tree / "cllm").write_bytes(b"programs"), "cllm: 8 bytes instead of 7"),
        (lambda tree: (tree / "cllm").write_bytes(b"progran"), "cllm: its content is another"),
        (lambda tree: (tree / "lib/empty").write_bytes(b"x"), "lib/empty: 1 bytes instead of 0"),
        (lambda tree: (tree / "lib/new.py").write_bytes(b""), "lib/new.py: it was not packed"),
        (lambda tree: (tree / "new").symlink_to("lib"), "new: it was not packed"),
        (lambda tree: (tree / MANIFEST).unlink(), f"{MANIFEST}: No such file or directory"),
        (lambda tree: (tree / LOCK).unlink(), f"{LOCK}: No such file or directory"),
        (lambda tree: (tree / LOCK).write_bytes(b"x"), f"{LOCK}: 1 bytes instead of 0"),
        (_link_lock, f"{LOCK}: it is no file"),
    ],
)
def test_what_is_not_is_named(tree, spoil, said):
    spoil(tree)
    assert list(damage(tree)) == [said]


def test_a_link_that_leads_elsewhere_is_named_whatever_it_leads_to(tree, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "cllm"
    (tree / "cllm").rename(other)
    (tree / "cllm").symlink_to(other)
    assert list(damage(tree)) == ["cllm: it is a link to elsewhere"]


def test_a_link_within_is_read_through(tree):
    (tree / "cllm").rename(tree / "lib/cllm")
    (tree / "cllm").symlink_to("lib/cllm")
    assert list(damage(tree)) == ["lib/cllm: it was not packed"]


@pytest.mark.parametrize("line", ["", "nonsense", "abc 3 cllm", f"{'0' * 64} 3 ../cllm", f"{'0' * 64} 3 /etc/passwd"])
def test_a_manifest_that_is_none_is_named(tree, line):
    with (tree / MANIFEST).open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    (told,) = damage(tree)
    assert told == f"{MANIFEST}: a line that is none: {line}"


def test_an_empty_manifest_vouches_for_nothing(tree):
    (tree / MANIFEST).write_text("", "utf-8")
    assert f"{MANIFEST}: it is empty" in list(damage(tree))


def test_names_that_are_no_utf8(tmp_path):
    name = b"bad\xff"
    with open(bytes(tmp_path) + b"/" + name, "wb") as file:  # noqa: PTH123
        file.write(b"abc")
    (tmp_path / LOCK).touch()
    (tmp_path / MANIFEST).write_bytes(f"{hashlib.sha256(b'abc').hexdigest()} 3 ".encode() + name + b"\n")
    assert list(damage(tmp_path)) == []
