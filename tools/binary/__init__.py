"""The single-file `cllm`: `python -m tools.binary` builds it."""
