"""Writes requirements.lock: every package of the development and release environment, with the hashes of its files.

python tools/lock.py [--check]      --check only says whether the lock has what pyproject.toml asks for

The lock is of wheels for Linux on x86-64 and the Pythons below. `pip install --require-hashes -r requirements.lock`
installs just these files. pip itself finds out what they are; nothing is installed here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tools.sources import LOCK, link  # noqa: E402  # where it is run as a file

PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 26, 27, 28, 34)] + ["manylinux2014_x86_64"]
EXTRAS = ("dev", "release")
SOURCES = ("zstandard",)  # the launcher of the binary is made from the source of zstd in it
HEAD = "# Made by tools/lock.py from pyproject.toml. Wheels for Linux on x86-64, CPython {}.\n"

Found = dict[tuple[str, str], dict[str, str]]  # name and version → Python, or "source" → hash


def wanted() -> list[str]:
    """What the environment needs, from pyproject.toml: of the build, of the package, and of its extras."""
    facts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = facts["project"]["optional-dependencies"]

    def of(name: str) -> list[str]:
        found = []
        for entry in extras[name]:
            own = re.fullmatch(r"cllm\[(.+)\]", entry)
            found += [each for inner in own[1].split(",") for each in of(inner)] if own else [entry]
        return found

    return [
        *facts["build-system"]["requires"],
        *facts["project"]["dependencies"],
        *(each for extra in EXTRAS for each in of(extra)),
    ]


def resolved(python: str) -> dict[tuple[str, str], str]:
    """Name and version → sha256 of the wheel that pip would take for this Python."""
    with tempfile.TemporaryDirectory() as place:
        report = Path(place, "report.json")
        command = [sys.executable, "-m", "pip", "install", "-qq", "--dry-run", "--ignore-installed"]
        command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", f"--target={place}"]
        command += [f"--platform={name}" for name in PLATFORMS] + [f"--report={report}", *wanted()]
        subprocess.run(command, check=True)
        items = json.loads(report.read_text("utf-8"))["install"]
    return {
        (normal(item["metadata"]["name"]), item["metadata"]["version"]): item["download_info"]["archive_info"][
            "hashes"
        ]["sha256"]
        for item in items
    }


def normal(name: str) -> str:
    """A package's name as all its spellings are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def text_of(found: Found) -> str:
    """The lock: one entry a version, with a marker where not every Python takes it."""
    lines = [HEAD.format(", ".join(PYTHONS))]
    for (name, version), hashes in sorted(found.items()):
        some = [f'python_version == "{python}"' for python in PYTHONS if python in hashes]
        marker = "" if len(some) == len(PYTHONS) else f" ; {' or '.join(some)}"
        each = "".join(f" \\\n    --hash=sha256:{digest}" for digest in sorted(set(hashes.values())))
        lines.append(f"{name}=={version}{marker}{each}\n")
    return "".join(lines)


def missing() -> list[str]:
    """What pyproject.toml asks for by name and the lock does not have."""
    locked = set(re.findall(r"^([a-z0-9-]+)==", LOCK.read_text("utf-8"), re.MULTILINE)) if LOCK.exists() else set()
    names = {normal(re.split(r"[<>=~!\[; ]", each)[0]) for each in wanted()}
    return sorted(names - locked)


def main() -> int:
    if "--check" in sys.argv[1:]:
        sys.stderr.write("".join(f"{LOCK.name} lacks {name}: run tools/lock.py\n" for name in missing()))
        return 1 if missing() else 0
    found: Found = defaultdict(dict)
    for python in PYTHONS:
        for package, digest in resolved(python).items():
            found[package][python] = digest
    for package in found:
        if package[0] in SOURCES:
            found[package]["source"] = link(*package).partition("#sha256=")[2]
            if not found[package]["source"]:
                raise ValueError(f"the package index tells no SHA-256 of the source of {' '.join(package)}")
    LOCK.write_text(text_of(found), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
