"""`cllm warmup`: every kernel compiled ahead of time."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from cllm_cli.commands.options import Cpu, Debug, Json, Quiet
from cllm_cli.errors import ConfigError


def warmup(
    level: Annotated[
        str | None,
        typer.Option(
            "--level",
            metavar="LEVEL",
            help="Compile for a CPU level instead, x86-64-v3 or x86-64-v4, into --out.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="New folder for --level.", show_default=False),
    ] = None,
    cpu: Cpu = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compile all kernels now, so that no later command has to."""
    if (level is None) != (out is None):
        raise ConfigError("--level and --out belong together", "for example --level x86-64-v3 --out kernels/x86-64-v3")

    from cllm_cli.commands.preparing import every_call, prepare, prepare_for
    from cllm_cli.kernels.jit import cache_root
    from cllm_cli.kernels.threads import use_threads
    from cllm_cli.training.machine import available_cores
    from cllm_cli.training.records import json_line

    folder = out or cache_root()
    if folder is None:
        raise ConfigError(
            "there is no folder to keep compiled kernels in", "set CLLM_CACHE_DIR to one that only you can write to"
        )
    started = time.monotonic()
    use_threads(available_cores())
    hidden = quiet or json
    kernels = prepare_for(level, folder, every_call(), hidden) if level else prepare(every_call(), hidden)
    seconds = time.monotonic() - started
    if json:
        sys.stdout.write(
            json_line({"event": "compile", "kernels": kernels, "seconds": seconds, "path": str(folder)}) + "\n"
        )
    else:
        sys.stdout.write(f"{kernels} kernels are ready in {folder} ({seconds:.1f} s)\n")
