"""What is special to the tables: tokens that repeat, and places in the window."""

from __future__ import annotations

import numpy as np
import pytest
from reference import expected

from cllm_cli.checks.harness import Bench
from cllm_cli.layers import LAYERS
from cllm_cli.layers.embedding import COLUMNS

EMBEDDING, POSITIONS, LAST = (LAYERS.load(name) for name in ("embedding", "positions", "last"))
precisions = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@precisions
@pytest.mark.parametrize("columns", [1, COLUMNS - 1, COLUMNS, COLUMNS + 1, 3 * COLUMNS + 5])
def test_gradients_of_a_token_that_repeats_add_up(dtype, columns, set_threads):
    for threads in (1, 2, 3, 7):
        set_threads(threads)
        bench = Bench(EMBEDDING, {"N": 6, "V": 4, "C": columns}, dtype)
        bench.arrays["tokens"][...] = [2, 0, 2, 2, 3, 0]
        bench.arrays["dout"][...] = np.arange(1, 7)[:, None]  # whole numbers: their sums are exact
        bench.step()
        assert np.array_equal(bench.arrays["dweight"], np.repeat([[8], [0], [8], [5]], columns, axis=1))


@precisions
def test_positions_start_where_they_are_told(dtype):
    bench = Bench(POSITIONS, {"B": 2, "T": 3, "C": 5, "S": 9}, dtype)
    bench.scalars["position"] = np.int64(4)
    bench.step()
    wanted = expected("positions", bench.known())["out"].astype(dtype)
    np.testing.assert_allclose(bench.arrays["out"], wanted, rtol=0, atol=np.finfo(dtype).eps * np.abs(wanted).max())
    assert not bench.arrays["dweight"][:4].any()
    assert not bench.arrays["dweight"][7:].any()
    np.testing.assert_allclose(bench.arrays["dweight"][4:7], bench.arrays["dout"].sum(axis=0), rtol=1e-5)


@precisions
def test_only_the_last_row_gets_a_gradient(dtype):
    bench = Bench(LAST, {"B": 3, "T": 5, "C": 7}, dtype)
    bench.step()
    assert not bench.arrays["dx"][:, :-1].any()
    assert np.array_equal(bench.arrays["dx"][:, -1], bench.arrays["dout"])
