"""`cllm profile`: where the time and the memory of a training step go."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Annotated

import typer

from cllm_cli.commands.options import Cpu, Debug, Json, Quiet, Threads, whole_numbers
from cllm_cli.config import make_settings
from cllm_cli.errors import ConfigError
from cllm_cli.presets import PRESETS, preset

VOCABULARY = 256  # of a preset without a run: that of bytes
SMALLER = "see --batch-size and --block-size"  # where there is not enough memory


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
        str | None,
        typer.Option("--batch-size", metavar="N,…", help="Windows in a batch; several to compare.", show_default=False),
    ] = None,
    block_size: Annotated[
        str | None,
        typer.Option("--block-size", metavar="N,…", help="Tokens in a window; several likewise.", show_default=False),
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option("--vocab-size", metavar="N", min=1, help="Rows of the embedding.", show_default=False)
    ] = None,
    recompute: Annotated[
        str | None, typer.Option("--recompute", metavar="NAME", help="none, cheap or block.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Steps to time.")] = 20,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", help="Write a step as trace events (Perfetto).", show_default=False),
    ] = None,
    threads: Threads = None,
    cpu: Cpu = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show where the time of a training step goes, layer by layer."""
    if run and preset_name:
        raise ConfigError(f"a run has sizes of its own: {run} and --preset exclude each other", "leave one of them out")
    chosen = preset(preset_name or "nano")
    batches, blocks = whole_numbers("--batch-size", batch_size), whole_numbers("--block-size", block_size)
    if trace and len(batches) * len(blocks) > 1:
        raise ConfigError("--trace is of one size", "give one --batch-size and one --block-size")

    from cllm_cli.commands.preparing import prepare
    from cllm_cli.kernels.threads import use_threads
    from cllm_cli.profiling.layers import StepProfile
    from cllm_cli.profiling.roof import measure_roof, roof_calls
    from cllm_cli.profiling.trace import write_trace
    from cllm_cli.reporting.tables import show_profile, show_sizes
    from cllm_cli.training.checkpoint import check_fits
    from cllm_cli.training.machine import available_cores
    from cllm_cli.training.records import json_line
    from cllm_cli.training.resolve import model_config
    from cllm_cli.training.run_folder import RunFolder
    from cllm_cli.training.session import rehearsal

    use_threads(threads or available_cores())
    settings = RunFolder(run).read_settings() if run else make_settings(chosen)
    if run:
        check_fits(RunFolder(run), model_config(settings))
    rows, ends, roof = [], [], None
    for batch, block in itertools.product(batches, blocks):
        given = {"batch_size": batch, "block_size": block, "recompute": recompute}
        ready = rehearsal(settings, vocab_size or settings.vocab_size or VOCABULARY, given, SMALLER)
        prepare([*ready.stepper.calls(), *([] if roof else roof_calls())], quiet or json)
        roof = roof or measure_roof()
        StepProfile(ready.stepper, 2)  # touches the memory
        profiled = StepProfile(ready.stepper, steps)
        *rows, end = profiled.rows(roof)
        sizes = {"batch_size": ready.stepper.batch, "block_size": ready.model.config.block_size}
        ends.append({**end, **sizes, "memory_bytes": ready.memory})
        if trace:
            write_trace(trace, profiled.spans[-1])
    if len(ends) > 1:
        rows, ends = [], [{**end, "event": "size"} for end in ends]
    if json:
        sys.stdout.writelines(json_line(row) + "\n" for row in [*rows, *ends])
    else:
        (show_sizes if len(ends) > 1 else show_profile)([*rows, *ends], sys.stdout)
