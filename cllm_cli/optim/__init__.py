"""The optimizers: name, declaration, summary."""

from cllm_cli.registry import Entry, Registry

OPTIMIZERS = Registry(
    "optimizer",
    {
        "adamw": Entry("cllm_cli.optim.adamw:ADAMW", "Adam with decoupled weight decay on matrices"),
        "sgd": Entry("cllm_cli.optim.sgd:SGD", "gradient descent with momentum"),
        "adam-embed": Entry("cllm_cli.optim.adam_embed:ADAM_EMBED", "Adam on embeddings, gradient descent elsewhere"),
    },
)
