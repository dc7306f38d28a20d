"""Libraries that only some tokenizers need, imported when one of these is used."""

from __future__ import annotations

import importlib
import os
from typing import Any

from cllm_cli.errors import ConfigError


def library(name: str) -> Any:
    """The package `name`, which is also the name of the extra that installs it. Raises ConfigError without it."""
    # tokenizers runs on threads of its own, and warns in every forked process unless it was told that this is meant.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"this tokenizer needs the package {name}", f"pip install 'cllm[{name}]'") from error
