"""The mutants that change no result, each with the reason; and how it read, so that a name cannot pass to another."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

LIST = Path(__file__).with_name("equivalent.toml")


def entries() -> list[dict[str, Any]]:
    """name, was, now, reason of each."""
    return list(tomllib.loads(LIST.read_text("utf-8")).get("mutant", []))


def reasons() -> dict[str, str]:
    """Why a mutant is equivalent, by name."""
    return {entry["name"]: entry["reason"] for entry in entries()}
