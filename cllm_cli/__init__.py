"""cllm: train transformer language models end to end on the CPU."""

__version__ = "0.1.0"
