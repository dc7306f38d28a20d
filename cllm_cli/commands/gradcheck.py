"""`cllm gradcheck`: every derivative against central differences, or how gradients flow through a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cllm_cli.commands.options import LARGEST_SEED, MOST_THREADS, Cpu, Debug, Json, Quiet, allow_threads
from cllm_cli.errors import ConfigError


def gradcheck(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="Run folder: its weights, on its validation text.", show_default=False),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", metavar="NAME", help="Only this layer; may be repeated.", show_default=False),
    ] = None,
    float32: Annotated[
        bool, typer.Option("--float32", help="Gradients in float32 against those in float64 instead.")
    ] = False,
    flow: Annotated[
        bool, typer.Option("--flow", help="Activations, gradients and updates over a few steps instead.")
    ] = False,
    seed: Annotated[
        int,
        typer.Option("--seed", metavar="N", min=0, max=LARGEST_SEED, help="Of the numbers that are checked."),
    ] = 1337,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            callback=allow_threads,
            min=1,
            max=MOST_THREADS,
            metavar="N",
            help="Threads (default: 1; with --flow all cores).",
            show_default=False,
        ),
    ] = None,
    cpu: Cpu = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check every gradient of every layer and of whole small models, or of a trained run."""
    if flow and (layer or float32):
        raise ConfigError("--flow observes whole models in float32", "leave --layer and --float32 out")
    if run and layer:
        raise ConfigError(f"--layer NAME and the run {run} exclude each other", "leave one of them out")

    from cllm_cli.checks.selection import chosen_checks, chosen_flow
    from cllm_cli.commands.preparing import prepare
    from cllm_cli.errors import CheckFailed
    from cllm_cli.kernels.threads import use_threads
    from cllm_cli.reporting.flow import show_flow
    from cllm_cli.reporting.tables import show_gradcheck
    from cllm_cli.reporting.terminal import tell_note
    from cllm_cli.training.machine import available_cores
    from cllm_cli.training.records import json_line
    from cllm_cli.training.run_folder import RunFolder

    # What is checked is so small that more threads only wait for each other.
    use_threads(threads or (available_cores() if flow else 1))
    folder = RunFolder(run) if run else None
    chosen = chosen_flow(folder, seed) if flow else chosen_checks(folder, layer, float32, seed)
    for notice in chosen.notices:
        tell_note(notice)
    prepare(chosen.calls, quiet or json)
    if json:
        for row in chosen.rows():
            sys.stdout.write(json_line(row) + "\n")
            sys.stdout.flush()
    else:
        (show_flow if flow else show_gradcheck)(chosen.rows(), sys.stdout)
    wrong = chosen.wrong()
    if wrong:
        raise CheckFailed(*wrong)
