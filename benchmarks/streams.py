"""Where results and progress go."""

from __future__ import annotations

import json
import sys
from typing import Any

Result = dict[str, Any]


def emit(record: Result) -> None:
    """A result: a JSON line on standard output."""
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def tell(line: str) -> None:
    """Progress, or a table: standard error."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
