"""`cllm eval --per-line` and `--per-document`: a score a line or document, so that cllm is a filter."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cllm_cli.config import flag_of
from cllm_cli.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from cllm_cli.text.documents import Reading
    from cllm_cli.text.passages import Passage
    from cllm_cli.text.tokenizers.base import Tokenizer
    from cllm_cli.training.evaluate import Score
    from cllm_cli.training.run_folder import RunFolder

PerLine = Annotated[bool, typer.Option("--per-line", help="A score for each line of TEXT, by itself.")]
PerDocument = Annotated[bool, typer.Option("--per-document", help="A score for each document of TEXT, by itself.")]


def check_passages(
    per_line: bool, per_document: bool, text: Sequence[str], check_copy: bool, settings: Mapping[str, Any]
) -> None:
    """Raises ConfigError where the flags do not fit together, UsageError where there is no text."""
    from cllm_cli.text.store import single_store

    flag = "--per-line" if per_line else "--per-document"
    if per_line and per_document:
        raise ConfigError("--per-line and --per-document exclude each other", "leave one of them out")
    if check_copy:
        raise ConfigError(f"{flag} and --check-copy exclude each other", "leave one of them out")
    for name in ("format", "field", "split_on"):
        if per_line and name in settings:
            raise ConfigError(
                f"{flag_of(name)} has no effect with --per-line, which takes lines as they stand",
                "--per-document scores rows and parts",
            )
    if not text:
        raise UsageError(f"{flag} needs TEXT", "name files or folders, or - for standard input")
    if per_line and single_store(text):
        raise ConfigError("--per-line takes lines of text, and a token store has none", "--per-document scores its own")


def score_passages(
    folder: RunFolder,
    tokenizer: Tokenizer,
    text: Sequence[str],
    reading: Reading,
    batch: int,
    by_line: bool,
    quiet: bool,
    json: bool,
) -> None:
    """Writes a line for each passage of `text`, as they come."""
    from cllm_cli.commands.preparing import prepare
    from cllm_cli.reporting.terminal import tell_note
    from cllm_cli.text.passages import documents_of, lines_of
    from cllm_cli.text.reading import files_in
    from cllm_cli.text.sources import Listing
    from cllm_cli.text.store import single_store
    from cllm_cli.text.stored_text import documents_in
    from cllm_cli.training.records import json_line
    from cllm_cli.training.scoring import TextScorer

    store = single_store(text)
    listing = Listing([]) if store else files_in(text, reading)
    notices: list[str] = []
    stdin = getattr(sys.stdin, "buffer", None)
    several = len(listing.files) > 1
    scorer = TextScorer(folder.load_model(), tokenizer, batch)
    prepare(scorer.calls(), quiet or json)
    if store:
        groups = documents_in(store, tokenizer)
    else:
        groups = (lines_of if by_line else documents_of)(listing, tokenizer, stdin, reading, notices)
    for group in groups:
        scores = scorer.score([passage.tokens for passage in group])
        for passage, score in zip(group, scores, strict=True):
            row = _row(passage, score)
            sys.stdout.write((json_line(row) if json else _columns(row, by_line and several)) + "\n")
        sys.stdout.flush()
    notices += [f"left out: {listing.left_out()}"] if listing.skipped else []
    for notice in notices:
        tell_note(notice)


def _row(passage: Passage, score: Score) -> dict[str, Any]:
    """The event of a passage. Without a token to score it has no loss, without a byte no bits a byte."""
    return {
        "event": "score",
        "id": passage.id,
        "file": passage.file,
        "tokens": score.tokens,
        "bytes": score.bytes,
        "loss": score.loss if score.tokens else None,
        "bits_per_byte": score.bits_per_byte if score.bytes else None,
    }


def _columns(row: dict[str, Any], with_file: bool) -> str:
    """The same for people and for sort, separated by tabs: what is missing is -."""
    from cllm_cli.printable import one_line

    name = f"{row['file']}:{row['id']}" if with_file else str(row["id"])
    figures = (row["loss"], row["bits_per_byte"])
    shown = ("-" if value is None or not math.isfinite(value) else f"{value:.4f}" for value in figures)
    return "\t".join([one_line(name), str(row["tokens"]), str(row["bytes"]), *shown])
