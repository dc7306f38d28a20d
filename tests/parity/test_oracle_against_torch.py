"""The oracle of the tests against PyTorch and transformers in float64: layers, the whole GPT-2, update rules."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tolerances
from reference import ORACLES, gpt2
from reference.optimizers import adamw, clip, sgd

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e '.[parity]'")
pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[parity]'")

from torch.nn import functional  # noqa: E402 - after importorskip

from parity import cases, compare, torch_gpt2  # noqa: E402 - after importorskip

Comparison = tuple[str, np.ndarray, torch.Tensor]


def assert_same(comparisons: Iterator[Comparison]) -> None:
    """Each of them to the last places."""
    found, wanted = {}, {}
    for name, ours, theirs in comparisons:
        found[name], wanted[name] = ours, theirs.detach().numpy()
    compare.assert_same(found, wanted, tolerances.ORACLE)


def test_layers_are_pytorchs():
    assert_same(compare_layers(np.random.default_rng(20)))


@pytest.mark.parametrize("name", [name for name, case in cases.CASES.items() if not case.dropout])
def test_the_model_is_that_of_transformers(name):
    case = cases.CASES[name]
    weights, (tokens, targets) = cases.weights_of(case), cases.batch_of(case)
    loss, gradients = gpt2.loss_and_gradients(weights, tokens, targets, n_head=case.n_head)
    logits = gpt2.logits(weights, tokens, n_head=case.n_head)
    found = {"logits": logits, "last logits": logits[:, -1], "loss": np.array(loss)}
    found["losses"] = gpt2.losses(weights, tokens, targets, n_head=case.n_head)
    found |= {f"gradient of {key}": gradient for key, gradient in gradients.items()}
    compare.assert_same(found, torch_gpt2.measure(case, weights, (tokens, targets)), tolerances.ORACLE)


def test_update_rules_are_those_of_torch():
    assert_same(compare_optimizers(np.random.default_rng(20)))


def compare_layers(rng: np.random.Generator) -> Iterator[Comparison]:
    """Each layer that PyTorch has under the same definition."""
    x, weight, bias = rng.standard_normal((7, 5)), rng.standard_normal(5), rng.standard_normal(5)
    ours = ORACLES["layernorm"](x=x, weight=weight, bias=bias, eps=1e-5)["out"]
    yield "layernorm", ours, functional.layer_norm(torch.tensor(x), (5,), torch.tensor(weight), torch.tensor(bias))
    yield "gelu", ORACLES["gelu"](x=3 * x)["out"], functional.gelu(torch.tensor(3 * x), approximate="tanh")

    qkv = rng.standard_normal((2, 9, 3, 4, 6))
    q, k, v = torch.tensor(qkv).permute(2, 0, 3, 1, 4)
    ours = ORACLES["attention"](qkv=qkv)
    mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    yield "attention out", ours["out"], mixed.transpose(1, 2)
    scores = (q @ k.transpose(-1, -2) / 6**0.5).masked_fill(~torch.ones(9, 9, dtype=torch.bool).tril(), -torch.inf)
    yield "attention lse", ours["lse"], scores.logsumexp(-1)

    table, targets = rng.standard_normal((11, 5)), np.array([3, 0, -1, 10, 5, -1, 2])
    logits = torch.tensor(x @ table.T)
    theirs = functional.cross_entropy(logits, torch.tensor(targets), ignore_index=-1, reduction="none")
    yield "cross_entropy", ORACLES["cross_entropy"](x=x, weight=table, targets=targets)["losses"], theirs


def compare_optimizers(rng: np.random.Generator) -> Iterator[Comparison]:
    """Ten clipped steps with random gradients."""
    start = {"matrix": rng.standard_normal((4, 3)), "vector": rng.standard_normal(5)}
    steps = [{name: rng.standard_normal(value.shape) for name, value in start.items()} for _ in range(10)]
    adam = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8}
    makers = {
        "adamw": lambda tensors: torch.optim.AdamW(groups_of(tensors, 0.1), **adam),
        "sgd": lambda tensors: torch.optim.SGD(tensors.values(), lr=0.01, momentum=0.9),
        "sgd nesterov": lambda tensors: torch.optim.SGD(tensors.values(), lr=0.01, momentum=0.9, nesterov=True),
    }
    for name, make in makers.items():
        theirs = {key: torch.tensor(value, requires_grad=True) for key, value in start.items()}
        optimizer = make(theirs)
        ours, state = start, {}
        for number, raw in enumerate(steps, start=1):
            for key, tensor in theirs.items():
                tensor.grad = torch.tensor(raw[key])
            their_norm = torch.nn.utils.clip_grad_norm_(theirs.values(), 1.5)
            optimizer.step()
            grads, norm = clip(raw, 1.5)
            common = {"step": number, "lr": 0.01}
            if name == "adamw":
                adam_settings = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
                ours, state = adamw(ours, grads, state, decayed={"matrix"}, weight_decay=0.1, **adam_settings, **common)
            else:
                nesterov = name == "sgd nesterov"
                ours, state = sgd(
                    ours, grads, state, decayed=(), weight_decay=0.0, momentum=0.9, nesterov=nesterov, **common
                )
        yield f"{name}: gradient norm", np.array(norm), their_norm
        for key in start:
            yield f"{name}: {key}", ours[key], theirs[key]


def groups_of(tensors: dict[str, torch.Tensor], weight_decay: float) -> list[dict[str, object]]:
    """PyTorch's parameter groups: only the matrix decays."""
    return [
        {"params": [tensors["matrix"]], "weight_decay": weight_decay},
        {"params": [tensors["vector"]], "weight_decay": 0.0},
    ]
