"""Every setting of a training run, declared once: name, type, default, range, help.

The flags of `cllm train`, the keys of a TOML file, what a run stores and the table in docs/cli.md all follow from the
fields of `Settings`. Precedence: preset < TOML file < flags. A field that is None is filled in for the corpus and the
optimizer at hand before training starts (`cllm_cli.training.resolve`); the result is shown and stored.
"""

from __future__ import annotations

import difflib
import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from cllm_cli.errors import ConfigError, UsageError, nearest

LARGEST = 10**9  # what no setting needs to exceed, unless it says so: far beyond any machine, and exact everywhere


@dataclass(frozen=True)
class Setting:
    """What a field of `Settings` says beside its type and default.

    low and high are inclusive; `above` is an exclusive lower bound; `below` an exclusive upper one. A number without
    `high` ends at LARGEST. `aliases` are names that people bring along from other tools: accepted, and hidden from the
    help.
    """

    group: str
    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    def fault(self, value: Any) -> str:
        """Why `value` is out of range, or an empty string."""
        if isinstance(value, float) and not math.isfinite(value):
            return "must be a finite number"
        if self.low is not None and value < self.low:
            return f"must be at least {self.low:g}"
        if self.above is not None and value <= self.above:
            return f"must be greater than {self.above:g}"
        high = LARGEST if self.high is None else self.high
        if value > high:
            return f"must be at most {high:,}"
        if self.below is not None and value >= self.below:
            return f"must be less than {self.below:g}"
        return ""


def _setting(default: Any, group: str, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"setting": Setting(group, help, **more)})


MODEL, DATA, TEXT, LENGTH = "Model", "Data", "Text", "Length"
OPTIMIZER, REPORT, MACHINE = "Optimizer", "Reporting", "Machine"


