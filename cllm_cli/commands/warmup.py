"""`cllm warmup`: every kernel compiled ahead of time."""

from __future__ import annotations

import sys
import time

from cllm_cli.commands.options import Debug, Json, Quiet


def warmup(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Compile all kernels now, so that no later command has to."""
    from cllm_cli.checks.selection import chosen_checks
    from cllm_cli.commands.preparing import prepare
    from cllm_cli.config import make_settings, preset
    from cllm_cli.errors import ConfigError
    from cllm_cli.kernels.jit import cache_root
    from cllm_cli.model.decode import Decoder
    from cllm_cli.optim import OPTIMIZERS
    from cllm_cli.profiling.roof import roof_calls
    from cllm_cli.text.copying import copying_calls
    from cllm_cli.training.evaluate import Evaluator
    from cllm_cli.training.records import json_line
    from cllm_cli.training.resolve import available_cores
    from cllm_cli.training.session import rehearsal, use_threads

    folder = cache_root()
    if folder is None:
        raise ConfigError(
            "there is no folder to keep compiled kernels in", "set CLLM_CACHE_DIR to one that only you can write to"
        )
    started = time.monotonic()
    use_threads(available_cores())
    # Kernels are compiled for types, not for sizes: any model will do.
    calls = [*roof_calls(), *chosen_checks(None, None, True, 0).calls]
    for name in OPTIMIZERS:
        session = rehearsal(make_settings(preset("nano"), {"optimizer": name, "dropout": 0.1}), 256)
        calls += session.stepper.calls()
    model, corpus = session.model, session.corpus
    calls += Evaluator(model, corpus.val, corpus.tokenizer, session.stepper.batch).calls()
    calls += [*Decoder(model).calls(), *copying_calls()]
    kernels = prepare(calls, quiet or json)
    seconds = time.monotonic() - started
    if json:
        sys.stdout.write(
            json_line({"event": "compile", "kernels": kernels, "seconds": seconds, "path": str(folder)}) + "\n"
        )
    else:
        sys.stdout.write(f"{kernels} kernels are ready in {folder} ({seconds:.1f} s)\n")
