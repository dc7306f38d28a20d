"""A registry: names, where what they name is declared, and one line on each.

Reading a registry imports nothing, so help texts and "did you mean" cost nothing; `load` imports the one module that is
asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cllm_cli.errors import ConfigError, nearest


@dataclass(frozen=True)
class Entry:
    """`target` is "module:attribute"; `summary` is one line without a full stop."""

    target: str
    summary: str


class Registry(Mapping[str, Entry]):
    """A table of entries of one kind, such as optimizers."""

    def __init__(self, kind: str, entries: Mapping[str, Entry]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, name: str) -> Any:
        """The object that `name` stands for. Raises ConfigError, naming the nearest known name."""
        if name not in self._entries:
            raise ConfigError(f"unknown {self.kind} '{name}'", nearest(name, self._entries))
        module, attribute = self._entries[name].target.split(":")
        return getattr(importlib.import_module(module), attribute)
