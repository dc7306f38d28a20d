import numba
import pytest

from cllm_cli.errors import ConfigError
from cllm_cli.kernels.threads import use_threads


def test_more_threads_than_numba_has_made_ready_are_refused(set_threads):
    before = numba.config.NUMBA_NUM_THREADS
    with pytest.raises(ConfigError, match="more than this process can start"):
        use_threads(before + 1)
    assert before == numba.config.NUMBA_NUM_THREADS
    use_threads(3)
    assert numba.get_num_threads() == 3
