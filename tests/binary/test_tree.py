"""A release is made around a binary of the same source and Python only."""

from __future__ import annotations

import json
import platform
import shutil

import pytest

release = pytest.importorskip("tools.release.__main__", reason="pip install -e '.[release]'")
PYTHON = platform.python_version()


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """The package as a binary has it, and the source that it is made of."""
    source, made = tmp_path / "source" / "cllm_cli", tmp_path / "made"
    for path in (source / "main.py", source / "text" / "words.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name, "utf-8")
    (made / "_internal").mkdir(parents=True)
    (made / "cllm").touch()
    package = shutil.copytree(source, made / "_internal" / "cllm_cli")
    for part in ("compiled/x86-64-v3/kernel.nbi", "text/__pycache__/words.pyc"):
        (package / part).parent.mkdir(parents=True)
        (package / part).touch()
    monkeypatch.setattr(release, "ROOT", tmp_path / "source")
    return package


def unpacked(tmp_path, python=PYTHON, folder="binary/x"):
    """What tree_of says of a program that unpacks the tree."""
    binary = tmp_path / "program"
    said = json.dumps({"python": python})
    target = f'"$CLLM_CACHE_DIR"/{folder}'
    binary.write_text(f"#!/bin/sh\nmkdir -p {target} && cp -r {tmp_path}/made/. {target} && echo '{said}'\n", "utf-8")
    binary.chmod(0o700)
    return release.tree_of(binary, tmp_path)


def test_the_same_source_is_taken(tree, tmp_path):
    assert (unpacked(tmp_path) / "_internal/cllm_cli/main.py").is_file()


@pytest.mark.parametrize("name", ["old.py", "text/old.pyc", "text/words.so"])
def test_a_module_that_is_not_here_is_refused(tree, tmp_path, name):
    (tree / name).touch()
    with pytest.raises(ValueError, match=f"not of this source: {name} is different, or in one of them alone"):
        unpacked(tmp_path)


@pytest.mark.parametrize("change", [lambda path: path.write_text("other", "utf-8"), lambda path: path.unlink()])
def test_a_module_that_is_different_or_missing_is_refused(tree, tmp_path, change):
    change(tree / "text/words.py")
    with pytest.raises(ValueError, match=r"not of this source: text/words\.py is different, or in one of them alone"):
        unpacked(tmp_path)


def test_another_python_is_refused(tree, tmp_path):
    with pytest.raises(ValueError, match=r"has Python 3\.0\.1, and this is 3\."):
        unpacked(tmp_path, python="3.0.1")


def test_a_program_that_unpacks_nothing_is_refused(tree, tmp_path):
    with pytest.raises(ValueError, match="has unpacked 0 folders"):
        unpacked(tmp_path, folder="elsewhere")
