"""Checkpoints: everything that resuming needs, so that a resumed run has the same bits as one that never stopped.

A checkpoint is a folder checkpoint/step-N, renamed into place when all of it is on the disk:

    state.safetensors    weights by name, and the optimizer's state as <state>.<name>
    manifest.json        format, version of cllm, step, sampler position, best validation loss, hash of the settings,
                         fingerprint of the corpus, length of metrics.jsonl, size and sha256 of state.safetensors,
                         sha256 of all this

The last `--keep` are kept. Random numbers are functions of seed and step, so step and position are all of their state.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy.typing as npt

import cllm_cli
from cllm_cli.config import Settings, stated
from cllm_cli.errors import RunError
from cllm_cli.model.build import ModelConfig
from cllm_cli.training.durable import entries_hash, file_hash, tensor_chunks, write_folder
from cllm_cli.training.json_files import read_json
from cllm_cli.training.run_folder import RunFolder
from cllm_cli.training.tensor_files import check_model, copy_tensors, open_tensors

FORMAT = 2  # of whatever format, a manifest has its format, the version of cllm, and the hash of all its entries
READ = (1, FORMAT)  # what this version reads
ADDED = {"recent_losses"}  # since format 1
LARGEST_MANIFEST = 1 << 20  # bytes
NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ELOOP}  # EINVAL: no regular file
MOVE_AWAY = "move it out of the run to go on from the one before"
MOST_LOSSES = 1 << 10
FIGURES = {"val_loss", "bits_per_byte", "best_val_loss", "loss_sum", "seconds"}  # of Progress; the others are counts
FREE = frozenset(
    {"steps", "epochs", "minutes", "schedule_steps", "stop_after", "threads", "val", "recompute", "memory"}
    | {"eval_every", "eval_batches", "log_every", "save_every", "sample_every", "keep", "on_nan", "on_spike"}
    | {"encoding", "errors", "format", "field", "split_on", "include", "exclude"}
)
"""Settings that may differ when a run is resumed: its length, its intervals, what it does in trouble, its
threads, its memory, where a file lies whose content is compared, and how the text is read whose content is compared."""


DERIVED = frozenset({"warmup"})
"""What follows from the number of steps unless it is given, and so changes when --minutes becomes one."""
LATER = {"pack": True}
"""Settings that came later, and what earlier versions did: where they say the same, the hash is that of before."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands. loss_sum and loss_count are of the steps since the last evaluation, seconds of training.

    recent_losses are those of the last steps, which tell whether a loss jumps; format 1 has none.
    """

    step: int = 0
    position: int = 0
    evaluated_step: int | None = None
    sampled_step: int | None = None
    val_loss: float | None = None
    bits_per_byte: float | None = None
    best_step: int | None = None
    best_val_loss: float | None = None
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    metrics_bytes: int = 0
    recent_losses: tuple[float, ...] = ()


class _MayBeWholeError(RunError):
    """A checkpoint that this version, or this moment, cannot tell to be damaged."""


def settings_hash(settings: Settings, besides: frozenset[str] = DERIVED) -> str:
    """A hash of the settings that decide a run's bits, but for those in FREE and `besides`."""
    free = FREE | besides
    bound = {name: value for name, value in stated(settings).items() if name not in free and LATER.get(name) != value}
    return hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()


def save(
    folder: RunFolder,
    progress: Progress,
    tensors: Mapping[str, npt.NDArray[Any]],
    settings: Settings,
    fingerprint: str,
) -> Path:
    """Writes a checkpoint, durable when this returns, and removes all but the last `settings.keep`. Raises RunError."""
    folder.check_held()
    path = folder.checkpoints / _name(progress.step)
    manifest = {
        "format": FORMAT,
        "cllm": cllm_cli.__version__,
        **asdict(progress),
        "settings": settings_hash(settings),
        "fingerprint": fingerprint,
    }
    write_folder(path, {"state.safetensors": tensor_chunks(tensors, {"step": str(progress.step)})}, manifest)
    _keep_last(folder, progress.step, settings.keep)
    return path


def load(
    folder: RunFolder, tensors: Mapping[str, npt.NDArray[Any]], settings: Settings, fingerprint: str
) -> tuple[Progress | None, list[str]]:
    """Fills `tensors` from the newest whole checkpoint; gives where it stands, and why newer ones were passed over.

    Only reads. No progress where there is no checkpoint at all. Raises RunError where checkpoints are there and none
    is whole, or where the checkpoint is of other settings or another corpus.
    """
    path, manifest, passed = newest(folder)
    if path is None:
        if passed:
            raise RunError(f"no checkpoint in {folder.checkpoints} is whole: {passed[0]}", "start over with --force")
        return None, passed
    if manifest["fingerprint"] != fingerprint:
        raise RunError(
            f"the corpus is not the one that {folder.path} was trained on",
            "give the same text, or start a new run from these weights with --init-from",
        )
    if manifest["settings"] not in (settings_hash(settings), settings_hash(settings, frozenset())):  # as once it was
        raise RunError(
            f"the settings in {folder.config} are not those of its checkpoint", "restore config.toml as it was"
        )
    with open_tensors(path / "state.safetensors") as source:
        copy_tensors(source, tensors, path)
    return _progress(manifest), passed


