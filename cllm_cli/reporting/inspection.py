"""What `cllm inspect` and `cllm tokenize` found: one label and figure a line, then what there are several of.

Everything that comes from a file goes through `one_line`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from rich.text import Text

from cllm_cli.config import Settings
from cllm_cli.printable import one_line
from cllm_cli.reporting.grid import Cell, Column, Grid, widened
from cllm_cli.reporting.quantities import count, decimal, loss, share, size
from cllm_cli.reporting.tables import Printer, Row

LABEL = 15  # cells
DEFAULTS = asdict(Settings())
Facts = Iterator[tuple[str, str]]


def show_inspection(row: Row, stream: TextIO) -> None:
    """One event of `cllm inspect`, or of `cllm tokenize`."""
    printer = Printer(stream)
    facts, more = KINDS[row["event"]]
    for label, figure in facts(row):
        printer.show(Text.assemble((f"{label:<{LABEL}}", "dim"), "  ", one_line(figure)))
    more(row, printer)


def _text_facts(row: Row) -> Facts:
    yield "documents", count(row["documents"])
    yield "bytes", f"{count(row['bytes'])} in {count(row['lines'])} lines"
    if row["tokens"] is not None:
        yield "tokens", f"{count(row['tokens'])} of {row['tokenizer']}"
        yield "bytes per token", decimal(row["bytes_per_token"], 3)
        yield "vocabulary", f"{count(row['used_ids'])} of {count(row['vocab_size'])} ids occur"
    for line in row["longest_lines"]:
        yield "long line", f"{size(line['bytes'])}, line {count(line['line'])} of {line['path']}"
    if row["skipped"]:
        yield "left out", _counted(row["skipped"])
    for notice in row["notices"]:
        yield "note", notice


def _text_more(row: Row, printer: Printer) -> None:
    for problem in row["problems"]:
        where = f"in {count(problem['documents'])} documents" if problem["documents"] > 1 else ""
        printer.show("")
        printer.show(Text(f"{problem['problem']}: {count(problem['count'])} {where}".rstrip(), "yellow"))
        for example in problem["examples"]:
            if "why" in example:
                text = example["why"]
            elif "copy_of" in example:
                text = f"{example['path']} is a copy of {example['copy_of']}"
            else:
                text = example["path"] + (f" from byte {example['offset']} on" if "offset" in example else "")
            printer.show(f"  {one_line(text)}")


def _store_facts(row: Row) -> Facts:
    yield "token store", str(row["path"])
    yield "documents", count(row["documents"])
    yield "tokens", f"{count(row['train_tokens'])} for training, {count(row['val_tokens'])} for validation"
    yield "text", f"{_size(row['train_bytes'])} for training, {_size(row['val_bytes'])} for validation"
    yield "tokenizer", f"{row['tokenizer']}, {row['vocab_size']} ids"
    yield "validation", "chosen by hand" if row["val_fraction"] is None else f"{share(row['val_fraction'])} of the text"
    how = {name: value for name, value in row["reading"].items() if value != DEFAULTS[name]}
    if how:
        shown = (value if isinstance(value, str) else " ".join(value) for value in how.values())
        yield "read with", ", ".join(map(" ".join, zip(how, shown, strict=True)))
    yield "fingerprint", str(row["fingerprint"])
    yield "file", f"{size(row['file_bytes'])}, {row['token_bytes']} bytes a token"
    if row["skipped"]:
        yield "left out", _counted(row["skipped"])
    if "whole" in row:
        yield "checksum", "right" if row["whole"] else "wrong: the file is not as it was written"


def _run_facts(row: Row) -> Facts:
    yield "run", str(row["path"])
    yield "step", f"{count(row['step'])} of {count(row['steps'])}"
    state = "complete" if row["complete"] else "not complete"
    yield "state", f"{state}, {'can be resumed' if row['resumable'] else 'cannot be resumed'}"
    if row["best_val_loss"] is not None:
        yield "best validation", f"{loss(row['best_val_loss'])} at step {count(row['best_step'])}"
        yield "last validation", loss(row["val_loss"])
    tokenizer = row["tokenizer"]
    yield "tokenizer", f"{tokenizer['spec']}, {count(tokenizer['vocab_size'])} ids"
    if "note" in tokenizer:
        yield "note", tokenizer["note"]
    yield "settings", ", ".join(f"{name} {value}" for name, value in row["config"].items())
    yield "on disk", f"{size(row['file_bytes'])}: " + ", ".join(f"{n} {size(b)}" for n, b in row["files"].items())
    for why in row["damaged"]:
        yield "damaged", why


def _run_more(row: Row, printer: Printer) -> None:
    if row["layers"]:
        cells = [(one_line(layer["name"]), count(layer["params"])) for layer in row["layers"]]
        _grid(
            (Column("layer", 8, left=True), Column("parameters", 10)), [*cells, ("all", count(row["params"]))], printer
        )


def _tokenizer_facts(row: Row) -> Facts:
    yield "tokenizer", f"{row['tokenizer']}, {count(row['vocab_size'])} ids"
    yield "end of text", "none" if row["end_of_text"] is None else f"id {row['end_of_text']}"
    yield "sha256", row["sha256"]


def _tokenizer_more(row: Row, printer: Printer) -> None:
    cells = [(str(entry["id"]), one_line(repr(entry["text"])), one_line(entry["hex"])) for entry in row["ids"]]
    _grid((Column("id", 6), Column("text", 8, left=True), Column("bytes", 8, rank=1, left=True)), cells, printer)


def _no_more(row: Row, printer: Printer) -> None:
    """A store is told by its facts alone."""


def _grid(columns: Sequence[Column], cells: Sequence[Sequence[Cell]], printer: Printer) -> None:
    grid = Grid(widened(columns, cells), printer.width, printer.signs.more)
    printer.show("")
    printer.show(grid.head())
    for line in cells:
        printer.show(grid.line(line))


def _counted(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in sorted(counts.items()))


def _size(value: Any) -> str:
    """Bytes that a file states, which may be anything."""
    return size(value) if type(value) is int else "?"


KINDS: dict[str, tuple[Callable[[Row], Facts], Callable[[Row, Printer], None]]] = {
    "text": (_text_facts, _text_more),
    "store": (_store_facts, _no_more),
    "run": (_run_facts, _run_more),
    "tokenizer": (_tokenizer_facts, _tokenizer_more),
}
