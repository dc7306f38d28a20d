"""`cllm generate`: text from a run's best model, to standard output as it is produced."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cllm_cli.commands.copying import CheckCopy, CopyCheck, CorpusPaths
from cllm_cli.commands.options import Cpu, Debug, Json, Quiet, Threads, as_utf8
from cllm_cli.config import LARGEST


def generate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder made by cllm train.")],
    prompt: Annotated[
        str, typer.Option("--prompt", metavar="TEXT", help="What the text begins with; - reads standard input.")
    ] = "",
    tokens: Annotated[
        int, typer.Option("--tokens", metavar="N", min=1, max=LARGEST, help="Tokens to write at most.")
    ] = 500,
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature", metavar="X", min=0.0, help="0 takes the likeliest token, 1 the model's own odds."
        ),
    ] = 0.8,
    top_k: Annotated[
        int, typer.Option("--top-k", metavar="N", min=0, help="Draw from the k likeliest tokens; 0: from all.")
    ] = 0,
    top_p: Annotated[
        float,
        typer.Option("--top-p", metavar="X", min=0.0, max=1.0, help="Draw from the likeliest that make up this share."),
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="The same seed writes the same text.")] = 1337,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", metavar="TEXT", help="End before this text; may be repeated.", show_default=False),
    ] = None,
    check_copy: CheckCopy = False,
    corpus: CorpusPaths = None,
    threads: Threads = None,
    cpu: Cpu = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write text with a trained model."""
    from cllm_cli.commands.preparing import prepare
    from cllm_cli.errors import CorpusError
    from cllm_cli.kernels.threads import use_threads
    from cllm_cli.model.decode import Decoder, Sampling
    from cllm_cli.model.decode import generate as drawn
    from cllm_cli.printable import printable
    from cllm_cli.text.writing import recorded, tokens_within, until
    from cllm_cli.training.machine import available_cores
    from cllm_cli.training.records import json_line
    from cllm_cli.training.run_folder import RunFolder

    use_threads(threads or available_cores())
    folder = RunFolder(run)
    folder.read_settings()  # whether there is a run at all comes first
    prompt, stops = as_utf8(prompt), [as_utf8(text) for text in stop or []]
    tokenizer = folder.read_tokenizer()
    if prompt == "-":
        if sys.stdin is None:
            raise CorpusError("standard input is closed", "pipe the prompt into the command, or give it as text")
        try:
            prompt = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise CorpusError(f"the prompt is no UTF-8: byte {error.start}", "give UTF-8 text") from error
    ids = tokenizer.encode(prompt)
    start = ids if ids.size else [tokenizer.first_token()]
    check = CopyCheck(check_copy, folder, tokenizer, corpus)
    model = folder.load_model()
    sampling = Sampling(temperature, top_k, top_p)
    prepare([*Decoder(model).calls(), *check.calls()], json)
    written = drawn(model, start, sampling, seed, tokenizer.vocab_size, tokenizer.end_of_text)
    safe = printable if sys.stdout.isatty() else str
    text: list[str] = []
    ids_drawn: list[int] = []
    if not json:
        sys.stdout.write(safe(prompt))
    for piece in until(recorded(written, ids_drawn), tokenizer, tokens, stops):
        text.append(piece)
        if not json:
            sys.stdout.write(safe(piece))
            sys.stdout.flush()
    if json:
        sys.stdout.write(json_line({"event": "text", "prompt": prompt, "text": "".join(text)}))
    sys.stdout.write("\n")
    sys.stdout.flush()  # the text comes before what is said about it
    check.tell(check.find(tokens_within(ids_drawn, tokenizer, "".join(text))), json, sys.stderr)
