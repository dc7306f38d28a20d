"""Tensors from safetensors files that anyone may have written.

What is checked, in this order: that it is a regular file, the size of its header, the header itself (by the library:
depth, types, no overlap and no gap, the number of bytes); then names, types and shapes against the configuration, and
the hash that it may state. Memory is taken for a model only when all of this fits.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from cllm_cli.errors import RunError
from cllm_cli.model.build import ModelConfig, parameter_shapes
from cllm_cli.printable import one_line
from cllm_cli.regular import open_regular
from cllm_cli.text.tokenizers.base import TokenArray
from cllm_cli.training.durable import data_hash, mapped_tensor
from cllm_cli.training.not_finite import not_finite_among

TRAINED_TYPE = "F32"  # as safetensors writes it
TOKEN_TYPES = ("U8", "U16", "U32")
# Bytes of a header that any file may have; a larger file may have a larger one. Read, one takes sixteen times its size.
LARGEST_HEADER = 4 << 20
HEADER_SHARE = 8
REMEDY = "restore it, or train again"


@contextlib.contextmanager
def open_tensors(path: Path, check: Callable[[Any], None] = lambda _: None) -> Iterator[Any]:
    """A safetensors file, its header and the hash that it may state checked.

    `check` sees names, types and shapes first: a file of a few bytes on the disk may say that it has terabytes, and
    hashing takes as long as they would. Raises RunError for a missing or damaged one, also while it is read.
    """
    try:
        while True:
            opened = path.stat()
            _check_header(path)
            with _mapped(path) as tensors:
                check(tensors)
                stated = (tensors.metadata() or {}).get("sha256")
                if stated is None or stated == data_hash(path):
                    yield tensors
                    return
            if os.path.samestat(opened, path.stat()):  # else a run that is trained has put a new one in its place
                raise RunError(f"{path} is damaged: it is not as it was written", REMEDY)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise RunError(f"cannot read {path}: {reason}", "restore the run folder, or train again") from error


def _mapped(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except MemoryError as error:  # a file is mapped whole before its size is compared with its header's
        size = path.stat().st_size
        raise RunError(
            f"cannot read {path}: its {size:,} bytes do not fit into the address space", "allow more (ulimit -v)"
        ) from error


def read_tokens(source: Any, name: str, path: Path) -> TokenArray:
    """The tokens `name` of an open file, not yet compared with a tokenizer. Raises RunError."""
    kind = source.get_slice(name).get_dtype()
    if kind not in TOKEN_TYPES:
        raise RunError(f"{path}: {name} is of type {kind}, not {' or '.join(TOKEN_TYPES)}", REMEDY)
    return mapped_tensor(path, name)


def check_only_model(source: Any, config: ModelConfig, path: Path) -> None:
    """Raise RunError unless an open file has all the weights of such a model, and nothing else that is to be hashed."""
    check_model(source, config, path)
    others = set(source.keys()) - parameter_shapes(config).keys()
    if others and "sha256" in (source.metadata() or {}):
        raise RunError(
            f"{path} has tensors that such a model has not: {one_line(min(others))}",
            "it does not belong to this run's config.toml",
        )


def check_model(source: Any, config: ModelConfig, path: Path) -> None:
    """Raise RunError unless an open file has all the weights of such a model. No memory is taken for them."""
    there = len(source.keys())
    if there < config.n_layer:  # told without looking at a layer after the other
        raise RunError(
            f"{path} has too few tensors for {config.n_layer} layers: {there}",
            "it does not belong to this run's config.toml",
        )
    check_tensors(source, parameter_shapes(config), path)


def check_tensors(source: Any, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Raise RunError unless an open file has all of these tensors, in float32."""
    there = set(source.keys())
    for name, wanted in shapes.items():
        if name not in there:
            raise RunError(f"{path} has no tensor {name}", "it does not belong to this run's config.toml")
        kind = source.get_slice(name).get_dtype()
        if kind != TRAINED_TYPE:
            raise RunError(
                f"{path}: {name} is of type {kind}, not {TRAINED_TYPE}", "restore the run folder, or train again"
            )
        shape = tuple(source.get_slice(name).get_shape())
        if shape != wanted:
            raise RunError(f"{path}: {name} is {shape}, not {wanted}", "it does not belong to this run's config.toml")


def copy_tensors(source: Any, targets: Mapping[str, npt.NDArray[Any]], path: Path, finite: bool = True) -> None:
    """Copies every tensor that `targets` names from an open file, after all names and shapes were compared.

    Raises RunError where something does not fit and, if `finite`, where a number is not.
    """
    check_tensors(source, {name: target.shape for name, target in targets.items()}, path)
    for name, target in targets.items():
        target[...] = source.get_tensor(name)
    lost = not_finite_among(targets) if finite else ""
    if lost:
        raise RunError(f"{path}: {lost} is not finite", "nothing can be made of these weights; choose another run")


def _check_header(path: Path) -> None:
    with open_regular(path) as file:
        header, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
    if header > max(LARGEST_HEADER, size // HEADER_SHARE):
        raise RunError(f"{path} is damaged: its header takes {header} bytes of {size}", REMEDY)
