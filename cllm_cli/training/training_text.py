"""The text that a run was trained on, found and read again.

A run notes where its text came from; text from standard input it keeps itself. What is read again must have the
fingerprint of what was trained on: figures about another text would be worse than none.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cllm_cli.errors import ConfigError, CorpusError, RunError
from cllm_cli.regular import check_regular
from cllm_cli.text.reading import reading_of
from cllm_cli.text.sources import STANDARD_INPUT, shown
from cllm_cli.text.store import single_store
from cllm_cli.text.tokenized import load_corpus
from cllm_cli.text.tokenizers.base import TokenArray, Tokenizer
from cllm_cli.training.run_folder import RunFolder

REMEDY = "--corpus PATH names the text that it was trained on, wherever it is now"


def origin_of(sources: Sequence[str | Path], val: str | Path | None) -> dict[str, Any]:
    """What a run notes about where its text came from: `sources`, and `val` where that is text of its own."""
    return {"sources": [_lasting(source) for source in sources], "val": None if val is None else _lasting(val)}


def training_text(
    folder: RunFolder,
    tokenizer: Tokenizer,
    sources: Sequence[str] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> TokenArray:
    """The training tokens of a run: those that it keeps, or its text read again, from `sources` if they are given.

    What a file of the run names is told before it is opened, since anyone may have written that file.

    Raises ConfigError for `-` as a source, CorpusError where the text cannot be read or is another one, RunError where
    nothing says where it is.
    """
    if STANDARD_INPUT in (sources or []):
        raise ConfigError("--corpus takes files and folders, not standard input", "give the text's own path")
    settings, facts = folder.read_settings(), folder.read_facts()
    if facts["from_stdin"] and not sources:
        return folder.read_corpus(tokenizer).train
    known, val = _origin(facts)
    if not sources and not known:
        raise RunError(f"{folder.path} does not say where its training text is", REMEDY)
    val = None if single_store(sources or known) else val or settings.val
    named = [*([] if sources else known), *([val] if val else [])]
    if named:
        tell(f"reading what {folder.path} names as its text: {', '.join(map(shown, named))}")
    try:
        for path in named:
            check_text(path, folder.path)
        corpus = load_corpus(
            sources or known,
            settings.tokenizer,
            settings.val_fraction,
            val,
            None,
            tokenizer,
            reading_of(settings),
        )
    except CorpusError as error:
        message = f"the training text of {folder.path} cannot be read again: {error.message}"
        raise CorpusError(message, REMEDY) from error
    if corpus.fingerprint != facts["fingerprint"]:
        if sources:
            names = ", ".join(map(shown, sources))
            raise CorpusError(f"{names} is not the text that {folder.path} was trained on", "give that, unchanged")
        raise CorpusError(f"the training text of {folder.path} has changed since it was trained", REMEDY)
    return corpus.train


def check_text(path: str, named_in: Path) -> None:
    """Raise CorpusError unless `path`, which the file or folder `named_in` names, is a file or folder.

    A FIFO would be waited for and a device may never end: those must have been named by the user.
    """
    try:
        if stat.S_ISDIR(Path(path).stat().st_mode):
            return
        check_regular(Path(path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CorpusError(f"cannot read {shown(path)}, which {named_in} names: {reason}", REMEDY) from error


def _origin(facts: Mapping[str, Any]) -> tuple[list[str], str | None]:
    """What `origin_of` noted; no sources in a run of an earlier version, or in one whose file is damaged."""
    sources, val = facts.get("sources"), facts.get("val")
    whole = isinstance(sources, list) and all(isinstance(source, str) for source in sources)
    return sources if whole and sources else [], val if isinstance(val, str) else None


def _lasting(source: str | Path) -> str:
    """A path that means the same from any folder."""
    return STANDARD_INPUT if str(source) == STANDARD_INPUT else str(Path(source).absolute())
