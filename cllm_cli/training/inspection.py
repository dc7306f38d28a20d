"""What a path is, and what is in it: a text, a run, a token store or a tokenizer. Only reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from cllm_cli.config import LARGEST, Settings, stated
from cllm_cli.errors import ConfigError, RunError
from cllm_cli.printable import one_line
from cllm_cli.text.documents import AS_IT_IS, Reading
from cllm_cli.text.store import Store, single_store
from cllm_cli.text.survey import survey
from cllm_cli.text.tokenized import store_facts
from cllm_cli.text.tokenizers import builder_of, tokenizer_from_json
from cllm_cli.text.tokenizers.base import Tokenizer
from cllm_cli.text.tokenizers.table import TableEncoder, TableTokenizer
from cllm_cli.training import checkpoint
from cllm_cli.training.json_files import LARGEST_TEXT, read_json
from cllm_cli.training.metrics import events_of
from cllm_cli.training.resolve import model_config
from cllm_cli.training.run_folder import RunFolder
from cllm_cli.training.tensor_files import open_tensors, read_tokens

T = TypeVar("T")

SHOWN_IDS = 8
HEAD = 1 << 10  # bytes; `to_json` begins with the kind, the library tokenizers with the tokens that were added
MOST_NATS = 1e18  # in a loss that anyone could have had
NO_LOSSES = dict.fromkeys(("train_loss", "val_loss", "best_val_loss", "best_step"))


def inspected(
    paths: Sequence[str], tokenizer_spec: str, stdin: BinaryIO | None = None, reading: Reading = AS_IT_IS
) -> dict[str, Any]:
    """What is in `paths`: {"event": "text" | "run" | "store" | "tokenizer", …}, ready for JSON. A text is read as told.

    Raises CorpusError or RunError for what cannot be read.
    """
    if len(paths) == 1 and paths[0] != "-":
        path = Path(paths[0])
        if single_store(paths):
            store = Store(path)
            return {"event": "store", **store_facts(store), "whole": store.is_whole()}
        if is_run(path):
            return {"event": "run", **run_facts(RunFolder(path))}
        if is_tokenizer(path):
            return {"event": "tokenizer", **tokenizer_facts(path, tokenizer_from_json(read_json(path)))}
        if is_foreign_tokenizer(path):
            return {"event": "tokenizer", **tokenizer_facts(path, _as_in_its_file(paths[0]))}
    return {"event": "text", **survey(paths, tokenizer_spec, stdin, reading=reading)}


def tokenizer_of_ids(spec: str) -> Tokenizer:
    """The tokenizer that `spec` names, which must be there without a text. Raises ConfigError."""
    builder = builder_of(spec)
    if not builder.final or builder.surveys:
        raise ConfigError(
            f"--tokenizer {one_line(spec)} is learned from a text, ids have theirs already", "give the path of a file"
        )
    return builder.finish(end_of_text=True)[0]


def _as_in_its_file(path: str) -> Tokenizer:
    """A tokenizer of another program, with the end of text that its file declares, if any."""
    builder = builder_of(path)
    tokenizer, _ = builder.finish(end_of_text=False)
    if isinstance(builder, TableEncoder) and isinstance(tokenizer, TableTokenizer):
        tokenizer.set_end_of_text(tokenizer.own_end)
    return tokenizer


def is_run(path: Path) -> bool:
    """Whether `path` is a run, perhaps one that was killed before its first step."""
    try:
        return path.is_dir() and RunFolder(path).exists()
    except (OSError, ValueError):
        return False


def is_tokenizer(path: Path) -> bool:
    """Whether `path` is a file as `Tokenizer.to_json` is written."""
    try:
        if path.suffix != ".json" or not path.is_file() or path.stat().st_size > LARGEST_TEXT:
            return False
        if b'"kind"' not in _head(path):  # a large text need not be parsed to be told apart
            return False
        facts = read_json(path)
    except (OSError, ValueError, RunError):
        return False
    return isinstance(facts.get("kind"), str) and "vocab_size" in facts


def is_foreign_tokenizer(path: Path) -> bool:
    """Whether `path` is a tokenizer's file as other programs name theirs or begin them, and no text."""
    pair = ("vocab.json", "merges.txt")
    if path.is_dir():
        if (path / "tokenizer.json").is_file() or all((path / name).is_file() for name in pair):
            return True
        # A model may lie among texts: alone, or beside what programs write with it, it is what is meant.
        try:
            kinds = {inner.suffix for inner in path.iterdir() if not inner.name.startswith(".")}
        except OSError:
            return False
        return ".model" in kinds and kinds <= {".model", ".vocab", ".json"}
    if not path.is_file():
        return False
    try:
        named = path.name in {"tokenizer.json", *pair} or path.suffix == ".model"
        return named or (path.suffix == ".json" and b'"added_tokens"' in _head(path))
    except OSError:
        return False


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def tokenizer_facts(path: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Kind and size of a tokenizer, and some of its ids, from the first to the last."""
    last = tokenizer.vocab_size - 1
    ids = sorted({number * last // (SHOWN_IDS - 1) for number in range(SHOWN_IDS)})
    return {
        "path": str(path),
        "tokenizer": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "end_of_text": tokenizer.end_of_text,
        "sha256": tokenizer.digest(),
        "ids": [
            {"id": number, "text": tokenizer.decode([number]), "hex": tokenizer.decode_bytes([number]).hex()}
            for number in ids
        ],
    }


def run_facts(folder: RunFolder) -> dict[str, Any]:
    """A run's settings, parameters, losses and files, and whether it is over, is whole and can go on."""
    settings = folder.read_settings()
    damaged: list[str] = []
    path, manifest, passed = _unless_damaged(lambda: checkpoint.newest(folder), damaged) or (None, {}, [])
    damaged += passed
    step = int(manifest.get("step", 0))
    facts = _unless_damaged(folder.read_facts, damaged)
    tokens = _unless_damaged(lambda: _kept_tokens(folder), damaged)
    layers = _unless_damaged(lambda: _layers(folder, settings, step), damaged)
    losses = _unless_damaged(lambda: _losses(folder), damaged)
    tokenizer = _unless_damaged(lambda: _kind(folder, settings), damaged)
    fits = path is not None and manifest["settings"] == checkpoint.settings_hash(settings)
    text = tokens if facts and facts["from_stdin"] else facts
    sizes = _sizes(folder)
    return {
        "path": str(folder.path),
        "config": stated(settings),
        "params": None if layers is None else sum(layers.values()),
        "layers": [{"name": name, "params": count} for name, count in (layers or {}).items()],
        "step": step,
        "steps": settings.steps,
        **(losses or NO_LOSSES),
        "complete": settings.steps is not None and step >= settings.steps,
        "resumable": fits and None not in (text, losses, tokenizer),
        "damaged": damaged,
        "whole": not damaged,
        "files": sizes,
        "file_bytes": sum(sizes.values()),
        "tokenizer": tokenizer or {"spec": settings.tokenizer, "vocab_size": None},
    }


def _unless_damaged(read: Callable[[], T], damaged: list[str]) -> T | None:
    """What `read` gives; where its file is damaged that is noted, so that the rest of the run can be shown."""
    try:
        return read()
    except (ConfigError, RunError) as error:  # sizes that no model can have
        damaged.append(error.message)
        return None


def _kept_tokens(folder: RunFolder) -> int:
    """How many tokens the run keeps itself: those of validation, all where its text came from standard input."""
    path = folder.data / "tokens.safetensors"
    with open_tensors(path) as tensors:
        return sum(read_tokens(tensors, name, path).size for name in tensors.keys())  # noqa: SIM118  # it is no mapping


def _kind(folder: RunFolder, settings: Settings) -> dict[str, Any]:
    """What is known of a run's tokenizer; its size is only what its file says where its library is not there."""
    try:
        tokenizer = folder.read_tokenizer()
    except ConfigError as error:
        said = read_json(folder.tokenizer).get("vocab_size")
        fits = type(said) is int and 0 <= said <= LARGEST
        note = f"{error.message}, so that it is not checked: {error.hint}"
        return {"spec": settings.tokenizer, "vocab_size": said if fits else None, "note": note}
    return {"spec": settings.tokenizer, "vocab_size": tokenizer.vocab_size, "sha256": tokenizer.digest()}


def _layers(folder: RunFolder, settings: Settings, step: int) -> dict[str, int]:
    """Parameters by layer: embeddings, blocks and the last norm; empty where no weights were saved yet."""
    if step == 0 and not folder.model.exists():
        return {}
    layers: dict[str, int] = {}
    with folder.open_model(model_config(settings)) as tensors:
        for name in sorted(tensors.keys()):
            parts = name.removeprefix("transformer.").split(".")
            layer = ".".join(parts[:2] if parts[0] == "h" else parts[:1])
            layers[layer] = layers.get(layer, 0) + math.prod(tensors.get_slice(name).get_shape())
    # wte, wpe, then h.0, h.1, … h.10 by number, then ln_f
    return dict(sorted(layers.items(), key=lambda item: _place(item[0])))


def _place(layer: str) -> tuple[int, int, str]:
    name, _, number = layer.partition(".")
    if number.isdecimal():
        return 1, int(number), name
    return (0 if name.startswith("w") else 2), 0, name


def _losses(folder: RunFolder) -> dict[str, Any]:
    """The best and the last loss of the run's evaluations. What is no event is passed over."""
    found: dict[str, Any] = dict(NO_LOSSES)
    for event in events_of(folder.metrics):
        loss, step = event.get("val_loss"), event.get("step")
        if event.get("event") != "eval" or not _is_loss(loss) or type(step) is not int or not 0 <= step <= LARGEST:
            continue
        mean = event.get("train_loss")
        found |= {"train_loss": mean if _is_loss(mean) else found["train_loss"], "val_loss": loss}
        if found["best_val_loss"] is None or loss < found["best_val_loss"]:
            found |= {"best_val_loss": loss, "best_step": step}
    return found


def _is_loss(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MOST_NATS


def _sizes(folder: RunFolder) -> dict[str, int]:
    """Bytes by the file or folder in the run."""
    sizes: dict[str, int] = {}
    for item in sorted(folder.path.rglob("*")):
        if item.is_file() and not item.is_symlink():
            name = item.relative_to(folder.path).parts[0]
            sizes[name] = sizes.get(name, 0) + item.stat().st_size
    return sizes
