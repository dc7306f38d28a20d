"""What a power cut may leave of a folder on a journalling file system, made from the calls that have changed it.

A file's data are on the disk after fsync of the file; until then each block of 4 KiB may be of any moment since, and so
may the length. A folder's names are on the disk after fsync of the folder; until then any of the changes may be lost,
but of those to one name only the last ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from .calls import Call

BLOCK = 4096
Tree = dict[str, "bytes | Tree"]


@dataclass
class File:
    """Its contents at each moment since the last fsync, oldest first."""

    moments: list[bytes] = field(default_factory=lambda: [b""])

    def change(self, call: Call) -> None:
        now = bytearray(self.moments[-1])
        if call.kind == "truncate":
            del now[call.at :]
        else:
            now.extend(bytes(max(0, call.at - len(now))))
            now[call.at : call.at + len(call.data)] = call.data
        self.moments.append(bytes(now))

    def flush(self) -> None:
        del self.moments[:-1]

    def left(self, random: Random, losses: float) -> bytes:
        if len(self.moments) == 1:
            return self.moments[0]
        kept = [self._moment(random, losses) for _ in range(0, max(map(len, self.moments)), BLOCK)]
        blocks = [
            moment[at * BLOCK : (at + 1) * BLOCK].ljust(BLOCK, b"\0") for at, moment in enumerate(kept)
        ]  # what was never written is zero
        return b"".join(blocks)[: len(self._moment(random, losses))]

    def _moment(self, random: Random, losses: float) -> bytes:
        return random.choice(self.moments) if random.random() < losses else self.moments[-1]


@dataclass
class Folder:
    """The names that are on the disk, and the changes since: name → what it stands for from then on."""

    names: dict[str, File | Folder] = field(default_factory=dict)
    changes: list[dict[str, File | Folder | None]] = field(default_factory=list)

    def now(self) -> dict[str, File | Folder]:
        return _changed(self.names, self.changes)

    def flush(self) -> None:
        self.names, self.changes = self.now(), []

    def left(self, random: Random, losses: float) -> Tree:
        kept, lost = [], set()
        for change in self.changes:
            if lost & change.keys() or random.random() < losses:
                lost |= change.keys()
            else:
                kept.append(change)
        return {name: node.left(random, losses) for name, node in _changed(self.names, kept).items()}


class Disk:
    """The folder `root`, empty at first."""

    def __init__(self, root: Path) -> None:
        self.root, self.top = root, Folder()

    def find(self, path: Path) -> File | Folder:
        node: File | Folder = self.top
        for part in path.relative_to(self.root).parts:
            assert isinstance(node, Folder)
            node = node.now()[part]
        return node

    def apply(self, call: Call) -> None:
        """Takes over what a call has changed."""
        parent = self.find(call.path.parent) if call.path != self.root else self.top
        assert isinstance(parent, Folder)
        if call.kind in ("create", "mkdir"):
            parent.changes.append({call.path.name: File() if call.kind == "create" else Folder()})
        elif call.kind in ("unlink", "rmdir"):
            parent.changes.append({call.path.name: None})
        elif call.kind == "replace":
            assert call.target is not None
            assert call.target.parent == call.path.parent
            parent.changes.append({call.path.name: None, call.target.name: self.find(call.path)})
        elif call.kind == "fsync":
            self.find(call.path).flush()
        elif call.kind in ("write", "truncate"):
            file = self.find(call.path)
            assert isinstance(file, File)
            file.change(call)

    def left(self, random: Random, losses: float) -> Tree:
        """What a power cut leaves now, where each change that is not on the disk is lost with probability `losses`."""
        return self.top.left(random, losses)


def build(tree: Tree, place: Path) -> None:
    """Makes a tree below a folder that is there."""
    for name, node in tree.items():
        if isinstance(node, bytes):
            (place / name).write_bytes(node)
        else:
            (place / name).mkdir()
            build(node, place / name)


def tree_of(place: Path) -> Tree:
    """The tree that is there."""
    return {item.name: tree_of(item) if item.is_dir() else item.read_bytes() for item in place.iterdir()}


def _changed(names: dict, changes: list) -> dict:
    found = dict(names)
    for change in changes:
        for name, node in change.items():
            found.pop(name, None)
            if node is not None:
                found[name] = node
    return found
