"""The PyTorch side of speed.py: python torch_worker.py SHAPE THREADS [--compile]"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from shapes import SHAPES, Shape
from torch_gpt import Recipe, Trainer
from worker import serve


def make_step(shape: Shape, threads: int, compiled: bool) -> Callable[[int], None]:
    """A function that runs n training steps, each on another batch of random tokens."""
    torch.set_num_threads(threads)
    trainer = Trainer(shape, Recipe(), seed=1, compiled=compiled)
    draw = torch.Generator().manual_seed(1)
    batches = [
        torch.randint(shape.vocab_size, (2, shape.batch_size, shape.block_size), generator=draw) for _ in range(8)
    ]
    done = 0

    def step(count: int) -> None:
        nonlocal done
        for _ in range(count):
            tokens, targets = batches[done % len(batches)]
            trainer.step(done, tokens, targets)
            done += 1

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("threads", type=int)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    serve(make_step(SHAPES[options.shape], options.threads, options.compile), packages=("torch",))
