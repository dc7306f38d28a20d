"""The PyTorch side of speed.py: python torch_worker.py SHAPE THREADS [--task NAME] [--compile]"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from shapes import Shape, named_shape
from torch_gpt import Cache, Recipe, TorchGPT, Trainer
from worker import TASKS, Step, serve


def batches_of(shape: Shape) -> list[torch.Tensor]:
    """Batches of random tokens and targets."""
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(shape.vocab_size, (2, shape.batch_size, shape.block_size), generator=draw) for _ in range(8)]


def training(shape: Shape, compiled: bool) -> Step:
    """Training steps, each on another batch."""
    trainer = Trainer(shape, Recipe(), seed=1, compiled=compiled)
    batches = batches_of(shape)
    done = 0

    def run(steps: int) -> None:
        nonlocal done
        for _ in range(steps):
            tokens, targets = batches[done % len(batches)]
            trainer.step(done, tokens, targets)
            done += 1

    return run


def evaluating(shape: Shape, compiled: bool) -> Step:
    """The loss of batches."""
    model = TorchGPT(shape).eval()
    loss = torch.compile(model) if compiled else model
    batches = batches_of(shape)

    def run(steps: int) -> None:
        with torch.inference_mode():
            for number in range(steps):
                tokens, targets = batches[number % len(batches)]
                loss(tokens, targets)

    return run


def generating(shape: Shape, compiled: bool) -> Step:
    """Tokens of one sequence, each the most likely one; a new sequence where the window is full."""
    if compiled:
        raise SystemExit("a window that grows is not compiled: generation is measured eager")
    model = TorchGPT(shape).eval()
    cache = Cache(shape)
    token = torch.zeros(1, dtype=torch.int64)
    length = 0

    def run(steps: int) -> None:
        nonlocal token, length
        with torch.inference_mode():
            for _ in range(steps):
                token = model.next_logits(token, length, cache).argmax(-1)
                length = (length + 1) % shape.block_size

    return run


MAKERS: dict[str, Callable[[Shape, bool], Step]] = dict(zip(TASKS, (training, evaluating, generating), strict=True))

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", type=named_shape)
    parser.add_argument("threads", type=int)
    parser.add_argument("--task", choices=TASKS, default=TASKS[0])
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    serve(MAKERS[options.task](options.shape, options.compile), packages=("torch",))
