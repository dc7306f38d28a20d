"""Byte-level byte-pair encoding: ids for the 256 bytes and for pairs of ids that were frequent, pair upon pair.

Words are split by GPT-2's pattern, then merged by the library `tokenizers`. Any bytes come back as they were. Learned
from a corpus (`bpe:SIZE`) id = byte value below 256 and merges follow in the order in which they were found.
(Sennrich, Haddow & Birch 2016, arXiv:1508.07909; Radford et al. 2019, "Language Models are Unsupervised Multitask
Learners")
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from cllm_cli.errors import ConfigError, CorpusError
from cllm_cli.text.tokenizers.base import Builder, TokenArray, Tokenizer, checked_keys, damaged
from cllm_cli.text.tokenizers.cutting import Cutter, runs
from cllm_cli.text.tokenizers.extras import library
from cllm_cli.text.tokenizers.table import MOST_IDS, TableTokenizer, checked_end, stored

BYTES = 256
MOST_LEARNED = 1_000_000
LEAST_COUNT = 2  # of a pair: one that is there once teaches nothing
PATIENCE = 2.0  # seconds
WAITING = 8  # chunks that may wait for the library
LEARNED_PIECE = 1 << 11  # characters: the library takes a few hundred pieces in advance

# GPT-2 writes bytes as printable characters: those that are some in Latin-1 as themselves, the others from U+0100 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(BYTES) if byte not in _PRINTABLE]
ALPHABET = {chr(byte): byte for byte in _PRINTABLE} | {chr(BYTES + n): byte for n, byte in enumerate(_OTHERS)}
CHARACTERS = {byte: character for character, byte in ALPHABET.items()}


class BpeTokenizer(TableTokenizer):
    """`tokens[id]` are strings over the alphabet, None for an id that is special; `merges` are pairs of ids, the first
    ones first.
    """

    kind: ClassVar[str] = "bpe"
    argument: ClassVar[str] = "SIZE"
    lossless = True
    drops_space = False  # known here, probed for others

    def __init__(
        self,
        tokens: Sequence[str | None],
        merges: Sequence[tuple[int, int]],
        own_end: int | None = None,
        end_of_text: int | None = None,
    ) -> None:
        """Raises ConfigError without the library."""
        self.tokens, self.merges = list(tokens), list(merges)
        super().__init__([bytes(ALPHABET[char] for char in token or "") for token in tokens], own_end, end_of_text)
        self._library = _library(self.tokens, self.merges)

    @classmethod
    def builder(cls, argument: str = "") -> Builder:
        digits = argument.lstrip("0")[:9] if argument.isascii() and argument.isdecimal() else ""
        if not BYTES <= int(digits or 0) <= MOST_LEARNED:
            raise ConfigError(
                f"the SIZE of bpe:SIZE is a whole number from {BYTES} to {MOST_LEARNED:,}, not {argument!a:.40}",
                "for example --tokenizer bpe:4096",
            )
        return BpeBuilder(int(digits))

    def encode_texts(self, texts: list[str]) -> list[TokenArray]:
        found = self._library.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=self.dtype) for encoding in found]

    def to_json(self) -> dict[str, Any]:
        return stored(self, tokens=self.tokens, merges=[list(pair) for pair in self.merges])

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> BpeTokenizer:
        checked_keys(facts, cls.kind, ("tokens", "merges"))
        fault = fault_of(facts["tokens"], facts["merges"])
        if fault:
            raise damaged(fault)
        tokens = facts["tokens"]
        end = checked_end(facts, [(token or "").encode() for token in tokens])
        return cls(tokens, [(left, right) for left, right in facts["merges"]], end, end)


def fault_of(tokens: Any, merges: Any) -> str:
    """Why these are no vocabulary and merges, or an empty string."""
    if not isinstance(tokens, list) or not BYTES <= len(tokens) <= MOST_IDS:
        return "its tokens are no list of a possible length"
    if not all(
        token is None or (isinstance(token, str) and token and ALPHABET.keys() >= set(token)) for token in tokens
    ):
        return "its tokens are not all strings over the alphabet of bytes"
    texts = {token for token in tokens if token is not None}
    if len(texts) + tokens.count(None) != len(tokens):
        return "its tokens are not distinct"
    if not texts >= ALPHABET.keys():
        return "its tokens lack some of the 256 bytes"
    if not isinstance(merges, list) or len(merges) > MOST_IDS:
        return "its merges are no list of a possible length"
    for pair in merges:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            return "its merges are not all pairs"
        if not all(type(part) is int and 0 <= part < len(tokens) and tokens[part] is not None for part in pair):
            return "its merges are not all of its ids"
        if tokens[pair[0]] + tokens[pair[1]] not in texts:
            return "it has no id for what a merge gives"
    return "" if len(set(map(tuple, merges))) == len(merges) else "its merges are not distinct"


class BpeBuilder:
    """Counts words while it reads, and learns the merges at the end.

    The library asks for text whereas text is given to a builder, so it runs in a thread of its own, as it would be
    anyway; a queue that holds a few chunks is between them.
    """

    size = BYTES
    final = dense = False
    surveys = True

    def __init__(self, size: int) -> None:
        self._wanted = size
        self._trainer = library("tokenizers").trainers.BpeTrainer(
            vocab_size=size, min_frequency=LEAST_COUNT, initial_alphabet=list(ALPHABET), show_progress=False
        )
        self._texts: queue.Queue[list[str] | None] = queue.Queue(WAITING)
        self._library = _library([], [])
        self._learner: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._abandoned = self._ended = False
        self._cutter = Cutter(most=LEARNED_PIECE)
        self._learned = 0

    def begin(self, name: str, offset: int = 0) -> None:
        self._cutter = Cutter(most=LEARNED_PIECE)

    def encode(self, chunk: bytes) -> TokenArray:
        self._count(self._cutter.push(chunk))
        return np.empty(0, dtype=np.uint8)

    def end(self) -> TokenArray:
        self._count(self._cutter.flush())
        return np.empty(0, dtype=np.uint8)

    def notices(self) -> list[str]:
        if self._learned == self._wanted:
            return []
        return [f"the text has pairs for {self._learned:,} ids, not for {self._wanted:,}: that many the tokenizer has"]

    def abandon(self) -> None:
        # A full queue wakes the learner too. The library then learns from what it has, whatever it is told, and takes
        # Python's lock once more at its end, which must not be while the interpreter ends: hence the wait. Where there
        # is much to learn that end is far, and nobody who stopped a run waits for it.
        self._abandoned = True
        with contextlib.suppress(queue.Full):
            self._texts.put_nowait(None)
        if self._learner:
            self._learner.join(PATIENCE)

    def finish(self, end_of_text: bool) -> tuple[Tokenizer, TokenArray | None]:
        self._count([])
        self._texts.put(None)
        assert self._learner
        self._learner.join()
        if self._failure:
            raise CorpusError(f"no merges could be learned: {self._failure!a:.200}", "use --tokenizer byte")
        tokens = [CHARACTERS[byte] for byte in range(BYTES)]
        ids = {token: number for number, token in enumerate(tokens)}
        merges = []
        for left, right in json.loads(self._library.to_str())["model"]["merges"]:
            merges.append((ids[left], ids[right]))
            if left + right not in ids:
                ids[left + right] = len(tokens)
                tokens.append(left + right)
        self._learned = len(tokens)
        return BpeTokenizer(tokens, merges, None, len(tokens) if end_of_text else None), None

    def _count(self, pieces: list[str]) -> None:
        if not self._learner:
            self._learner = threading.Thread(target=self._learn, daemon=True)
            self._learner.start()
        self._texts.put([run for piece in pieces for run in runs(piece) if isinstance(run, str)])

    def _learn(self) -> None:
        try:
            self._library.train_from_iterator(self._given(), trainer=self._trainer)
        except BaseException as error:  # the library's own panics are no Exception; `finish` tells of it
            self._failure = error
            for _ in self._given():
                pass

    def _given(self) -> Iterator[str]:
        """What the builder is given, until it has all."""
        while not self._ended:
            texts = self._texts.get()
            if texts is None or self._abandoned:
                self._ended = True
            else:
                yield from texts
        if self._abandoned and not self._failure:
            raise EOFError("reading failed")


def _library(tokens: Sequence[str | None], merges: Sequence[tuple[int, int]]) -> Any:
    """The library's tokenizer: GPT-2's pattern, bytes as characters, and these merges."""
    tokenizers = library("tokenizers")
    vocabulary = {token: number for number, token in enumerate(tokens) if token is not None}
    pairs = [(tokens[left], tokens[right]) for left, right in merges]
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=pairs))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return made
