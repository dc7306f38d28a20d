"""Make the sample corpora: story.txt, markov.txt and markov.json.

    python sample_data/make.py            write them
    python sample_data/make.py --check    exit 1 if they are not as this script makes them

The same bytes everywhere: randomness is `random.Random.random()` alone, which Python promises to keep, and everything
else is whole numbers, but for the entropies, which are rounded to nine digits.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).resolve().parent
T = TypeVar("T")

STORY_SEED, STORY_BYTES = 20, 300_000

MARKOV_SEED, MARKOV_CHARACTERS = 7, 250_000
ALPHABET = "abcdefghij"
ORDER = 2


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """One of `items`, each as likely as the others."""
    return items[int(rng.random() * len(items))]


# --- A Markov source -------------------------------------------------------------------------------------------------


def markov_weights() -> npt.NDArray[np.int64]:
    """Weights (S, S, S), S the size of the alphabet: [a, b, c] is proportional to the probability of c after a, b.

    One part depends on b alone, so that the last letter helps, and the last two help more. None is rarer than about one
    in two hundred: a model can learn every row from the text.
    """
    rng = random.Random(MARKOV_SEED)
    size = len(ALPHABET)
    by_last = np.array([int(60 * rng.random() ** 8) for _ in range(size**2)], dtype=np.int64).reshape(size, size)
    by_both = np.array([int(60 * rng.random() ** 8) for _ in range(size**3)], dtype=np.int64).reshape(size, size, size)
    return 2 + by_last + by_both


def entropies(weights: npt.NDArray[np.int64]) -> tuple[float, float, float]:
    """The source's entropy in nats a character, knowing the last two characters (its rate), the last one, or none."""
    following = weights / weights.sum(axis=2, keepdims=True)
    pairs = stationary_pairs(weights)
    singles = pairs.sum(axis=0)
    after_one = np.einsum("ab,abc->bc", pairs, following) / singles[:, None]
    rate = -float((pairs[:, :, None] * following * np.log(following)).sum())
    first_order = -float((singles[:, None] * after_one * np.log(after_one)).sum())
    return rate, first_order, -float((singles * np.log(singles)).sum())


