"""Writes cllm_cli/checks/known_outputs.py, what `cllm doctor` holds kernels against; `--check` only compares.

python tools/make_known.py [--check]

It runs the kernels as plain Python in float64, with the JIT off, so nothing is compiled. Takes about a minute.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

os.environ["NUMBA_DISABLE_JIT"] = "1"

import numpy as np

from cllm_cli.checks import selftest
from cllm_cli.checks.known_outputs import KNOWN
from cllm_cli.kernels.jit import JIT_OFF

FILE = Path(selftest.__file__).with_name("known_outputs.py")
# Sums of a few hundred terms in float64, in another order where another library multiplies the matrices.
ALLOWED = 1e-13

HEAD = '''"""What the kernels write on the inputs of selftest.py, in float64: made by tools/make_known.py.

By kernel, inputs and tensor: the weighted sum, and √n times the largest magnitude.
"""

# fmt: off
KNOWN: dict[str, tuple[float, float]] = {
'''


def computed() -> dict[str, tuple[float, float]]:
    """Everything that is stored, computed anew."""
    assert JIT_OFF, "Numba was imported before"
    found = {}
    with np.errstate(over="ignore"):  # numbers of fixed width warn where they wrap round, as dropout's hash does
        for cases in (selftest.layer_cases(np.float64), selftest.other_cases(np.float64)):
            for case in cases:
                case.kernel(*case.arguments)
                for tensor, values in case.written.items():
                    found[case.key(tensor)] = selftest.weighted_sum(values), selftest.size_of(values)
    return found


def agrees(found: dict[str, tuple[float, float]]) -> bool:
    """Whether the file has these values."""
    return found.keys() == KNOWN.keys() and all(
        math.isclose(one, other, rel_tol=0, abs_tol=ALLOWED * max(1.0, found[key][1]))
        for key in found
        for one, other in zip(found[key], KNOWN[key], strict=True)
    )


def main() -> int:
    """Writes the file, or with --check says whether it is current."""
    found = computed()
    if "--check" in sys.argv[1:]:
        return 0 if agrees(found) else 1
    lines = [f'    "{key}": ({total!r}, {size:.17g}),\n' for key, (total, size) in found.items()]
    FILE.write_text(HEAD + "".join(lines) + "}\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
