"""Help that answers at once, and streams that are a pipe, a terminal, full or closed."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
from dataclasses import fields

import pytest
from rich.cells import cell_len

from cllm_cli.config import Settings, flag_of
from cllm_cli.main import COMMANDS, main

HEAVY = {"numba", "numpy", "llvmlite", "safetensors"}


def flags_of(text):
    return set(re.findall(r"--[a-z][a-z0-9-]*", text))


@pytest.mark.parametrize("line", ["--help", "-h", *(f"{name} --help" for name in COMMANDS)])
def test_help_shows_itself_and_is_no_error(cllm, line):
    done = cllm(*line.split()).assert_done()
    assert done.err == ""
    assert "Usage: cllm" in done.out
    assert "\x1b" not in done.out


def test_help_names_every_command_with_what_it_does(cllm):
    out = cllm("--help").assert_done().out
    for name in COMMANDS:
        assert re.search(rf"\b{name}\s+[A-Z]", out), name


def test_help_of_train_shows_every_setting_and_what_it_is(cllm, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = cllm("train", "--help").assert_done().out
    for item in fields(Settings):
        assert flag_of(item.name) in flags_of(out)
        assert item.metadata["setting"].help in out
    own = {"--out", "--resume", "--force", "--init-from", "--preset", "--config", "--files0-from", "--json", "--quiet"}
    assert own <= flags_of(out)
    assert "nano, reference, gpt2" in out


@pytest.mark.parametrize("alias", ["--out-dir", "--learning-rate", "--max-iters", "--max-grad-norm", "--val-split"])
def test_names_from_elsewhere_are_hidden(cllm, monkeypatch, alias):
    monkeypatch.setenv("COLUMNS", "200")
    assert alias not in flags_of(cllm("train", "--help").out)


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("eval", "--batch-size --per-line --per-document --files0-from --check-copy --corpus --threads --json --quiet"),
        ("generate", "--prompt --tokens --temperature --top-k --top-p --seed --stop --check-copy --threads --json"),
        ("tokenize", "--out --tokenizer --val-fraction --val --files0-from --ids --force --json --quiet"),
        ("inspect", "--tokenizer --files0-from --json --quiet"),
        ("gradcheck", "--layer --seed --threads --json"),
        ("profile", "--preset --batch-size --steps --threads --json"),
        ("doctor", "--cpu --json --quiet"),
    ],
)
def test_help_shows_every_flag(cllm, command, flags):
    assert set(flags.split()) <= flags_of(cllm(command, "--help").out)


def test_version(cllm):
    assert re.fullmatch(r"cllm \d+\.\d+\.\d+\S*\n", cllm("--version").assert_done().out)


def test_without_a_command_there_is_help_and_an_error(cllm):
    found = cllm()
    assert found.code == 2
    assert found.out == ""
    assert "Usage: cllm" in found.err
    assert [line.split(":")[0] for line in found.err.splitlines()[-2:]] == ["error", "hint"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("trian text.txt", ["'trian'", "'train'"]),
        ("evaluate run", ["'evaluate'", "--help"]),
        ("--frob", ["unknown flag --frob"]),
        ("train text.txt --batch-sise 3", ["unknown flag --batch-sise", "did you mean --batch-size?"]),
        ("train text.txt --n_layers 3", ["unknown flag --n-layers", "did you mean --n-layer?"]),
        ("train text.txt --max_iter 3", ["did you mean --steps?"]),
        ("train text.txt --learningrate 3", ["did you mean --lr?"]),
        ("train text.txt --output 3", ["did you mean --out?"]),
        ("train text.txt --xyzzy", ["unknown flag --xyzzy", "cllm train --help"]),
        ("generate run --temprature 1", ["did you mean --temperature?"]),
        ("generate run --max-tokens 1", ["did you mean --tokens?"]),
        ("train", ["CORPUS", "cllm train --help"]),
        ("eval", ["RUN", "cllm eval --help"]),
        ("generate", ["RUN", "cllm generate --help"]),
        ("train text.txt --lr", ["--lr", "cllm train --help"]),
        ("train text.txt --lr fast", ["--lr"]),
        ("generate run --tokens 0", ["--tokens"]),
    ],
)
def test_wrong_usage_names_what_is_meant(cllm, line, words):
    cllm(*line.split()).assert_error(2, *words)


# In processes of their own


def imports_nothing_heavy(line):
    code = (
        "import sys; from cllm_cli.main import main; main(sys.argv[1:]); "
        f"print(*({HEAVY} & set(sys.modules)), file=sys.__stderr__)"
    )
    done = subprocess.run([sys.executable, "-c", code, *line.split()], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == ""


@pytest.mark.parametrize("line", ["--help", "train --help"])
def test_help_imports_nothing_heavy(line):
    imports_nothing_heavy(line)


@pytest.mark.slow
@pytest.mark.parametrize("line", [f"{name} --help" for name in COMMANDS] + ["train text.txt --lr 0", "", "train --x"])
def test_nor_does_any_other_help_or_wrong_usage(line):
    imports_nothing_heavy(line)


@pytest.mark.slow
def test_the_module_is_the_command(run_apart):
    assert run_apart("--version").assert_done().out.startswith("cllm ")


@pytest.mark.slow
@pytest.mark.parametrize("line", ["--help", "--version", "eval run", "generate run --tokens 3"])
def test_a_full_or_closed_output_is_an_error(run, line):
    for redirection, words in ((">/dev/full", "No space left"), (">&-", "standard output is closed")):
        command = f"{sys.executable} -m cllm_cli {line} {redirection}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert [row.split(":")[0] for row in done.stderr.splitlines()] == ["error", "hint"]


@pytest.mark.slow
def test_other_closed_streams_do_no_harm(text, tiny, bits, cllm, tmp_path):
    """A file that is opened must not become standard error by having its number."""
    cllm("train", text, "-o", "expected", *tiny).assert_done()
    flags = " ".join(tiny)
    command = f"{sys.executable} -m cllm_cli train text.txt -o out {flags} --json <&- 2>&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert '"event":"end"' in done.stdout.splitlines()[-1]
    assert bits(tmp_path / "out") == bits(tmp_path / "expected")
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")  # there is a run, and nobody to tell it


@pytest.mark.slow
def test_a_closed_pipe_ends_a_run_quietly_and_it_goes_on(start, cllm, text, tiny, bits, tmp_path):
    process = start("train", text, "-o", "out", *tiny, "--steps", 400, "--json")
    while '"step","step"' not in process.stdout.readline():
        pass
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == ""
    assert [path.name[:5] for path in (tmp_path / "out/checkpoint").iterdir()] == ["step-"]  # it saved what it had
    cllm("train", text, "-o", "out", "--resume").assert_done()
    cllm("train", text, "-o", "whole", *tiny, "--steps", 400).assert_done()
    assert bits(tmp_path / "out") == bits(tmp_path / "whole")


def on_a_terminal(*args, **environment):
    """What a command shows on a terminal, and its exit code."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "cllm_cli", *map(str, args)]
    environment = {**os.environ, "TERM": "xterm-256color", "OMP_WAIT_POLICY": "passive", **environment}
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                shown += os.read(leader, 4096)
            except OSError:  # the other end was closed
                break
    os.close(leader)
    return process.returncode, shown.decode()


