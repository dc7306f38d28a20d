"""The cllm side of speed.py: python cllm_worker.py SHAPE THREADS [--task NAME] [--recompute NAME] [--cpu LEVEL]"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

from shapes import Shape, named_shape
from worker import ROOF, TASKS, Step, serve

AVX2 = "native-avx2"  # what -v3 is compared with on a CPU that has more than AVX2


def settings_of(shape: Shape, recompute: str | None) -> Any:
    """The package's settings for a shape, without dropout."""
    from cllm_cli.config import make_settings

    sizes = {
        "n_layer": shape.n_layer,
        "n_head": shape.n_head,
        "n_embd": shape.n_embd,
        "n_hidden": shape.n_hidden,
        "block_size": shape.block_size,
        "batch_size": shape.batch_size,
        "dropout": 0.0,
        "recompute": recompute,
    }
    return make_settings(sizes)


def training(shape: Shape, recompute: str | None) -> Step:
    """What torch_gpt.Trainer.step does: forward, loss, backward, clip, AdamW, gradients zeroed for the next step."""
    from cllm_cli.optim.schedule import Schedule
    from cllm_cli.training.session import rehearsal

    stepper = rehearsal(settings_of(shape, recompute), shape.vocab_size).stepper
    schedule = Schedule("cosine", 1e-3, 1e-4, 100, 1_000_000)
    done = 0

    def run(steps: int) -> None:
        nonlocal done
        for _ in range(steps):
            stepper.run(done, schedule)
            done += 1

    return run


def evaluating(shape: Shape, recompute: str | None) -> Step:
    """The loss of batches of random tokens."""
    import numpy as np

    from cllm_cli.model.program import EVALUATE
    from cllm_cli.training.session import rehearsal

    model = rehearsal(settings_of(shape, recompute), shape.vocab_size).model
    replay = model.replay(EVALUATE, shape.batch_size, shape.block_size)
    batches = np.random.default_rng(1).integers(0, shape.vocab_size, (8, 2, shape.tokens))

    def run(steps: int) -> None:
        for number in range(steps):
            replay.given["tokens"][:], replay.given["targets"][:] = batches[number % len(batches)]
            replay.forward(position=0)

    return run


def generating(shape: Shape, recompute: str | None) -> Step:
    """Tokens of one sequence, each the most likely one; a new sequence where the window is full."""
    import numpy as np

    from cllm_cli.model.decode import Decoder
    from cllm_cli.training.session import rehearsal

    decoder = Decoder(rehearsal(settings_of(shape, recompute), shape.vocab_size).model)
    logits = decoder.read([0])
    length = 1

    def run(steps: int) -> None:
        nonlocal logits, length
        for _ in range(steps):
            token = int(np.argmax(logits))
            logits = decoder.read([token]) if length == shape.block_size else decoder.advance(token)
            length = length % shape.block_size + 1

    return run


def measuring(shape: Shape, recompute: str | None) -> Step:
    """The machine's roofs. In a process of its own, since the arrays that are copied take memory."""
    from cllm_cli.profiling.roof import measure_roof

    def run(steps: int) -> dict[str, float]:
        roof = measure_roof()
        return {"roof_gflops": roof.gflops, "copy_gbytes_per_s": roof.gbytes}

    return run


MAKERS: dict[str, Callable[[Shape, str | None], Step]] = dict(
    zip((*TASKS, ROOF), (training, evaluating, generating, measuring), strict=True)
)


def without_avx512() -> None:
    """Compile for this very CPU as if it had no vectors of 512 bits; call it before anything imports kernels."""
    import numba
    from numba.core.codegen import get_host_cpu_features

    names = get_host_cpu_features().split(",")
    numba.config.CPU_FEATURES = ",".join(f"-{name[1:]}" if name.startswith("+avx512") else name for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", type=named_shape)
    parser.add_argument("threads", type=int)
    parser.add_argument("--task", choices=MAKERS, default=TASKS[0])
    parser.add_argument("--recompute", choices=("none", "cheap", "block"))
    parser.add_argument("--cpu", default="", help=f"a CPU level to compile for, as the binary has it, or {AVX2}")
    options = parser.parse_args()
    if options.cpu == AVX2:
        without_avx512()
    else:
        os.environ["CLLM_CPU"] = options.cpu  # before anything imports kernels

    from cllm_cli.kernels.threads import use_threads

    use_threads(options.threads)
    serve(MAKERS[options.task](options.shape, options.recompute), packages=("cllm", "numba", "llvmlite", "numpy"))


if __name__ == "__main__":
    main()
