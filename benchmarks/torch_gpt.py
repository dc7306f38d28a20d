"""GPT-2 in plain PyTorch, and the training step around it: what the package is measured against.

The model: learned positions, blocks of pre-LayerNorm attention and feed-forward (GELU, tanh form), biases everywhere,
a last LayerNorm, and the token embedding used again as the head.   (Radford et al. 2019, "Language Models are
Unsupervised Multitask Learners")

It uses what PyTorch offers for speed on a CPU without changing the mathematics: fused attention and fused AdamW.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from shapes import Shape
from torch import Tensor, nn
from torch.nn import functional

INIT_STD = 0.02


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the recipe for small character models: 2000 steps, learning rate 1e-3 → 1e-4."""

    steps: int = 2000
    lr: float = 1e-3
    min_lr: float = 1e-4
    warmup: int = 100
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.1
    grad_clip: float = 1.0

    def lr_at(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to min_lr.   (Loshchilov & Hutter 2017, arXiv:1608.03983)

        lr (s+1) / warmup for s < warmup, then min + (lr − min)(1 + cos πp) / 2 with p = (s − warmup) / (steps − warmup)
        """
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        progress = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.min_lr + 0.5 * (self.lr - self.min_lr) * (1.0 + math.cos(math.pi * progress))


class Cache:
    """Keys and values of one sequence, for every block: (2, head, T, head size)."""

    def __init__(self, shape: Shape) -> None:
        size = (2, shape.n_head, shape.block_size, shape.n_embd // shape.n_head)
        self.blocks = [torch.zeros(size) for _ in range(shape.n_layer)]


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.n_head = shape.n_head
        self.qkv = nn.Linear(shape.n_embd, 3 * shape.n_embd)
        self.out = nn.Linear(shape.n_embd, shape.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        heads = self.qkv(x).view(batch, time, 3, self.n_head, width // self.n_head)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each: batch, head, time, head size
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        merged: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, time, width))
        return merged

    def one(self, x: Tensor, position: int, cache: Tensor) -> Tensor:
        """The row (1, C) of one position; its key and value go into the cache (2, head, T, head size)."""
        query, key, value = self.qkv(x).view(3, self.n_head, 1, -1)
        cache[0, :, position : position + 1] = key
        cache[1, :, position : position + 1] = value
        keys, values = cache[:, :, : position + 1]
        mixed = functional.scaled_dot_product_attention(query[None], keys[None], values[None])
        merged: Tensor = self.out(mixed.reshape(1, -1))
        return merged


class FeedForward(nn.Module):
    """Two linear maps around a GELU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.up = nn.Linear(shape.n_embd, shape.n_hidden)
        self.out = nn.Linear(shape.n_hidden, shape.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        narrowed: Tensor = self.out(functional.gelu(self.up(x), approximate="tanh"))
        return narrowed


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.n_embd)
        self.attention = Attention(shape)
        self.norm2 = nn.LayerNorm(shape.n_embd)
        self.feed_forward = FeedForward(shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        summed: Tensor = x + self.feed_forward(self.norm2(x))
        return summed

    def one(self, x: Tensor, position: int, cache: Tensor) -> Tensor:
        """The same for the row (1, C) of one position."""
        x = x + self.attention.one(self.norm1(x), position, cache)
        summed: Tensor = x + self.feed_forward(self.norm2(x))
        return summed


class TorchGPT(nn.Module):
    """The whole model. Weights are drawn from N(0, 0.02²), the two projections of a block into the residual stream with
    the standard deviation 0.02 / √(2L); biases are zero.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(shape.vocab_size, shape.n_embd)
        self.positions = nn.Embedding(shape.block_size, shape.n_embd)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.n_layer))
        self.norm = nn.LayerNorm(shape.n_embd)

        residual_std = INIT_STD / math.sqrt(2 * shape.n_layer)
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                is_residual = name.endswith(("attention.out.weight", "feed_forward.out.weight"))
                nn.init.normal_(parameter, std=residual_std if is_residual else INIT_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """The cross-entropy, in nats, of targets [B, T] after tokens [B, T]."""
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.norm(x), self.tokens.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)

    def next_logits(self, token: Tensor, position: int, cache: Cache) -> Tensor:
        """The logits (1, V) of what follows a token (1), whose forerunners are in the cache."""
        x = self.tokens(token) + self.positions.weight[position]
        for block, kept in zip(self.blocks, cache.blocks, strict=True):
            x = block.one(x, position, kept)
        return functional.linear(self.norm(x), self.tokens.weight)


class Trainer:
    """A model, its AdamW and the step: forward, backward, clip, update."""

    def __init__(self, shape: Shape, recipe: Recipe, seed: int, compiled: bool = False) -> None:
        torch.manual_seed(seed)
        self.recipe = recipe
        self.model = TorchGPT(shape)
        self.parameters = list(self.model.parameters())
        self.loss = torch.compile(self.model) if compiled else self.model
        groups = [
            {"params": [p for p in self.parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2), eps=recipe.eps, fused=True
        )

    def step(self, step: int, tokens: Tensor, targets: Tensor) -> Tensor:
        """One optimizer step on a batch; its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr_at(step)
        loss: Tensor = self.loss(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.recipe.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()
