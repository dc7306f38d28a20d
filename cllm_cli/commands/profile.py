"""`cllm profile`: where the time and the memory of a training step go."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cllm_cli.commands.options import Debug, Json, Quiet, Threads
from cllm_cli.config import PRESETS, make_settings, preset
from cllm_cli.errors import ConfigError

VOCABULARY = 256  # of a preset without a run: that of bytes


def profile(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Run folder: its sizes.", show_default=False)
    ] = None,
    preset_name: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help=f"Sizes without a run: {', '.join(PRESETS)} (default: nano).",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", min=1, help="Windows in a batch.", show_default=False)
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option("--vocab-size", metavar="N", min=1, help="Rows of the embedding.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Steps to time.")] = 20,
    threads: Threads = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show where the time of a training step goes, layer by layer."""
    if run and preset_name:
        raise ConfigError(f"a run has sizes of its own: {run} and --preset exclude each other", "leave one of them out")
    sizes = preset(preset_name or "nano")

    from cllm_cli.commands.preparing import prepare
    from cllm_cli.profiling.layers import profile_steps
    from cllm_cli.profiling.roof import machine_gflops, roof_call
    from cllm_cli.reporting.tables import show_profile
    from cllm_cli.training.records import json_line
    from cllm_cli.training.resolve import available_cores
    from cllm_cli.training.run_folder import RunFolder
    from cllm_cli.training.session import rehearsal, use_threads

    use_threads(threads or available_cores())
    settings = RunFolder(run).read_settings() if run else make_settings(sizes)
    ready = rehearsal(settings, batch_size, vocab_size or settings.vocab_size or VOCABULARY)
    prepare([*ready.stepper.calls(), roof_call()], quiet or json)
    for _ in profile_steps(ready.stepper, 2, 1.0):  # touches the memory
        pass
    rows = [*profile_steps(ready.stepper, steps, machine_gflops())]
    rows[-1]["memory_bytes"] = ready.memory
    if json:
        sys.stdout.writelines(json_line(row) + "\n" for row in rows)
    else:
        show_profile(rows, sys.stdout)
