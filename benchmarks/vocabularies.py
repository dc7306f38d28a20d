"""Bits per byte across tokenizers: the same model on the same text, in bytes, characters and BPE of several sizes.

Each makes as many passes over the training text, so that it sees the same bytes; one with longer tokens takes fewer
steps for that, of windows that reach further back. Validation is the same last tenth of the text for all of them, and
bits per byte are all nats of it over all its bytes: they compare, which losses a token do not.

    python benchmarks/vocabularies.py CORPUS [--epochs 1] [--tokenizers byte char bpe:512 …] [--preset nano]

Standard output: JSON lines. Standard error: a table at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import describe
from streams import Result, emit, tell

TOKENIZERS = ["byte", "char", "bpe:512", "bpe:1024", "bpe:4096"]


def trained(corpus: Path, tokenizer: str, options: argparse.Namespace) -> Result:
    """What a run with this tokenizer comes to."""
    with tempfile.TemporaryDirectory() as place:
        command = [
            sys.executable,
            "-m",
            "cllm_cli",
            "train",
            str(corpus),
            "--tokenizer",
            tokenizer,
            "--json",
            "--quiet",
        ]
        command += ["--preset", options.preset, "--epochs", str(options.epochs), "--out", f"{place}/run"]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        events = [json.loads(line) for line in ran.stdout.splitlines()]
        scored = subprocess.run(
            [sys.executable, "-m", "cllm_cli", "eval", f"{place}/run", "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
    start, score = events[0], json.loads(scored.stdout)
    return {
        "event": "vocabulary",
        "tokenizer": tokenizer,
        "ids": start["config"]["vocab_size"],
        "steps": start["steps"],
        "tokens": score["tokens"],
        "bytes": score["bytes"],
        "bytes_per_token": score["bytes"] / score["tokens"],
        "loss": score["loss"],
        "bits_per_byte": score["bits_per_byte"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--tokenizers", nargs="+", default=TOKENIZERS)
    parser.add_argument("--preset", default="nano")
    options = parser.parse_args()
    emit(describe())
    tell("| tokenizer | ids | bytes a token | steps | nats a token | bits a byte |\n|---|---|---|---|---|---|")
    for tokenizer in options.tokenizers:
        row = trained(options.corpus, tokenizer, options)
        emit(row)
        tell(
            f"| `{tokenizer}` | {row['ids']} | {row['bytes_per_token']:.2f} | {row['steps']} | {row['loss']:.3f} | "
            f"{row['bits_per_byte']:.3f} |"
        )


if __name__ == "__main__":
    main()
