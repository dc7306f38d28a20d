"""States that a power cut may leave of a run folder, at any call of whole runs; each must load, and as what it was."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from cllm_cli.errors import CllmError
from cllm_cli.training import checkpoint
from cllm_cli.training.records import Checkpointed, Record
from cllm_cli.training.run_folder import RunFolder, open_tensors

from .calls import Call, watching
from .disk import Disk, File, Folder, build, tree_of
from .small_runs import bits, in_memory, resume, resumed, start, strays, text_in

RESUMED = 100  # of so many states one goes on to its end
LOSSES = (0.0, 0.1, 0.5, 0.9, 1.0)
RUN = Path("runs", "first")
FORCED = "from here on the run that was there may be lost"
Event = Call | Checkpointed | str


@dataclass
class Known:
    """What was promised when the power goes, and all that was ever written."""

    saved: int = 0
    forced: bool = False
    checkpoints: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)  # manifest → state, metrics until then
    models: set[bytes] = field(default_factory=set)

    def learn(self, event: Event, disk: Disk) -> None:
        """Takes over what an event tells, before its call is made."""
        if event == FORCED:
            self.saved, self.forced = 0, True
        elif isinstance(event, Checkpointed):
            self.saved, self.forced = event.step, False
        elif isinstance(event, Call) and event.kind == "replace":
            assert event.target is not None
            written = disk.find(event.path)
            if isinstance(written, Folder):
                manifest, state = (_content(disk, event.path / name) for name in ("manifest.json", "state.safetensors"))
                metrics = _content(disk, disk.root / RUN / "metrics.jsonl")
                self.checkpoints[manifest] = state, metrics[: json.loads(manifest)["metrics_bytes"]]
            elif event.target.name == "model.safetensors":
                self.models.add(written.moments[-1])


def record(root: Path, text: Path) -> tuple[list[Event], list[dict[str, bytes]]]:
    """The calls of a run, of one that takes its place and stops halfway, and of its second half; and what they told.

    And the bits of both runs.
    """
    journal: list[Event] = []

    def follow(records: Iterator[Record]) -> None:
        for each in records:
            if isinstance(each, Checkpointed):
                journal.append(each)

    with watching(root, lambda call: None if call.kind in ("open", "close") else journal.append(call)):
        follow(start(text, root / RUN, seed=4, steps=4))
        first = bits(root / RUN)
        journal.append(FORCED)
        follow(start(text, root / RUN, force=True, stop_after=6))
        follow(resumed(text, root / RUN))
    return journal, [first, bits(root / RUN)]


def _content(disk: Disk, path: Path) -> bytes:
    file = disk.find(path)
    assert isinstance(file, File)
    return file.moments[-1]


def wrong_with(place: Path, known: Known) -> str:
    """What is wrong with the run below `place`, after a power cut; empty where nothing is.

    Where the run was given up and no other has a checkpoint yet, all it takes is that it can be given up again.
    """
    folder = RunFolder(place / RUN)
    try:
        if not folder.config.exists() or known.forced:
            folder.check_new(force=known.forced)
        if not folder.config.exists():
            return "lost: there is no run" if known.saved else ""
        settings = folder.read_settings()
        path, manifest, passed = checkpoint.newest(folder)
        if path and manifest["settings"] != checkpoint.settings_hash(settings):
            return "mixed: checkpoint and settings"
        if known.forced:
            return ""
        folder.read_validation(folder.read_tokenizer())
        facts = folder.read_facts()
        if passed:
            return f"damaged: {passed[0]}"
        if path is None or manifest["step"] < known.saved:
            return f"lost: {manifest.get('step')} is there, {known.saved} was saved" if known.saved else ""
        state, metrics = known.checkpoints.get((path / "manifest.json").read_bytes(), (b"", b""))
        if (path / "state.safetensors").read_bytes() != state or manifest["fingerprint"] != facts["fingerprint"]:
            return "mixed: manifest, state and corpus"
        if folder.metrics.read_bytes()[: len(metrics)] != metrics:
            return "wrong: metrics.jsonl"
        with open_tensors(folder.model) as tensors:
            best = int(tensors.metadata()["step"])
        if folder.model.read_bytes() not in known.models or best < (manifest["best_step"] or 0):
            return f"wrong: model of step {best}"
    except (CllmError, OSError) as error:
        return f"unloadable: {error}"
    return ""


def goes_on(place: Path, text: Path, known: Known, wholes: list[dict[str, bytes]]) -> bool:
    """Whether the run below `place` goes on, or starts anew, to the bits of one that was never interrupted."""
    run = place / RUN
    if RunFolder(run).exists() and not known.forced:
        resume(text, run)
    else:
        for _ in start(text, run, force=known.forced):
            pass
    return not strays(run) and bits(run) in wholes


def run(count: int, seed: int, ignored: Callable[[Call], bool] = lambda call: False) -> dict[str, Any]:
    """Checks `count` states. Calls that are `ignored` have no effect: a flush that was forgotten must be found out."""
    random, bad, known = Random(seed), Counter[str](), Known()
    gone_on = 0
    with in_memory() as folder:
        place = Path(folder)
        text, real, cut = text_in(place), place / "real", place / "cut"
        real.mkdir()
        journal, wholes = record(real, text)
        disk = Disk(real)
        for done, event in enumerate(journal, 1):
            known.learn(event, disk)
            if isinstance(event, Call) and not ignored(event):
                disk.apply(event)
            for number in range((done - 1) * count // len(journal), done * count // len(journal)):
                shutil.rmtree(cut, ignore_errors=True)
                cut.mkdir()
                build(disk.left(random, random.choice(LOSSES)), cut)
                found = wrong_with(cut, known)
                if not found and number % RESUMED == 0:
                    gone_on += 1
                    found = "" if goes_on(cut, text, known, wholes) else "wrong: does not go on to the same bits"
                bad[found.split(":")[0]] += 1
        unseen = int(disk.left(random, 0.0) != tree_of(real))
    failures = sum(bad.values()) - bad.pop("", 0) + unseen
    return {"states": count, "events": len(journal), "gone_on": gone_on, "failures": failures, "bad": dict(bad)}
