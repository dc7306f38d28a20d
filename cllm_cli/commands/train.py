"""`cllm train`: read options, run the training loop, show its records."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cllm_cli.commands.naming import FileNames, check_val, default_folder, named_files
from cllm_cli.commands.options import Cpu, Debug, Json, Quiet, allow_threads, with_settings
from cllm_cli.config import make_settings, merge
from cllm_cli.config_file import read_config
from cllm_cli.errors import ConfigError, Interrupted
from cllm_cli.presets import PRESETS, preset


@with_settings
def train(
    *,
    corpus: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CORPUS",
            help="Files, folders (read recursively), - for standard input; or a token store.",
            show_default=False,
        ),
    ] = None,
    files0_from: FileNames = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Run folder (default: runs/<corpus name>).", show_default=False
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the run that is there.")] = False,
    init_from: Annotated[
        Path | None,
        typer.Option("--init-from", metavar="RUN", help="Start from another run's weights.", show_default=False),
    ] = None,
    preset_name: Annotated[
        str | None,
        typer.Option("--preset", metavar="NAME", help=f"Sizes of a kind: {', '.join(PRESETS)}.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="TOML file of settings; flags win.", show_default=False),
    ] = None,
    cpu: Cpu = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    settings: dict[str, Any],
) -> None:
    """Train a model on text: cllm train corpus.txt"""
    make_settings(settings)  # wrong usage is told before anything is read
    if resume and (force or init_from):
        other = "--force" if force else "--init-from"
        raise ConfigError(f"--resume and {other} exclude each other", "--resume goes on with the run as it is")
    given = merge(preset(preset_name) if preset_name else {}, read_config(config) if config else {}, settings)
    allow_threads(given.get("threads"))
    check_val(given.get("val"), files0_from)
    corpus = named_files(corpus, files0_from, "CORPUS", needed_by="train")

    from cllm_cli.reporting.reporter import make_reporter
    from cllm_cli.reporting.terminal import tell_note
    from cllm_cli.training import train as run_training
    from cllm_cli.training.signals import StopSignals

    signals, unheard = StopSignals(patient=False), False
    try:
        with signals, make_reporter(json=json, quiet=quiet) as reporter:
            records = run_training(
                corpus,
                out or default_folder(corpus),
                resume=resume,
                force=force,
                init_from=init_from,
                stdin=getattr(sys.stdin, "buffer", None),
                tell=tell_note,
                stop=lambda: signals.received or (signal.SIGPIPE if unheard else 0),
                **given,
            )
            for record in records:
                signals.patient = True
                try:
                    reporter.show(record)
                except OSError:  # a closed pipe or terminal, a full disk
                    unheard = True  # the run saves what it has, as if it had been asked to
                    with contextlib.suppress(Interrupted):
                        for _ in records:
                            pass
                    raise
    except (KeyboardInterrupt, OSError) as error:
        # The second signal; or the first one was that the terminal went away, which cannot be told the results.
        if isinstance(error, OSError) and not signals.received:
            raise
        number = signals.received or signal.SIGINT
        unchanged = "no step was made" if force else "nothing was changed"
        hint = "what was saved before, if anything, is there: --resume goes on" if signals.patient else unchanged
        raise Interrupted(number, "ended at once", hint) from None
