"""The config.json that makes a model folder of transformers out of a run folder."""

from __future__ import annotations

from typing import Any

from cllm_cli.model.build import ModelConfig


def transformers_config(config: ModelConfig, end_of_text: int | None) -> dict[str, Any]:
    """The config.json with which transformers' GPT2LMHeadModel loads model.safetensors."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_ctx": config.block_size,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": config.n_hidden,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": True,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "torch_dtype": "float32",
    }
