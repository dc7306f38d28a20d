"""A run folder is a model folder of transformers: names, layouts and configuration, tested without transformers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from reference import gpt2 as oracle
from safetensors import safe_open

from cllm_cli.model.decode import Decoder
from cllm_cli.training.run_folder import RunFolder

VOCAB, C, F, T = 256, 16, 24, 8

# transformers 4 and 5, GPT2LMHeadModel: state_dict() without the tied lm_head.weight. Its Conv1D stores (in, out).
BLOCK = {
    "ln_1.weight": (C,),
    "ln_1.bias": (C,),
    "attn.c_attn.weight": (C, 3 * C),
    "attn.c_attn.bias": (3 * C,),
    "attn.c_proj.weight": (C, C),
    "attn.c_proj.bias": (C,),
    "ln_2.weight": (C,),
    "ln_2.bias": (C,),
    "mlp.c_fc.weight": (C, F),
    "mlp.c_fc.bias": (F,),
    "mlp.c_proj.weight": (F, C),
    "mlp.c_proj.bias": (C,),
}


@pytest.fixture
def folder(run, tmp_path):
    for _ in run(n_layer=2, n_hidden=F, steps=20, lr=0.01):
        pass
    return RunFolder(tmp_path / "out")


def test_tensors_have_the_names_and_shapes_of_transformers(folder):
    wanted = {"transformer.wte.weight": (VOCAB, C), "transformer.wpe.weight": (T, C)}
    for layer in range(2):
        wanted |= {f"transformer.h.{layer}.{name}": shape for name, shape in BLOCK.items()}
    wanted |= {"transformer.ln_f.weight": (C,), "transformer.ln_f.bias": (C,)}
    with safe_open(folder.model, "numpy") as tensors:
        # No mapping: it has keys() alone.
        assert {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()} == wanted  # noqa: SIM118
        assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"F32"}  # noqa: SIM118 - the same
        assert tensors.metadata()["format"] == "pt"


def test_the_configuration_says_what_the_model_is(folder):
    found = json.loads((folder.path / "config.json").read_text("utf-8"))
    wanted = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": VOCAB,
        "n_positions": T,
        "n_embd": C,
        "n_layer": 2,
        "n_head": 2,
        "n_inner": F,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    }
    assert {name: found[name] for name in wanted} == wanted


def test_the_files_tensors_give_the_models_logits(folder):
    """The oracle reads them as GPT-2's own layouts: q, k, v side by side, heads side by side within each."""
    with safe_open(folder.model, "numpy") as tensors:
        # No mapping: it has keys() alone.
        params = {name: tensors.get_tensor(name).astype(np.float64) for name in tensors.keys()}  # noqa: SIM118
    tokens = np.frombuffer(b"line 12 ", np.uint8).astype(np.int64)
    wanted = oracle.logits(params, tokens[None], n_head=2)[0, -1]
    found = Decoder(folder.load_model()).read(tokens)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    assert np.ptp(wanted) > 1
