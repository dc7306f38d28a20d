"""What a file is written in: the table of formats, and how a file's format is found.

The name decides, a suffix of compression aside, and the content has to agree: JSON has to parse, a table to have the
column. Parquet, which says what it is at both ends, is known without a name. All else is plain text.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, BinaryIO

from cllm_cli.errors import ConfigError, nearest
from cllm_cli.registry import Entry, Registry
from cllm_cli.text.compression import SUFFIXES as COMPRESSED

if TYPE_CHECKING:
    from cllm_cli.text.formats.base import Format

AUTO = "auto"

FORMATS = Registry(
    "format",
    {
        "text": Entry("cllm_cli.text.formats.plain:TEXT", "plain text, one document, or several with --split-on"),
        "jsonl": Entry("cllm_cli.text.formats.jsonl:JSONL", "JSON lines, one object and document a line"),
        "csv": Entry("cllm_cli.text.formats.table:CSV", "a table with a header, one document a row"),
        "tsv": Entry("cllm_cli.text.formats.table:TSV", "the same with tabs for commas"),
        "parquet": Entry("cllm_cli.text.formats.parquet:PARQUET", "Parquet, one document a row; needs cllm[parquet]"),
    },
)

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
PARQUET_MARK = b"PAR1"


def check_format(name: str) -> None:
    """Raises ConfigError for a name that is neither a format nor `auto`."""
    if name != AUTO and name not in FORMATS:
        raise ConfigError(f"unknown format '{name}'", nearest(name, [AUTO, *FORMATS]))


def format_by_name(path: str) -> str:
    """The format that a file's name tells: x.jsonl.gz is jsonl."""
    name = PurePath(path.lower())
    if name.suffix in COMPRESSED:
        name = name.with_suffix("")
    return SUFFIXES.get(name.suffix, "text")


def may_be_parquet(wanted: str, path: str, head: bytes) -> bool:
    """Whether the end of a file with these first bytes has to be looked at before its format is known."""
    return wanted == AUTO and format_by_name(path) == "text" and head.startswith(PARQUET_MARK)


def find_format(wanted: str, path: str, head: bytes, file: BinaryIO | None) -> Format:
    """The format of a file with these first bytes; `file`, where there is one, is left where it stands."""
    name = format_by_name(path) if wanted == AUTO else wanted
    if file is not None and may_be_parquet(wanted, path, head):
        before = file.tell()
        file.seek(-len(PARQUET_MARK), 2)
        name = "parquet" if file.read() == PARQUET_MARK else name
        file.seek(before)
    found: Format = FORMATS.load(name)
    return found
