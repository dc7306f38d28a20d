"""What the checks of a trained run read from its folder, which they leave as it is; and what stands in without one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cllm_cli.checks.differences import DIRECTIONS, place
from cllm_cli.checks.gradflow import Flow
from cllm_cli.checks.trial import Trial, text_trial
from cllm_cli.config import make_settings
from cllm_cli.errors import CheckFailed, CorpusError
from cllm_cli.model.build import ModelConfig
from cllm_cli.model.program import TRAIN
from cllm_cli.presets import preset
from cllm_cli.text.batches import Windows
from cllm_cli.text.tokenizers.base import TokenArray
from cllm_cli.training import checkpoint
from cllm_cli.training.resolve import model_config, schedule_of
from cllm_cli.training.run_folder import RunFolder
from cllm_cli.training.session import Session, rehearsal

BATCH, TIME = 2, 32  # B and T of a check, at most
LARGE = 1e7  # weights of blocks; larger models get a single window, a quarter as long
OPERATIONS = 6e11  # of matrix products that a check may take: some 20 seconds
EVALUATIONS = 17  # forward passes for one numeric derivative, in the mean

FRESH = "nano"  # the preset of a model that is not from a run
BYTES = 256


def run_trial(folder: RunFolder, dtype: Any = np.float64) -> tuple[Trial, int]:
    """A run's best model on the first windows of its validation text; and of how many directions and of how many random
    entries of each tensor a check is not too long. Raises RunError, CheckFailed where a weight is not finite, and
    CorpusError where the text is too short.
    """
    tokens = _validation(folder)
    model = folder.load_model(dtype, finite=False)
    for name, values in model.arena.tensors().items():
        if not np.isfinite(values).all():
            index = np.unravel_index(np.argmin(np.isfinite(values)), values.shape)
            raise CheckFailed(
                f"{name}{place(index)} of shape {list(values.shape)} is {values[index]}",
                "no gradient can be checked with a weight that is not finite",
            )
    batch, time = sizes_for(model.config, int(tokens.size))
    flops = sum(call.layer.flops(call.sizes) for call in model.record(TRAIN, batch, time).calls)
    affordable = OPERATIONS / (max(1, flops) * EVALUATIONS * len(model.arena.parameters))
    return text_trial(model, tokens, batch, time), max(1, min(DIRECTIONS, int(affordable - 1) // 2))


def sizes_for(config: ModelConfig, tokens: int) -> tuple[int, int]:
    """B and T for a check of a model of this size, on a text of so many tokens."""
    batch, time = (1, TIME // 4) if 12 * config.n_layer * config.n_embd**2 > LARGE else (BATCH, TIME)
    time = min(config.block_size, time, tokens - 1)
    return min(batch, math.ceil((tokens - 1) / time)), time


def run_flow(folder: RunFolder) -> tuple[Flow, list[str]]:
    """Steps on a run's validation text from its last checkpoint on (without one: its best weights); and what is to be
    said of that. Raises RunError, and CorpusError where the text is too short.
    """
    tokens, settings = _validation(folder), folder.read_settings()
    checkpoint.check_fits(folder, model_config(settings))
    session = rehearsal(settings, settings.vocab_size or BYTES)
    fingerprint = folder.read_facts()["fingerprint"]
    progress, passed = checkpoint.load(folder, session.tensors(), settings, fingerprint)
    if progress is None:
        folder.read_weights(session.model.arena, finite=False)
    return _flow(session, tokens, progress.step if progress else 0), [f"passed over: {why}" for why in passed]


def fresh_flow(seed: int) -> Flow:
    """The first steps of a new model of the preset `nano`, on the source text of this package, byte by byte."""
    settings = replace(make_settings(preset(FRESH)), seed=seed)
    return _flow(rehearsal(settings, BYTES), package_text(), 0)


def package_text() -> TokenArray:
    """The package's own source files one after another: real text that is always at hand, as byte ids."""
    files = sorted((Path(__file__).parent.parent).rglob("*.py"))
    return np.frombuffer(b"".join(file.read_bytes() for file in files), np.uint8)


def _flow(session: Session, tokens: TokenArray, first: int) -> Flow:
    windows = Windows(tokens, session.model.config.block_size, session.stepper.batch)
    return Flow(session.stepper, schedule_of(session.settings), windows, first)


def _validation(folder: RunFolder) -> TokenArray:
    folder.read_settings()  # whether there is a run is told first
    tokens = folder.read_validation(folder.read_tokenizer())
    if tokens.size < 2:
        raise CorpusError(f"the run's validation text has {tokens.size} tokens, a check needs 2", "use another run")
    return tokens
