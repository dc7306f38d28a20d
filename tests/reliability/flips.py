"""Single flipped bits and files that were cut short, in every file of a run that is read: seen and named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from cllm_cli.errors import CllmError
from cllm_cli.text.corpus import FACTS
from cllm_cli.training import checkpoint
from cllm_cli.training.run_folder import RunFolder

from .small_runs import in_memory, start, text_in

UNREAD = {"metrics.jsonl", "config.json", ".lock"}
"""Files whose content nothing reads: a log, what is for others and written anew by --resume, and a lock."""


def everything(folder: RunFolder) -> tuple[Any, ...]:
    """All that can be read of a run, in a form that compares. Raises CllmError."""
    settings, tokenizer, facts = folder.read_settings(), folder.read_tokenizer(), folder.read_facts()
    model = folder.load_model().arena
    shapes = model.tensors()
    state = {f"{kind}{name}": np.empty_like(values) for kind in ("", "m.", "v.") for name, values in shapes.items()}
    progress, passed = checkpoint.load(folder, state, settings, facts["fingerprint"])
    read = (
        settings,
        tokenizer.to_json(),
        [facts.get(name) for name in (*FACTS, "sources", "text_fingerprint")],
        model.values.tobytes(),
        progress,
    )
    validation = folder.read_validation(tokenizer).tobytes()
    return read, validation, [values.tobytes() for values in state.values()], passed


def run(count: int, seed: int) -> dict[str, Any]:
    """Damages `count` times: two of three times a bit, else the length; nothing in the checkpoint before the newest."""
    random, outcomes, wrong = Random(seed), Counter[str](), Counter[str]()
    with in_memory() as place:
        text, folder = text_in(Path(place)), RunFolder(Path(place) / "run")
        for _ in start(text, folder.path):
            pass
        whole = everything(folder)
        newest = checkpoint.newest(folder)[0]
        assert newest is not None
        hidden = Path(place) / "hidden"
        newest.rename(hidden)
        older = everything(folder)
        hidden.rename(newest)
        kept = (path for path in folder.path.rglob("*") if path.is_file() and path.name not in UNREAD)
        files = sorted(path for path in kept if newest in path.parents or newest.parent not in path.parents)
        for number in range(count):
            path = files[number % len(files)]
            content = path.read_bytes()
            damaged, what = _damaged(content, random)
            path.write_bytes(damaged)
            name = str(path.relative_to(folder.path))
            outcome = _outcome(folder, path, whole, older)
            expected = {"named", "passed over"} if newest in path.parents else {"named"}
            if what == "bit":  # what says that there is a hash may itself be hit, while all that it speaks of is whole
                expected.add("no effect")
            outcomes[outcome] += 1
            if outcome not in expected:
                wrong[f"{name}, {what}: {outcome}"] += 1
            path.write_bytes(content)
    return {"files": len(files), "damages": count, **outcomes, "failures": sum(wrong.values()), "wrong": dict(wrong)}


def _damaged(content: bytes, random: Random) -> tuple[bytes, str]:
    if random.random() < 1 / 3:
        return content[: random.randrange(len(content))], "cut"
    flipped = bytearray(content)
    flipped[random.randrange(len(content))] ^= 1 << random.randrange(8)
    return bytes(flipped), "bit"


def _outcome(folder: RunFolder, path: Path, whole: tuple[Any, ...], older: tuple[Any, ...]) -> str:
    try:
        found = everything(folder)
    except CllmError as error:
        named = path.name in error.message or path.stem in error.message
        return "named" if named else f"not named: {error}"
    except Exception as error:
        return f"not an error of ours: {error!r}"
    if found == whole:
        return "no effect"
    if found[:-1] == older[:-1] and found[-1] and path.parent.name in found[-1][0]:
        return "passed over"
    return "unseen"
