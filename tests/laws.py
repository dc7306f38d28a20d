"""Laws: tests that hold for all values of their strategies; few examples in the quick set, many in the full one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**32 - 1)


def law(quick: int, full: int, **strategies: Any) -> Callable[[Callable[..., None]], Any]:
    """Marks a test whose arguments are drawn as `strategies` say; the others are parametrized or fixtures."""

    def decorate(test: Callable[..., None]) -> Any:
        others = [value for name, value in inspect.signature(test).parameters.items() if name not in strategies]

        def run(examples: int, **given_: Any) -> None:
            def drawn(**values: Any) -> None:
                test(**given_, **values)

            drawn.__qualname__ = test.__qualname__  # what Hypothesis draws follows from it
            settings(max_examples=examples)(given(**strategies)(drawn))()

        examples = inspect.Parameter("examples", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        # Pytest reads it; functions declare none.
        run.__signature__ = inspect.Signature([examples, *others])  # type: ignore[attr-defined]
        run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
        run.pytestmark = list(getattr(test, "pytestmark", []))  # type: ignore[attr-defined]  # the same
        return pytest.mark.parametrize("examples", [quick, pytest.param(full, marks=pytest.mark.slow)])(run)

    return decorate
