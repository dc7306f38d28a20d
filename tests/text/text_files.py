"""What the tests of corpora share: files to read, the tokens they must give, and how an error must look."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cllm_cli.errors import CorpusError

BOM = b"\xef\xbb\xbf"


def write(folder: Path, **files: bytes | str) -> Path:
    """Files in a folder: `a_txt="…"` is a.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("_", ".")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def compressed(data: bytes, kind: str) -> bytes:
    """One member of a compressed file, by the libraries' own writers."""
    if kind == "zstd":
        zstandard = pytest.importorskip("zstandard")
        return zstandard.ZstdCompressor(write_checksum=True).compress(data)
    if kind == "gzip":
        return gzip.compress(data, mtime=0)
    return bz2.compress(data) if kind == "bzip2" else lzma.compress(data)


def pieces_of(data: bytes, size: int) -> Iterator[bytes]:
    """A stream of bytes that is cut every `size` bytes."""
    return (data[start : start + size] for start in range(0, len(data), size))


def json_lines(rows: list) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(rows: list[list[str]], name: str = "csv") -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, dialect="excel" if name == "csv" else "excel-tab").writerows(rows)
    return out.getvalue().encode()


def parquet(folder: Path, columns: dict, **more) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    folder.mkdir(parents=True, exist_ok=True)
    write_table(pyarrow.table(columns), folder / "rows.parquet", **more)
    return (folder / "rows.parquet").read_bytes()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, added or lost."""
    result = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(result))
        result[at : at + rng.choice([0, 1, 1, 4])] = rng.randbytes(rng.choice([0, 1, 1, 4]))
    return bytes(result)


def words(seed: int, count: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(["tree", "möwe", "sun", "猫", "🎈", "and"]) for _ in range(count))


def expected_tokens(texts: list[bytes], spec: str, alphabet: str, end: int | None) -> list[int]:
    """The oracle: ids by Python's own decoding, a list of ints."""
    ids: list[int] = []
    for text in texts:
        ids += list(text) if spec == "byte" else [alphabet.index(char) for char in text.decode()]
        ids += [] if end is None else [end]
    return ids


def many(folder: Path, count: int, seed: int = 0) -> dict[str, bytes]:
    """Numbered documents, and what is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {f"{index:03}.txt": words(seed + index, 5 + index % 13).encode() for index in range(count)}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return contents


def outcome(action: Callable[[], object]) -> object:
    """What an action gives, or the CorpusError that it raises."""
    try:
        return action()
    except CorpusError as error:
        return error


def refused(action: Callable[[], object], *fragments: str) -> CorpusError:
    with pytest.raises(CorpusError) as caught:
        action()
    error = caught.value
    for fragment in fragments:
        assert fragment in error.message + "\n" + error.hint
    assert error.hint
    assert error.message.isprintable()
    assert error.hint.isprintable()
    return error
