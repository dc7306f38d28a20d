"""The package against PyTorch: same weights, same batches, same steps.

`cases.py` says what is compared, `ours.py` runs the package on it, `torch_gpt2.py` PyTorch; `golden.py` reads what
PyTorch gave once, for whoever does not have it. `torch_gpt2.py` alone imports torch.
"""
