"""Files of every format, spoiled: an error of ours or sane content, in less than a second, with little memory.

Everything happens in this process: what a stranger's file does to the reader is what is tested. Where a checksum guards
a file, half of the trials state the right one for what was spoiled, as anyone could.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import json
import lzma
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np

from cllm_cli.config import make_settings
from cllm_cli.config_file import read_config
from cllm_cli.errors import CllmError
from cllm_cli.reporting.plots import curve_from_metrics
from cllm_cli.text.corpus import read_corpus
from cllm_cli.text.id_files import open_ids
from cllm_cli.text.store import Store
from cllm_cli.text.tokenized import load_corpus, store_facts
from cllm_cli.text.tokenizers import tokenizer_from_json
from cllm_cli.text.tokenizers.byte import ByteTokenizer
from cllm_cli.training import checkpoint, train
from cllm_cli.training.durable import entries_hash
from cllm_cli.training.inspection import run_facts
from cllm_cli.training.json_files import read_json
from cllm_cli.training.run_folder import RunFolder

from .mutants import spoiled, spoiled_json

TESTS = Path(__file__).parent.parent
sys.path += [str(TESTS), str(TESTS / "text")]  # where pytest finds what tests share

PROCESS = Path("/proc/self")
SLOW = 1.0  # seconds of a call
MEMORY = 100 << 20  # bytes beyond three times the file
TINY = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8, "batch_size": 2, "dropout": 0.0, "steps": 2}
TINY |= {"eval_every": 2, "save_every": 2, "sample_every": 0, "threads": 1}


class Place:
    """A run, a store and what else there is to spoil, made once; `good` are the contents by file."""

    def __init__(self, root: Path) -> None:
        from store_files import stored
        from tokenizer_files import byte_level, sentence_pieces, write_gpt2

        self.root = root
        text = root / "text.txt"
        text.write_text("".join(f"line {n} of {n * n % 97}\n" for n in range(60)), "utf-8")
        for _ in train([text], root / "run", **TINY):
            pass
        self.run = RunFolder(root / "run")
        self.settings = self.run.read_settings()
        stored(root / "small.tok", [text])
        (self.step,) = self.run.checkpoints.iterdir()
        self.tensors = self._tensors()
        self.huggingface = json.loads(byte_level(300).to_str())
        self.piece_model = sentence_pieces(vocab_size=320)
        write_gpt2(root / "gpt2", byte_level(300))

    def _tensors(self):
        from safetensors.numpy import load_file

        return {name: np.zeros_like(values) for name, values in load_file(self.step / "state.safetensors").items()}


def with_data_hash(data: bytes) -> bytes:
    """A safetensors file that states the hash of its own data, as far as there is one."""
    size = int.from_bytes(data[:8], "little")
    with contextlib.suppress(ValueError, RecursionError, TypeError, AttributeError, LookupError):
        header = json.loads(data[8 : 8 + size])
        header["__metadata__"]["sha256"] = hashlib.sha256(data[8 + size :]).hexdigest()
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + size :]
    return data


def spoiled_tensors(data: bytes, rng: Random) -> bytes:
    """Any bytes, or the header as the JSON that it is; with the right hash or not."""
    if rng.random() < 0.6:
        size = int.from_bytes(data[:8], "little")
        header = spoiled_json(data[8 : 8 + size], rng)
        data = len(header).to_bytes(8, "little") + header + data[8 + size :]
    else:
        data = spoiled(data, rng)
    return with_data_hash(data) if rng.random() < 0.5 else data


def spoiled_manifest(data: bytes, rng: Random) -> bytes:
    data = spoiled_json(data, rng)
    if rng.random() < 0.7:
        with contextlib.suppress(ValueError, RecursionError, AttributeError, TypeError):
            manifest = json.loads(data)
            return json.dumps({**manifest, "sha256": entries_hash(manifest)}).encode()
    return data


def open_state_in_order(place: Place) -> None:
    """The state with a manifest that states its size and hash: what reads tensors is to be met."""
    path = place.step / "manifest.json"
    before = path.read_bytes()
    content = (place.step / "state.safetensors").read_bytes()
    manifest = json.loads(before)
    manifest["parts"]["state.safetensors"] |= {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    path.write_text(json.dumps({**manifest, "sha256": entries_hash(manifest)}), "utf-8")
    try:
        open_state(place)
    finally:
        path.write_bytes(before)


def spoiled_store(data: bytes, rng: Random) -> bytes:
    """A store; its facts as JSON, and its counts and checksum made right where asked."""
    from cllm_cli.text.store import DIGEST, HEAD, Layout

    if rng.random() < 0.5:
        magic, order, version, *counts = HEAD.unpack(data[: HEAD.size])
        layout = Layout(*counts)
        text = spoiled_json(data[HEAD.size : HEAD.size + layout.facts_bytes].rstrip(), rng)
        body = data[layout.tokens_at : layout.digest_at]
        new = layout._replace(facts_bytes=len(text))
        moved = new._replace(file_bytes=new.digest_at + DIGEST)
        head = HEAD.pack(magic, order, version, *moved) + text
        data = head.ljust(moved.tokens_at, b"\0") + body + bytes(DIGEST)
    else:
        data = spoiled(data, rng)
    if rng.random() < 0.7 and len(data) > DIGEST:
        data = data[:-DIGEST] + hashlib.sha256(data[:-DIGEST]).digest()
    return data


def check_score(tokens: np.ndarray, size: int) -> None:
    assert tokens.ndim == 1
    assert not tokens.size or int(tokens.max()) < size


def open_model(place: Place) -> None:
    for values in place.run.load_model().arena.tensors().values():
        assert np.isfinite(values).all()


def open_state(place: Place) -> None:
    fingerprint = json.loads((place.run.data / "corpus.json").read_text("utf-8"))["fingerprint"]
    checkpoint.load(place.run, place.tensors, place.settings, fingerprint)


def open_manifest(place: Place) -> None:
    path, manifest, _ = checkpoint.newest(place.run)
    if path:
        assert 0 <= manifest["step"] < 2**63
    open_state(place)


def open_config(place: Place) -> None:
    settings = place.run.read_settings()
    assert settings == make_settings(read_config(place.run.config))
    place.run.load_model()


def without_hash(path: Path) -> bytes:
    facts = json.loads(path.read_text("utf-8"))
    del facts["sha256"]
    return json.dumps(facts).encode()


def open_run_tokenizer(place: Place) -> None:
    tokenizer = place.run.read_tokenizer()
    use(tokenizer)


def use(tokenizer) -> None:
    ids = tokenizer.encode("the cat")
    assert not ids.size or int(ids.max()) < tokenizer.vocab_size
    tokenizer.decode([0, tokenizer.vocab_size - 1, tokenizer.vocab_size])
    tokenizer.digest()


def open_tokens(place: Place) -> None:
    check_score(place.run.read_validation(ByteTokenizer()), 256)


def open_facts(place: Place) -> None:
    facts = place.run.read_facts()
    assert isinstance(facts["fingerprint"], str)
    with contextlib.suppress(CllmError):
        place.run.read_corpus(ByteTokenizer())


def open_metrics(place: Place) -> None:
    curve_from_metrics(place.run.metrics)
    facts = run_facts(place.run)
    assert facts["val_loss"] is None or abs(facts["val_loss"]) < 1e18


def open_store(place: Place) -> None:
    path = place.root / "small.tok"
    store_facts(Store(path))
    corpus = load_corpus([path], "byte", 0.25)
    check_score(corpus.train, corpus.tokenizer.vocab_size)


def open_json_tokenizer(place: Place) -> None:
    use(tokenizer_from_json(read_json(place.root / "tokenizer.json")))


def open_foreign(name: str):
    def reader(place: Place) -> None:
        from cllm_cli.text.tokenizers import builder_of

        use(builder_of(str(place.root / name)).finish(False)[0])

    return reader


def open_text(name: str):
    def reader(place: Place) -> None:
        corpus = read_corpus([place.root / name], "byte", 0.3)
        check_score(corpus.train, 257)

    return reader


def open_bin(name: str):
    def reader(place: Place) -> None:
        assert open_ids(place.root / name).ndim == 1

    return reader


def formats(place: Place):
    """Name → file, its good content, how it is spoiled, how it is read."""
    run = place.run
    found = {
        "weights": (run.model, None, spoiled_tensors, open_model),
        "state": (place.step / "state.safetensors", None, spoiled, open_state),
        "state in order": (place.step / "state.safetensors", None, spoiled_tensors, open_state_in_order),
        "manifest": (place.step / "manifest.json", None, spoiled_manifest, open_manifest),
        # Without the hashes that they carry: what comes after those is to be met.
        "config": (run.config, run.config.read_bytes().partition(b"\n")[2], spoiled, open_config),
        "tokenizer byte": (run.tokenizer, without_hash(run.tokenizer), spoiled_json, open_run_tokenizer),
        "validation tokens": (run.data / "tokens.safetensors", None, spoiled_tensors, open_tokens),
        "corpus facts": (run.data / "corpus.json", None, spoiled_json, open_facts),
        "metrics": (run.metrics, None, spoiled, open_metrics),
        "token store": (place.root / "small.tok", None, spoiled_store, open_store),
        "vocab.json": (place.root / "gpt2" / "vocab.json", None, spoiled_json, open_foreign("gpt2")),
        "SentencePiece model": (place.root / "some.model", place.piece_model, spoiled, open_foreign("some.model")),
    }
    for kind, facts in tokenizers(place).items():
        path = place.root / "tokenizer.json"
        found[f"tokenizer {kind}"] = (path, json.dumps(facts).encode(), spoiled_json, open_json_tokenizer)
    for name, content in texts().items():
        found[name] = (place.root / name, content, spoiled, open_text(name))
    header = np.zeros(256, "<i4")
    header[:3] = (20240520, 1, 100)
    ids = np.arange(100, dtype="<u2").tobytes()
    found["nanoGPT"] = (place.root / "a.bin", ids, spoiled, open_bin("a.bin"))
    found["llm.c"] = (place.root / "b.bin", header.tobytes() + ids, spoiled, open_bin("b.bin"))
    return found


def tokenizers(place: Place) -> dict[str, dict]:
    """What a run stores of each kind of tokenizer."""
    from tokenizer_files import learned, prose

    from cllm_cli.text.tokenizers.huggingface import HuggingFaceTokenizer
    from cllm_cli.text.tokenizers.sentencepiece import SentencePieceTokenizer

    return {
        "char": {"kind": "char", "vocab_size": 7, "end_of_text": 6, "characters": " aceht"},
        "bpe": learned("bpe:300", [prose(3, 100).encode()], True)[0].to_json(),
        "huggingface": HuggingFaceTokenizer(place.huggingface).to_json(),
        "sentencepiece": SentencePieceTokenizer(place.piece_model).to_json(),
    }


def texts() -> dict[str, bytes]:
    """Corpora by the name of their file."""
    more = {"meta": {"a": [1, 2.5, None]}}
    rows = "".join(json.dumps({"text": f"row {n} möwe", "n": n, **more}) + "\n" for n in range(8)).encode()
    table = "id,text\n" + "".join(f'{n},"row ""{n}"", one"\n' for n in range(8))
    found = {"rows.jsonl": rows, "rows.csv": table.encode(), "a.gz": gzip.compress(rows * 20, mtime=0)}
    found |= {"a.bz2": bz2.compress(rows * 20), "a.xz": lzma.compress(rows * 20)}
    with contextlib.suppress(ImportError):
        import zstandard

        found["a.zst"] = zstandard.ZstdCompressor(write_checksum=True).compress(rows * 20)
    return found


def run(count: int, seed: int, names: tuple[str, ...] = ()) -> dict:
    """`count` trials of each format (or of those in `names`), and what went wrong."""
    failures, done, slowest, most = [], {}, 0.0, 0
    refused = 0
    root = Path(tempfile.mkdtemp(prefix="mutations"))
    silent = os.open(os.devnull, os.O_WRONLY)
    stderr = os.dup(2)
    try:
        place = Place(root)
        os.dup2(silent, 2)  # libraries print their panics
        chosen = {name: each for name, each in formats(place).items() if not names or name in names}
        for name, (path, good, spoil, read) in chosen.items():
            rng = Random(f"{seed} {name}")
            good = path.read_bytes() if good is None else good
            path.write_bytes(good)
            read(place)
            for trial in range(count):
                bad = spoil(good, rng)
                path.write_bytes(bad)
                before = memory_now()
                wrong, no, took = attempt(read, place)
                if took > SLOW:  # what is slow is slow again; what waited for the machine is not
                    took = min(took, attempt(read, place)[2])
                refused += no
                if wrong:
                    failures.append([name, trial, wrong])
                slowest = max(slowest, took)
                if took > SLOW:
                    failures.append([name, trial, f"took {took:.1f} s"])
                more = peak() - before
                most = max(most, more)
                if more > MEMORY + 3 * len(bad):
                    failures.append([name, trial, f"took {more >> 20} MiB for {len(bad)} bytes"])
            path.write_bytes(good)
            done[name] = count
    finally:
        os.dup2(stderr, 2)
        os.close(silent)
        os.close(stderr)
        shutil.rmtree(root, ignore_errors=True)
    return {
        "trials": sum(done.values()),
        "formats": len(done),
        "refused": refused,
        "slowest": round(slowest, 3),
        "most_mib": most >> 20,
        "failures": len(failures),
        "first": failures[:40],
    }


def attempt(read: Callable[[Place], None], place: Place) -> tuple[str, bool, float]:
    """What went wrong, whether the file was refused as it should be, and the seconds that it took."""
    began = time.perf_counter()
    wrong, refused = "", False
    try:
        read(place)
    except CllmError as error:
        refused, wrong = True, "" if error.message else "no message"
    except BaseException as error:  # a library's panic is no Exception
        wrong = f"{type(error).__name__}: {error}"[:200]
    return wrong, refused, time.perf_counter() - began


def memory_now() -> int:
    """The bytes that this process has; from here on `peak` tells the most."""
    PROCESS.joinpath("clear_refs").write_text("5", "utf-8")
    return peak()


def peak() -> int:
    """The most bytes that this process has had since `memory_now`."""
    lines = PROCESS.joinpath("status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) << 10
