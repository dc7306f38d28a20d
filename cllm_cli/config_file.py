"""TOML files of settings: what --config takes, and a run's own config.toml, which begins with the hash of its rest."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from cllm_cli.config import Settings, make_settings, stated
from cllm_cli.errors import ConfigError
from cllm_cli.regular import open_regular

LARGEST_FILE = 1 << 20  # bytes of a TOML file that anyone could mean
HASHED = b"# sha256 of what follows: "
TOML_HINT = "one 'name = value' a line, as in a run's config.toml"


def toml_of(settings: Settings) -> bytes:
    """A run's config.toml. Its first line is the hash of the rest, so that a file cut short is seen as well."""
    text = tomli_w.dumps(stated(settings)).encode()
    return HASHED + hashlib.sha256(text).hexdigest().encode() + b"\n" + text


def read_toml(path: Path, as_written: bool = False) -> dict[str, Any]:
    """The values of a TOML file, not yet checked. Raises ConfigError where it is missing or no TOML.

    With `as_written` also where it has a hash that is another one. What is meant for --config may have been edited.
    """
    try:
        with open_regular(path) if as_written else path.open("rb") as file:  # what a user names may be a pipe
            text = file.read(LARGEST_FILE + 1)
        if len(text) > LARGEST_FILE:
            raise ConfigError(f"{path} is too large to be a file of settings", TOML_HINT)
        first, _, rest = text.partition(b"\n")
        if (
            as_written
            and first.startswith(HASHED)
            and first[len(HASHED) :] != hashlib.sha256(rest).hexdigest().encode()
        ):
            raise ConfigError(
                f"{path} is not as it was written",
                "restore it, and change a run with the flags of --resume; what was edited on purpose is read without"
                " the first line",
            )
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
