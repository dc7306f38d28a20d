"""The layers: name, declaration, summary. Registering one enrols it in every generic test, check and table."""

from cllm_cli.registry import Entry, Registry

_HERE = "cllm_cli.layers"

LAYERS = Registry(
    "layer",
    {
        "embedding": Entry(f"{_HERE}.embedding:EMBEDDING", "a learned vector for each token"),
        "positions": Entry(f"{_HERE}.positions:POSITIONS", "a learned vector for each position, added"),
        "dropout": Entry(f"{_HERE}.dropout:DROPOUT", "random zeros from a counter"),
        "split": Entry(f"{_HERE}.residual:SPLIT", "one tensor read twice; gradients are added"),
        "add": Entry(f"{_HERE}.residual:ADD", "the residual sum"),
        "layernorm": Entry(f"{_HERE}.layernorm:LAYERNORM", "rows to zero mean and unit variance, scaled and shifted"),
        "linear": Entry(f"{_HERE}.linear:LINEAR", "matrix product and bias"),
        "linear_nobias": Entry(f"{_HERE}.linear:LINEAR_NOBIAS", "matrix product"),
        "attention": Entry(f"{_HERE}.attention:ATTENTION", "causal multi-head attention"),
        "gelu": Entry(f"{_HERE}.gelu:GELU", "Gaussian error linear unit, tanh form"),
        "last": Entry(f"{_HERE}.head:LAST", "the last row of each sequence"),
        "head": Entry(f"{_HERE}.head:HEAD", "logits of the tied output head, for generation"),
        "cross_entropy": Entry(f"{_HERE}.cross_entropy:CROSS_ENTROPY", "tied output head and loss, chunk by chunk"),
    },
)
