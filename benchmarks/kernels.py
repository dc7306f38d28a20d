"""Each kernel by itself against the machine's roof; beside the matrix products OpenBLAS, through NumPy, on equal data.

    python benchmarks/kernels.py [--what products layers] [--shapes S M L] [--turns 9] [--threads N]

Products are C = A B with A (m, k) and B (k, n) in the three forms that layers need: nn as written, nt with B stored
transposed, tn with A stored transposed and C added to. Both sides take turns; medians are reported. Layers run on the
memory of a real training step, each kernel again and again. Standard output: JSON lines. Standard error: tables.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from cllm_worker import settings_of
from machine import cores, describe, versions
from shapes import SHAPES, Shape, named_shape
from streams import Result, emit, tell

Run = Callable[[], Any]
TURN = 0.05  # seconds of a kernel's turn
PAUSE = 0.1  # seconds between turns: OpenBLAS leaves a thread spinning, on a core that ours want

# m, n, k; then those of the three shapes' linear layers, which products() adds.
SIZES: dict[str, list[tuple[int, int, int]]] = {
    "small": [(16, 16, 16), (40, 40, 40), (64, 64, 64), (128, 128, 128)],
    "odd": [(97, 101, 103), (257, 513, 129), (1000, 999, 1001)],
    "tall": [(4096, 32, 64), (8192, 64, 512), (65, 4096, 768)],
    "deep": [(64, 64, 8192), (256, 256, 8192)],
    "one row": [(1, 2048, 512), (1, 8192, 512)],
}


def linear_sizes(shape: Shape) -> list[tuple[int, int, int]]:
    """m, n, k of a shape's linear layers, forward."""
    rows, width, hidden = shape.tokens, shape.n_embd, shape.n_hidden
    return [(rows, 3 * width, width), (rows, width, width), (rows, hidden, width), (rows, width, hidden)]


def seconds_of(runs: list[Run], turns: int) -> list[float]:
    """Median seconds of each, alternating."""
    repeats = []
    for run in runs:
        run()
        started = time.perf_counter()
        run()
        repeats.append(max(1, round(TURN / max(1e-7, time.perf_counter() - started))))
    found: list[list[float]] = [[] for _ in runs]
    for turn in range(turns):
        order = list(range(len(runs)))
        for number in order if turn % 2 == 0 else reversed(order):
            time.sleep(PAUSE if len(runs) > 1 else 0)
            started = time.perf_counter()
            for _ in range(repeats[number]):
                runs[number]()
            found[number].append((time.perf_counter() - started) / repeats[number])
    return [statistics.median(times) for times in found]


@functools.cache
def product_kernels() -> tuple[Any, Any, Any]:
    """The three forms, compiled."""
    import numba

    from cllm_cli.kernels.gemm import gemm_nn, gemm_nt, gemm_tn
    from cllm_cli.kernels.jit import FLAGS

    @numba.njit(**FLAGS)
    def nn(c, a, b, pack):  # type: ignore[no-untyped-def]  # as kernels are
        gemm_nn(c, a, b, pack, False)

    @numba.njit(**FLAGS)
    def nt(c, a, b, pack):  # type: ignore[no-untyped-def]  # the same
        gemm_nt(c, a, b, pack, False)

    @numba.njit(**FLAGS)
    def tn(c, a, b, pack):  # type: ignore[no-untyped-def]  # the same
        gemm_tn(c, a, b, pack, True)

    return nn, nt, tn


def product_runs(m: int, n: int, k: int, threads: int) -> dict[str, list[Run]]:
    """Our product and NumPy's, for each form."""
    import numpy as np

    from cllm_cli.kernels.gemm import pack_size

    draw = np.random.default_rng(1)
    a, b = draw.standard_normal((m, k), np.float32), draw.standard_normal((k, n), np.float32)
    a_stored, b_stored = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
    c, other = np.zeros((m, n), np.float32), np.zeros((m, n), np.float32)
    pack = np.zeros(pack_size(m, n, k, threads, 4), np.float32)
    nn, nt, tn = product_kernels()
    return {
        "nn": [lambda: nn(c, a, b, pack), lambda: np.matmul(a, b, out=other)],
        "nt": [lambda: nt(c, a, b_stored, pack), lambda: np.matmul(a, b_stored.T, out=other)],
        "tn": [lambda: tn(c, a_stored, b, pack), lambda: np.matmul(a_stored.T, b, out=other)],
    }


