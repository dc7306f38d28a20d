"""How many threads the kernels run on, and what starts them."""

from __future__ import annotations

import numba

from cllm_cli.errors import ConfigError


def use_threads(count: int) -> None:
    """Sets the number of threads that kernels run on. Raises ConfigError for more than Numba has made ready."""
    threading_layer()
    try:
        numba.set_num_threads(count)
    except ValueError as error:  # Numba reads how many when it is imported
        raise ConfigError(
            f"--threads {count} is more than this process can start",
            "give fewer, or set NUMBA_NUM_THREADS before Python starts",
        ) from error


def threading_layer() -> str:
    """What runs the kernels' threads: omp, tbb or workqueue. Raises ConfigError where Numba can start none."""
    try:
        numba.get_num_threads()  # starts them
    except ValueError as error:
        raise ConfigError(
            f"Numba cannot start its threads: {' '.join(str(error).split())}",
            "unset NUMBA_THREADING_LAYER and NUMBA_THREADING_LAYER_PRIORITY",
        ) from error
    return str(numba.threading_layer())  # type: ignore[attr-defined]  # set by name
