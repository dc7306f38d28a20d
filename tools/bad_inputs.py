"""The table of bad inputs in docs/text.md: what each gets to see, as the program says it.

    python tools/bad_inputs.py [--check]

Every case is made in an empty folder beside `good.txt`, and run there through the command line. Nothing in the table is
written by hand; a test runs all of it again.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import re
import struct
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cllm_cli.main import main
from cllm_cli.text.tokenizers import byte

PAGE = Path(__file__).parent.parent / "docs" / "text.md"
BEGIN, END = "<!-- made by tools/bad_inputs.py -->\n", "<!-- end -->\n"
GOOD = "".join(f"line {n} of {n * n % 97}, and {n * 7 % 13}\n" for n in range(300))
TINY = "--n-layer 1 --n-head 1 --n-embd 8 --block-size 8 --batch-size 2 --steps 2 --quiet"
ROWS = "".join(json.dumps({"text": f"row {n} " * 9, "n": n, "of": {"body": "x"}}) + "\n" for n in range(20))


@dataclass(frozen=True)
class Case:
    """A bad input: in words, the files that it consists of, the command line, and standard input."""

    what: str
    files: dict[str, bytes | str]
    command: str
    stdin: bytes = b""


def _train(what: str, files: dict[str, bytes | str], arguments: str, stdin: bytes = b"") -> Case:
    return Case(what, files, f"train {arguments} {TINY}", stdin)


def _bin(*numbers: int) -> bytes:
    return struct.pack("<256i", *numbers, *[0] * (256 - len(numbers)))


BYTES = json.dumps(byte.ByteTokenizer().to_json())
IDS = "tokenize --ids ids.bin -o ids.tok"
STORE = "good.tok"  # made by the command itself before the cases

CASES = [
    # Files and folders
    _train("a file that is not there", {}, "goood.txt"),
    _train("an empty file", {"empty.txt": ""}, "empty.txt"),
    _train("a byte-order mark and nothing else", {"mark.txt": b"\xef\xbb\xbf"}, "mark.txt"),
    _train("a folder without text", {"pictures/a.png": b"\x89PNG\r\n\x1a\n\0\0"}, "pictures"),
    _train("a folder in which no file fits `--include`", {"texts/a.txt": GOOD}, "texts --include *.md"),
    _train("one character", {"one.txt": "x"}, "one.txt"),
    _train("less text than a window", {"short.txt": "hello"}, "short.txt"),
    _train("a validation text of one byte", {"one.txt": "x"}, "good.txt --val one.txt"),
    _train("standard input named twice", {}, "- --val -"),
    _train("nothing on standard input", {}, "-"),
    # Names of files
    _train("a list of names with one that is not there", {"names": b"good.txt\0none.txt\0"}, "--files0-from names"),
    _train("a list of no names", {"names": b""}, "--files0-from names"),
    _train("a list of names and a file beside it", {"names": b"good.txt\0"}, "good.txt --files0-from names"),
    # Bytes
    _train("a byte that is no UTF-8", {"latin.txt": b"caf\xe9 " * 99}, "latin.txt --tokenizer char"),
    _train(
        "a character cut in half at the end", {"torn.txt": ("a" * 99 + "é").encode()[:-1]}, "torn.txt --tokenizer char"
    ),
    _train("UTF-16 with half a unit at the end", {"odd.txt": GOOD.encode("utf-16")[:-1]}, "odd.txt"),
    _train("an encoding that is none", {}, "good.txt --encoding utf-9"),
    _train("bytes that the encoding does not have", {"latin.txt": b"caf\xe9 " * 99}, "latin.txt --encoding ascii"),
    _train("another way with errors than there is", {}, "good.txt --errors ignore"),
    _train("an empty separator", {}, "good.txt --split-on="),
    # Compression
    _train("gzip that ends too soon", {"cut.gz": gzip.compress(GOOD.encode())[:-20]}, "cut.gz"),
    _train("gzip with a wrong checksum", {"bad.gz": gzip.compress(GOOD.encode(), mtime=0)[:-8] + bytes(8)}, "bad.gz"),
    _train("bzip2 that ends too soon", {"cut.bz2": bz2.compress(GOOD.encode())[:-20]}, "cut.bz2"),
    _train("xz that ends too soon", {"cut.xz": lzma.compress(GOOD.encode())[:-20]}, "cut.xz"),
    _train("gzip within gzip", {"twice.gz": gzip.compress(gzip.compress(GOOD.encode()))}, "twice.gz"),
    # Rows
    _train("a row that is no JSON", {"a.jsonl": ROWS + "{'text': 1}\n"}, "a.jsonl"),
    _train("a row that is no object", {"a.jsonl": ROWS + '"text"\n'}, "a.jsonl"),
    _train("a row without the field", {"a.jsonl": ROWS}, "a.jsonl --field body"),
    _train("a field within one that has none", {"a.jsonl": ROWS}, "a.jsonl --field text.body"),
    _train("a field that is no text", {"a.jsonl": ROWS}, "a.jsonl --field n"),
    _train("brackets without end", {"a.jsonl": ROWS + '{"text":' + "[" * 100_000 + "\n"}, "a.jsonl"),
    _train("JSON that is one array", {"a.jsonl": "[" + ROWS.replace("\n", ",") + "{}]"}, "a.jsonl"),
    _train("a table without the column", {"a.csv": "title,body\na,b\n"}, "a.csv"),
    _train("a quote that is not closed", {"a.csv": 'text\n"abc\n' + "x\n" * 50}, "a.csv"),
    _train("a row of too few columns", {"a.csv": "id,text\n1,abc\n2\n"}, "a.csv"),
    _train("a Parquet file that is none", {"a.parquet": GOOD}, "a.parquet"),
    _train("a format that there is not", {}, "good.txt --format json"),
    # Tokenizers
    _train("a tokenizer that there is not", {}, "good.txt --tokenizer words"),
    _train("BPE without a size", {}, "good.txt --tokenizer bpe"),
    _train("BPE of fewer ids than there are bytes", {}, "good.txt --tokenizer bpe:100"),
    _train("a tokenizer's file that is not there", {}, "good.txt --tokenizer none.json"),
    _train("a tokenizer's file that is text", {}, "good.txt --tokenizer good.txt"),
    _train("a tokenizer.json of nothing", {"t.json": "{}"}, "good.txt --tokenizer t.json"),
    _train("a vocab.json without merges.txt", {"vocab.json": '{"a":0}'}, "good.txt --tokenizer vocab.json"),
    _train("fewer rows than the tokenizer has ids", {}, "good.txt --vocab-size 100"),
    # Token stores and ids
    _train("a token store that ends too soon", {"cut.tok": b"=STORE[:-100]"}, "cut.tok"),
    _train("a token store with a bit that has turned", {"bad.tok": b"=STORE[flip]"}, "bad.tok"),
    _train("a token store and another tokenizer", {}, f"{STORE} --tokenizer char"),
    _train("a token store among texts", {}, f"good.txt {STORE}"),
    _train("how to read, said of a token store", {}, f"{STORE} --encoding latin-1"),
    Case("ids of half a number", {"ids.bin": bytes(999), "t.json": BYTES}, f"{IDS} --tokenizer t.json"),
    Case(
        "ids that the tokenizer does not have", {"ids.bin": b"\0\1" * 99, "t.json": BYTES}, f"{IDS} --tokenizer t.json"
    ),
    Case(
        "llm.c's ids of a later version",
        {"ids.bin": _bin(20240520, 9, 5), "t.json": BYTES},
        f"{IDS} --tokenizer t.json",
    ),
    Case("ids and no tokenizer", {"ids.bin": bytes(1000)}, IDS),
    Case("a place where something else is", {}, "tokenize good.txt -o good.txt"),
]


def prepare(folder: Path) -> None:
    """The files that several cases stand beside."""
    (folder / "good.txt").write_text(GOOD, "utf-8")
    run(f"tokenize good.txt -o {STORE}", folder)


def make(case: Case, folder: Path) -> None:
    """Writes a case's files."""
    whole = (folder / STORE).read_bytes()
    middle = len(whole) // 2
    parts = {
        b"=STORE[:-100]": whole[:-100],
        b"=STORE[flip]": whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :],
    }
    for name, content in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(parts.get(data, data))


def run(command: str, folder: Path, stdin: bytes = b"") -> tuple[int, str, str]:
    """A command line in a folder: exit code, standard output and standard error."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(command.split(" "))
    finally:
        sys.stdin = before
    return code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode()  # type: ignore[attr-defined]


def rows() -> Iterator[str]:
    """The lines of the table."""
    yield "| input | message | hint |"
    yield "|---|---|---|"
    for case in CASES:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            prepare(folder)
            make(case, folder)
            code, _, err = run(case.command, folder, case.stdin)
            found = re.fullmatch(r"error: (.*)\nhint: (.*)\n", err)
            if code == 0 or found is None:
                raise SystemExit(f"{case.what}: exit code {code}, {err}")
            message, hint = (part.replace("|", r"\|") for part in found.groups())
            yield f"| {case.what} | {message} | {hint} |"


def page(text: str) -> str:
    """The page with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return before + BEGIN + "\n".join(rows()) + "\n" + END + after


def update() -> int:
    """Writes the page, or with --check says whether it is current."""
    text = PAGE.read_text("utf-8")
    made = page(text)
    if "--check" in sys.argv[1:]:
        return 0 if text == made else 1
    PAGE.write_text(made, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(update())
