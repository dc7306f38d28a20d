"""The single-file `cllm`. CLLM_TEST_BINARY names the file that `python -m tools.binary` has built."""
