"""The exception tree, and the nearest name."""

from __future__ import annotations

import re

import pytest

from cllm_cli import errors
from cllm_cli.errors import CllmError, Interrupted, nearest

CLASSES = [thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, CllmError)]
DRAWN = re.findall(r"^[ │├└─]*(\w+) +exit (128 \+ signal|\d+)", errors.__doc__, re.MULTILINE)


def test_the_tree_in_the_docstring_is_the_tree():
    assert {name for name, _ in DRAWN} == {error.__name__ for error in CLASSES}
    for name, code in DRAWN:
        if code.isdigit():
            assert getattr(errors, name).exit_code == int(code), name


def test_every_error_is_drawn_below_its_parent():
    depths = {
        name: line.index(name) for line in errors.__doc__.splitlines() for name, _ in DRAWN if name in line.split()
    }
    above = [CllmError.__name__]
    for name, _ in DRAWN[1:]:
        above = above[: depths[name] // 4]
        assert getattr(errors, name).__bases__[0].__name__ == above[-1]
        above.append(name)


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143), (1, 129)])
def test_an_interruption_has_the_code_of_its_signal(number, code):
    assert Interrupted(number, "stopped").exit_code == code


def test_an_error_carries_message_and_hint():
    error = CllmError("what", "what to do")
    assert (str(error), error.message, error.hint) == ("what", "what", "what to do")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("adamv", "did you mean 'adamw'?"),
        ("sdg", "did you mean 'sgd'?"),
        ("xyzzy", "known: adamw, sgd"),
        ("", "known: adamw, sgd"),
    ],
)
def test_the_nearest_name_or_the_whole_list(name, hint):
    assert nearest(name, ["sgd", "adamw"]) == hint
