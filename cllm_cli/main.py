"""The command line: the table of commands, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import contextlib
import difflib
import errno
import functools
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
import typer.main

import cllm_cli
from cllm_cli.commands.doctor import doctor
from cllm_cli.commands.eval import evaluate
from cllm_cli.commands.generate import generate
from cllm_cli.commands.gradcheck import gradcheck
from cllm_cli.commands.inspect import inspect
from cllm_cli.commands.options import ALIASES, known_name
from cllm_cli.commands.profile import profile
from cllm_cli.commands.tokenize import tokenize
from cllm_cli.commands.train import train
from cllm_cli.commands.warmup import warmup
from cllm_cli.errors import CllmError, ConfigError, UsageError
from cllm_cli.printable import one_line

COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "eval": evaluate,
    "generate": generate,
    "tokenize": tokenize,
    "inspect": inspect,
    "gradcheck": gradcheck,
    "profile": profile,
    "warmup": warmup,
    "doctor": doctor,
}

COMPLETION = "_CLLM_COMPLETE"
"""The variable in which a shell asks what could come next; it gives no arguments then."""

app = typer.Typer(
    name="cllm",
    pretty_exceptions_enable=False,
    context_settings={"token_normalize_func": known_name, "help_option_names": ["-h", "--help"]},
)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def _show_version(context: typer.Context, wanted: bool) -> None:
    if not wanted:
        return
    if context.params["json"]:
        from cllm_cli.checks.installation import version_facts  # it imports Numba, to ask what that will do
        from cllm_cli.training.records import json_line

        sys.stdout.write(json_line(version_facts()) + "\n")
    else:
        sys.stdout.write(f"cllm {cllm_cli.__version__}\n")
    raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_show_version, help="Show the version.")] = False,
    # Eager, so that it is known when --version is heard, whichever comes first.
    json: Annotated[bool, typer.Option("--json", is_eager=True, help="With --version: all about the build.")] = False,
) -> None:
    """Train transformer language models on the CPU."""
    if json:
        raise UsageError("--json comes after the command", "for example: cllm doctor --json, or cllm --version --json")
    threads = os.environ.get("NUMBA_NUM_THREADS", "").strip()
    if re.fullmatch(r"-[0-9]+|\+?0+", threads) and context.invoked_subcommand != "doctor":  # which tells all there is
        raise ConfigError(f"NUMBA_NUM_THREADS={threads} leaves no thread", "unset it")  # Numba cannot be imported


@functools.cache
def _program() -> Any:
    return typer.main.get_command(app)


def main(args: Sequence[str]) -> int:
    """Runs a command line; gives its exit code."""
    debug = "--debug" in args
    if sys.stdout is None:  # `cllm … >&-`
        return _fail("standard output is closed", "send it to a file, or to /dev/null", 1, debug)
    try:
        if not args and COMPLETION not in os.environ:
            with contextlib.redirect_stdout(sys.stderr):
                _program().main(["--help"], prog_name="cllm", standalone_mode=False)
            return _fail("no command was given", "for example: cllm train corpus.txt", 2, debug)
        code = _program().main(list(args), prog_name="cllm", standalone_mode=False)
        sys.stdout.flush()
        if code == 130:  # Typer's exit code for a Ctrl-C; it says nothing
            return _fail("interrupted", "", 130, debug)
        return code if isinstance(code, int) else 0
    except CllmError as error:
        return _fail(error.message, error.hint, error.exit_code, debug)
    except typer.TyperException as error:
        return _fail(*_usage(error, args), error.exit_code, debug)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", "", 130, debug)
    except BrokenPipeError:
        return _unheard()
    except SystemExit as ended:  # Typer's own way out: of a closed pipe, and of shell completion
        if isinstance(ended.__context__, BrokenPipeError):
            return _unheard()
        if ended.code == 130:
            return _fail("interrupted", "", 130, debug)
        return ended.code if isinstance(ended.code, int) else 0
    except (MemoryError, OverflowError):
        return _no_memory(debug)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            return _no_memory(debug)
        where = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        where = where or ("cannot write the output: " if full else "")  # files have names, streams have none
        hint = "make room there" if full else "--debug shows where it came from"
        return _fail(f"{where}{error.strerror or error}", hint, 1, debug)
    except RecursionError:
        return _fail("what was given is nested too deeply", "--debug shows where it came from", 1, debug)
    except UnicodeError as error:
        return _fail(f"what was given is no UTF-8: {error}", "--debug shows where it came from", 1, debug)
    except Exception as error:
        return _fail(f"unexpected {type(error).__name__}: {error}", "this is a bug; --debug shows where", 1, debug)


def _fail(message: str, hint: str, code: int, debug: bool) -> int:
    with contextlib.suppress(OSError, AttributeError):  # standard error may be full or closed
        if debug:
            traceback.print_exc()
        sys.stderr.write(f"error: {one_line(message)}\n")
        if hint:
            sys.stderr.write(f"hint: {one_line(hint)}\n")
    return code


def _no_memory(debug: bool) -> int:
    return _fail("not enough memory", "try a smaller --batch-size, --block-size or model", 1, debug)


def _unheard() -> int:
    """Whoever read the output has had enough; the interpreter must not fail on flushing the rest."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _usage(error: typer.TyperException, args: Sequence[str]) -> tuple[str, str]:
    """Message and hint for wrong usage."""
    hint = f"{' '.join(['cllm', *(name for name in args[:1] if name in COMMANDS)])} --help shows what there is"
    context: Any = getattr(error, "ctx", None)
    unknown = getattr(error, "option_name", "")
    if not context or not unknown or not hasattr(error, "possibilities"):
        return error.format_message(), hint
    known = {flag: flag for parameter in context.command.params for flag in parameter.opts if flag.startswith("--")}
    known |= {f"--{alias}": f"--{name}" for alias, name in ALIASES.items() if f"--{name}" in known}
    close = difflib.get_close_matches(unknown, known, n=1)
    return f"unknown flag {unknown}", f"did you mean {known[close[0]]}?" if close else hint


def _show_warning(message: Warning | str, *_: Any) -> None:
    """A warning of a library: its first line is for the user, the place in the code is not."""
    with contextlib.suppress(OSError, AttributeError):
        sys.stderr.write(f"warning: {one_line(str(message).partition(chr(10))[0])}\n")


def run() -> None:
    """The console script."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # it takes all arguments by their order
    # A file that is opened must not take the place of a closed stream, which libraries write to by number.
    with contextlib.suppress(OSError):
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(number)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115  # it stays open till the end
    if os.environ.get("COLUMNS") == "0":  # a terminal that nobody knows, in which no help would be seen
        del os.environ["COLUMNS"]
    if not os.environ.get("TERM"):  # Rich, which shows the help, would take it for one with colours
        os.environ["TERM"] = "dumb"
    # The platform's encoding must not decide whether a sample can be written.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):
            stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]  # TextIO has none
    try:
        code = main(sys.argv[1:])
    except KeyboardInterrupt:  # one more, while an error was told
        code = 130
    sys.exit(code)
