"""`--check-copy`: what `cllm generate` and `cllm eval` say about a text that may be copied from the training text."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from cllm_cli.errors import ConfigError

if TYPE_CHECKING:
    from cllm_cli.kernels.ahead import Call
    from cllm_cli.text.tokenizers.base import Tokenizer
    from cllm_cli.training.run_folder import RunFolder

CheckCopy = Annotated[
    bool, typer.Option("--check-copy", help="Tell the longest copy from the training text, and how much is new.")
]
CorpusPaths = Annotated[
    list[str] | None,
    typer.Option(
        "--corpus",
        metavar="PATH",
        help="For --check-copy: where the training text is now; may be repeated.",
        show_default=False,
    ),
]


class CopyCheck:
    """The check if it is `wanted`, otherwise nothing. The training text is read at once, so that errors come first."""

    def __init__(self, wanted: bool, folder: RunFolder, tokenizer: Tokenizer, corpus: list[str] | None) -> None:
        from cllm_cli.reporting.terminal import tell_note
        from cllm_cli.training.training_text import training_text

        if corpus and not wanted:
            raise ConfigError("--corpus is read with --check-copy alone", "add --check-copy, or leave --corpus out")
        self._tokenizer = tokenizer
        self._training: Any = None
        if wanted:
            self._training = training_text(folder, tokenizer, corpus, tell_note)

    def calls(self) -> list[Call]:
        """The kernels that it needs."""
        from cllm_cli.text.copying import copying_calls

        return [] if self._training is None else copying_calls()

    def find(self, tokens: Any) -> dict[str, Any] | None:
        """The event of a text's tokens; None where no check is wanted."""
        import numpy as np

        from cllm_cli.text.copying import find_copying
        from cllm_cli.text.tokenizers.base import count_bytes

        if self._training is None:
            return None
        tokenizer, training = self._tokenizer, self._training
        found = find_copying(np.asarray(tokens, dtype=tokenizer.dtype), training, tokenizer)
        return {
            "event": "copy",
            "tokens": len(tokens),
            "overlap_tokens": found.overlap.size,
            "overlap_bytes": count_bytes(found.overlap, tokenizer),
            "overlap_at": count_bytes(training[: found.start], tokenizer) if found.overlap.size else None,
            "overlap_text": tokenizer.decode(found.overlap),
            "novel": {str(n): share for n, share in found.novel.items()},
        }

    def tell(self, row: dict[str, Any] | None, json: bool, stream: TextIO) -> None:
        """Writes what `find` found: an event to standard output, or lines to `stream`."""
        from cllm_cli.reporting.tables import show_copying
        from cllm_cli.training.records import json_line

        if row and json:
            sys.stdout.write(json_line(row) + "\n")
        elif row:
            show_copying(row, stream)
