"""The oracle against PyTorch's autograd and transformers' GPT-2, in float64. Run by hand: no test needs either of them.

    pip install torch transformers
    python tests/reference/against_torch.py

Prints the largest error of each comparison, relative to the largest value compared; exit code 1 if one is too large.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import ORACLES, gpt2
from reference.optimizers import adamw, clip, sgd

TOLERANCE = 1e-12  # float64 sums of some hundred terms, in another order
SIZES = {"n_layer": 3, "n_embd": 24, "n_hidden": 40, "vocab_size": 31, "block_size": 12}
HEADS = 4

Comparison = tuple[str, np.ndarray, torch.Tensor]


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


def compare_model(rng: np.random.Generator) -> Iterator[Comparison]:
    """Logits, loss and every gradient of transformers' own model with the same parameters."""
    params = gpt2.random_parameters(rng, **SIZES)
    tokens = rng.integers(SIZES["vocab_size"], size=(3, 10))
    targets = rng.integers(SIZES["vocab_size"], size=(3, 10))
    targets[0, :4] = -1

    config = transformers.GPT2Config(
        vocab_size=SIZES["vocab_size"],
        n_positions=SIZES["block_size"],
        n_embd=SIZES["n_embd"],
        n_layer=SIZES["n_layer"],
        n_head=HEADS,
        n_inner=SIZES["n_hidden"],
        layer_norm_epsilon=gpt2.EPS,
        activation_function="gelu_new",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        attn_implementation="eager",
        bos_token_id=None,
        eos_token_id=None,
    )
    model = transformers.GPT2LMHeadModel(config).double()
    model.load_state_dict({name: torch.tensor(value) for name, value in params.items()}, strict=False)
    model.tie_weights()
    logits = model(torch.tensor(tokens)).logits
    loss = functional.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).flatten(), ignore_index=-1)
    loss.backward()

    our_loss, grads = gpt2.loss_and_gradients(params, tokens, targets, n_head=HEADS)
    yield "gpt2 logits", gpt2.logits(params, tokens, n_head=HEADS), logits
    yield "gpt2 loss", np.array(our_loss), loss
    theirs = dict(model.named_parameters())
    if grads.keys() != theirs.keys():
        raise SystemExit(f"parameters differ: {grads.keys() ^ theirs.keys()}")
    for name, gradient in grads.items():
        yield f"gradient of {name}", gradient, theirs[name].grad


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


def main() -> int:
    rng = np.random.default_rng(20)
    worst = 0.0
    for compare in (compare_layers, compare_model, compare_optimizers):
        for name, ours, theirs in compare(rng):
            expected = theirs.detach().numpy()
            if ours.shape != expected.shape:
                raise SystemExit(f"{name}: shape {ours.shape}, not {expected.shape}")
            error = float(np.abs(ours - expected).max() / np.abs(expected).max())
            worst = max(worst, error)
            sys.stdout.write(f"{error:9.1e}  {name}\n")
    sys.stdout.write(f"{worst:9.1e}  worst; {'agrees' if worst <= TOLERANCE else 'too large'}\n")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
