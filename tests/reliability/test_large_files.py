"""Large lines, many files, long tokens: read in a memory that follows from the size of the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# What getrusage tells counts the memory of the process that this one is a fork of.
MEASURE = """
import re
from pathlib import Path
from cllm_cli.main import run
try:
    run()
finally:
    Path("peak").write_text(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text("utf-8"))[1], "utf-8")
"""
LINE = 50 * 10**6
WORDS = b"ab cd " * (LINE // 6)
TOKEN = "a" * (1 << 20)
SIZES = "--n-layer=1 --n-head=2 --n-embd=16 --block-size=8 --batch-size=2 --dropout=0 --sample-every=0 --threads=1"
FLAGS = [*SIZES.split(), "--steps=2", "--eval-every=2", "--eval-batches=2"]
PARTS = {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": None}
PARTS |= {"post_processor": None, "decoder": None}
ADDED = {"id": 2, "content": TOKEN + "b", "special": False, "single_word": False, "lstrip": False, "rstrip": False}
LINES = {
    # what is written, how many times its size may be taken, and what is said of it
    "line.txt": (WORDS, 1, "line 1"),
    "row.jsonl": (b'{"text": "' + WORDS + b'"}\n', 6, "line 1"),
    "cell.csv": (b'id,text\n1,"' + WORDS + b'"\n', 9, "line 2"),
    "brackets.jsonl": (b"[" * LINE + b"\n", 6, "no JSON"),
    "number.jsonl": (b'{"text": ' + b"9" * LINE + b"}\n", 6, "no JSON"),
    "long.jsonl": (b'{"text": "' + WORDS + WORDS + b'"}\n', 3, "more than 64 MiB"),
}
MODELS = {
    "WordLevel": {"type": "WordLevel", "vocab": {TOKEN: 0, "line": 1}, "unk_token": "line"},
    "BPE": {"type": "BPE", "vocab": {"l": 0, TOKEN: 1, "ll": 2}, "merges": [["l", "l"]], "unk_token": "l"},
    "Unigram": {"type": "Unigram", "unk_id": 0, "vocab": [["l", 0.0], [TOKEN, -1.0]], "byte_fallback": False},
}


def measured(args: list[str], place: Path) -> tuple[str, int]:
    """What a command says, and the most bytes of memory that it has taken."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", MEASURE, *args]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, encoding="utf-8", check=False)
    text = done.stdout + done.stderr
    assert done.returncode in (0, 1), text
    assert "Traceback" not in text
    assert "unexpected" not in text
    return text, int((place / "peak").read_text("utf-8")) << 10


@pytest.fixture(scope="module")
def least(tmp_path_factory):
    """What a command takes that has next to nothing to read."""
    place = tmp_path_factory.mktemp("little")
    (place / "text.txt").write_text("line 1\n" * 20, "utf-8")
    return measured(["inspect", "text.txt"], place)[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", LINES)
def test_a_line_of_fifty_megabytes(name, tmp_path, least):
    content, times, words = LINES[name]
    (tmp_path / name).write_bytes(content)
    text, taken = measured(["inspect", name], tmp_path)
    assert words in text
    assert taken < least + times * len(content) + (10 << 20)


@pytest.mark.slow
def test_a_corpus_of_ten_thousand_files(tmp_path):
    (tmp_path / "many").mkdir()
    for number in range(10_000):
        (tmp_path / "many" / f"{number}.txt").write_text(f"file {number} says so\n", "utf-8")
    assert "generate run" in measured(["train", "many", "-o", "run", *FLAGS], tmp_path)[0]
    again, _ = measured(["train", "many", "-o", "run", "--resume", "--steps=3"], tmp_path)
    assert "generate run" in again
    (tmp_path / "many" / "9999.txt").write_text("file 9999 says no\n", "utf-8")
    assert "is not the one" in measured(["train", "many", "-o", "run", "--resume", "--steps=4"], tmp_path)[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_tokens_of_a_megabyte(kind, tmp_path, least):
    pytest.importorskip("tokenizers")
    description = {**PARTS, "added_tokens": [{**ADDED, "normalized": False}], "model": MODELS[kind]}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(description), "utf-8")
    (tmp_path / "text.txt").write_text("line 1\n" * 20, "utf-8")
    text, taken = measured(["inspect", "text.txt", "--tokenizer", "tokenizer.json"], tmp_path)
    assert ("1048576 characters, more than 4096" if kind == "Unigram" else "ids occur") in text
    assert len(text) < 2000
    assert taken < least + 100 * path.stat().st_size


@pytest.mark.slow
def test_a_token_of_a_megabyte_in_a_vocabulary(tmp_path, least):
    pytest.importorskip("tokenizers")
    sys.path.append(str(Path(__file__).parents[1] / "text"))  # where pytest finds what tests share
    from tokenizer_files import byte_level, write_gpt2

    write_gpt2(tmp_path / "gpt2", byte_level(300))
    path = tmp_path / "gpt2" / "vocab.json"
    ids = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**ids, TOKEN: len(ids)}), "utf-8")
    (tmp_path / "text.txt").write_text("line 1\n" * 20, "utf-8")
    text, taken = measured(["inspect", "text.txt", "--tokenizer", "gpt2"], tmp_path)
    assert "ids occur" in text
    assert taken < least + 100 * path.stat().st_size
