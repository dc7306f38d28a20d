"""TOML files of settings: what --config takes, and a run's own config.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from cllm_cli.config import make_settings
from cllm_cli.errors import ConfigError

LARGEST_FILE = 1 << 20  # bytes of a TOML file that anyone could mean
TOML_HINT = "one 'name = value' a line, as in a run's config.toml"


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file, not yet checked. Raises ConfigError where it is missing or no TOML."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1)
        if len(text) > LARGEST_FILE:
            raise ConfigError(f"{path} is too large to be a file of settings", TOML_HINT)
        return tomllib.loads(text.decode())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "--config takes a TOML file of settings") from error
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, numbers of too many digits, a nest of brackets
        raise ConfigError(f"{path} is no valid TOML: {error}", TOML_HINT) from error


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, each valid by itself. Raises ConfigError for whatever is wrong with them."""
    values = read_toml(path)
    try:
        make_settings(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", error.hint) from error
    return values
