"""`python -m cllm_cli` is `cllm`."""

from cllm_cli.main import run

run()
