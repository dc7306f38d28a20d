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
    from cllm_cli.config import make_settings
    from cllm_cli.optim.schedule import Schedule
    from cllm_cli.training.session import rehearsal, use_threads

    use_threads(threads)
    sizes = {
        "n_layer": shape.n_layer,
        "n_head": shape.n_head,
        "n_embd": shape.n_embd,
        "n_hidden": shape.n_hidden,
        "block_size": shape.block_size,
        "batch_size": shape.batch_size,
        "dropout": 0.0,
    }
    stepper = rehearsal(make_settings(sizes), shape.vocab_size).stepper
    schedule = Schedule("cosine", 1e-3, 1e-4, 100, 1_000_000)
    done = 0

    def run(steps: int) -> None:
        nonlocal done
        for _ in range(steps):
            stepper.run(done, schedule)
            done += 1

    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("threads", type=int)
    options = parser.parse_args()
    serve(make_step(SHAPES[options.shape], options.threads), packages=("cllm", "numba", "llvmlite", "numpy"))
