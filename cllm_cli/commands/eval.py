"""`cllm eval`: score text with a run's best model."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cllm_cli.commands.copying import CheckCopy, CopyCheck, CorpusPaths
from cllm_cli.commands.naming import FileNames, named_files
from cllm_cli.commands.options import Cpu, Debug, Json, Quiet, Threads, with_settings
from cllm_cli.commands.scoring import PerDocument, PerLine, check_passages, score_passages
from cllm_cli.config import TEXT, flag_of, make_settings
from cllm_cli.errors import ConfigError, CorpusError


@functools.partial(with_settings, group=TEXT)
def evaluate(
    *,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder made by cllm train.")],
    text: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT",
            help="Files, folders, - for standard input; or a token store (default: the run's validation text).",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", metavar="N", min=1, help="Windows at a time (default: the run's).", show_default=False
        ),
    ] = None,
    per_line: PerLine = False,
    per_document: PerDocument = False,
    files0_from: FileNames = None,
    check_copy: CheckCopy = False,
    corpus: CorpusPaths = None,
    threads: Threads = None,
    cpu: Cpu = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    settings: dict[str, Any],
) -> None:
    """Score text: loss in nats, perplexity, bits per byte, accuracy."""
    from cllm_cli.commands.preparing import prepare
    from cllm_cli.kernels.threads import use_threads
    from cllm_cli.reporting.tables import show_evaluation
    from cllm_cli.reporting.terminal import is_plain, tell_note
    from cllm_cli.text.corpus import tokens_of
    from cllm_cli.text.reading import reading_of
    from cllm_cli.text.store import single_store
    from cllm_cli.text.stored_text import tokens_in
    from cllm_cli.text.tokenized import check_reading
    from cllm_cli.training.evaluate import Evaluator, Score, affordable_batch
    from cllm_cli.training.machine import available_cores
    from cllm_cli.training.records import json_line
    from cllm_cli.training.resolve import model_config
    from cllm_cli.training.run_folder import RunFolder

    text = named_files(text, files0_from, "TEXT")
    if settings and not text:
        raise ConfigError(
            f"{flag_of(next(iter(settings)))} says how TEXT is read, and there is none",
            "the run's own validation text is stored as tokens; name a text, or leave the flag out",
        )
    check_reading(text, settings)
    if per_line or per_document:
        check_passages(per_line, per_document, text, check_copy, settings)
    reading = reading_of(make_settings(settings))
    use_threads(threads or available_cores())
    folder = RunFolder(run)
    stored, tokenizer = folder.read_settings(), folder.read_tokenizer()
    batch = batch_size or affordable_batch(model_config(stored), stored.batch_size or 8)
    if per_line or per_document:
        score_passages(folder, tokenizer, text, reading, batch, per_line, quiet, json)
        return
    store = single_store(text)
    if store:
        tokens = tokens_in(store, tokenizer)
    elif text:
        given = tokens_of(text, tokenizer, getattr(sys.stdin, "buffer", None), reading)
        tokens = given.tokens
        for notice in given.notices:
            tell_note(notice)
    else:
        tokens = folder.read_validation(tokenizer)
    if tokens.size < 2:
        raise CorpusError(f"the text has {tokens.size} tokens, a score needs 2", "give more text")
    check = CopyCheck(check_copy, folder, tokenizer, corpus)
    model = folder.load_model()
    evaluator = Evaluator(model, tokens, tokenizer, batch, stored.pack)
    prepare([*evaluator.calls(), *check.calls()], quiet or json)
    copied = check.find(tokens)  # what cannot be checked is told before the work, not after it
    progress = not quiet and not json and not is_plain(sys.stderr)
    found: Any = None
    try:
        for found in evaluator.score():
            if progress and not isinstance(found, Score):
                sys.stderr.write(f"\r{found.done} of {found.total} batches")
    finally:
        if progress:
            sys.stderr.write("\r\x1b[K")
    row = {
        "event": "eval",
        "tokens": found.tokens,
        "bytes": found.bytes,
        "loss": found.loss,
        "perplexity": found.perplexity,
        "bits_per_byte": found.bits_per_byte,
        "accuracy": found.accuracy,
    }
    if json:
        sys.stdout.write(json_line(row) + "\n")
    else:
        show_evaluation(row, sys.stdout)
    check.tell(copied, json, sys.stdout)
