"""GPT-2: pre-LayerNorm blocks, learned positions, GELU in its tanh form, biases, a head tied to the token embedding.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners". Names and layouts of the parameters are
those of transformers' GPT2LMHeadModel. Dropout acts on the embeddings and on what each branch adds to the residual
stream.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cllm_cli.layers.base import Init
from cllm_cli.model.program import GENERATE, TRAIN, Program, Tensor

if TYPE_CHECKING:
    from cllm_cli.model.build import ModelConfig

WTE = "transformer.wte.weight"


def gpt2(net: Program, config: ModelConfig) -> None:
    """Records the model: tokens to loss, or in generation tokens to the logits of each sequence's last token."""
    C, F, V, NH = config.n_embd, config.n_hidden, config.vocab_size, config.n_head
    # Each block adds to the residual stream twice; the sum of 2L terms keeps the deviation of one.
    residual = Init(std=0.02 / math.sqrt(2 * config.n_layer))
    dropped = 0

    def drop(x: Tensor) -> Tensor:
        nonlocal dropped
        if net.mode != TRAIN or config.dropout == 0:
            return x
        dropped += 1
        result: Tensor = net("dropout", x, C=C, drop=round(config.dropout * 2**24), stream=dropped)
        return result

    tokens = net.input("tokens", "N:int32")
    x = net("embedding", tokens, weight=WTE, V=V, C=C)
    x = net("positions", x, C=C, weight="transformer.wpe.weight")
    x = drop(x)
    for layer in range(config.n_layer):
        block = f"transformer.h.{layer}"
        x, h = net("split", net.keep(x), C=C)
        h = net("layernorm", h, name=f"{block}.ln_1")
        h = net("linear", h, name=f"{block}.attn.c_attn", F=3 * C)
        h = net("attention", h, NH=NH, HS=C // NH)
        h = net("linear", h, name=f"{block}.attn.c_proj", C=C, F=C, weight_init=residual)
        x = net("add", x, drop(h))
        x, h = net("split", x)
        h = net("layernorm", h, name=f"{block}.ln_2")
        h = net("linear", h, name=f"{block}.mlp.c_fc", F=F)
        h = net("gelu", h)
        h = net("linear", h, name=f"{block}.mlp.c_proj", F=C, weight_init=residual)
        x = net("add", x, drop(h))
    if net.mode == GENERATE:
        x = net("last", x, C=C)
        x = net("layernorm", x, name="transformer.ln_f", N=net.sizes["B"])
        net("head", x, weight=WTE, N=net.sizes["B"], V=V)
    else:
        x = net("layernorm", x, C=C, name="transformer.ln_f")
        net("cross_entropy", x, net.input("targets", "N:int32"), weight=WTE, V=V)
