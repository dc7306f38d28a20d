"""PyTorch's side: transformers' own GPT-2 under autograd, torch's optimizers, clipping and schedulers.

No line of the model is ours. Dropout's masks are given to it, in place of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from micro_batches import KEY
from reference import ORACLES
from torch import nn
from torch.nn import functional
from torch.optim import lr_scheduler
from transformers import GPT2Config, GPT2LMHeadModel

from parity.cases import CLIP, IGNORED, LEAST, SCHEDULE, Case, Tensors, settings_of
from parity.ours import Batch

EMBEDDINGS = ("transformer.wte.weight", "transformer.wpe.weight")


class Masked(nn.Module):
    """Dropout by a given mask, which has the scale 1 / (1 − rate) in it."""

    def __init__(self, mask: np.ndarray, dtype: torch.dtype) -> None:
        super().__init__()
        self.mask = torch.tensor(mask, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask


def model_of(case: Case, weights: Tensors, dtype: torch.dtype) -> GPT2LMHeadModel:
    """transformers' model with these weights, without dropout."""
    config = GPT2Config(
        vocab_size=case.vocab_size,
        n_positions=case.block_size,
        n_embd=case.n_embd,
        n_layer=case.n_layer,
        n_head=case.n_head,
        n_inner=case.n_hidden,
        layer_norm_epsilon=1e-5,
        activation_function="gelu_new",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        attn_implementation="eager",
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config).to(dtype)
    names = dict(model.named_parameters()).keys()
    assert names == weights.keys(), names ^ weights.keys()
    model.load_state_dict({name: torch.tensor(value, dtype=dtype) for name, value in weights.items()}, strict=False)
    model.tie_weights()
    return model


def measure(case: Case, weights: Tensors, batch: Batch, dtype: torch.dtype = torch.float64) -> Tensors:
    """What `ours.measure` gives, from one pass over the whole batch, whatever its parts."""
    tokens, targets = (torch.tensor(part) for part in batch)
    model = model_of(case, weights, dtype)
    with torch.no_grad():
        logits = model(tokens).logits
    if case.dropout:
        give_masks(model, case, dtype)
    losses, loss = losses_of(model, tokens, targets)
    loss.backward()
    found = {"logits": logits, "last logits": logits[:, -1], "losses": losses, "loss": loss}
    found |= {f"gradient of {name}": parameter.grad for name, parameter in model.named_parameters()}
    return {name: value.detach().numpy() for name, value in found.items()}


