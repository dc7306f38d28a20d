"""Laws: tests that hold for all values of their strategies; few examples in the quick set, many in the full one."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**32 - 1)


def law(quick: int, full: int, **strategies: Any) -> Callable[[Callable[..., None]], Any]:
    """Marks a test whose arguments are drawn as `strategies` say; the others are parametrized or fixtures.

    What is drawn follows from the test's name and its parameters. The first example is always the least that there is,
    such as every size 1.
    """

    def decorate(test: Callable[..., None]) -> Any:
        others = [value for name, value in inspect.signature(test).parameters.items() if name not in strategies]

        def run(examples: int, request: pytest.FixtureRequest, **given_: Any) -> None:
            def drawn(**values: Any) -> None:
                test(**given_, **values)

            # By itself Hypothesis would go by the source of `drawn`, which is the same for all laws.
            start = seed(zlib.crc32(request.node.name.encode()))
            start(settings(max_examples=examples)(given(**strategies)(drawn)))()

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        own = [inspect.Parameter(name, kind) for name in ("examples", "request")]
        # Pytest reads it; functions declare none.
        run.__signature__ = inspect.Signature([*own, *others])  # type: ignore[attr-defined]  # functions declare none
        run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
        run.pytestmark = list(getattr(test, "pytestmark", []))  # type: ignore[attr-defined]  # the same
        return pytest.mark.parametrize("examples", [quick, pytest.param(full, marks=pytest.mark.slow)])(run)

    return decorate
