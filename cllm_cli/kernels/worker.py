"""A process that compiles kernels for another one, and runs none of them.

    python -m cllm_cli.kernels.worker [LEVEL]       a kernel a line on standard input, its name back when it is done

With LEVEL it compiles for that CPU level (levels.py), whatever the CPU is.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

from cllm_cli.kernels.levels import only_compile_for


def main() -> None:
    """Compiles what standard input names, until it ends, as it does when the process that started this one is gone."""
    for level in sys.argv[1:]:
        only_compile_for(level)

    import numba

    from cllm_cli.kernels.ahead import type_of
    from cllm_cli.kernels.jit import cache_root

    if cache_root() is None:  # it would compile for nobody
        sys.exit(1)
    os.nice(1)  # the other process is the one that somebody watches
    numba.get_num_threads()  # starts the threads, whose symbols kernels refer to
    for line in sys.stdin:
        module, name, *types = json.loads(line)
        getattr(importlib.import_module(module), name).compile(tuple(map(type_of, types)))
        sys.stdout.write(name + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
