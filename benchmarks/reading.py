"""How fast text becomes tokens, and in how much memory: each tokenizer, each way a text can be wrapped.

    python benchmarks/reading.py [--megabytes 200] [--bpe-megabytes 20] [--turns 5]

The text is sample_data, over and over, each copy with a number of its own. Each side reads it once a turn, in a process
of its own, and the sides take turns; `library` is what the library `tokenizers` needs to encode the same text, in
memory already and cut into lines. Memory is the most private memory (anonymous pages) beyond what there was before.
Standard output: JSON lines. Standard error: a table of medians.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from machine import describe, versions
from streams import emit, tell

SAMPLE = Path(__file__).parents[1] / "sample_data" / "story.txt"
BPE = "bpe:4096"


def write_text(path: Path, size: int) -> None:
    """About `size` bytes of text."""
    part, number = SAMPLE.read_text("utf-8"), 0
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < size:
            file.write(f"{number}\n{part}")
            number += 1


def anonymous() -> int:
    """Bytes of this process that no file stands behind."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) << 10


class Peak(threading.Thread):
    """The most that `anonymous` gives while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.over = 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.01):
            self.most = max(self.most, anonymous())


def read(path: str, spec: str) -> dict[str, Any]:
    """Seconds and memory of a corpus."""
    from cllm_cli.text.corpus import read_corpus

    before, peak = anonymous(), Peak()
    peak.start()
    began = time.perf_counter()
    corpus = read_corpus([path], spec, 0.1)
    seconds = time.perf_counter() - began
    peak.over.set()
    return {"seconds": seconds, "tokens": corpus.train.size + corpus.val.size, "memory_bytes": peak.most - before}


def library(path: str, spec: str) -> dict[str, Any]:
    """Seconds of the library by itself, with the tokenizer in the file `spec`."""
    import tokenizers

    made = tokenizers.Tokenizer.from_file(spec)
    lines = Path(path).read_text("utf-8").splitlines(keepends=True)
    began = time.perf_counter()
    tokens = 0
    for first in range(0, len(lines), 10_000):
        tokens += sum(len(found.ids) for found in made.encode_batch_fast(lines[first : first + 10_000]))
    return {"seconds": time.perf_counter() - began, "tokens": tokens}


def make_library_tokenizer(text: Path, path: Path) -> None:
    """A byte-level tokenizer of the library, learned from the text."""
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=4096, initial_alphabet=alphabet, show_progress=False)
    made.train([str(text)], trainer)
    made.save(str(path))


def in_another_process(side: str, path: Path, spec: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", side, str(path), spec]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true"}
    found: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--bpe-megabytes", type=int, default=20)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--worker", nargs=3, metavar=("SIDE", "PATH", "SPEC"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        side, path, spec = options.worker
        emit((read if side == "read" else library)(path, spec))
        return
    emit({"event": "machine", **describe(), "versions": versions("cllm", "numpy", "tokenizers")})
    with tempfile.TemporaryDirectory() as name:
        plain, small, packed, tokenizer = (
            Path(name, file) for file in ("text.txt", "small.txt", "text.gz", "made.json")
        )
        write_text(plain, options.megabytes << 20)
        write_text(small, options.bpe_megabytes << 20)
        with gzip.open(packed, "wb", compresslevel=6) as file:
            file.write(plain.read_bytes())
        make_library_tokenizer(small, tokenizer)
        sides: dict[str, tuple[str, Path, str, int]] = {
            "byte": ("read", plain, "byte", plain.stat().st_size),
            "byte, gzip": ("read", packed, "byte", plain.stat().st_size),
            "char": ("read", plain, "char", plain.stat().st_size),
            "a tokenizer.json": ("read", small, str(tokenizer), small.stat().st_size),
            "the library by itself": ("library", small, str(tokenizer), small.stat().st_size),
            f"{BPE}, learned": ("read", small, BPE, small.stat().st_size),
        }
        turns: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for number in range(options.turns):
            for side in list(sides)[:: 1 if number % 2 == 0 else -1]:
                what, path, spec, _ = sides[side]
                turns[side].append(in_another_process(what, path, spec))
        tell(f"{'':<24}{'MB/s':>8}{'MB':>8}{'memory beyond, MB':>20}")
        for side, found in turns.items():
            size = sides[side][3]
            seconds = statistics.median(turn["seconds"] for turn in found)
            memory = max(turn.get("memory_bytes", 0) for turn in found)
            emit({"event": "reading", "side": side, "bytes": size, "seconds": seconds, "turns": found})
            tell(f"{side:<24}{size / seconds / 1e6:>8.1f}{size / 1e6:>8.0f}{memory / 1e6:>20.0f}")


if __name__ == "__main__":
    main()