def products(shapes: list[str], turns: int, threads: int, roof: float) -> list[Result]:
    """The matrix product in its three forms at every size, and OpenBLAS beside it."""
    results = []
    for group, sizes in {**SIZES, **{name: linear_sizes(named_shape(name)) for name in shapes}}.items():
        for m, n, k in sizes:
            for form, runs in product_runs(m, n, k, threads).items():
                ours, theirs = (2e-9 * m * n * k / seconds for seconds in seconds_of(runs, turns))
                row = {"event": "product", "group": group, "form": form, "m": m, "n": n, "k": k, "gflops": ours}
                results.append(row | {"openblas_gflops": theirs, "roof_share": ours / roof, "ratio": ours / theirs})
                emit(results[-1])
    return results


def layers(name: str, turns: int, roof: Any) -> list[Result]:
    """Every kernel of a training step of a shape, one row for each layer, direction and size."""
    from cllm_cli.profiling.layers import PASSES
    from cllm_cli.training.session import rehearsal

    shape = named_shape(name)
    stepper = rehearsal(settings_of(shape, None), shape.vocab_size).stepper
    values = stepper.arguments(0, shape.tokens)
    replay = stepper.replay
    seen: set[tuple[str, str, str]] = set()
    results = []
    bound = zip(
        [*replay.plan.forward, *replay.plan.backward], [*replay.forward_runs, *replay.backward_runs], strict=True
    )
    for run, runner in bound:
        layer, sizes = run.call.layer, dict(run.call.sizes)
        kind = (layer.name, run.direction, str(sizes))
        if kind in seen:
            continue
        seen.add(kind)
        (seconds,) = seconds_of([functools.partial(runner.kernel, *runner.arguments(values))], turns)
        gflops = PASSES[run.direction] * layer.flops(sizes) / seconds / 1e9
        gbytes = run.moved_bytes(4) / seconds / 1e9
        shares = {"roof_share": gflops / roof.gflops, "copy_share": gbytes / roof.gbytes}
        row = {"event": "layer", "shape": name, "name": layer.name, "direction": run.direction, "sizes": sizes}
        results.append(row | {"ms": 1e3 * seconds, "gflops": gflops, "gbytes_per_s": gbytes, **shares})
        emit(results[-1])
    return results


def product_table(rows: list[Result]) -> str:
    lines = [f"{'':<9}{'form':<5}{'m × n × k':<20}{'GFLOP/s':>9}{'of roof':>9}{'OpenBLAS':>10}{'ratio':>8}"]
    for row in rows:
        sizes = f"{row['m']} × {row['n']} × {row['k']}"
        figures = f"{row['gflops']:>9.1f}{row['roof_share']:>9.0%}{row['openblas_gflops']:>10.1f}{row['ratio']:>7.2f}×"
        lines.append(f"{row['group']:<9}{row['form']:<5}{sizes:<20}{figures}")
    return "\n".join(lines)


def layer_table(rows: list[Result]) -> str:
    lines = [f"{'':<3}{'layer':<16}{'direction':<18}{'ms':>9}{'GFLOP/s':>9}{'of roof':>9}{'GB/s':>8}{'of copy':>9}"]
    for row in rows:
        figures = f"{row['ms']:>9.3f}{row['gflops']:>9.1f}{row['roof_share']:>9.0%}"
        figures += f"{row['gbytes_per_s']:>8.1f}{row['copy_share']:>9.0%}"
        lines.append(f"{row['shape'][:2]:<3}{row['name']:<16}{row['direction']:<18}{figures}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--what", nargs="+", choices=("products", "layers"), default=["products", "layers"])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=cores())
    options = parser.parse_args()
    # Libraries read this when they are imported.
    os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), str(options.threads)))
    # OpenBLAS leaves a thread spinning where it likes; ours would at times share a core meanwhile.
    os.environ["OMP_PROC_BIND"] = "true"

    from cllm_cli.kernels.threads import use_threads
    from cllm_cli.profiling.roof import measure_roof

    use_threads(options.threads)
    roof = measure_roof()
    emit({"event": "machine", **describe(), "threads": options.threads, "versions": versions("cllm", "numba", "numpy")})
    emit({"event": "roof", "roof_gflops": roof.gflops, "copy_gbytes_per_s": roof.gbytes})
    tell(f"roof: {roof.gflops:.1f} GFLOP/s, copy {roof.gbytes:.1f} GB/s")
    if "products" in options.what:
        tell(product_table(products(options.shapes, options.turns, options.threads, roof.gflops)))
    if "layers" in options.what:
        for name in options.shapes:
            tell(layer_table(layers(name, options.turns, roof)))


if __name__ == "__main__":
    main()