@dataclass(frozen=True)
class Settings:
    """The settings of one training run. None means: chosen for the corpus, the model or the optimizer."""

    arch: str = _setting("gpt2", MODEL, "architecture")
    n_layer: int | None = _setting(None, MODEL, "transformer blocks", low=1, high=10_000)
    n_head: int | None = _setting(None, MODEL, "attention heads", low=1)
    n_embd: int | None = _setting(None, MODEL, "width of the residual stream", low=1)
    n_hidden: int | None = _setting(None, MODEL, "width of the feed-forward layer (default: 4 × n-embd)", low=1)
    block_size: int | None = _setting(None, MODEL, "tokens in a window, T", low=1)
    vocab_size: int | None = _setting(None, MODEL, "rows of the embedding (default: the tokenizer's vocabulary)", low=1)
    dropout: float | None = _setting(None, MODEL, "share of activations dropped while training", low=0, below=1)

    tokenizer: str = _setting("byte", DATA, "how text becomes tokens: byte, char, bpe:SIZE, or a tokenizer's file")
    val_fraction: float = _setting(
        0.1, DATA, "share of the text kept for validation", above=0, below=1, aliases=("val-split",)
    )
    val: str | None = _setting(None, DATA, "validate on this file instead")
    pack: bool = _setting(
        True, DATA, "windows run across documents; --no-pack: none holds tokens of two, what one does not fill is idle"
    )
    batch_size: int | None = _setting(None, DATA, "windows in a micro-batch, B", low=1)
    grad_accum: int = _setting(1, DATA, "micro-batches in a step", low=1, aliases=("gradient-accumulation-steps",))

    encoding: str | None = _setting(
        None, TEXT, "encoding, such as latin-1 (default: as it is, UTF-8; UTF-16 and UTF-32 by their byte-order mark)"
    )
    errors: str = _setting("strict", TEXT, "bytes that are none of the encoding: strict refuses, replace makes U+FFFD")
    format: str = _setting("auto", TEXT, "text, jsonl, csv, tsv or parquet; auto: by name and content")
    field: str = _setting(
        "text", TEXT, "field or column that holds the text in a row; a.b is b within a", aliases=("text-column",)
    )
    split_on: str | None = _setting(
        None, TEXT, r"what stands between two documents of a plain text, such as '\n\n' or '<END>'"
    )
    include: tuple[str, ...] | None = _setting(
        None, TEXT, "of folders, read only what fits, such as '*.txt' or 'en/*'; may be repeated"
    )
    exclude: tuple[str, ...] | None = _setting(
        None, TEXT, "of folders, leave out files and folders that fit; may be repeated"
    )

    steps: int | None = _setting(None, LENGTH, "optimizer steps", low=1, aliases=("max-iters", "max-steps"))
    epochs: float | None = _setting(None, LENGTH, "passes over the training text instead of steps", above=0)
    minutes: float | None = _setting(None, LENGTH, "minutes of training instead of steps", above=0)
    schedule_steps: int | None = _setting(
        None, LENGTH, "step at which the schedule ends (default: where training ends)", low=1
    )
    stop_after: int | None = _setting(None, LENGTH, "stop early at this step and leave the schedule alone", low=1)

    optimizer: str = _setting("adamw", OPTIMIZER, "adamw, sgd or adam-embed")
    lr: float | None = _setting(None, OPTIMIZER, "peak learning rate", above=0, aliases=("learning-rate",))
    lr_embed: float | None = _setting(None, OPTIMIZER, "peak learning rate of the embeddings", above=0)
    min_lr: float | None = _setting(None, OPTIMIZER, "learning rate at the schedule's end (default: lr / 10)", low=0)
    schedule: str = _setting("cosine", OPTIMIZER, "cosine, linear, constant or wsd")
    warmup: int | None = _setting(None, OPTIMIZER, "steps of linear warm-up", low=0, aliases=("warmup-steps",))
    decay_fraction: float = _setting(0.2, OPTIMIZER, "share of the steps that wsd decays in", low=0, high=1)
    weight_decay: float | None = _setting(None, OPTIMIZER, "decoupled decay of the matrices", low=0)
    beta1: float = _setting(0.9, OPTIMIZER, "decay of Adam's first moment", low=0, below=1)
    beta2: float | None = _setting(None, OPTIMIZER, "decay of Adam's second moment", low=0, below=1)
    eps: float = _setting(1e-8, OPTIMIZER, "Adam's epsilon", above=0)
    momentum: float = _setting(0.9, OPTIMIZER, "momentum of sgd", low=0, below=1)
    nesterov: bool = _setting(False, OPTIMIZER, "Nesterov momentum for sgd")
    grad_clip: float = _setting(
        1.0, OPTIMIZER, "largest global gradient norm; 0 turns clipping off", low=0, aliases=("max-grad-norm",)
    )

    eval_every: int | None = _setting(None, REPORT, "steps between evaluations", low=1)
    eval_batches: int | None = _setting(
        None, REPORT, "batches in an evaluation while training (default: a tenth of the time)", low=1
    )
    log_every: int = _setting(10, REPORT, "steps between reported steps", low=1)
    save_every: int | None = _setting(
        None,
        REPORT,
        "steps between checkpoints, beside those by time (default: at an evaluation, 2 % of the time at most)",
        low=1,
    )
    sample_every: int | None = _setting(
        None, REPORT, "steps between samples; 0: none (default: at each evaluation)", low=0
    )

    keep: int = _setting(2, REPORT, "newest checkpoints that are kept", low=1)
    on_nan: str = _setting(
        "stop",
        REPORT,
        "where a number is not finite: stop, skip the step, or rollback to the last checkpoint",
        choices=("stop", "skip", "rollback"),
    )
    on_spike: str = _setting(
        "mark",
        REPORT,
        "where the loss jumps by 6 deviations: mark it, or rollback to the last checkpoint",
        choices=("mark", "rollback"),
    )

    seed: int = _setting(1337, MACHINE, "every random choice follows it", low=0, high=2**63 - 1)
    threads: int | None = _setting(
        None, MACHINE, "threads; the results do not depend on it (default: all cores)", low=1, high=1024
    )
    recompute: str | None = _setting(
        None,
        MACHINE,
        "computed again in backward to save memory: none, cheap or block; the results are the same (default: cheap"
        " where it saves much)",
    )
    memory: str | None = _setting(
        None, MACHINE, "most memory to take, such as 2GB (default: what there is); recompute follows"
    )


def setting_of(item: Field[Any]) -> Setting:
    """The declaration behind a field of `Settings`."""
    declared: Setting = item.metadata["setting"]
    return declared


