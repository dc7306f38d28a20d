"""Makes everything that is published of a version, into a new folder.

    pip install -e '.[release]'
    python -m tools.release [--out dist] [--binary FILE]     FILE: what tools.binary has made of this very source

The source distribution; a wheel for every machine, and one with compiled kernels; the single-file binary; a man page
and completions; a bill of materials and the licences of what the binary bundles; SHA256SUMS of all of it.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import cllm_cli
from tools.binary.__main__ import ROOT, build, name_of_binary
from tools.make_man import write as write_man_page
from tools.release.bundled import bill_of_materials, licences_of, parts_of
from tools.release.wheels import build_distributions, with_kernels
from tools.sources import unpacked

PACKAGE = "_internal/cllm_cli"  # in the folder that the binary unpacks
MADE = {"compiled", "__pycache__"}
BINARY_HELP = """what tools.binary has made of this source in this environment: modules and the versions of Python and
packages are compared; launcher, bootloader and libraries of the system are not"""


def archive(folder: Path, target: Path) -> None:
    """A .tar.gz of a folder, the same whenever and by whomever it is made."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime = member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    with (
        target.open("wb") as file,
        gzip.GzipFile("", "wb", mtime=0, fileobj=file) as packed,
        tarfile.open(fileobj=packed, mode="w") as members,
    ):
        members.add(folder, folder.name, filter=plain)


def checksums(folder: Path) -> str:
    """What `sha256sum --check` reads."""
    lines = []
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    return "".join(lines)


def tree_of(binary: Path, work: Path) -> Path:
    """The folder that a binary unpacks, below `work`. Raises ValueError where it is of another source or Python."""
    variables = {**os.environ, "CLLM_CACHE_DIR": str(work / "unpacked")}
    command = [binary.resolve(), "--version", "--json"]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=variables).stdout
    found = [program.parent for program in (work / "unpacked").glob("binary/*/cllm")]
    if len(found) != 1:
        raise ValueError(f"{binary} --version has unpacked {len(found)} folders of a program")
    here, there = ROOT / "cllm_cli", found[0] / PACKAGE
    # Its compiled kernels are looked at when they are run, and __pycache__ only beside a source.
    inside = [path for path in there.rglob("*") if path.is_file() and not MADE & set(path.relative_to(there).parts)]
    names = {path.relative_to(there) for path in inside} | {path.relative_to(here) for path in here.rglob("*.py")}
    for name in sorted(names):
        one, other = here / name, there / name
        if not (one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()):
            raise ValueError(f"{binary} is not of this source: {name} is different, or in one of them alone")
    if (python := json.loads(said)["python"]) != platform.python_version():
        raise ValueError(f"{binary} has Python {python}, and this is {platform.python_version()}")
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--binary", type=Path, metavar="FILE", help=BINARY_HELP)
    options = parser.parse_args()
    out: Path = options.out
    if out.exists() and any(out.iterdir()):
        parser.error(f"{out} is not empty")
    out.mkdir(parents=True, exist_ok=True)
    version, binary = cllm_cli.__version__, out / name_of_binary()
    with tempfile.TemporaryDirectory(prefix="cllm-release-") as name:
        work = Path(name)
        for folder in ("binary", "wheel", f"cllm-{version}-man"):
            (work / folder).mkdir()
        if options.binary:
            shutil.copy(options.binary, binary)
        else:
            build(work / "binary", binary)
        tree = tree_of(binary, work)
        with_kernels(build_distributions(out), tree / PACKAGE / "compiled", work / "wheel")
        write_man_page(work / f"cllm-{version}-man")
        archive(work / f"cllm-{version}-man", out / f"cllm-{version}-man.tar.gz")
        parts = parts_of(tree, unpacked("zstandard", work))
        (out / f"{binary.name}.cdx.json").write_text(bill_of_materials(parts, binary), "utf-8")
        (out / f"{binary.name}.licences.txt").write_text(licences_of(parts), "utf-8")
    (out / "SHA256SUMS").write_text(checksums(out), "utf-8")
    sys.stdout.write((out / "SHA256SUMS").read_text("utf-8"))


if __name__ == "__main__":
    main()
