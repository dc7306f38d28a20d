"""`cllm tokenize`: a corpus as a token store, a file that `cllm train` maps instead of reading the text again."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cllm_cli.commands.naming import FileNames, check_val, named_files
from cllm_cli.commands.options import Debug, Json, Quiet, with_settings
from cllm_cli.config import TEXT, flag_of, make_settings
from cllm_cli.errors import ConfigError, Interrupted


@functools.partial(with_settings, group=TEXT)
def tokenize(
    *,
    corpus: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CORPUS", help="Files, folders (read recursively), or - for standard input.", show_default=False
        ),
    ] = None,
    files0_from: FileNames = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The token store to write.")],
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", metavar="SPEC", help="byte, char, bpe:SIZE, or the path of a tokenizer.")
    ] = "byte",
    val_fraction: Annotated[
        float, typer.Option("--val-fraction", metavar="X", help="Share of the text kept for validation.")
    ] = 0.1,
    val: Annotated[
        str | None,
        typer.Option("--val", metavar="FILE", help="Validate on this file instead.", show_default=False),
    ] = None,
    ids: Annotated[bool, typer.Option("--ids", help="CORPUS holds token ids: .bin files of nanoGPT or llm.c.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the token store that is there.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    settings: dict[str, Any],
) -> None:
    """Write text as tokens once, in a file that cllm train maps."""
    chosen = make_settings({**settings, "tokenizer": tokenizer, "val_fraction": val_fraction, "val": val})
    check_val(val, files0_from)
    corpus = named_files(corpus, files0_from, "CORPUS", needed_by="tokenize")

    from cllm_cli.reporting.inspection import show_inspection
    from cllm_cli.reporting.terminal import tell_note
    from cllm_cli.text.corpus import read_corpus
    from cllm_cli.text.id_files import read_ids
    from cllm_cli.text.reading import reading_of
    from cllm_cli.text.store import Store, check_place
    from cllm_cli.text.tokenized import corpus_chunks, how_read, store_facts
    from cllm_cli.text.tokenizers import TOKENIZERS
    from cllm_cli.training.durable import remove_abandoned, write_file
    from cllm_cli.training.inspection import tokenizer_of_ids
    from cllm_cli.training.records import json_line
    from cllm_cli.training.signals import StopSignals

    if ids and tokenizer in TOKENIZERS:
        raise ConfigError(
            "--ids needs the tokenizer of the ids, which their files do not hold", "add --tokenizer and its path"
        )
    if ids and settings:
        raise ConfigError(
            f"{flag_of(next(iter(settings)))} says how text is read, and files of ids have none", "leave it out"
        )
    reading = reading_of(chosen)
    check_place(out, force)
    remove_abandoned(out)  # before anything is read: it may be what fills the disk
    stdin = getattr(sys.stdin, "buffer", None)
    with StopSignals(patient=False) as signals:
        try:
            if ids:
                read = read_ids(corpus, tokenizer_of_ids(tokenizer), chosen.val_fraction, val)
            else:
                read = read_corpus(corpus, tokenizer, chosen.val_fraction, val, stdin, reading=reading, contents=True)
            how = {} if ids else how_read(chosen)
            chunks = corpus_chunks(read, tokenizer, None if val else chosen.val_fraction, how)
            write_file(out, chunks, hint="make room there, or choose another --out; nothing was written")
        except KeyboardInterrupt:
            raise Interrupted(signals.received, "ended at once", "a token store appears when it is whole") from None
    for notice in read.notices:
        tell_note(notice)
    row = {"event": "store", **store_facts(Store(out))}
    if json:
        sys.stdout.write(json_line(row) + "\n")
    elif not quiet:
        show_inspection(row, sys.stdout)
