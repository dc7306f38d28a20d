"""`cllm train`: read options, run the training loop, show its records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cllm_cli.commands.options import Debug, Json, Quiet, with_settings
from cllm_cli.config import PRESETS, merge, preset, read_toml


@with_settings
def train(
    *,
    corpus: Annotated[list[str], typer.Argument(help="Files, folders (read recursively), or - for standard input.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder (default: runs/<corpus name>).", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the run that is there.")] = False,
    init_from: Annotated[
        Path | None, typer.Option("--init-from", help="Start from another run's weights.", show_default=False)
    ] = None,
    preset_name: Annotated[
        str | None, typer.Option("--preset", help=f"Sizes of a kind: {', '.join(PRESETS)}.", show_default=False)
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file of settings; flags win.", show_default=False)
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    settings: dict[str, Any],
) -> None:
    """Train a model on text: cllm train corpus.txt"""
    from cllm_cli.errors import ConfigError
    from cllm_cli.reporting.reporter import make_reporter
    from cllm_cli.training import train as run_training
    from cllm_cli.training.signals import StopSignals

    if resume and (force or init_from):
        other = "--force" if force else "--init-from"
        raise ConfigError(f"--resume and {other} exclude each other", "--resume goes on with the run as it is")
    given = merge(preset(preset_name) if preset_name else {}, read_toml(config) if config else {}, settings)
    with StopSignals() as signals, make_reporter(json=json, quiet=quiet) as reporter:
        for record in run_training(
            corpus,
            out or default_folder(corpus),
            resume=resume,
            force=force,
            init_from=init_from,
            stdin=sys.stdin.buffer,
            stop=lambda: signals.received,
            **given,
        ):
            reporter.show(record)


def default_folder(corpus: list[str]) -> Path:
    """runs/<name of the first file or folder>."""
    name = "stdin" if corpus[0] == "-" else Path(corpus[0]).resolve().stem
    return Path("runs") / (name or "corpus")
