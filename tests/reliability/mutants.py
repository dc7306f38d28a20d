"""Ways to spoil a file: at random, and as somebody would who means harm."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from random import Random

INTEGERS = (0, 1, 2**31 - 1, 2**31 + 1, 2**32, 2**63, 2**64 - 1)
DEEP = b"[" * 100_000
WORDS = (b"-1", b"1e400", b"NaN", b"null", b"true", b'"x"', b"[]", b"{}", b"9" * 5_000, b"0.5", b"-9223372036854775809")
INSERTS = (b"\0", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\x1b[31m", "\u202e".encode(), b"\n", b'"', b"}", b"../")
VALUES = (-1, 0, 1, 2**31, 2**63, 2**64, 0.5, 1e308, True, None, "", "x", "\ud800", "../../x", "\x1b[0m", [], {}, [[]])


def spoiled(data: bytes, rng: Random) -> bytes:
    """One to three changes of any bytes."""
    result = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        rng.choice(CHANGES)(result, rng)
    return bytes(result)


def spoiled_json(data: bytes, rng: Random) -> bytes:
    """A JSON text, spoiled as a text or as what it stands for."""
    if rng.random() < 0.5:
        return spoiled(data, rng)
    facts = json.loads(data)
    for _ in range(rng.randint(1, 2)):
        _change_value(facts, rng)
    return json.dumps(facts).encode()


def _change_value(facts, rng):
    """Another value, or another key, or one key less, somewhere within."""
    holder = facts
    while True:
        places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not places:
            return
        place = rng.choice(places)
        inner = holder[place]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.8:
            holder = inner
            continue
        kind = rng.randrange(4)
        if kind == 0:
            del holder[place]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(["x", "", "__metadata__", str(place) + "s"])] = holder.pop(place)
        elif kind == 2:
            holder[place] = deepcopy(rng.choice(VALUES))  # the next change may be within it
        else:
            other = rng.choice(places)
            holder[place], holder[other] = holder[other], holder[place]
        return


def _flip(data, rng):
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(data, rng):
    if data:
        data[rng.randrange(len(data))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])


def _copy_block(data, rng):
    start, at = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    data[at:at] = data[start : start + rng.randint(1, 64)]


def _delete_block(data, rng):
    start = rng.randrange(len(data) + 1)
    del data[start : start + rng.randint(1, 64)]


def _cut(data, rng):
    del data[rng.randrange(len(data) + 1) :]


def _grow(data, rng):
    data += rng.randbytes(rng.choice([1, 8, 4096]))


def _insert(data, rng):
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(INSERTS)


def _integer(data, rng):
    size = rng.choice([2, 4, 8])
    at = rng.choice([0, 8, 16, rng.randrange(len(data) + 1)])
    data[at : at + size] = (rng.choice(INTEGERS) & (2 ** (8 * size) - 1)).to_bytes(size, "little")


def _word(data, rng):
    """A number of a text replaced by another word."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    if found:
        place = rng.choice(found)
        data[place.start() : place.end()] = rng.choice([*WORDS, *(str(number).encode() for number in INTEGERS)])


def _nest(data, rng):
    if rng.random() < 0.02:  # it is long
        at = rng.randrange(len(data) + 1)
        data[at:at] = DEEP
    else:
        _insert(data, rng)


CHANGES = (_flip, _set, _copy_block, _delete_block, _cut, _grow, _insert, _integer, _word, _nest)
