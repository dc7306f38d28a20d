"""A run folder: what a training run leaves, and what eval, generate and --resume read.

config.toml          the resolved settings                tokenizer.json      the tokenizer, whole
model.safetensors    the best weights so far              config.json         the same model's sizes, for transformers
metrics.jsonl        the events of the run                checkpoint/         everything that resuming needs
data/                the validation tokens; all tokens of a corpus that came from standard input
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cllm_cli.config import Settings, make_settings
from cllm_cli.config_file import read_toml, toml_of
from cllm_cli.errors import ConfigError, RunError
from cllm_cli.model.arena import Arena
from cllm_cli.model.build import Model, ModelConfig
from cllm_cli.model.transformers_config import transformers_config
from cllm_cli.text.corpus import Corpus
from cllm_cli.text.stored_corpus import check_tokens, restored
from cllm_cli.text.tokenizers import tokenizer_from_json
from cllm_cli.text.tokenizers.base import TokenArray, Tokenizer
from cllm_cli.training.durable import (
    entries_hash,
    is_temporary,
    sync_folder,
    tensor_chunks,
    write_file,
)
from cllm_cli.training.folder_lock import LOCK, FolderLock
from cllm_cli.training.json_files import read_json
from cllm_cli.training.metrics import events_of
from cllm_cli.training.resolve import model_config
from cllm_cli.training.tensor_files import check_only_model, copy_tensors, open_tensors, read_tokens

OWN = ("config.toml", "config.json", "model.safetensors", "tokenizer.json", "metrics.jsonl", "checkpoint", "data")
STEP = re.compile(r"step-([0-9]{8}|[1-9][0-9]{8,})")  # a checkpoint's name
LARGEST_FACTS = 64 << 20  # bytes of what is noted of a corpus: the names of its files, if they are many


class RunFolder:
    """The files of a run at `path`. Reading raises RunError for whatever is missing or damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.model = path / "config.toml", path / "model.safetensors"
        self.tokenizer, self.metrics = path / "tokenizer.json", path / "metrics.jsonl"
        self.checkpoints, self.data = path / "checkpoint", path / "data"
        self._lock = FolderLock(path)

    def check_links(self) -> None:
        """Raise RunError where a link among the run's files leads out of its folder, which itself may be one.

        Whoever made such a run would have other files read, written over or deleted.
        """
        with _as_run_error(self.path):
            inside = self.path.resolve()
            for link in self._links():
                if not link.resolve().is_relative_to(inside):
                    raise RunError(
                        f"{link} is a link that leads out of the run folder", "put what it stands for in its place"
                    )

    def _links(self) -> Iterator[Path]:
        for item in (self.path / name for name in (*OWN, LOCK)):
            if item.is_symlink():
                yield item
            elif item.is_dir():
                for folder, folders, files in os.walk(item):
                    yield from filter(Path.is_symlink, (Path(folder, name) for name in (*folders, *files)))

    def saved(self) -> dict[int, Path]:
        """The folder of each checkpoint by its step, the newest first; what has another name is somebody else's."""
        steps: dict[int, Path] = {}
        with (
            _as_run_error(self.checkpoints),
            contextlib.suppress(FileNotFoundError),
            os.scandir(self.checkpoints) as items,
        ):
            for item in items:
                found = STEP.fullmatch(item.name)
                if found and item.is_dir(follow_symlinks=False):
                    steps[int(found[1])] = self.checkpoints / item.name
        return dict(sorted(steps.items(), reverse=True))

    def was_saved(self) -> bool:
        """Whether there were checkpoints once. The metrics tell of one, or that the run went on from one; or their
        folder is gone, which every run has, and the weights are there that are saved before the first one.

        Raises RunError.
        """
        for event in events_of(self.metrics):
            if event.get("event") == "checkpoint" or (event.get("event") == "start" and event.get("step")):
                return True
        return not self.checkpoints.is_dir() and self.model.exists()

    def exists(self) -> bool:
        """Whether a run was started here. Many a folder has a config.toml; a run has one of these beside it."""
        return self.config.is_file() and ((self.path / LOCK).exists() or self.metrics.exists())

    def check_new(self, force: bool) -> None:
        """Raises RunError where a new run may not be made; touches nothing."""
        if os.path.lexists(self.path) and not self.path.is_dir():
            raise RunError(f"{self.path} is no folder", "choose another one with --out")
        with _as_run_error(self.path):
            if self.exists():
                if not force and self._holds_work():
                    raise RunError(
                        f"there is a run in {self.path}",
                        "--resume goes on with it, --force starts over, --out DIR is another place",
                    )
            elif self.path.is_dir() and not self._is_left_over():
                raise RunError(f"{self.path} is not empty and no run", "choose another folder with --out")

    def _holds_work(self) -> bool:
        """Whether something is lost when a run is made anew: training, or text that cannot be read again."""
        self.check_links()
        if self.model.exists() or any(self.saved()):
            return True
        try:
            return bool(self.read_facts()["from_stdin"])
        except RunError:
            return True

    def _is_left_over(self) -> bool:
        """Whether there is no more here than a process leaves that was killed before the run had its config.toml."""
        known = {self.tokenizer, self.config.with_suffix(".json"), self.checkpoints, self.data}
        known |= {self.data / "tokens.safetensors", self.data / "corpus.json"}
        lock = self.path / LOCK
        # What is next to them is seen first: it may be the whole disk, where files come and go.
        if any(item not in known | {lock} and not is_temporary(item.name) for item in self.path.iterdir()):
            return False
        found = {item for item in self.path.rglob("*") if not is_temporary(item.name)} - {lock}
        return not found or (lock.exists() and found <= known)

    def lock(self) -> None:
        """Makes the folder and holds it until `unlock` or the process's end. Raises RunError where another holds it."""
        self.check_links()
        self._lock.take(self.path, self.checkpoints, self.data)

    def check_held(self) -> None:
        """Raise RunError where the run that this process has locked is no longer the one at the path."""
        self._lock.check()

    def unlock(self) -> None:
        """Gives the folder back."""
        self._lock.release()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the folder, and keeps it locked unless the body fails; then a folder that was made for it goes.

        But for what another process has trained there, before the lock was had.
        """
        self.lock()
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError, RunError):
                self.check_held()
                if self._lock.made and self._is_left_over():
                    shutil.rmtree(self.path)
            self.unlock()
            raise

    def clear(self) -> None:
        """Removes the run that is here, and nothing that is not of a run; last config.toml, that says it is one."""
        self.check_held()
        with _as_run_error(self.path):
            for name in reversed(OWN):
                item = self.path / name
                if item == self.config and item.exists():
                    sync_folder(self.path)
                if item.is_dir() and not item.is_symlink():
                    shutil.rmtree(item)
                else:
                    item.unlink(missing_ok=True)

    def create(self, settings: Settings, model: Model, corpus: Corpus, origin: Mapping[str, Any] | None = None) -> None:
        """Writes what a run has from its first moment; config.toml last, since it says that there is a run.

        `origin` says where the corpus came from (training/training_text.py).
        """
        self.check_held()
        with _as_run_error(self.path):
            self.checkpoints.mkdir(exist_ok=True)
            self.data.mkdir(exist_ok=True)
        write_file(self.data / "tokens.safetensors", tensor_chunks(corpus.stored_tokens(), {}, hashed=True))
        facts = {**corpus.facts(), **(origin or {})}
        write_file(self.data / "corpus.json", [json.dumps({**facts, "sha256": entries_hash(facts)}, indent=1).encode()])
        tokenizer = {**corpus.tokenizer.to_json(), "sha256": corpus.tokenizer.digest()}
        write_file(self.tokenizer, [json.dumps(tokenizer).encode()])
        self.write_sizes(model, corpus.tokenizer)
        self.write_settings(settings)

    def write_sizes(self, model: Model, tokenizer: Tokenizer) -> None:
        """Writes config.json, which nothing here reads."""
        self.check_held()
        facts = transformers_config(model.config, tokenizer.end_of_text)
        write_file(self.path / "config.json", [json.dumps(facts, indent=1).encode()])

    def write_settings(self, settings: Settings) -> None:
        self.check_held()
        write_file(self.config, [toml_of(settings)])

    def write_model(self, arena: Arena, step: int, val_loss: float | None) -> None:
        """Writes the weights as transformers names them."""
        self.check_held()
        metadata = {"format": "pt", "step": str(step), "val_loss": json.dumps(val_loss)}
        write_file(self.model, tensor_chunks(arena.tensors(), metadata, hashed=True))

    def read_settings(self) -> Settings:
        """The run's settings."""
        if not self.path.is_dir() or not self.config.is_file():
            raise RunError(f"there is no run in {self.path}", "give the folder that cllm train has made")
        self.check_links()
        try:
            return make_settings(read_toml(self.config, as_written=True))
        except ConfigError as error:
            raise RunError(f"{self.config} is damaged: {error.message}", error.hint) from error

    def read_tokenizer(self) -> Tokenizer:
        """The run's tokenizer. Its ids fit into the model, which would read beyond its weights otherwise."""
        tokenizer = tokenizer_from_json(read_json(self.tokenizer))
        rows = self.read_settings().vocab_size
        if rows is not None and tokenizer.vocab_size > rows:
            raise RunError(
                f"{self.tokenizer} has {tokenizer.vocab_size} ids, the model {rows}",
                "it does not belong to this run; restore the run folder, or train again",
            )
        return tokenizer

    def read_corpus(self, tokenizer: Tokenizer) -> Corpus:
        """The corpus that came from standard input, from the tokens that were kept."""
        facts = read_json(self.data / "corpus.json", LARGEST_FACTS)
        path = self.data / "tokens.safetensors"
        with open_tensors(path) as tensors:
            return restored(facts, tokenizer, read_tokens(tensors, "train", path), read_tokens(tensors, "val", path))

    def read_facts(self) -> dict[str, Any]:
        """What is known of the run's corpus: fingerprint, from_stdin, the rest of Corpus.facts(), and its origin."""
        facts = read_json(self.data / "corpus.json", LARGEST_FACTS)
        whole = facts.get("sha256") in (None, entries_hash(facts))
        if not whole or not isinstance(facts.get("fingerprint"), str) or not isinstance(facts.get("from_stdin"), bool):
            raise RunError(f"{self.data / 'corpus.json'} is damaged", "restore the run folder, or train again")
        return facts

    def read_validation(self, tokenizer: Tokenizer) -> TokenArray:
        """The run's validation tokens."""
        path = self.data / "tokens.safetensors"
        with open_tensors(path) as tensors:
            tokens = read_tokens(tensors, "val", path)
        check_tokens(tokens, tokenizer)
        return tokens

    def load_model(self, dtype: Any = np.float32, finite: bool = True) -> Model:
        """The run's best model. Memory is taken for it when its file is known to have all of it.

        A weight that is not finite is an error, unless whoever asks looks for one.
        """
        config = model_config(self.read_settings())
        with self.open_model(config) as tensors:
            model = Model(config, dtype)
            copy_tensors(tensors, model.arena.tensors(), self.model, finite)
        return model

    def read_weights(self, arena: Arena, finite: bool = True) -> None:
        """Fills an arena with the run's best weights."""
        with self.open_model() as tensors:
            copy_tensors(tensors, arena.tensors(), self.model, finite)

    @contextlib.contextmanager
    def open_model(self, config: ModelConfig | None = None) -> Iterator[Any]:
        """The tensors of the run's best weights, which are those of such a model if it is given.

        Raises RunError, also where none were saved yet.
        """
        try:
            self.model.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(
                f"{self.path} has no weights: {self.model} is missing",
                "a run that trains saves them soon, one that ended before goes on with --resume; else restore them",
            ) from None
        except OSError as error:
            raise RunError(f"cannot read {self.model}: {error.strerror}", "try again") from error

        def check(tensors: Any) -> None:
            if config is not None:
                check_only_model(tensors, config, self.model)

        with open_tensors(self.model, check) as tensors:
            yield tensors


@contextlib.contextmanager
def _as_run_error(path: Path) -> Any:
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot use {path}: {error.strerror}", "restore the run folder, or choose another") from error
