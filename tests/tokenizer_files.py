"""What the tests of tokenizers share: files of every kind, made by the libraries from text of our own, and learning."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import numpy as np
import pytest

from cllm_cli.text.tokenizers import builder_of

END = "<|endoftext|>"


def prose(seed: int, count: int) -> str:
    """Words of several scripts, code and blanks of all kinds, in lines."""
    rng = random.Random(seed)
    parts = [
        "the",
        "cat's",
        "def f(x):",
        "möwe",
        "吾輩は猫である",
        "مرحبا",
        "🎈",
        "12345",
        "--",
        "  ",
        "\t",
        "don't",
        "a_b",
    ]
    lines = (" ".join(rng.choice(parts) for _ in range(rng.randrange(1, 9))) for _ in range(count))
    return "".join(line + rng.choice(["\n", "\r\n", "\n\n", ". "]) for line in lines)


def byte_level(size: int = 400, end: str | None = END, seed: int = 1):
    """A tokenizer of the library, on bytes, as GPT-2's is."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[end] if end else [],
        show_progress=False,
    )
    made.train_from_iterator([prose(seed, 300)], trainer)
    return made


def word_pieces():
    """A tokenizer that drops case and blanks, as BERT's does."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.decoder = tokenizers.decoders.WordPiece()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]", "[SEP]", "[PAD]"], show_progress=False
    )
    made.train_from_iterator([prose(1, 300)], trainer)
    made.enable_padding(pad_id=2, pad_token="[PAD]", length=50)
    made.enable_truncation(3)
    return made


def metaspace():
    """A tokenizer that writes spaces as U+2581 and puts one before each text, with bytes for what it does not know."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    decoders = tokenizers.decoders
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]],
        show_progress=False,
    )
    made.train_from_iterator(["the cat sat on the mat and the dog sat there too " * 50], trainer)
    description = json.loads(made.to_str())
    for token in description["added_tokens"]:
        token["special"] = not token["content"].startswith("<0x")
    description["added_tokens"] = [token for token in description["added_tokens"] if token["special"]]
    return tokenizers.Tokenizer.from_str(json.dumps(description))


def sentence_pieces(text: str | None = None, **options) -> bytes:
    """The bytes of a SentencePiece model; by default one from which every text comes back."""
    sentencepiece = pytest.importorskip("sentencepiece")
    sentencepiece.SetMinLogLevel(5)
    model = io.BytesIO()
    lines = (prose(1, 300) if text is None else text).splitlines()
    options = {
        "model_type": "bpe",
        "vocab_size": 380,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        **options,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, num_threads=1, minloglevel=5, **options
    )
    return model.getvalue()


def write_gpt2(folder: Path, made) -> Path:
    """vocab.json and merges.txt of a byte-level tokenizer, its special tokens in the vocabulary, as GPT-2's are."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = json.loads(made.to_str())
    (folder / "vocab.json").write_text(json.dumps(facts["model"]["vocab"]), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in facts["model"]["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def spec_of(kind: str, folder: Path) -> str:
    """A specification for a registered tokenizer; what it needs is in `folder`."""
    if kind == "bpe":
        pytest.importorskip("tokenizers")
        return "bpe:300"
    if kind == "huggingface":
        byte_level().save(str(folder / "tokenizer.json"))
        return str(folder / "tokenizer.json")
    if kind == "sentencepiece":
        (folder / "some.model").write_bytes(sentence_pieces())
        return str(folder / "some.model")
    return kind


def ids_of(encoder, chunks) -> list[int]:
    """The ids of one document."""
    encoder.begin("text")
    parts = [np.array(encoder.encode(chunk)) for chunk in chunks]
    return np.concatenate([*parts, np.array(encoder.end())]).astype(np.int64).tolist()


def learned(spec: str, chunks, end_of_text: bool = False):
    """A tokenizer from one document, and its final ids."""
    builder = builder_of(spec)
    ids = ids_of(builder, chunks)
    tokenizer, table = builder.finish(end_of_text)
    if builder.surveys:
        assert ids == []
        ids = ids_of(tokenizer.encoder(), chunks)
    return tokenizer, np.array(ids, dtype=np.int64) if table is None else table[ids]
