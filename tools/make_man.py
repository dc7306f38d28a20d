"""Writes the man page and the shell completions, from the declarations that `--help` shows.

python tools/make_man.py DIR        cllm.1, cllm.bash, _cllm (zsh) and cllm.fish

The completions are Typer's: they ask `cllm` itself what could come next. The page has no date, so that it is the same
whenever it is made.
"""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from typer._completion_shared import get_completion_script

import cllm_cli
from cllm_cli.main import COMPLETION, app

SHELLS = {"bash": "cllm.bash", "zsh": "_cllm", "fish": "cllm.fish"}
DOCS = runpy.run_path(str(Path(__file__).with_name("make_docs.py")))

DESCRIPTION = """\
cllm trains GPT-2-style language models on text, on the CPU, checks them, and writes text with them.
Standard output carries results only; progress, tables and warnings go to standard error.
In every flag _ may be written for -."""

EXAMPLES = {
    "cllm train corpus.txt": "Train a model that fits the text, in runs/corpus.",
    "cllm train corpus.txt --resume": "Go on with it.",
    'cllm generate runs/corpus --prompt "Once"': "Let it write.",
    "cllm eval runs/corpus other.txt --json": "Score another text.",
    "cllm doctor": "See whether all is well, and what to report where it is not.",
}

FILES = {
    "~/.cache/cllm/kernels": "Compiled kernels, about 10 MB. They may be removed.",
    "runs/NAME": "A run: config.toml, model.safetensors, config.json, tokenizer.json, metrics.jsonl, checkpoint, data.",
}


def man_page() -> str:
    """cllm.1, in the man macros that groff, mandoc and others have."""
    program: Any = typer.main.get_command(app)
    lines = [
        f'.TH CLLM 1 "" "cllm {cllm_cli.__version__}" "User Commands"',
        *(".SH NAME", f"cllm \\- {_escaped(_sentence(program.help)[0].lower() + _sentence(program.help)[1:-1])}"),
        *(".SH SYNOPSIS", ".B cllm", ".I COMMAND", "[\\fIARGUMENT\\fR \\&...] [\\fIOPTION\\fR \\&...]"),
        *(".SH DESCRIPTION", *map(_escaped, DESCRIPTION.splitlines())),
        *(".SH OPTIONS", *_parameters(program)),
        ".SH COMMANDS",
    ]
    for name, command in program.commands.items():
        usage = [_escaped(parameter.metavar) for parameter in command.params if _is_argument(parameter)]
        lines += [f".SS cllm {' '.join([name, *usage])}", _escaped(_sentence(command.help))]
        lines += _parameters(command)
    for title, table in (("EXIT STATUS", DOCS["EXIT_CODES"]), ("ENVIRONMENT", DOCS["ENVIRONMENT"]), ("FILES", FILES)):
        lines += [f".SH {title}", *_table(table)]
    lines += [".SH EXAMPLES", *_table(EXAMPLES)]
    return "\n".join(lines) + "\n"


def completion(shell: str) -> str:
    """What bash, zsh or fish is to read, as Typer makes it."""
    return get_completion_script(prog_name="cllm", complete_var=COMPLETION, shell=shell) + "\n"


def write(folder: Path) -> list[Path]:
    """Writes all four files into a folder that is there; gives their paths."""
    texts = {"cllm.1": man_page(), **{name: completion(shell) for shell, name in SHELLS.items()}}
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    return [folder / name for name in texts]


def _parameters(command: Any) -> Iterator[str]:
    """The arguments and flags of a command, those that are hidden left out."""
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        if _is_argument(parameter):
            yield from (".TP", f".I {_escaped(parameter.metavar)}", _escaped(parameter.help or ""))
            continue
        value = "" if parameter.is_flag else f" \\fI{_escaped(parameter.metavar or parameter.type.name.upper())}\\fR"
        flags = [f"\\fB{_escaped(flag)}\\fR{value}" for flag in (*parameter.opts, *parameter.secondary_opts)]
        shown = parameter.help or ""
        if parameter.show_default and parameter.default is not None and not parameter.is_flag:
            shown += f" (default: {parameter.default})"
        yield from (".TP", ", ".join(flags), _escaped(shown))


def _is_argument(parameter: Any) -> bool:
    return str(parameter.param_type_name) == "argument"


def _table(rows: dict[str, str]) -> Iterator[str]:
    for name, meaning in rows.items():
        yield from (".TP", f".B {_escaped(name)}", _escaped(meaning))


def _sentence(text: str) -> str:
    """The first paragraph of a help text, in one line."""
    return " ".join(text.partition("\n\n")[0].split())


def _escaped(text: str) -> str:
    """Text as roff writes it: a line of its own that no dot at its start makes a request; `…` becomes bold."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("\n", " ")
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", text)
    return f"\\&{text}" if text.startswith(".") else text


def main() -> int:
    """Writes the files into the folder that is named."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python tools/make_man.py DIR\n")
        return 2
    write(Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
