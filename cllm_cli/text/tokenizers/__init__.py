"""Text to token ids and back: the table of tokenizers, and how one is chosen or loaded.

Importing this costs nothing: a tokenizer's module, and NumPy with it, is loaded when one is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    },
)


def builder_of(spec: str) -> Builder:
    """What learns the tokenizer that `spec` ("byte", "char") names from a corpus. Raises ConfigError."""
    name, colon, argument = spec.partition(":")
    tokenizer: type[Tokenizer] = TOKENIZERS.load(name)
    if colon:
        raise ConfigError(f"tokenizer '{name}' takes no argument, not {argument!a}", f"use --tokenizer {name}")
    return tokenizer.builder()


def tokenizer_from_json(facts: object) -> Tokenizer:
    """The tokenizer whose `to_json` gave `facts`.

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
    return tokenizer.from_json(facts)
