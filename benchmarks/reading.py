"""How fast text becomes tokens, and in how much memory: each tokenizer, each way a text can be wrapped.

    python benchmarks/reading.py [--megabytes 200] [--bpe-megabytes 20] [--turns 5]
    python benchmarks/reading.py --commands 1024
    python benchmarks/reading.py --batches 400

The text is sample_data, over and over, each copy with a number of its own. Each side reads it once a turn, in a process
of its own, and the sides take turns; `library` is what the library `tokenizers` needs to encode the same text, in
memory already and cut into lines. Memory is the most private memory (anonymous pages) beyond what there was before.

With --commands the commands that take text run on so many MB of it instead, and on a thousandth; the system is asked
every few milliseconds how much memory each has, its own (anonymous), and of files that it has mapped. With --batches
the time that a batch takes to put together, from so many MB of tokens, in memory and in a mapped file, after 64 MiB of
other memory were used, as a step does.
Standard output: JSON lines. Standard error: a table of medians, or of memory.
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
DOCUMENTS = 10_000
BATCH = (8, 256)  # windows, and their length: of S
BATCHES = 200  # in a turn
OTHER = 64 << 20  # bytes that are used between two batches
MEMORY = ("RssAnon:", "RssFile:", "VmHWM:")  # its own, of files, the most in all
TINY = [
    "--n-layer",
    "1",
    "--n-head",
    "1",
    "--n-embd",
    "8",
    "--batch-size",
    "64",
    "--block-size",
    "64",
    "--steps",
    "200",
]


def write_text(path: Path, size: int) -> None:
    """About `size` bytes of text."""
    part, number = SAMPLE.read_text("utf-8"), 0
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < size:
            file.write(f"{number}\n{part}")
            number += 1


def status(process: int | str) -> dict[str, int]:
    """Memory of a process by the system's name for it, in bytes; nothing of one that is over."""
    try:
        fields = [line.split() for line in Path(f"/proc/{process}/status").read_text().splitlines()]
    except OSError:
        return {}
    return {field[0].rstrip(":"): int(field[1]) << 10 for field in fields if field[0] in MEMORY}


def write_documents(folder: Path, size: int) -> None:
    """About `size` bytes of text in DOCUMENTS files."""
    folder.mkdir()
    part = SAMPLE.read_bytes()
    for number in range(DOCUMENTS):
        at = number * 997 % (len(part) // 2)
        content = (f"{number}\n".encode() + part[at:]) * (1 + size // DOCUMENTS // (len(part) - at))
        (folder / f"{number}.txt").write_bytes(content[: size // DOCUMENTS])


def anonymous() -> int:
    """Bytes of this process that no file stands behind."""
    return status("self")["RssAnon"]


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


def watched(arguments: list[str]) -> dict[str, int]:
    """The most of each kind of memory that a cllm command has."""
    most = dict.fromkeys(("RssAnon", "RssFile", "VmHWM"), 0)
    with subprocess.Popen([sys.executable, "-m", "cllm_cli", *arguments], stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for name, size in status(process.pid).items():
                most[name] = max(most[name], size)
            time.sleep(0.002)
    if process.returncode:
        raise SystemExit(f"cllm {' '.join(arguments)} ended with {process.returncode}")
    return most


def commands_on(folder: Path, size: int) -> dict[str, list[str]]:
    """The commands that take text, by title, on about `size` bytes of it in `folder`, in order."""
    text, store, run, documents = (str(folder / name) for name in ("text.txt", "text.tok", "run", "documents"))
    write_text(Path(text), size)
    write_documents(Path(documents), size)
    train = ["train", *TINY, "--quiet", "--force", "--out", run]
    return {
        "inspect TEXT": ["inspect", text],
        "tokenize TEXT": ["tokenize", text, "--val-fraction", "0.01", "--out", store],
        "inspect STORE": ["inspect", store],
        "tokenize 10,000 FILES": ["tokenize", documents, "--val-fraction", "0.01", "--force", "--out", store],
        "train STORE": [*train, store],
        "train TEXT --tokenizer char": [*train, text, "--val-fraction", "0.01", "--tokenizer", "char"],
        "train TEXT": [*train, text, "--val-fraction", "0.01"],
        "eval RUN": ["eval", run, "--quiet"],
        "eval RUN --check-copy": ["eval", run, str(SAMPLE), "--quiet", "--check-copy"],
    }


def watch_commands(megabytes: int) -> None:
    """The memory of the commands that take text, on a large one and on one a thousandth of it."""
    tell(
        f"{'MB':<30}{'anonymous':>12}{'on little':>12}{'of files':>12}{'on little':>12}{'in all':>12}{'on little':>12}"
    )
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name, "small"), Path(name, "large")
        for folder in (small, large):
            folder.mkdir()
        much = commands_on(large, megabytes << 20)
        for title, arguments in commands_on(small, (megabytes << 20) // 1000).items():
            found = {"little": watched(arguments), "much": watched(much[title])}
            emit({"event": "memory", "command": title, "bytes": megabytes << 20, **found})
            figures = [found[side][kind] for kind in ("RssAnon", "RssFile", "VmHWM") for side in ("much", "little")]
            tell(f"{title:<30}" + "".join(f"{size / 1e6:>12.0f}" for size in figures))


def time_batches(megabytes: int, turns: int) -> None:
    """Milliseconds a batch of BATCH windows: tokens in memory and mapped, windows across documents and within them."""
    import numpy as np

    from cllm_cli.text.batches import Sampler
    from cllm_cli.text.cuts import Within
    from cllm_cli.text.mapped import mapped

    batch, length = BATCH
    with tempfile.NamedTemporaryFile() as file:
        tokens = np.random.default_rng(0).integers(0, 8192, megabytes << 19, dtype=np.uint16)
        tokens.tofile(file.name)
        ends = np.linspace(0, tokens.size, DOCUMENTS + 1, dtype=np.int64)[1:]
        x, y = np.empty((2, batch, length), dtype=np.int32)
        other = np.zeros(OTHER, dtype=np.uint8)
        tell(f"{'':<32}{'ms a batch':>12}")
        for place, where in {"in memory": tokens, "mapped": mapped(file.file, tokens.dtype, tokens.size)}.items():
            for title, cuts in {"across documents": None, "within documents": Within(ends, length)}.items():
                sampler, found = Sampler(where, length, seed=1, cuts=cuts), []
                for _ in range(turns):
                    seconds = 0.0
                    for _ in range(BATCHES):
                        other += 1
                        began = time.perf_counter()
                        sampler.next_batch(x, y)
                        seconds += time.perf_counter() - began
                    found.append(seconds / BATCHES)
                seconds = statistics.median(found)
                emit({"event": "batches", "place": place, "windows": title, "seconds": seconds, "turns": found})
                tell(f"{title + ', ' + place:<32}{1e3 * seconds:>12.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--bpe-megabytes", type=int, default=20)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--commands", type=int, metavar="MB")
    parser.add_argument("--batches", type=int, metavar="MB")
    parser.add_argument("--worker", nargs=3, metavar=("SIDE", "PATH", "SPEC"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.commands:
        watch_commands(options.commands)
        return
    if options.batches:
        time_batches(options.batches, options.turns)
        return
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
