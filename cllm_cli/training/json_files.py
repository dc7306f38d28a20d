"""JSON objects from files that anyone may have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cllm_cli.errors import RunError
from cllm_cli.regular import open_regular

LARGEST_TEXT = 256 << 20  # bytes of a tokenizer that anyone could mean


def read_json(path: Path, largest: int = LARGEST_TEXT) -> dict[str, Any]:
    """A JSON object of at most `largest` bytes from a file of a run. Raises RunError for a missing or damaged one."""
    try:
        with open_regular(path) as file:
            content = file.read(largest + 1)
        if len(content) > largest:
            raise RunError(f"{path} is too large to be what its name says", "restore the run folder, or train again")
        facts = json.loads(content.decode())
    except (OSError, ValueError, RecursionError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise RunError(f"cannot read {path}: {reason}", "restore the run folder, or train again") from error
    if not isinstance(facts, dict):
        raise RunError(f"{path} is damaged: it is no JSON object", "restore the run folder, or train again")
    return facts
