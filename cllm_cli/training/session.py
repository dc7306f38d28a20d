"""A session: all that a training run needs before its first step, made anew, resumed, or from another's weights.

Text is read and everything is checked before anything is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from cllm_cli.config import Settings, flag_of, known_setting, make_settings, merge, stated
from cllm_cli.errors import ConfigError, RunError
from cllm_cli.kernels.threads import use_threads
from cllm_cli.model.build import Model, ModelConfig
from cllm_cli.model.init import initialize
from cllm_cli.model.recompute import NONE
from cllm_cli.optim import OPTIMIZERS
from cllm_cli.optim.base import Optimizer, Updater
from cllm_cli.printable import one_line
from cllm_cli.text.corpus import Corpus, check_long_enough
from cllm_cli.text.reading import reading_of
from cllm_cli.text.sources import STANDARD_INPUT, shown
from cllm_cli.text.store import single_store
from cllm_cli.text.tokenized import check_reading, load_corpus, store_settings
from cllm_cli.text.tokenizers import TOKENIZERS, names_tokenizer
from cllm_cli.text.tokenizers.base import Tokenizer, token_dtype
from cllm_cli.text.tokenizers.char import CharTokenizer
from cllm_cli.training import checkpoint
from cllm_cli.training.checkpoint import FREE, Progress
from cllm_cli.training.machine import available_cores
from cllm_cli.training.memory import BATCH, MODEL, OTHERWISE, choose_recompute
from cllm_cli.training.resolve import model_config, resolve, sampler_of
from cllm_cli.training.run_folder import RunFolder
from cllm_cli.training.step import Stepper
from cllm_cli.training.training_text import check_text, origin_of

UPDATER_SETTINGS = ("beta1", "beta2", "eps", "momentum", "nesterov", "weight_decay", "lr", "lr_embed")


@dataclass
class Session:
    """A run that is ready to train. `wanted` are the settings as they were given, `progress` says from where."""

    folder: RunFolder
    wanted: Settings
    settings: Settings
    corpus: Corpus
    model: Model
    updater: Updater
    stepper: Stepper
    progress: Progress
    notices: list[str]

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """What a checkpoint holds: weights and optimizer state by name."""
        return {**self.model.arena.tensors(), **self.updater.tensors()}

    @property
    def memory(self) -> dict[str, int]:
        """Planned bytes."""
        parts = {
            "params": self.model.arena.values.nbytes,
            "grads": self.model.arena.gradients.nbytes,
            "optimizer": self.updater.bytes,
            "activations": self.model.workspace.buffer.nbytes,
        }
        return {**parts, "total": sum(parts.values())}


def start(
    sources: Sequence[str | Path],
    out: Path,
    given: Mapping[str, Any],
    force: bool = False,
    init_from: Path | None = None,
    stdin: BinaryIO | None = None,
) -> Session:
    """A new run in `out`, which is locked from here on."""
    folder = RunFolder(out)
    folder.check_new(force)
    source = RunFolder(init_from) if init_from else None
    inherited = {**store_settings(sources), **(_sizes_of(source) if source else {})}
    check_reading(sources, given)
    wanted = make_settings(inherited, given)
    known = source.read_tokenizer() if source else None
    other = known is not None and wanted.tokenizer != inherited["tokenizer"]
    if known and other and not names_tokenizer(wanted.tokenizer, known.digest()):
        raise ConfigError(
            f"--init-from needs the tokenizer of that run, {one_line(inherited['tokenizer'])}", "leave --tokenizer out"
        )
    reading = reading_of(wanted)
    corpus = load_corpus(sources, wanted.tokenizer, wanted.val_fraction, wanted.val, stdin, known, reading)
    settings = resolve(wanted, corpus)
    check_long_enough(corpus, settings.block_size or 1)
    use_threads(settings.threads or available_cores())
    if source:
        _check_weights(source, model_config(settings))
    settings = choose_recompute(settings, flexible=(BATCH,) if source else (BATCH, MODEL))
    session = _build(folder, wanted, settings, corpus)
    session.notices += _ineffective(given, settings)
    initialize(session.model.arena, settings.seed)
    if source:
        source.read_weights(session.model.arena)
    with folder.locked():
        folder.check_new(force)  # another process may have trained there meanwhile
        folder.clear()
        try:
            folder.create(settings, session.model, corpus, origin_of(sources, corpus, init_from))
            if source:  # whoever resumes from step 0 must find these weights
                checkpoint.save(folder, session.progress, session.tensors(), settings, corpus.fingerprint)
        except BaseException:
            with contextlib.suppress(RunError):
                folder.clear()  # half a run would stand in the way of the next try
            raise
    return session


def resume(
    sources: Sequence[str | Path],
    out: Path,
    given: Mapping[str, Any],
    stdin: BinaryIO | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Session:
    """The run in `out` from its last checkpoint; `tell` hears of a text that only the run's own file names.

    Raises RunError without a checkpoint, ConfigError for other settings.
    """
    folder = RunFolder(out)
    check_reading(sources, given)
    stored = folder.read_settings()
    settings = resumed_settings(stored, given)
    tokenizer = folder.read_tokenizer()
    facts = folder.read_facts()
    if facts["from_stdin"] and STANDARD_INPUT in map(str, sources):
        corpus = folder.read_corpus(tokenizer)
    else:
        # The run's own tokenizer, since what it was made from may be gone, or is learned again in minutes; one that
        # knows only the characters of its text could not even read another text, which the fingerprint tells of.
        known = None if isinstance(tokenizer, CharTokenizer) else tokenizer
        reading = reading_of(settings)
        val = None if single_store(sources) and not given.get("val") else settings.val
        if val and val != given.get("val"):  # its name comes from the run's own file
            check_text(val, folder.config, "--val FILE names it, wherever it is now")
            tell(f"reading what {folder.path} names as its --val text: {shown(val)}")
        corpus = load_corpus(sources, tokenizer.kind, stored.val_fraction, val, stdin, known, reading)
        if corpus.fingerprint != facts["fingerprint"]:
            raise RunError(
                f"the corpus is not the one that {folder.path} was trained on",
                "give the same text, or start a new run from these weights with --init-from",
            )
        if corpus.tokenizer.digest() != tokenizer.digest():  # the run knows characters that this text does not have
            corpus = load_corpus(sources, tokenizer.kind, stored.val_fraction, val, stdin, tokenizer, reading)
    wanted, settings = settings, resolve(settings, corpus)
    checkpoint.check_fits(folder, model_config(settings))
    use_threads(settings.threads or available_cores())
    settings = choose_recompute(settings, asked="recompute" in merge(given), flexible=())
    with folder.locked():
        session = _build(folder, wanted, settings, corpus)
        progress, passed = restore(session)
        session.notices += [f"passed over: {why}" for why in passed]
        if progress is None:
            session.notices.append("no checkpoint was saved yet: the run starts again from step 0")
            progress = Progress()
        session.progress = progress
        session.stepper.sampler.position = progress.position
        _look_at_best(session)
        folder.write_sizes(session.model, tokenizer)
        folder.write_settings(settings)
    return session


def restore(session: Session) -> tuple[Progress | None, list[str]]:
    """Weights and optimizer of the newest whole checkpoint, or those that a run begins with where there is none.

    Gives where the checkpoint stands, and why newer ones were passed over, which are removed, as are all but the last.
    Raises RunError as `checkpoint.load`, and where all that were saved are gone: from the beginning on, the run would
    write over its best weights. What began with another run's weights has no other beginning.
    """
    folder = session.folder
    folder.check_held()
    progress, passed = checkpoint.load(folder, session.tensors(), session.settings, session.corpus.fingerprint)
    if progress is not None:
        checkpoint.tidy(folder, progress.step, session.settings.keep)
    elif folder.was_saved():
        raise RunError(
            f"the checkpoints of {folder.path} are gone",
            f"restore {folder.checkpoints}; --init-from {folder.path} starts a new run from its best weights",
        )
    elif folder.read_facts().get("init_from"):
        raise RunError(
            f"{folder.path} has no checkpoint, and was to begin with another run's weights",
            "start it again with --init-from and --force",
        )
    else:
        initialize(session.model.arena, session.settings.seed)
        for state in session.updater.tensors().values():
            state.fill(0)
    return progress, passed


def _look_at_best(session: Session) -> None:
    """Has a run whose best weights are damaged or gone take those that it goes on from, until it has scored better.

    Raises RunError where they may be whole, and cannot be read at this moment.
    """
    folder, progress = session.folder, session.progress
    if progress.best_step is None:  # whatever is saved has them too
        return
    try:
        with folder.open_model(session.model.config) as tensors:
            if (tensors.metadata() or {}).get("val_loss") != "null":  # as below, in an earlier try
                return
            raise RunError(f"{folder.model} has not the best weights any more")
    except RunError as error:
        if not checkpoint.is_damage(error):
            raise
        session.notices.append(
            f"{error.message}; instead of the best weights, of step {progress.best_step}, "
            f"there are those of step {progress.step} now"
        )
    folder.write_model(session.model.arena, progress.step, None)
    session.progress = replace(progress, best_step=None, best_val_loss=None)


def rehearsal(
    settings: Settings, vocabulary: int, changes: Mapping[str, Any] | None = None, otherwise: str = OTHERWISE
) -> Session:
    """A session on random tokens that writes nothing: for timing a model of these settings, resolved or not.

    `otherwise` is what is to be done where there is not enough memory.
    """
    settings = make_settings(_by_steps(stated(settings)), changes or {})
    tokens = np.random.default_rng(settings.seed).integers(0, vocabulary, 1 << 20, token_dtype(vocabulary))
    tokenizer: Tokenizer = TOKENIZERS.load("byte").builder().finish(end_of_text=False)[0]
    text = Corpus(tokens[: 1 << 19], tokens[1 << 19 :], tokenizer, 1, "", 1 << 19, 1 << 19)
    resolved = resolve(replace(settings, vocab_size=max(vocabulary, tokenizer.vocab_size)), text)
    asked = bool((changes or {}).get("recompute"))
    resolved = choose_recompute(replace(resolved, vocab_size=vocabulary), asked, flexible=(), otherwise=otherwise)
    session = _build(RunFolder(Path()), settings, resolved, text)
    initialize(session.model.arena, settings.seed)
    return session


def resumed_settings(stored: Settings, given: Mapping[str, Any]) -> Settings:
    """The stored settings with those of the given ones that may change. Raises ConfigError for any other difference."""
    wanted = merge(given)
    make_settings(wanted)
    for name, value in wanted.items():
        if name not in FREE and value != getattr(stored, name):
            raise ConfigError(
                f"{flag_of(name)} {value} is not what the run was started with ({getattr(stored, name)})",
                "--resume goes on with the same model, data and batches; start a new run for others",
            )
    kept = {name: value for name, value in stated(stored).items() if name not in ("threads", "stop_after")}
    if "memory" in wanted:
        del kept["recompute"]  # it follows from the memory anew
    if {"epochs", "minutes", "steps"} & wanted.keys():
        kept = {name: value for name, value in kept.items() if name not in ("epochs", "minutes", "steps")}
    else:
        kept = _by_steps(kept)
    return make_settings(kept, {name: value for name, value in wanted.items() if name in FREE})


def _by_steps(values: Mapping[str, Any]) -> dict[str, Any]:
    """Stored settings without epochs and minutes, once the number of steps that they came to is known."""
    known = values.get("steps") is not None
    return {name: value for name, value in values.items() if not (known and name in ("epochs", "minutes"))}


def _build(folder: RunFolder, wanted: Settings, settings: Settings, corpus: Corpus) -> Session:
    model = Model(model_config(settings), recompute=settings.recompute or NONE)
    model.arena.make_gradients()
    updater = Updater(
        OPTIMIZERS.load(settings.optimizer), model.arena, {name: getattr(settings, name) for name in UPDATER_SETTINGS}
    )
    sampler = sampler_of(corpus, settings)
    assert settings.batch_size is not None
    stepper = Stepper(
        model, updater, sampler, settings.batch_size, settings.grad_accum, settings.grad_clip, settings.seed
    )
    return Session(folder, wanted, settings, corpus, model, updater, stepper, Progress(), list(corpus.notices))


def _ineffective(given: Mapping[str, Any], settings: Settings) -> list[str]:
    """Notices of what was given and is not read by the optimizer and the schedule that were chosen."""
    optimizer: Optimizer = OPTIMIZERS.load(settings.optimizer)
    named = {known_setting(name) for name, value in given.items() if value is not None}
    found = [
        f"{flag_of(name)} has no effect with --optimizer {settings.optimizer}"
        for name in UPDATER_SETTINGS
        if name in named and not optimizer.reads(name)
    ]
    if "decay_fraction" in named and settings.schedule != "wsd":
        found.append(f"--decay-fraction has no effect with --schedule {settings.schedule}")
    return found


def _check_weights(source: RunFolder, config: ModelConfig) -> None:
    """Another run's best weights, before memory is taken for them.

    Raises ConfigError where the model is not of the same sizes, RunError where they are not those of such a model.
    """
    if replace(model_config(source.read_settings()), dropout=0.0) != replace(config, dropout=0.0):
        raise ConfigError(f"the model's sizes are not those of {source.path}", "with --init-from leave the sizes out")
    with source.open_model(config):
        pass


def _sizes_of(source: RunFolder) -> dict[str, Any]:
    """The settings that another run's weights decide."""
    stored = source.read_settings()
    names = ("arch", "n_layer", "n_head", "n_embd", "n_hidden", "block_size", "vocab_size", "tokenizer")
    return {name: getattr(stored, name) for name in names}