def stationary_pairs(weights: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """How often each pair (a, b) occurs in the long run: p P = p with sum 1, solved in float64."""
    size = len(weights)
    following = weights / weights.sum(axis=2, keepdims=True)
    step = np.zeros((size, size, size, size))
    for letter in range(size):
        # From the pair (a, letter) to the pair (letter, c).
        step[:, letter, letter, :] = following[:, letter, :]
    system = step.reshape(size**2, size**2).T - np.eye(size**2)
    system[-1] = 1
    right = np.zeros(size**2)
    right[-1] = 1
    return np.asarray(np.linalg.solve(system, right), dtype=np.float64).reshape(size, size)


def markov_text(weights: npt.NDArray[np.int64], characters: int) -> str:
    """A text from the source, begun long before its first character. No newline at its end: that would be no letter."""
    rng = random.Random(MARKOV_SEED + 1)
    rows = {(a, b): weights[a, b].cumsum().tolist() for a in range(len(weights)) for b in range(len(weights))}
    before, last, text = 0, 0, []
    for _ in range(characters + 100):
        cumulated = rows[before, last]
        drawn = int(rng.random() * cumulated[-1])
        before, last = last, next(index for index, end in enumerate(cumulated) if drawn < end)
        text.append(ALPHABET[last])
    return "".join(text[100:])


def markov_facts(weights: npt.NDArray[np.int64], characters: int) -> dict[str, Any]:
    rate, first_order, zeroth_order = entropies(weights)
    return {
        "about": "the Markov source that markov.txt is drawn from; 'entropy' is the loss of the best model, on average",
        "alphabet": ALPHABET,
        "order": ORDER,
        "seed": MARKOV_SEED,
        "characters": characters,
        "unit": "nats per character",
        "entropy": round(rate, 9),
        "entropy_knowing_one_character": round(first_order, 9),
        "entropy_knowing_none": round(zeroth_order, 9),
        "weights": {
            ALPHABET[a] + ALPHABET[b]: weights[a, b].tolist() for a in range(len(weights)) for b in range(len(weights))
        },
    }


# --- Stories ---------------------------------------------------------------------------------------------------------

PRONOUNS = {
    "girl": {"they": "she", "them": "her", "their": "her", "self": "herself"},
    "boy": {"they": "he", "them": "him", "their": "his", "self": "himself"},
}


def read_grammar(path: Path) -> dict[str, list[str]]:
    """The lists of a grammar file, by name; its first lines say how it is written."""
    lists: dict[str, list[str]] = {}
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("== "):
            name = line[3:]
            lists[name] = []
        elif line and not line.startswith("#"):
            lists[name].append(line)
    return lists


class Story:
    """One story: who and what it is about is drawn first, then its title and its plot are spelled out."""

    def __init__(self, grammar: dict[str, list[str]], rng: random.Random) -> None:
        self._rng = rng
        # Each list is used up within a story before anything in it comes again.
        self._left: dict[str, list[str]] = {}
        self._grammar = grammar
        self._fixed: dict[str, str] = {}
        for person in ("hero", "friend", "elder"):
            kind = pick(rng, ("girl", "boy"))
            self._fix(
                person, self._draw(kind), PRONOUNS[kind] | {"role": self._draw("role"), "trait": self._draw("trait")}
            )
        for name, source in (("thing", "thing"), ("other", "thing"), ("beast", "beast")):
            drawn = self._draw(source)
            self._fix(name, drawn, {"short": drawn.split()[-1]})
        for name in ("place", "place2", "place3"):
            preposition, place = self._draw("place").split("|")
            self._fix(name, place, {"at": f"{preposition} {place}", "to": f"to {place}"})
        for name in ("town", "town2"):
            self._fix(name, self._draw("town_head") + self._draw("town_tail"))
        self._fix("season", pick(rng, ("spring", "summer", "autumn", "winter")))
        for name, source in (("contest", "contest"), ("broken", "broken"), ("meal", "food")):
            self._fix(name, self._draw(source))

    def text(self, plot: str) -> str:
        """Title and paragraphs, an empty line after each."""
        paragraphs = [self._spelled("{title}"), *(self._spelled(line) for line in self._grammar[plot])]
        return "".join(f"{paragraph}\n\n" for paragraph in paragraphs)

    def _fix(self, name: str, value: str, forms: dict[str, str] | None = None) -> None:
        self._fixed[name] = value
        self._fixed.update({f"{name}.{form}": text for form, text in (forms or {}).items()})

    def _draw(self, name: str) -> str:
        left = self._left.get(name) or list(self._grammar[name])
        chosen = left.pop(int(self._rng.random() * len(left)))
        self._left[name] = left
        return chosen

    def _spelled(self, pattern: str) -> str:
        pattern = re.sub(r"\[([^\[\]]*)\]", lambda found: pick(self._rng, found[1].split("|")), pattern)
        text = re.sub(r"\{([\w.]+)\}", lambda found: self._slot(found[1]), pattern)
        return re.sub(r"\b([Aa]) (?=[aeiou]|honest)", r"\1n ", text)

    def _slot(self, slot: str) -> str:
        name = slot.lower()
        if name == "weather":
            name = f"weather_{self._fixed['season']}"
        text = self._fixed[name] if name in self._fixed else self._spelled(self._draw(name))
        return text[0].upper() + text[1:] if slot[0].isupper() else text


def story_text(size: int) -> str:
    """Stories until there are `size` characters, all plots in turn, in an order that changes with each turn."""
    grammar = read_grammar(FOLDER / "story.grammar")
    rng = random.Random(STORY_SEED)
    parts: list[str] = []
    plots: list[str] = []
    while sum(map(len, parts)) < size:
        plots = plots or [name for name in grammar if name.startswith("plot_")]
        plot = plots.pop(int(rng.random() * len(plots)))
        parts.append(Story(grammar, rng).text(plot))
    return "* * *\n\n".join(parts).rstrip("\n") + "\n"


# ---------------------------------------------------------------------------------------------------------------------


def made() -> dict[str, bytes]:
    """The content of every file, by name."""
    weights = markov_weights()
    facts = json.dumps(markov_facts(weights, MARKOV_CHARACTERS), indent=1)
    # One row of weights a line.
    facts = re.sub(
        r"\[[\d,\s]*\]", lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), facts
    )
    return {
        "story.txt": story_text(STORY_BYTES).encode(),
        "markov.txt": markov_text(weights, MARKOV_CHARACTERS).encode(),
        "markov.json": (facts + "\n").encode(),
    }


def main(arguments: Sequence[str]) -> int:
    if list(arguments) not in ([], ["--check"]):
        sys.stderr.write("usage: python sample_data/make.py [--check]\n")
        return 2
    different = []
    for name, content in made().items():
        path = FOLDER / name
        if arguments and (not path.exists() or path.read_bytes() != content):
            different.append(name)
        elif not arguments:
            path.write_bytes(content)
    if different:
        sys.stderr.write(f"not as sample_data/make.py makes them: {', '.join(different)}\n")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
