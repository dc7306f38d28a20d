"""Sizes of models by name, for --preset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cllm_cli.errors import ConfigError, nearest

Preset = Mapping[str, Any]

PRESETS: dict[str, Preset] = {
    "nano": dict(n_layer=4, n_head=4, n_embd=128, block_size=64, batch_size=12, dropout=0.0, steps=2000),
    "reference": dict(n_layer=6, n_head=8, n_embd=512, n_hidden=2048, block_size=256, batch_size=8, dropout=0.0),
    "gpt2": dict(n_layer=12, n_head=12, n_embd=768, block_size=1024, batch_size=4, dropout=0.0),
}
"""Sizes. Learning rates and the like are the optimizer's own."""


def preset(name: str) -> Preset:
    """The settings of a preset. Raises ConfigError for an unknown one."""
    if name not in PRESETS:
        raise ConfigError(f"unknown preset '{name}'", nearest(name, PRESETS))
    return PRESETS[name]
