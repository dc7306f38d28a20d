"""`cllm inspect`: what is in a text, a run, a token store or a tokenizer."""

from __future__ import annotations

import functools
import sys
from typing import Annotated, Any

import typer

from cllm_cli.commands.naming import FileNames, named_files
from cllm_cli.commands.options import Debug, Json, Quiet, with_settings
from cllm_cli.config import TEXT, make_settings


@functools.partial(with_settings, group=TEXT)
def inspect(
    *,
    path: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH",
            help="Text (files, folders, -), or a run folder, a token store, a tokenizer.json.",
            show_default=False,
        ),
    ] = None,
    files0_from: FileNames = None,
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", metavar="SPEC", help="Of a text: byte, char, bpe:SIZE, or a path.")
    ] = "byte",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    settings: dict[str, Any],
) -> None:
    """Show what is in a text, a run, a token store or a tokenizer."""
    chosen = make_settings({**settings, "tokenizer": tokenizer})
    path = named_files(path, files0_from, "PATH", needed_by="inspect")

    from cllm_cli.errors import CheckFailed
    from cllm_cli.reporting.inspection import show_inspection
    from cllm_cli.text.reading import reading_of
    from cllm_cli.training.inspection import inspected
    from cllm_cli.training.records import json_line

    row = inspected(path, tokenizer, getattr(sys.stdin, "buffer", None), reading_of(chosen))
    if json:
        sys.stdout.write(json_line(row) + "\n")
    else:
        show_inspection(row, sys.stdout)
    if row.get("whole") is False:
        if row["event"] == "run":
            goes_on = f"cllm train CORPUS --out {row['path']} --resume goes on from step {row['step']:,}"
            remedy = goes_on if row["resumable"] else "restore what is named as damaged, or train again"
            raise CheckFailed("the run is damaged", remedy)
        raise CheckFailed("the token store is not as it was written", "make it again with cllm tokenize")
