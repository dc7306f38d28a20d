"""Training as a library: what `cllm train` does, as a generator of records.

    from cllm_cli.training import train

    for record in train(["corpus.txt"], "runs/first", n_layer=2, steps=500):
        if record.event == "eval":
            ...

Settings are those of `cllm_cli.config.Settings`. The generator may be left at any record: what was saved last stays.
Errors are `cllm_cli.errors.CllmError`; whatever is wrong with settings and text is raised before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from cllm_cli.training.records import Record


def train(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    init_from: str | Path | None = None,
    stdin: BinaryIO | None = None,
    tell: Callable[[str], None] = lambda _: None,
    stop: Callable[[], int] = lambda: 0,
    **settings: Any,
) -> Iterator[Record]:
    """Trains on `sources` (files, folders, "-") into the run folder `out`; yields records, Start first and End last.

    `tell` hears, before it is opened, which file is read only because the run that is resumed names it. `stop` is asked
    between steps; a signal's number makes the run save and raise Interrupted, 0 lets it go on.
    """
    from cllm_cli.training import session
    from cllm_cli.training.loop import Loop

    if resume:
        ready = session.resume(sources, Path(out), settings, stdin, tell)
    else:
        ready = session.start(sources, Path(out), settings, force, Path(init_from) if init_from else None, stdin)
    try:
        yield from Loop(ready, stop).run()
    finally:
        ready.folder.unlock()