def check_fits(folder: RunFolder, config: ModelConfig) -> None:
    """Raise RunError where weights were saved and no file has those of such a model; before memory is taken for it."""
    faults: list[RunError] = []
    for path in folder.saved().values():
        file = path / "state.safetensors"
        try:
            with open_tensors(file, functools.partial(check_model, config=config, path=file)):
                return
        except RunError as error:
            faults.append(error)
            if not is_damage(error):
                break
    if faults:
        newest(folder)  # one that may be whole is refused in its own words
        if not is_damage(faults[-1]):
            raise faults[-1]
        raise RunError(
            f"no checkpoint in {folder.checkpoints} is whole: {faults[0].message}", "start over with --force"
        )
    if os.path.lexists(folder.model):
        with folder.open_model(config):
            pass


def newest(folder: RunFolder) -> tuple[Path | None, dict[str, Any], list[str]]:
    """The newest whole checkpoint and its manifest, if there is one, and why newer ones are passed over. Only reads.

    Raises RunError for one that may be whole, and is not for this version or cannot be read at this moment: what is
    passed over is removed when the run goes on.
    """
    passed: list[str] = []
    for path in folder.saved().values():
        try:
            return path, _read_manifest(path), passed
        except _MayBeWholeError:
            raise
        except RunError as error:
            if not is_damage(error):
                raise _MayBeWholeError(f"cannot read {path}: {_reason(error)}", f"try again, or {MOVE_AWAY}") from error
            passed.append(error.message)
    return None, {}, passed


def is_damage(error: RunError) -> bool:
    """Whether what could not be read is damaged or not there; else it is the system that cannot read it now."""
    cause = error.__cause__
    return not isinstance(cause, OSError | MemoryError) or (isinstance(cause, OSError) and cause.errno in NOT_THERE)


def _reason(error: RunError) -> str:
    return getattr(error.__cause__, "strerror", None) or str(error.__cause__) or error.message


def tidy(folder: RunFolder, step: int, keep: int) -> None:
    """Removes the checkpoints past this step, which are damaged, and of the others all but the last.

    Whoever was killed when it had saved may have left one more. Raises RunError where the folder is another one now.
    """
    folder.check_held()
    for number, path in folder.saved().items():
        if number > step:
            _remove(path)
    _keep_last(folder, step, keep)


def _keep_last(folder: RunFolder, step: int, keep: int) -> None:
    """Of the checkpoints up to this step; one past it that cannot be removed takes nobody's place."""
    for old in [path for number, path in folder.saved().items() if number <= step][keep:]:
        _remove(old)


def _remove(checkpoint: Path) -> None:
    """Removes a checkpoint that nobody needs, where that is possible."""
    with contextlib.suppress(OSError):  # a handle that cannot be closed is not among what rmtree ignores
        shutil.rmtree(checkpoint)


def _read_manifest(path: Path) -> dict[str, Any]:
    """A checkpoint's manifest, after its state was compared with it."""
    try:
        manifest = read_json(path / "manifest.json", LARGEST_MANIFEST)
        if manifest["sha256"] != entries_hash(manifest):
            raise RunError(f"{path} is damaged: its manifest is not as it was written")
        if type(manifest["format"]) is int and manifest["format"] > FORMAT:
            raise _MayBeWholeError(
                f"{path} is of format {manifest['format']}, of cllm {manifest.get('cllm', 'unknown')!a:.20}; "
                f"cllm {cllm_cli.__version__} reads {' and '.join(map(str, READ))}",
                f"go on with the cllm that has written it, or {MOVE_AWAY}",
            )
        if manifest["format"] not in READ:
            raise RunError(f"{path} is damaged: there is no such format")
        part = manifest["parts"]["state.safetensors"]
        state = path / "state.safetensors"
        if state.stat().st_size != part["bytes"] or file_hash(state) != part["sha256"]:
            raise RunError(f"{path} is damaged: its state is not as it was written")
        if path.name != _name(manifest["step"]):
            raise RunError(f"{path} is damaged: it is of step {manifest['step']}")
        needed = {item.name for item in fields(Progress)} | {"settings", "fingerprint"}
        if needed - (set() if manifest["format"] == FORMAT else ADDED) - manifest.keys():
            raise RunError(f"{path} is damaged: its manifest is incomplete")
        _progress(manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged: {type(error).__name__}") from error
    return manifest


def _progress(manifest: Mapping[str, Any]) -> Progress:
    """Where a checkpoint stands. Raises ValueError for what no run has noted, since anyone can compute a checksum."""
    progress = {item.name: manifest[item.name] for item in fields(Progress) if item.name in manifest}
    losses = progress["recent_losses"] = tuple(manifest.get("recent_losses", ()))
    for item in fields(Progress):
        value = progress[item.name]
        if item.name == "recent_losses":
            fits = len(losses) <= MOST_LOSSES and all(map(_is_figure, losses))
        elif value is None:
            fits = item.default is None
        elif item.name in FIGURES:
            fits = _is_figure(value)
        else:
            fits = type(value) is int and 0 <= value < 2**63
        if not fits:
            raise ValueError(item.name)
    return Progress(**progress)


def _is_figure(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < math.inf


def _name(step: int) -> str:
    return f"step-{step:08d}"
