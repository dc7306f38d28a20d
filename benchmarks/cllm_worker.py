"""The cllm side of speed.py: python cllm_worker.py SHAPE THREADS"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from shapes import SHAPES, Shape
from worker import serve


def make_step(shape: Shape, threads: int) -> Callable[[int], None]:
    """A function that runs n training steps, each on another batch of random tokens.

    A step is what torch_gpt.Trainer.step does: forward, loss, backward, clip, AdamW, gradients zeroed for the next one.
    """
    raise SystemExit("cllm_worker.make_step is not filled in yet: the package has no training step; use --sides torch")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("threads", type=int)
    options = parser.parse_args()
    serve(make_step(SHAPES[options.shape], options.threads), packages=("cllm", "numba", "llvmlite", "numpy"))
