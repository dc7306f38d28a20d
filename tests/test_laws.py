"""Laws are tested on the same examples in every run, and each law on its own."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

from hypothesis import strategies as st
from laws import SEEDS, law

SIZES = st.integers(1, 40)


def examples(name, numbers=SIZES, count=30):
    """What is drawn for a test of this name, its parameters in brackets."""
    found = []

    def test(numbers):
        found.append(numbers)

    run = law(count, count, numbers=st.tuples(*[numbers] * 8))(test)
    run(count, SimpleNamespace(node=SimpleNamespace(name=name)))
    return found


def test_the_name_and_the_parameters_alone_say_what_is_drawn():
    found = examples("test_one[3-linear]")
    assert examples("test_one[3-linear]") == found
    others = [examples(name) for name in ("test_other[3-linear]", "test_one[3-head]")]
    for other in others:
        assert set(other) & set(found) == {found[0]}  # the least


def test_the_first_example_is_the_least_and_the_others_are_not():
    found = examples("test_one[3-linear]")
    assert found[0] == (1,) * 8
    assert max(map(max, found[1:4])) > 20


def test_constants_of_a_module_that_is_loaded_are_not_drawn(tmp_path, monkeypatch):
    before = examples("test_one", SEEDS)
    file = tmp_path / "loaded.py"
    file.write_text("NUMBERS = (1017, 1023, 1029)\n")
    spec = importlib.util.spec_from_file_location("loaded", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "loaded", module)
    spec.loader.exec_module(module)
    assert examples("test_one", SEEDS) == before
