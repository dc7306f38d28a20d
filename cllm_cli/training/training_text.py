"""The text that a run was trained on, found and read again.

A run notes where its text came from; text from standard input it keeps itself. What is read again must have the
fingerprint of what was trained on: figures about another text would be worse than none. Where validation was a text of
its own, that is not needed: a second fingerprint is of the training text alone.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cllm_cli.errors import ConfigError, CorpusError, RunError
from cllm_cli.regular import check_regular
from cllm_cli.text.corpus import Corpus, tokens_of
from cllm_cli.text.reading import reading_of
from cllm_cli.text.sources import STANDARD_INPUT, shown
from cllm_cli.text.store import single_store
from cllm_cli.text.tokenized import load_corpus
from cllm_cli.text.tokenizers.base import TokenArray, Tokenizer
from cllm_cli.training.run_folder import RunFolder

REMEDY = "--corpus PATH names the text that it was trained on, wherever it is now"
TOLD = 5  # paths in a note


def origin_of(sources: Sequence[str | Path], corpus: Corpus, init_from: Path | None = None) -> dict[str, Any]:
    """What a run notes about where its text, and its first weights, came from, beside the facts of the corpus."""
    text = {"sources": [_lasting(source) for source in sources], "text_fingerprint": corpus.text_fingerprint}
    return {**text, "init_from": _lasting(init_from)} if init_from else text


def training_text(
    folder: RunFolder,
    tokenizer: Tokenizer,
    sources: Sequence[str] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> TokenArray:
    """The training tokens of a run: those that it keeps, or its text read again, from `sources` if they are given.

    What a file of the run names is told before it is opened, the first TOLD of it, since anyone may have written that
    file.

    Raises ConfigError for `-` as a source, CorpusError where the text cannot be read or is another one, RunError where
    nothing says where it is.
    """
    if STANDARD_INPUT in (sources or []):
        raise ConfigError("--corpus takes files and folders, not standard input", "give the text's own path")
    settings, facts = folder.read_settings(), folder.read_facts()
    if facts["from_stdin"] and not sources:
        return folder.read_corpus(tokenizer).train
    known = [] if sources else _origin(facts)
    places = sources or known
    if not places:
        raise RunError(f"{folder.path} does not say where its training text is", REMEDY)
    if settings.val is not None and "text_fingerprint" not in facts:
        raise RunError(
            f"{folder.path} has a --val text and notes no fingerprint of its training text alone",
            "an earlier version of cllm has made it; train again to compare with the text",
        )
    if known:
        more = f" and {len(known) - TOLD:,} more" if len(known) > TOLD else ""
        tell(f"reading what {folder.path} names as its text: {', '.join(map(shown, known[:TOLD]))}{more}")
    reading = reading_of(settings)
    wanted = None if single_store(places) else facts.get("text_fingerprint")
    try:
        for path in known:
            check_text(path, folder.path)
        if wanted is not None:
            text = tokens_of(places, tokenizer, reading=reading)
            tokens, found = text.tokens, text.fingerprint
        else:
            corpus = load_corpus(
                places, settings.tokenizer, settings.val_fraction, tokenizer=tokenizer, reading=reading
            )
            tokens, found, wanted = corpus.train, corpus.fingerprint, facts["fingerprint"]
    except CorpusError as error:
        message = f"the training text of {folder.path} cannot be read again: {error.message}"
        raise CorpusError(message, REMEDY) from error
    if found != wanted:
        if sources:
            names = ", ".join(map(shown, sources))
            raise CorpusError(f"{names} is not the text that {folder.path} was trained on", "give that, unchanged")
        raise CorpusError(f"the training text of {folder.path} has changed since it was trained", REMEDY)
    return tokens


def check_text(path: str, named_in: Path, remedy: str = REMEDY) -> None:
    """Raise CorpusError unless `path`, which the file or folder `named_in` names, is a file or folder.

    A FIFO would be waited for and a device may never end: those must have been named by the user.
    """
    try:
        if stat.S_ISDIR(Path(path).stat().st_mode):
            return
        check_regular(Path(path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CorpusError(f"cannot read {shown(path)}, which {named_in} names: {reason}", remedy) from error


def _origin(facts: Mapping[str, Any]) -> list[str]:
    """The sources that `origin_of` noted; none in a run of an earlier version, or in one whose file is damaged."""
    sources = facts.get("sources")
    whole = isinstance(sources, list) and all(isinstance(source, str) for source in sources)
    return sources if whole and sources else []


def _lasting(source: str | Path) -> str:
    """A path that means the same from any folder."""
    return STANDARD_INPUT if str(source) == STANDARD_INPUT else str(Path(source).absolute())