class Terminal(io.StringIO):
    """A terminal that writes UTF-8, as far as a stream in this process can be one."""

    encoding = "utf-8"

    def isatty(self):
        return True


NARROW = {
    "train": "text.txt -o out --force",
    "eval": "run --check-copy",
    "generate": "run --tokens 50 --check-copy",
    "tokenize": "text.txt -o out.tok --force",
    "inspect": "run",
    "gradcheck": "--layer gelu --layer linear",
    "profile": "run --steps 1",
    "warmup": "",
    "doctor": "",
}


@pytest.mark.parametrize("term", ["xterm-256color", None])
@pytest.mark.parametrize("name", [*COMMANDS, "help"])
def test_every_command_on_a_terminal_of_40_columns(run, tiny, monkeypatch, name, term):
    """Tables and help keep within it; the terminal wraps what is to be copied, as doctor's lines."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", term) if term else monkeypatch.delenv("TERM", raising=False)
    out, err = Terminal(), Terminal()
    flags = tiny if name == "train" else ()
    line = ["train", "--help"] if name == "help" else [name, *NARROW[name].split(), *flags]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(line) == 0, err.getvalue()
    if term is None:
        assert name == "help" or "\x1b[" not in out.getvalue() + err.getvalue()
    elif name in ("profile", "help"):
        lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue()).splitlines()
        assert max(map(cell_len, lines)) <= 40


@pytest.mark.parametrize("term", ["", "dumb"])
def test_help_on_a_terminal_of_no_kind_is_plain(term):
    code, shown = on_a_terminal("train", "--help", TERM=term)
    assert code == 0
    assert "\x1b" not in shown


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_wants_plain_text_gets_it(text, tiny, run, environment):
    for line in (["train", text, "-o", "out", *tiny, "--force"], ["eval", run], ["gradcheck", "--layer", "gelu"]):
        code, shown = on_a_terminal(*line, **environment)
        assert code == 0
        assert "\x1b" not in shown
    code, shown = on_a_terminal("train", text, "-o", "out", *tiny, "--force", "--quiet", **environment)
    assert len(shown.splitlines()) <= 6


@pytest.mark.slow
def test_a_terminal_gets_a_live_screen_and_ends_with_the_results(text, tiny):
    code, shown = on_a_terminal("train", text, "-o", "out", *tiny)
    assert code == 0
    assert "\x1b[" in shown
    assert "cllm generate out" in shown.splitlines()[-1]


@pytest.mark.slow
def test_the_platforms_encoding_decides_nothing(run_apart, some_words, tiny, tmp_path):
    (tmp_path / "täxt.txt").write_text(some_words(1, 300).replace("a", "ä"), "utf-8")
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"}
    flags = [*tiny, "--sample-every", 6, "--tokenizer", "char"]
    run_apart("train", "täxt.txt", "-o", "öut", *flags, env=environment, encoding="utf-8").assert_done()
    done = run_apart("generate", "öut", "--tokens", 50, "--prompt", "ä", env=environment, encoding="utf-8")
    assert done.assert_done().out.startswith("ä")
