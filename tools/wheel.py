"""Builds the wheel twice and compares the bytes; writes it where one is wanted. Exit code 1 where they differ.

python tools/wheel.py [FOLDER]

The two builds differ in what must not matter: where the sources lie, their times and permissions, the time zone, the
order of hashes and the umask. Built with the hatchling that is installed; requirements.lock has one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.egg-info", "runs", "build", "dist", ".*_cache")


def built(place: Path, name: str, time: int, zone: str, mask: int) -> Path:
    """A wheel of the sources as they are, copied to a folder of this name."""
    source = place / name
    shutil.copytree(ROOT, source, ignore=LEFT_OUT)
    for item in source.rglob("*"):
        os.utime(item, (time, time))
        item.chmod(item.stat().st_mode & ~mask)
    environment = os.environ | {"TZ": zone, "PYTHONHASHSEED": str(time)}
    environment.pop("SOURCE_DATE_EPOCH", None)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", place / f"{name}-out"],
        cwd=source,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        umask=mask,
    )
    (wheel,) = (place / f"{name}-out").glob("*.whl")
    return wheel


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        one = built(place, "one", 1_000_000_000, "UTC", 0o022)
        other = built(place, "another-place", 1_700_000_000, "Asia/Kathmandu", 0o077)
        hashes = [hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in (one, other)]
        if one.name != other.name or len(set(hashes)) > 1:
            sys.stderr.write(f"the wheel differs from build to build: {hashes[0]} and {hashes[1]}\n")
            return 1
        sys.stdout.write(f"{hashes[0]}  {one.name}\n")
        if len(sys.argv) > 1:
            shutil.copy(one, sys.argv[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
