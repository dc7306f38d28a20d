"""The sample corpora are what their script makes, and the Markov source's entropy is what it is said to be."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "sample_data"


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("sample_data_make", FOLDER / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def facts():
    return json.loads((FOLDER / "markov.json").read_text("utf-8"))


def test_the_files_are_what_the_script_makes(make):
    for name, content in make.made().items():
        assert (FOLDER / name).read_bytes() == content, name


def test_check_sees_a_file_that_differs(make, monkeypatch, tmp_path, capsys):
    content = {"story.txt": b"once", "markov.txt": b"ab"}
    monkeypatch.setattr(make, "FOLDER", tmp_path)
    monkeypatch.setattr(make, "made", lambda: content)
    assert make.main(["--check"]) == 1
    assert make.main([]) == 0
    assert make.main(["--check"]) == 0
    (tmp_path / "story.txt").write_bytes(b"once ")
    assert make.main(["--check"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("makes them: story.txt")
    assert make.main(["--chek"]) == 2


def test_the_stated_source_is_the_one_the_script_computes(make, facts):
    weights = make.markov_weights()
    assert facts["weights"] == {
        a + b: weights[i, j].tolist() for (i, a), (j, b) in itertools.product(enumerate(facts["alphabet"]), repeat=2)
    }
    assert make.entropies(weights)[0] == pytest.approx(facts["entropy"], abs=1e-9)


def test_the_entropy_agrees_with_iterating_the_source(facts):
    """An oracle without linear algebra: push a distribution over pairs through the source until it stays."""
    alphabet = facts["alphabet"]
    following = {pair: [w / sum(row) for w in row] for pair, row in facts["weights"].items()}
    pairs = dict.fromkeys(following, 1 / len(following))
    for _ in range(200):
        after = dict.fromkeys(following, 0.0)
        for pair, share in pairs.items():
            for letter, chance in zip(alphabet, following[pair], strict=True):
                after[pair[1] + letter] += share * chance
        pairs = after
    rate = sum(pairs[pair] * -sum(p * math.log(p) for p in row) for pair, row in following.items())
    assert rate == pytest.approx(facts["entropy"], abs=1e-9)
    last = Counter()
    both = Counter()
    for pair, share in pairs.items():
        last[pair[1]] += share
        for letter, chance in zip(alphabet, following[pair], strict=True):
            both[pair[1] + letter] += share * chance
    none = -sum(share * math.log(share) for share in last.values())
    one = -sum(share * math.log(share / last[pair[0]]) for pair, share in both.items())
    assert none == pytest.approx(facts["entropy_knowing_none"], abs=1e-9)
    assert one == pytest.approx(facts["entropy_knowing_one_character"], abs=1e-9)


def test_the_text_is_drawn_from_the_source(facts):
    text = (FOLDER / "markov.txt").read_text("ascii")
    assert len(text) == facts["characters"] == 250_000
    assert set(text) == set(facts["alphabet"])
    counts = Counter(text[i : i + 3] for i in range(len(text) - 2))
    surprise, chi_square = 0.0, 0.0
    for pair, row in facts["weights"].items():
        seen = [counts[pair + letter] for letter in facts["alphabet"]]
        chances = [weight / sum(row) for weight in row]
        surprise -= sum(n * math.log(p) for n, p in zip(seen, chances, strict=True))
        chi_square += sum((n - sum(seen) * p) ** 2 / (sum(seen) * p) for n, p in zip(seen, chances, strict=True))
    # One standard deviation of the mean surprise is about 0.002; of chi-square, with 900 degrees of freedom, 42.
    assert surprise / (len(text) - 2) == pytest.approx(facts["entropy"], abs=0.006)
    assert 900 - 4 * 42 < chi_square < 900 + 4 * 42


def test_a_small_model_can_learn_every_row(facts):
    text = (FOLDER / "markov.txt").read_text("ascii")
    pairs = Counter(itertools.pairwise(text))
    assert min(pairs[tuple(pair)] for pair in facts["weights"]) > 200
    assert min(min(row) / sum(row) for row in facts["weights"].values()) > 1 / 200
    # Knowing more of the past is worth something at each step, and neither end is trivial.
    rates = [facts["entropy"], facts["entropy_knowing_one_character"], facts["entropy_knowing_none"]]
    assert np.diff([*rates, math.log(10)]).min() > 0.05
    assert np.diff(rates).min() > 0.2


def test_the_stories_are_clean_text():
    text = (FOLDER / "story.txt").read_text("ascii")
    assert 290_000 < len(text) < 320_000
    assert len({word.lower() for word in re.findall(r"[A-Za-z]+", text)}) > 1000
    assert not re.search(r"[{}\[\]|=_]|  |\t| \n|\n{3}", text)
    assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiouh]", text)
    for paragraph in text.split("\n\n"):
        assert paragraph.count('"') % 2 == 0
    stories = text.split("* * *\n\n")
    assert len(set(stories)) == len(stories) > 200
    assert text.endswith("\n")


def test_every_list_of_the_grammar_is_used_and_every_name_is_there(make):
    grammar = make.read_grammar(FOLDER / "story.grammar")
    fixed = make.Story(grammar, random.Random(0))._fixed
    used = {slot.lower() for lines in grammar.values() for line in lines for slot in re.findall(r"\{([\w.]+)\}", line)}
    by_the_script = {
        "girl",
        "boy",
        "role",
        "trait",
        "town_head",
        "town_tail",
        "place",
        "thing",
        "beast",
        "title",
        "food",
    }
    seasons = {f"weather_{season}" for season in ("spring", "summer", "autumn", "winter")}
    assert used - set(fixed) - set(grammar) == {"weather"}
    plots = {name for name in grammar if name.startswith("plot_")}
    assert set(grammar) - used - by_the_script - seasons == plots
    assert len(plots) >= 10


def test_pronouns_follow_the_name(make):
    grammar = make.read_grammar(FOLDER / "story.grammar")
    for seed in range(40):
        story = make.Story(grammar, random.Random(seed))
        hero = story._fixed["hero"]
        expected = "she" if hero in grammar["girl"] else "he"
        text = story._spelled("{hero} knew that {hero.they} had lost {hero.their} way.")
        assert text.startswith(f"{hero} knew that {expected} had lost {'her' if expected == 'she' else 'his'} way.")
