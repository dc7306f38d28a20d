"""The man page and the shell completions name everything that there is, and are read without a complaint."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from cllm_cli.main import COMMANDS, COMPLETION, app, main

ROOT = Path(__file__).parent.parent
TOOL = runpy.run_path(str(ROOT / "tools" / "make_man.py"))
FLAGS = {
    name: [flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)]
    for name, command in typer.main.get_command(app).commands.items()
}
FLAGS = {name: [flag for flag in flags if flag.startswith("-")] for name, flags in FLAGS.items()}


@pytest.fixture(scope="module")
def page():
    return TOOL["man_page"]()


def plain(page):
    """The page's text without its requests' names and escapes."""
    return re.sub(r"\\f[BIR]|\\&", "", page).replace("\\-", "-").replace("\\(aq", "'").replace("\\e", "\\")


def test_the_page_has_every_command_with_every_flag(page):
    parts = dict(re.findall(r"^\.SS cllm (\S+)[^\n]*\n(.*?)(?=^\.S[SH] )", plain(page), re.MULTILINE | re.DOTALL))
    assert set(parts) == set(COMMANDS) == set(FLAGS)
    for name, flags in FLAGS.items():
        assert flags
        for flag in flags:
            assert re.search(rf"(?m)^(.*, )?{re.escape(flag)}( |,|$)", parts[name]), f"{name} {flag}"


def test_the_page_has_its_sections_exit_codes_and_variables(page):
    sections = re.findall(r"^\.SH (.+)$", page, re.MULTILINE)
    assert sections[:5] == ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS"]
    assert {"EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES"} <= set(sections)
    text = plain(page)
    assert all(f"\n.B {code}\n" in text for code in ("0", "1", "2", "3"))
    assert "CLLM_CACHE_DIR" in text


def test_no_line_is_a_request_by_mistake(page):
    for line in page.splitlines():
        assert re.match(r"\.(TH|SH|SS|TP|B|I)( |$)", line) if line.startswith(".") else not line.startswith("'"), line
        assert not re.search(r"\\(?!-|e|&|f[BIR]|\(aq)", line), line
        assert "`" not in line
        assert line


@pytest.mark.parametrize(
    "reader", [["groff", "-man", "-Kutf8", "-Tutf8", "-ww", "-z"], ["mandoc", "-Tlint", "-Werror"]]
)
def test_readers_of_such_pages_have_no_complaint(page, tmp_path, reader):
    if not shutil.which(reader[0]):
        pytest.skip(f"{reader[0]} is not here")
    (tmp_path / "cllm.1").write_text(page, "utf-8")
    done = subprocess.run([*reader, tmp_path / "cllm.1"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_four_files_the_same_each_time(tmp_path):
    written = TOOL["write"](tmp_path)
    assert [path.name for path in written] == ["cllm.1", "cllm.bash", "_cllm", "cllm.fish"]
    before = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in TOOL["write"](tmp_path)] == before
    assert (tmp_path / "_cllm").read_text("utf-8").startswith("#compdef cllm\n")  # which zsh looks for


def completed(monkeypatch, capsys, shell, line):
    """What `cllm` answers when a shell asks it how `line` could go on."""
    monkeypatch.setenv(COMPLETION, f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("shell", TOOL["SHELLS"])
def test_each_shell_is_told_every_command_and_flag(monkeypatch, capsys, shell):
    def told(line):
        return set(re.findall(r"(?m)^(?:_arguments '\*: :\(\()?\"?(-*[a-z][a-z0-9-]*)", found(line)))

    def found(line):
        return completed(monkeypatch, capsys, shell, line)

    assert told("cllm ") == set(COMMANDS)
    for name, flags in FLAGS.items():
        assert {flag for flag in flags if flag.startswith("--")} <= told(f"cllm {name} --"), name


def bash(tmp_path, *words):
    """What a real bash completes the last of these words to, with the file that a package installs."""
    TOOL["write"](tmp_path)
    program = tmp_path / "cllm"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cllm_cli "$@"\n', "utf-8")
    program.chmod(0o755)
    script = """
        source "$1/cllm.bash" && shift
        set -- "$@"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        complete -p cllm >&2
        _cllm_completion cllm
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", tmp_path, *words], env=environment, capture_output=True, text=True
    )
    assert done.stderr == "complete -o default -F _cllm_completion cllm\n"
    return done.stdout.split()


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_completes(tmp_path):
    assert bash(tmp_path, "cllm", "do") == ["doctor"]
    assert bash(tmp_path, "cllm", "train", "--grad") == ["--grad-accum", "--grad-clip"]
