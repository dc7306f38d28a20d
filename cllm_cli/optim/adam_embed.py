"""Adam on the embeddings, plain gradient descent on everything else: no state but for the embeddings, so half the
memory.

Rows of an embedding meet very different numbers of gradients, which Adam evens out; the rest manages with one rate.
"""

from __future__ import annotations

from cllm_cli.optim.adamw import adamw_update
from cllm_cli.optim.base import Optimizer, Rule
from cllm_cli.optim.sgd import descent_update

ADAM_EMBED = Optimizer(
    "adam-embed",
    rules={
        "embedding": Rule(adamw_update, state=("m", "v"), rate="lr_embed"),
        "matrix": Rule(descent_update),
        "vector": Rule(descent_update),
    },
    defaults={"lr": 0.1, "lr_embed": 1e-3, "weight_decay": 0.0, "beta2": 0.99},
)
