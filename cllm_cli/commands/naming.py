"""Which files a command reads: those of its arguments, or of `--files0-from`; and where a run goes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cllm_cli.errors import ConfigError, UsageError

FileNames = Annotated[
    str | None,
    typer.Option(
        "--files0-from",
        metavar="FILE|-",
        help="Read the names of the files from FILE, each ended by a NUL, as find -print0 writes them.",
        show_default=False,
    ),
]


def named_files(
    arguments: Sequence[str] | None, names_from: str | None, metavar: str, needed_by: str | None = None
) -> list[str]:
    """The sources that were named; the command `needed_by` cannot do without.

    Raises UsageError for both kinds at once, and for none where some are needed, CorpusError for a list that is unfit.
    """
    if names_from is None:
        if needed_by and not arguments:
            raise UsageError(f"{metavar} is missing", f"cllm {needed_by} --help shows what there is")
        return list(arguments or [])
    if arguments:
        raise UsageError(f"--files0-from and {metavar} exclude each other", "name the files in one way")
    from cllm_cli.text.file_names import read_file_names

    return read_file_names(names_from, getattr(sys.stdin, "buffer", None))


def check_val(val: str | None, names_from: str | None) -> None:
    """Raises ConfigError where standard input would be the names and the validation text."""
    if val == names_from == "-":
        raise ConfigError("standard input cannot be both file names and validation text", "give --val a file")


def default_folder(corpus: Sequence[str]) -> Path:
    """Where a run goes that nobody gave a folder: runs/<name of the corpus's first file or folder>."""
    first = Path(corpus[0])
    if first.name in ("", ".."):
        first = first.resolve()
    name = "stdin" if corpus[0] == "-" else first.name if first.is_dir() else first.stem
    return Path("runs") / (name or "corpus")
