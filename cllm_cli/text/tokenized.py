"""A corpus to a token store and back: the same tokens, split and facts as from the text itself.

What is checked when a store is opened for training, in this order: its header against the file's size, its checksum
over every byte, and then, since anyone can compute a checksum, whatever later code relies on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cllm_cli.config import TEXT, Settings, flag_of, known_setting, make_settings, setting_of, stated
from cllm_cli.errors import ConfigError, CorpusError, RunError
from cllm_cli.printable import one_line
from cllm_cli.text.corpus import Corpus, read_corpus
from cllm_cli.text.documents import AS_IT_IS, Reading
from cllm_cli.text.reading import reading_of
from cllm_cli.text.split import SPLIT_RULE, Document, fingerprint_of
from cllm_cli.text.store import REMEDY, DocumentTable, Store, damaged, single_store, store_chunks
from cllm_cli.text.stored_corpus import restored
from cllm_cli.text.tokenizers import TOKENIZERS, names_tokenizer, tokenizer_from_json
from cllm_cli.text.tokenizers.base import Tokenizer

KEYS: dict[str, type | tuple[type, ...]] = {
    "corpus": dict,
    "tokenizer": dict,
    "tokenizer_sha256": str,
    "tokenizer_spec": str,
    "val_fraction": (float, type(None)),
    "skipped": dict,
    "notices": list,
}
"""What the facts of a store are, and of which type. One that knows how its text was read has `reading` beside."""
READING = frozenset(item.name for item in fields(Settings) if setting_of(item).group == TEXT)
LARGEST_READING = 1 << 18  # bytes of them in JSON: a run's config.toml, which holds them too, may have 1 MiB
SPEC = re.compile(r"[a-z0-9-]+(:[0-9]{1,9})?")


def load_corpus(
    sources: Sequence[str | Path],
    tokenizer_spec: str,
    val_fraction: float,
    val: str | Path | None = None,
    stdin: BinaryIO | None = None,
    tokenizer: Tokenizer | None = None,
    reading: Reading = AS_IT_IS,
) -> Corpus:
    """What `read_corpus` gives, from a token store where `sources` are one; its whole content is verified first.

    Raises ConfigError where the store was made by other settings, CorpusError where it is not as it was written.
    """
    path = single_store(sources)
    if path is None:
        return read_corpus(sources, tokenizer_spec, val_fraction, val, stdin, tokenizer, reading)
    store, facts = _whole(path)  # before settings are compared that may be wrong in a damaged file
    if val is not None:
        raise ConfigError(
            f"the token store {store.name} has a validation text of its own", "give --val to cllm tokenize"
        )
    there = facts["tokenizer_spec"]
    same = tokenizer is not None or tokenizer_spec == there
    if not same and not names_tokenizer(tokenizer_spec, facts["tokenizer_sha256"]):
        raise _other_setting(store, "--tokenizer", there, tokenizer_spec)
    if facts["val_fraction"] is not None and val_fraction != facts["val_fraction"]:
        raise _other_setting(store, "--val-fraction", facts["val_fraction"], val_fraction)
    if tokenizer is not None:
        _check_ids(store, facts, tokenizer)
    return opened_corpus(store, facts)


def opened_for(path: Path, tokenizer: Tokenizer) -> tuple[Store, Corpus]:
    """A token store, verified whole, that is in the ids of `tokenizer`, and its corpus, however it was split.

    Raises ConfigError where its ids are another tokenizer's, CorpusError where it is not as it was written.
    """
    store, facts = _whole(path)
    _check_ids(store, facts, tokenizer)
    return store, opened_corpus(store, facts)


def store_settings(sources: Sequence[str | Path]) -> dict[str, Any]:
    """The settings that a store among `sources` decides; none where there is no store."""
    path = single_store(sources)
    if path is None:
        return {}
    store = Store(path)
    facts = checked_facts(store)
    how = reading_settings(store)
    return {"tokenizer": facts["tokenizer_spec"], "val_fraction": facts["val_fraction"], **how}


def check_reading(sources: Sequence[str | Path], given: Mapping[str, Any]) -> None:
    """Raise ConfigError for settings of how text is read where it is in a token store, unless the store says the same.

    A run's config.toml states them all, so that the same store has to accept it.
    """
    wanted = {known_setting(name) for name, value in given.items() if value is not None} & READING
    path = single_store(sources) if wanted else None
    if path is None:
        return
    there, asked = make_settings(reading_settings(Store(path))), make_settings(given)
    other = [item.name for item in fields(Settings) if item.name in wanted]
    other = [name for name in other if getattr(there, name) != getattr(asked, name)]
    if other:
        raise ConfigError(
            f"{flag_of(other[0])} says how text is read, and a token store has no text",
            "leave it out; cllm tokenize takes it",
        )


def how_read(settings: Settings) -> dict[str, Any]:
    """Those of the settings that say how text is read, ready for JSON."""
    return {name: value for name, value in stated(settings).items() if name in READING}


def corpus_chunks(
    corpus: Corpus, tokenizer_spec: str, val_fraction: float | None, reading: Mapping[str, Any] | None = None
) -> Iterator[bytes | memoryview]:
    """The bytes of the store of a corpus that was read with its documents, and as `reading` says (`how_read`).

    A tokenizer that was a file is noted by its kind alone: a store needs no other file. `val_fraction` is None where
    validation was chosen by hand. Raises CorpusError for a corpus that is too short.
    """
    assert corpus.contents is not None
    if not corpus.train.size or not corpus.val.size:
        raise CorpusError("the text is too short: one side of it would have no tokens", "give more text")
    facts = {
        "corpus": corpus.facts(),
        "tokenizer": corpus.tokenizer.to_json(),
        "tokenizer_sha256": corpus.tokenizer.digest(),
        "tokenizer_spec": tokenizer_spec if _is_spec(tokenizer_spec) else corpus.tokenizer.kind,
        "val_fraction": val_fraction,
        "reading": dict(reading or {}),
        "skipped": corpus.skipped,
        "notices": corpus.notices,
    }
    return store_chunks(facts, corpus.train, corpus.val, corpus.contents)


def checked_facts(store: Store) -> Mapping[str, Any]:
    """The facts of a store, each of its type. Raises CorpusError."""
    facts = store.facts
    for name, kind in KEYS.items():
        if name not in facts or not isinstance(facts[name], kind):
            raise damaged(store.name, f"'{name}' is missing or of the wrong type")
    fraction, spec = facts["val_fraction"], facts["tokenizer_spec"]
    if fraction is not None and not 0 < fraction < 1:
        raise damaged(store.name, "its share of validation text is none")
    if not _is_spec(spec):
        raise CorpusError(
            f"the token store {store.name} is of an unknown tokenizer, {ascii(spec)[:40]}",
            f"this version knows: {', '.join(TOKENIZERS)}; the store may come from a later one",
        )
    if not all(isinstance(text, str) for text in facts["notices"]):
        raise damaged(store.name, "its notices are no texts")
    if not all(type(count) is int for count in facts["skipped"].values()):
        raise damaged(store.name, "its counts of what was left out are no numbers")
    reading_settings(store)
    return facts


def reading_settings(store: Store) -> dict[str, Any]:
    """How the text of a store was read, as settings; none where it does not say. Raises CorpusError."""
    found = store.facts.get("reading", {})
    if not isinstance(found, dict) or not found.keys() <= READING:
        raise damaged(store.name, "how its text was read is not said as settings")
    try:
        settings = make_settings(found)
        reading_of(settings)
    except ConfigError as error:
        raise damaged(store.name, f"how its text was read: {one_line(error.message)}") from error
    if len(json.dumps(how_read(settings))) > LARGEST_READING:
        raise damaged(store.name, "how its text was read takes more than any setting could mean")
    return how_read(settings) if found else {}


def store_facts(store: Store) -> dict[str, Any]:
    """What a store says of itself, ready for JSON. Nothing is verified beyond the types of its facts."""
    layout, facts = store.layout, checked_facts(store)
    corpus, names = facts["corpus"], ("train_bytes", "val_bytes", "fingerprint", "split_rule")
    return {
        "path": str(store.path),
        "documents": layout.documents,
        "train_tokens": layout.train,
        "val_tokens": layout.val,
        **{name: corpus.get(name) for name in names},
        "val_fraction": facts["val_fraction"],
        "reading": reading_settings(store),
        "skipped": facts["skipped"],
        "tokenizer": facts["tokenizer_spec"],
        "vocab_size": facts["tokenizer"].get("vocab_size"),
        "tokenizer_sha256": facts["tokenizer_sha256"],
        "token_bytes": layout.width,
        "file_bytes": layout.file_bytes,
        "sha256": store.digest.hex(),
    }


def opened_corpus(store: Store, facts: Mapping[str, Any]) -> Corpus:
    """The corpus in a store whose checksum is right, its tokens mapped. Raises CorpusError for what cannot be so."""
    try:
        tokenizer = tokenizer_from_json(facts["tokenizer"])
        if tokenizer.digest() != facts["tokenizer_sha256"]:
            raise damaged(store.name, "its tokenizer is not the one whose hash it has")
        corpus = restored(facts["corpus"], tokenizer, store.train, store.val)
    except RunError as error:
        raise CorpusError(f"the token store {store.name} is damaged: {error.message}", REMEDY) from error
    if corpus.split_rule != SPLIT_RULE:
        raise CorpusError(f"the token store {store.name} was split by another rule than this version's", REMEDY)
    if not corpus.train.size or not corpus.val.size:
        raise damaged(store.name, "a side of it has no tokens")
    _check_documents(store, corpus)
    by_hand = store.documents["val"] != 0
    return replace(
        corpus,
        from_stdin=False,  # the store can be read again
        skipped={one_line(reason): count for reason, count in facts["skipped"].items()},
        notices=[one_line(text) for text in facts["notices"]],
        contents=store.documents,
        text_fingerprint=fingerprint_of(_documents(store.documents[~by_hand]), ()) if by_hand.any() else None,
    )


def _whole(path: Path) -> tuple[Store, Mapping[str, Any]]:
    """A store that is as it was written, and its facts. Raises CorpusError."""
    store = Store(path)
    facts = checked_facts(store)
    store.check()
    return store, facts


def _check_ids(store: Store, facts: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    if tokenizer.digest() != facts["tokenizer_sha256"]:
        raise ConfigError(
            f"the token store {store.name} is in the ids of another tokenizer than that run's",
            "write it with --tokenizer RUN/tokenizer.json, or give the text itself",
        )


def _is_spec(spec: str) -> bool:
    """Whether `spec` names a tokenizer without a file."""
    return SPEC.fullmatch(spec) is not None and spec.partition(":")[0] in TOKENIZERS


def _check_documents(store: Store, corpus: Corpus) -> None:
    """Raise CorpusError unless the documents fill the tokens, and have the bytes and the fingerprint of the corpus."""
    table, tokens = store.documents, corpus.train.size + corpus.val.size
    if table.size != corpus.documents:
        raise damaged(store.name, "it has another number of documents")
    # Sums cannot overflow once each is known to be small.
    if not table.size or max(int(table[name].max()) for name in ("first", "tokens", "bytes")) > 2**40:
        raise damaged(store.name, "its documents are larger than can be")
    order = np.lexsort((table["tokens"], table["first"]))  # what has no tokens comes before what begins at its place
    ends = np.cumsum(table["tokens"][order])
    if (table["first"][order][1:] != ends[:-1]).any() or table["first"][order][0] != 0 or int(ends[-1]) != tokens:
        raise damaged(store.name, "its documents do not fill its tokens")
    if sum(map(int, table["bytes"])) != corpus.train_bytes + corpus.val_bytes:
        raise damaged(store.name, "its documents have another number of bytes")
    if fingerprint_of(_documents(table[table["val"] == 0]), _documents(table[table["val"] != 0])) != corpus.fingerprint:
        raise damaged(store.name, "its fingerprint is not that of its documents")


def _documents(table: DocumentTable) -> Iterator[Document]:
    for row in table:
        first = int(row["first"])
        yield Document(first, first + int(row["tokens"]), int(row["bytes"]), bytes(row["sha256"]))


def _other_setting(store: Store, flag: str, there: object, given: object) -> ConfigError:
    return ConfigError(
        f"the token store {store.name} was made with {flag} {there}, not {given}",
        f"leave {flag} out, or make another store with cllm tokenize",
    )