@functools.cache
def _hints() -> dict[str, Any]:
    return typing.get_type_hints(Settings)


def type_of(item: Field[Any]) -> type:
    """A field's plain type: `int | None` is int, `tuple[str, ...] | None` is tuple."""
    hint = _hints()[item.name]
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    plain: type = typing.get_origin(hint) or hint
    return plain


def flag_of(name: str) -> str:
    """The flag of a setting: `n_layer` is `--n-layer`."""
    return "--" + name.replace("_", "-")


LENGTHS = ("steps", "epochs", "minutes")

ALIASES = {alias: item.name for item in fields(Settings) for alias in setting_of(item).aliases}
"""Names that people bring along from other tools, as they are written after `--`, and the settings that they mean."""


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """One layer of values from several, the later ones winning; None in a layer says nothing.

    A layer that says how long to train replaces whatever an earlier one said of it. Raises ConfigError for unknown
    names.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        said = [(known_setting(name), value) for name, value in layer.items() if value is not None]
        stated = dict(said)
        if len(stated) < len(said):
            twice = next(name for name in stated if sum(other == name for other, _ in said) > 1)
            raise ConfigError(f"'{twice}' is set twice, once by another name", "keep one of them")
        if any(name in stated for name in LENGTHS):
            merged = {name: value for name, value in merged.items() if name not in LENGTHS}
        merged.update(stated)
    return merged


def known_setting(name: str) -> str:
    """The setting that a name means. Raises ConfigError, naming the nearest, where it means none."""
    known = {item.name: item.name for item in fields(Settings)}
    known |= {alias.replace("-", "_"): setting for alias, setting in ALIASES.items()}
    plain = name.replace("-", "_")
    if plain not in known:
        close = difflib.get_close_matches(plain, known, n=1)
        hint = f"did you mean '{known[close[0]]}'?" if close else f"known: {', '.join(sorted(set(known.values())))}"
        raise ConfigError(f"unknown setting {_shown(name)}", hint)
    return known[plain]


def make_settings(*layers: Mapping[str, Any]) -> Settings:
    """Settings from layers of values, merged.

    Raises ConfigError for an unknown name or a value of the wrong type, UsageError for one out of range.
    """
    known = {item.name: item for item in fields(Settings)}
    return Settings(**{name: _checked(known[name], value) for name, value in merge(*layers).items()})


def _checked(item: Field[Any], value: Any) -> Any:
    kind, flag = type_of(item), flag_of(item.name)
    hint = f"{flag}: {setting_of(item).help}"
    if kind is tuple and isinstance(value, list | tuple):
        return tuple(_checked_string(item, each) for each in value)
    if kind is str:
        return _checked_string(item, value)
    fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if not fits:
        raise ConfigError(f"setting '{item.name}' must be {_KINDS[kind]}, not {_shown(value)}", hint)
    fault = setting_of(item).fault(value) if kind in (int, float) else ""
    if fault:
        raise UsageError(f"{flag} {fault}, not {_shown(value)}", hint)
    return float(value) if kind is float else value


def _checked_string(item: Field[Any], value: Any) -> str:
    flag = flag_of(item.name)
    if not isinstance(value, str):
        expected = "a string" if type_of(item) is str else "made of strings"
        raise ConfigError(
            f"setting '{item.name}' must be {expected}, not {_shown(value)}", f"{flag}: {setting_of(item).help}"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{flag} must be UTF-8, not {value!a}", "rename the file") from None
    choices = setting_of(item).choices
    if choices and value not in choices:
        raise ConfigError(f"unknown {flag} {_shown(value)}", nearest(value, choices))
    return value


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", tuple: "a list of strings"}


def _shown(value: Any) -> str:
    """A value from a file, in a length that fits into a message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of more digits than Python writes, or a nest of lists
        return "what was given"
    return text if len(text) <= 60 else f"{text[:57]}..."


def stated(settings: Settings) -> dict[str, Any]:
    """The settings that have a value, in order of declaration: what config.toml and the start record hold."""
    return {item.name: value for item in fields(settings) if (value := getattr(settings, item.name)) is not None}
