"""Tokenizers that are there as files, told apart by what is in them.

- `tokenizer.json` of the library `tokenizers`: a JSON object with a `model`;
- `tokenizer.json` of a run of ours: a JSON object with a `kind`, taken as it is;
- GPT-2's `vocab.json` (a JSON object of ids by token) and `merges.txt` (a pair of tokens a line), side by side;
- a SentencePiece model: a Protocol Buffers message whose first field is a piece, so that its first byte is 0x0A;
- a folder that holds one of these.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cllm_cli.errors import ConfigError, RunError
from cllm_cli.printable import one_line
from cllm_cli.regular import open_regular
from cllm_cli.text.tokenizers.base import Builder, TokenArray, Tokenizer
from cllm_cli.text.tokenizers.table import TableEncoder, end_among

LARGEST = 64 << 20  # bytes of a tokenizer's file that anyone could mean
MODEL_START = b"\n"
KINDS = "a tokenizer is a tokenizer.json, vocab.json with merges.txt, a SentencePiece .model, or a folder of these"


def builder_from(path: str) -> Builder:
    """A builder whose tokenizer is in the file or folder `path`. Raises ConfigError where there is none."""
    place = _file_in(Path(path))
    content = _read(place)
    name = one_line(str(place))
    try:
        if place.name == "merges.txt":
            return _gpt2(place.with_name("vocab.json"), place)
        if content.startswith(MODEL_START):
            from cllm_cli.text.tokenizers.sentencepiece import builder_of as from_model

            return from_model(content)
        facts = _json(content)
        if isinstance(facts.get("model"), dict):
            from cllm_cli.text.tokenizers.huggingface import builder_of as from_description

            return from_description(facts, _named_ends(place.parent))
        if "kind" in facts:
            return _of_a_run(facts)
        return _gpt2(place, place.with_name("merges.txt"))
    except ValueError as error:
        raise ConfigError(f"{name} is no tokenizer: {error}", KINDS) from error


def _file_in(path: Path) -> Path:
    """The file to begin with: of a folder the first of those that may be there."""
    if not path.is_dir():
        return path
    models = sorted(path.glob("*.model"))
    known = [path / "tokenizer.json", path / "vocab.json", path / "merges.txt", *models]
    found = [file for file in known if file.is_file()]
    if not found:
        raise ConfigError(f"there is no tokenizer in the folder {one_line(str(path))}", KINDS)
    if len(models) > 1 and found[0] in models:
        raise ConfigError(f"there are {len(models)} models in the folder {one_line(str(path))}", "name one of them")
    return found[0]


def _read(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {one_line(str(path))}: {error.strerror}", KINDS) from error
    if len(content) > LARGEST:
        raise ConfigError(f"{one_line(str(path))} is too large to be a tokenizer", KINDS)
    return content


def _json(content: bytes) -> dict[str, Any]:
    """A JSON object. Raises ValueError."""
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is neither JSON nor a SentencePiece model") from error
    if not isinstance(facts, dict):
        raise ValueError("it is no JSON object")
    return facts


def _gpt2(vocabulary: Path, merges: Path) -> Builder:
    """Raises ValueError where the two are no byte-level vocabulary."""
    from cllm_cli.text.tokenizers.bpe import ALPHABET, BpeTokenizer, fault_of

    ids = _json(_read(vocabulary))
    if not ids or not all(type(number) is int and 0 <= number < 2 * len(ids) for number in ids.values()):
        raise ValueError("it has neither a model nor ids by token")
    if len(set(ids.values())) != len(ids):
        raise ValueError("its ids are not distinct")
    lines = _read(merges).decode("utf-8").splitlines()
    if lines and lines[0].startswith("#version"):
        del lines[0]
    pairs = [tuple(line.split(" ")) for line in lines if line]
    if not all(len(pair) == 2 and pair[0] in ids and pair[1] in ids for pair in pairs):
        raise ValueError(f"a line of {one_line(merges.name)} is no pair of its tokens")
    made = {left + right for left, right in pairs}
    specials = {token: number for token, number in ids.items() if token not in made and token not in ALPHABET}
    tokens: list[str | None] = [None] * (max(ids.values()) + 1)
    for token, number in ids.items():
        if token not in specials:
            tokens[number] = token
    ranked = [(ids[left], ids[right]) for left, right in pairs]
    fault = fault_of(tokens, ranked)
    if fault:
        raise ValueError(fault)
    return TableEncoder(BpeTokenizer(tokens, ranked, end_among(specials, _named_ends(vocabulary.parent))))


class Kept:
    """The builder of a run's tokenizer, which stays as it is, so that text is in the very ids of that run."""

    surveys = False

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._encoder = tokenizer, tokenizer.encoder()
        self.size, self.final, self.dense = self._encoder.size, self._encoder.final, self._encoder.dense

    def begin(self, name: str, offset: int = 0) -> None:
        self._encoder.begin(name, offset)

    def encode(self, chunk: bytes) -> TokenArray:
        return self._encoder.encode(chunk)

    def end(self) -> TokenArray:
        return self._encoder.end()

    def notices(self) -> list[str]:
        return self._encoder.notices()

    def abandon(self) -> None:
        pass

    def finish(self, end_of_text: bool) -> tuple[Tokenizer, TokenArray | None]:
        return self._tokenizer, None


def _of_a_run(facts: dict[str, Any]) -> Builder:
    """Raises ValueError where it is damaged."""
    from cllm_cli.text.tokenizers import tokenizer_from_json

    try:
        return Kept(tokenizer_from_json(facts))
    except RunError as error:
        raise ValueError(error.message) from error


def _named_ends(folder: Path) -> list[str]:
    """What files beside a tokenizer call the token that ends a text."""
    names = []
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        try:
            token = _json(_read(folder / name)).get("eos_token")
        except (ConfigError, ValueError):
            continue
        text = token.get("content") if isinstance(token, dict) else token
        names += [text] if isinstance(text, str) else []
    return names
