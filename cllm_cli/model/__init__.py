"""The architectures: a function that records a model into a program, and a summary."""

from cllm_cli.registry import Entry, Registry

ARCHITECTURES = Registry(
    "architecture",
    {"gpt2": Entry("cllm_cli.model.gpt2:gpt2", "pre-LayerNorm, learned positions, GELU, biases, tied head")},
)
