"""Text to token ids and back: the table of tokenizers, and how one is chosen or loaded.

Importing this costs nothing: a tokenizer's module, and NumPy with it, is loaded when one is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cllm_cli.errors import ConfigError, RunError
from cllm_cli.registry import Entry, Registry

if TYPE_CHECKING:
    from cllm_cli.text.tokenizers.base import Builder, Tokenizer

TOKENIZERS = Registry(
    "tokenizer",
    {
        "byte": Entry("cllm_cli.text.tokenizers.byte:ByteTokenizer", "one id a byte: any text, any language, 256 ids"),
        "char": Entry("cllm_cli.text.tokenizers.char:CharTokenizer", "one id for every character seen in the corpus"),
        "bpe": Entry(
            "cllm_cli.text.tokenizers.bpe:BpeTokenizer",
            "`bpe:SIZE` learns that many ids for bytes and frequent pairs of them; a `vocab.json` of GPT-2 with its "
            "`merges.txt`, or their folder, has them (`pip install 'cllm[tokenizers]'`)",
        ),
        "huggingface": Entry(
            "cllm_cli.text.tokenizers.huggingface:HuggingFaceTokenizer",
            "the path of a `tokenizer.json` (`pip install 'cllm[tokenizers]'`)",
        ),
        "sentencepiece": Entry(
            "cllm_cli.text.tokenizers.sentencepiece:SentencePieceTokenizer",
            "the path of a SentencePiece `.model` (`pip install 'cllm[sentencepiece]'`)",
        ),
    },
)


def builder_of(spec: str) -> Builder:
    """What learns the tokenizer that `spec` names from a corpus, or has it from a file.

    `spec` is a name ("byte"), a name and what it needs ("bpe:4096"), or the path of a file or folder. Raises
    ConfigError.
    """
    name, colon, argument = spec.partition(":")
    if name not in TOKENIZERS and _is_path(spec):
        from cllm_cli.text.tokenizers.files import builder_from

        return builder_from(spec)
    tokenizer: type[Tokenizer] = TOKENIZERS.load(name)
    if colon and not tokenizer.argument:
        raise ConfigError(f"tokenizer '{name}' takes no argument, not {argument!a}", f"use --tokenizer {name}")
    if not argument and tokenizer.argument:
        hint = (
            "its path alone is enough, and of a run that of its tokenizer.json"
            if tokenizer.argument == "FILE"
            else "for example --tokenizer bpe:4096"
        )
        raise ConfigError(f"tokenizer '{name}' is written {name}:{tokenizer.argument}", hint)
    return tokenizer.builder(argument)


def names_tokenizer(spec: str, digest: str) -> bool:
    """Whether `spec` stands, without a text, for the tokenizer of that hash. Raises ConfigError for what names none."""
    builder = builder_of(spec)
    known = builder.final and not builder.surveys
    return known and any(builder.finish(end_of_text)[0].digest() == digest for end_of_text in (False, True))


def _is_path(spec: str) -> bool:
    """Whether `spec` is there, or can be nothing but the name of a file."""
    return "\0" not in spec and (
        os.path.lexists(spec) or os.sep in spec or Path(spec).suffix in (".json", ".txt", ".model")
    )


def tokenizer_from_json(facts: object) -> Tokenizer:
    """The tokenizer whose `to_json` gave `facts`, which may have its `digest` beside them as `sha256`.

    `facts` is what a JSON parser made of a file that anyone may have written: whatever is wrong with it is a RunError.
    """
    if not isinstance(facts, Mapping):
        raise RunError("the tokenizer is no JSON object", "the run folder is damaged; train again")
    kind: Any = facts.get("kind")
    if not isinstance(kind, str) or kind not in TOKENIZERS:
        shown = ascii(kind)[:40] if isinstance(kind, str) else f"of type {type(kind).__name__}"
        raise RunError(
            f"the tokenizer's kind is unknown: {shown}",
            f"this version knows: {', '.join(TOKENIZERS)}; the run may come from a later one",
        )
    tokenizer: type[Tokenizer] = TOKENIZERS.load(kind)
    found = tokenizer.from_json({name: value for name, value in facts.items() if name != "sha256"})
    if facts.get("sha256") not in (None, found.digest()):
        raise RunError("the tokenizer is damaged: it is not as it was written", "restore it, or train again")
    return found
