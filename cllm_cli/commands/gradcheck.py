"""`cllm gradcheck`: every derivative against central differences."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from cllm_cli.commands.options import Debug, Json, Quiet, Threads


def gradcheck(
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", metavar="NAME", help="Only this layer; may be repeated.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of the numbers that are checked.")] = 1337,
    threads: Threads = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check every gradient of every layer, and of a whole small model, against central differences."""
    from cllm_cli.checks.gradcheck import Check, check_layers, check_model
    from cllm_cli.errors import CheckFailed
    from cllm_cli.layers import LAYERS
    from cllm_cli.model import ARCHITECTURES
    from cllm_cli.reporting.tables import show_gradcheck
    from cllm_cli.training.records import json_line
    from cllm_cli.training.resolve import available_cores
    from cllm_cli.training.session import use_threads

    use_threads(threads or available_cores())
    for name in layer or ():
        LAYERS.load(name)  # an unknown one is told before anything is shown
    failed: list[Check] = []

    def checks() -> Iterator[Check]:
        yield from check_layers(layer, seed)
        if not layer:
            for architecture in ARCHITECTURES:
                yield from check_model(architecture, seed)

    def rows() -> Iterator[dict[str, Any]]:
        count = 0
        for check in checks():
            count += 1
            if not check.ok:
                failed.append(check)
            yield check.as_dict()
        yield {"event": "end", "checks": count, "failed": len(failed)}

    if json:
        for row in rows():
            sys.stdout.write(json_line(row) + "\n")
            sys.stdout.flush()
    else:
        show_gradcheck(rows(), sys.stdout)
    if failed:
        worst = failed[0]
        raise CheckFailed(
            f"{worst.layer}, {worst.tensor}{worst.entry} with {worst.sizes}: "
            f"analytic {worst.analytic:.9g}, numeric {worst.numeric:.9g}",
            f"{len(failed)} gradients are wrong",
        )