def losses_of(model: GPT2LMHeadModel, tokens: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each target (B, T) in nats, 0 where it is ignored, and the mean over the others."""
    scores = model(tokens).logits.flatten(0, 1)
    losses = functional.cross_entropy(scores, targets.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.view(targets.shape), functional.cross_entropy(scores, targets.flatten(), ignore_index=IGNORED)


def give_masks(model: GPT2LMHeadModel, case: Case, dtype: torch.dtype) -> None:
    """Puts the oracle's masks where GPT-2 drops: the embeddings, then what each branch adds to the residual stream."""
    drop = round(case.dropout * 2**24)

    def masked(stream: int) -> Masked:
        ones = np.ones((case.batch * case.time, case.n_embd))
        mask = ORACLES["dropout"](x=ones, rate=drop / 2**24, stream=stream, key=int(KEY), first_row=0)["out"]
        return Masked(mask.reshape(case.batch, case.time, case.n_embd), dtype)

    model.transformer.drop = masked(1)
    for layer, block in enumerate(model.transformer.h):
        block.attn.resid_dropout, block.mlp.dropout = masked(2 + 2 * layer), masked(3 + 2 * layer)


# ---- training


def train(
    case: Case,
    weights: Tensors,
    batches: Sequence[Batch],
    optimizer: str,
    schedule: str,
    dtype: torch.dtype = torch.float64,
) -> Tensors:
    """What `ours.train` gives."""
    model = model_of(case, weights, dtype)
    settings = settings_of(optimizer)
    rates = list(rates_of(schedule, settings["lr"], len(batches)))
    optimizers = OPTIMIZERS[optimizer](dict(model.named_parameters()), settings)
    schedulers = [
        lr_scheduler.LambdaLR(each, lambda step: (rates[step] if step < len(rates) else 0.0) / settings["lr"])
        for each in optimizers
    ]
    told = []
    for (tokens, targets), rate in zip(batches, rates, strict=True):
        loss = losses_of(model, torch.tensor(tokens), torch.tensor(targets))[1]
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        decay(optimizers)
        for each, scheduler in zip(optimizers, schedulers, strict=True):
            each.step()
            each.zero_grad()
            scheduler.step()
        told.append((loss.item(), rate, norm.item()))
    names = ("loss of every step", "rate of every step", "norm of every step")
    found = dict(zip(names, np.array(told).T, strict=True))
    return found | {name: value.detach().numpy() for name, value in model.named_parameters()}


def decay(optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Decoupled weight decay of SGD, with the line of torch.optim.AdamW: torch's own SGD adds decay to the gradient."""
    with torch.no_grad():
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(1 - group["lr"] * group.get("decoupled", 0.0))


Parameters = dict[str, nn.Parameter]


def groups_of(parameters: Parameters, settings: dict[str, Any], decay_name: str) -> list[dict[str, Any]]:
    """Embeddings with their own rate, matrices, and vectors, which do not decay."""
    embeddings = [value for name, value in parameters.items() if name in EMBEDDINGS]
    matrices = [value for name, value in parameters.items() if name not in EMBEDDINGS and value.ndim == 2]
    vectors = [value for value in parameters.values() if value.ndim == 1]
    return [
        {"params": embeddings, "lr": settings["lr_embed"], decay_name: settings["weight_decay"]},
        {"params": matrices, "lr": settings["lr"], decay_name: settings["weight_decay"]},
        {"params": vectors, "lr": settings["lr"], decay_name: 0.0},
    ]


def adam_settings(settings: dict[str, Any]) -> dict[str, Any]:
    return {"betas": (settings["beta1"], settings["beta2"]), "eps": settings["eps"]}


def adamw(parameters: Parameters, settings: dict[str, Any]) -> list[torch.optim.Optimizer]:
    return [torch.optim.AdamW(groups_of(parameters, settings, "weight_decay"), **adam_settings(settings))]


def sgd(parameters: Parameters, settings: dict[str, Any]) -> list[torch.optim.Optimizer]:
    more = {"momentum": settings["momentum"], "nesterov": settings["nesterov"]}
    return [torch.optim.SGD(groups_of(parameters, settings, "decoupled"), **more)]


def adam_embed(parameters: Parameters, settings: dict[str, Any]) -> list[torch.optim.Optimizer]:
    embeddings = [value for name, value in parameters.items() if name in EMBEDDINGS]
    others = [value for name, value in parameters.items() if name not in EMBEDDINGS]
    return [
        torch.optim.Adam(embeddings, lr=settings["lr_embed"], **adam_settings(settings)),
        torch.optim.SGD(others, lr=settings["lr"]),
    ]


OPTIMIZERS = {"adamw": adamw, "sgd": sgd, "sgd, Nesterov": sgd, "adam-embed": adam_embed}


def rates_of(schedule: str, peak: float, steps: int) -> Iterator[float]:
    """The rate of each step by torch's own schedulers, one after the other; past the end it stays."""
    warmup, total = SCHEDULE["warmup"], SCHEDULE["total"]
    start = round(total * (1 - SCHEDULE["decay"]))
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    falls: dict[str, list[tuple[int, lr_scheduler.LRScheduler]]] = {
        "constant": [(warmup, lr_scheduler.ConstantLR(sgd, factor=1.0))],
        "linear": [(warmup, lr_scheduler.LinearLR(sgd, 1.0, LEAST, total - warmup))],
        "cosine": [(warmup, lr_scheduler.CosineAnnealingLR(sgd, total - warmup, eta_min=LEAST * peak))],
        "wsd": [
            (warmup, lr_scheduler.ConstantLR(sgd, factor=1.0)),
            (start, lr_scheduler.LinearLR(sgd, 1.0, LEAST, total - start)),
        ],
    }
    milestones, later = zip(*falls[schedule], strict=True)
    rising = lr_scheduler.LinearLR(sgd, 1 / warmup, 1.0, warmup - 1)
    scheduler = lr_scheduler.SequentialLR(sgd, [rising, *later], list(milestones))
    for step in range(steps):
        yield sgd.param_groups[0]["lr"]
        sgd.step()
        if step < total:
            scheduler.step()
