"""The mutation script: what it changes, what it calls it, and that its list of equivalent mutants is about those."""

from __future__ import annotations

import ast
import random
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.mutation import equivalent, running
from tools.mutation.modules import MODULES, TUNING
from tools.mutation.mutants import PACKAGE, all_mutants, chosen, mutants_of
from tools.mutation.operators import OPERATORS

ROOT = Path(__file__).parents[1]
EVERY = all_mutants()
CHOSEN = [mutant for module, mutants in EVERY.items() for mutant in chosen(module, mutants)]


@pytest.mark.parametrize(
    ("operator", "code", "wanted"),
    [
        ("drop-term", "a + b", ["a", "b"]),
        ("drop-term", "a - b", ["a"]),
        ("drop-factor", "a * b", ["a", "b"]),
        ("drop-factor", "a / b", ["a"]),
        ("sign", "a + b", ["a - b"]),
        ("sign", "-a", ["a"]),
        ("sign", "a += b", ["a -= b"]),
        ("operator", "a // b", ["a % b"]),
        ("operator", "min(a, b)", ["max(a, b)"]),
        ("operator", "a and b", ["a or b"]),
        ("swap", "a - b", ["b - a"]),
        ("swap", "f(a, b, 1, c)", ["f(b, a, 1, c)"]),
        ("index", "x[i]", ["x[i - 1]", "x[0]"]),
        ("index", "x.shape[1]", ["x.shape[0]"]),
        ("index", "x[i, j]", ["x[i - 1, j]", "x[0, j]", "x[i, j - 1]", "x[i, 0]", "x[j, i]"]),
        ("bound", "range(n)", ["range(1, n)", "range(n - 1)"]),
        ("bound", "prange(i, n)", ["prange(i + 1, n)", "prange(i, n - 1)"]),
        ("bound", "x[i:n]", ["x[i + 1:n]", "x[i:n - 1]"]),
        ("constant", "2", ["3"]),
        ("constant", "1.0", ["1.1"]),
        ("constant", "True", ["False"]),
        ("write", "x[i] += a", ["x[i] = a"]),
        ("write", "x[i] = a", ["x[i] += a"]),
        ("compare", "a < b", ["a <= b"]),
        ("compare", "a == b", ["a != b"]),
        ("branch", "a if c else b", ["a", "b"]),
        ("leave-out", "f(a)", ["pass"]),
        ("leave-out", "x[i] = a", ["pass"]),
        ("leave-out", "x = a", []),
        ("leave-out", "x = f(a, b=c)", ["f(a)"]),
    ],
)
def test_an_operator_makes_these_mistakes(operator, code, wanted):
    statement = ast.parse(code).body[0]
    nodes = [statement, *([] if isinstance(statement, ast.AugAssign) else [statement.value])]
    found = ["pass" if new is None else ast.unparse(new) for node in nodes for new in OPERATORS[operator](node)]
    assert found == wanted


def test_the_choice_is_of_every_module_and_every_operator():
    assert len(CHOSEN) >= 80
    assert {mutant.module for mutant in CHOSEN} == set(MODULES)
    assert {mutant.operator for mutant in CHOSEN} == set(OPERATORS)


def test_names_are_unique_and_made_the_same_way_each_time():
    names = [mutant.name for mutants in EVERY.values() for mutant in mutants]
    assert len(names) == len(set(names))
    assert all_mutants() == EVERY


def test_each_differs_from_the_source_and_parses():
    sources = {module: (PACKAGE / module).read_text("utf-8") for module in EVERY}
    trees = {module: ast.dump(ast.parse(source)) for module, source in sources.items()}
    for mutant in CHOSEN:
        assert ast.dump(ast.parse(mutant.source())) != trees[mutant.module], mutant


def test_a_change_elsewhere_leaves_names_and_choice_as_they_are(tmp_path):
    module = "layers/gelu.py"
    (tmp_path / "layers").mkdir()
    before = (PACKAGE / module).read_text("utf-8")
    (tmp_path / module).write_text(before.replace("\n\n\n@kernel", "\n\n\ndef other(a):\n    return a\n\n\n@kernel", 1))
    again = mutants_of(module, tmp_path)
    assert [mutant.name for mutant in again] == [mutant.name for mutant in EVERY[module]]
    random.Random(1).shuffle(again)
    assert [mutant.name for mutant in chosen(module, again)] == [
        mutant.name for mutant in chosen(module, EVERY[module])
    ]
    assert again[0].source(tmp_path).count("def other") == 1


def test_what_only_tunes_is_left_alone():
    for module, names in TUNING.items():
        tree = ast.parse((PACKAGE / module).read_bytes())
        lines = {
            line
            for node in ast.walk(tree)
            for name in [
                getattr(node, "name", None),
                *(getattr(each, "id", None) for each in getattr(node, "targets", [])),
            ]
            if name in names
            for line in range(node.lineno, node.end_lineno + 1)
        }
        assert lines
        assert not lines & {mutant.line for mutant in EVERY[module]}, module


def test_every_stage_names_tests_that_are_there():
    for module, stages in MODULES.items():
        assert stages
        assert all((ROOT / file).exists() for stage in stages for file in stage.files), module


def test_equivalent_mutants_are_what_their_list_says():
    known = {mutant.name: mutant for mutants in EVERY.values() for mutant in mutants}
    listed = equivalent.entries()
    assert len(listed) == len(equivalent.reasons())
    for entry in listed:
        mutant = known.get(entry["name"])
        assert mutant, f"there is no mutant {entry['name']}"
        assert (mutant.was, mutant.now) == (entry["was"], entry["now"]), f"{entry['name']} is another one now"
        assert len(entry["reason"]) > 20


def test_a_mutant_gets_a_tree_and_a_cache_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "old").write_text("warm")
    monkeypatch.setattr(running, "LEFT_OUT", shutil.ignore_patterns(".*", "docs", "sample_data", "benchmarks", "build"))
    shop = running.Workshop(tmp_path / "kernels")
    mutant = EVERY["layers/gelu.py"][0]
    met = []

    def stage(tree, cache, stage, first_alone=True):
        met.append((tree / "cllm_cli" / mutant.module).read_text("utf-8"))
        (cache / "kernels" / "new").write_text("cold")
        assert (cache / "kernels" / "old").read_text() == "warm"
        return "a test" if len(met) == 2 else ""

    monkeypatch.setattr(running, "run_stage", stage)
    try:
        verdict = shop.try_out(mutant)
        assert (verdict.outcome, verdict.by, verdict.stage) == (running.KILLED, "a test", 2)
        assert met == [mutant.source()] * 2
        assert (shop.tree / "cllm_cli" / mutant.module).read_bytes() == (PACKAGE / mutant.module).read_bytes()
        assert not (shop.cache / "kernels" / "new").exists()
        assert sorted(shop.folder.iterdir()) == [shop.cache, shop.tree]
    finally:
        shop.close()
    assert not shop.folder.exists()
