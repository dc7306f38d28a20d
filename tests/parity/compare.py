"""Comparing what two frameworks say, tensor by tensor. An error is relative to the tensor's largest magnitude."""

from __future__ import annotations

import numpy as np
import tolerances

from parity.cases import STEPS, Case, Tensors


def errors(found: Tensors, wanted: Tensors) -> dict[str, float]:
    """The error of each tensor's worst entry; infinite where a number is not finite. Names and shapes are the same."""
    assert found.keys() == wanted.keys(), f"only on one side: {sorted(found.keys() ^ wanted.keys())}"
    return {name: _error(name, found[name], value) for name, value in wanted.items()}


def assert_same(found: Tensors, wanted: Tensors, tolerance: float) -> None:
    """Fails where an error exceeds the tolerance, and names each such tensor with its worst entry."""
    faults = [
        f"{name} {wanted[name].shape}: {_worst(found[name], wanted[name])}, error {error:.1e}"
        for name, error in errors(found, wanted).items()
        if not error <= tolerance
    ]
    assert not faults, f"{len(faults)} of {len(wanted)} tensors beyond {tolerance:.1e}\n" + "\n".join(faults)


def assert_same_measures(found: Tensors, wanted: Tensors, case: Case) -> None:
    """Of what `ours.measure` found: as near as its precision allows."""
    single = found["logits"].dtype == np.float32
    assert_same(found, wanted, tolerances.parity32(case.longest, case.n_layer) if single else tolerances.PARITY64)


def assert_same_end(found: Tensors, wanted: Tensors, case: Case, optimizer: str) -> None:
    """Of what `ours.train` found: rates to the last places, the rest as near as its precision allows."""
    rates = "rate of every step"
    np.testing.assert_allclose(found[rates], wanted[rates], rtol=tolerances.RATE, atol=0)
    bound = tolerances.PARITY64
    if found["transformer.wte.weight"].dtype == np.float32:
        bound = tolerances.steps32(case.longest, case.n_layer, STEPS)
        if optimizer == "adamw":
            # It makes steps of the rate's size out of the rounding noise of a gradient that is zero.
            found, wanted = without_noise(found, case), without_noise(wanted, case)
    assert_same(found, wanted, bound)


def without_noise(tensors: Tensors, case: Case) -> Tensors:
    """The tensors without what softmax does not see, whose gradient is zero: in every c_attn.bias the middle third,
    the keys; and in windows of one token all of c_attn but the values.
    """

    def kept(name: str, value: np.ndarray) -> np.ndarray:
        if case.time == 1 and ".c_attn." in name:
            return value[..., case.n_embd * 2 :]
        if name.endswith("c_attn.bias"):
            return np.delete(value, slice(case.n_embd, case.n_embd * 2))
        return value

    return {name: kept(name, value) for name, value in tensors.items()}


def _error(name: str, found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape, f"{name} is {found.shape}, not {wanted.shape}"
    difference = np.abs(found.astype(np.float64) - wanted)
    if not np.isfinite(difference).all():
        return np.inf
    largest = np.abs(wanted).max()
    return float(difference.max() / largest) if largest else float(np.inf if difference.any() else 0)


def _worst(found: np.ndarray, wanted: np.ndarray) -> str:
    difference = np.nan_to_num(np.abs(found.astype(np.float64) - wanted), nan=np.inf)
    at = tuple(int(index) for index in np.unravel_index(difference.argmax(), wanted.shape))
    return f"entry {at} is {found[at]:.9g}, not {wanted[at]:.9g}"
