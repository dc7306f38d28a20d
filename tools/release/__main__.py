"""Makes everything that is published of a version, into a new folder.

    pip install -e '.[release]'
    python -m tools.release [--out dist]

The source distribution; a wheel for every machine, and one with compiled kernels; the single-file binary; a man page
and completions; a bill of materials and the licences of what the binary bundles; SHA256SUMS of all of it.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import sys
import tarfile
import tempfile
from pathlib import Path

import ziglang

import cllm_cli
from tools.binary.__main__ import ROOT, build, name_of_binary
from tools.make_man import write as write_man_page
from tools.release.bundled import bill_of_materials, licences_of
from tools.release.wheels import build_distributions, with_kernels


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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    out: Path = parser.parse_args().out
    if out.exists() and any(out.iterdir()):
        parser.error(f"{out} is not empty")
    out.mkdir(parents=True, exist_ok=True)
    version = cllm_cli.__version__
    with tempfile.TemporaryDirectory(prefix="cllm-release-") as name:
        work = Path(name)
        for folder in ("binary", "wheel", f"cllm-{version}-man"):
            (work / folder).mkdir()
        binary = out / name_of_binary()
        build(work / "binary", binary)
        with_kernels(build_distributions(out), work / "binary" / "compiled", work / "wheel")
        write_man_page(work / f"cllm-{version}-man")
        archive(work / f"cllm-{version}-man", out / f"cllm-{version}-man.tar.gz")
        tree = work / "binary" / "tree" / "cllm"
        sources = [*(work / "binary").glob("zstandard-*/zstd/LICENSE"), *musl_licence()]
        (out / f"{binary.name}.cdx.json").write_text(bill_of_materials(tree, binary), "utf-8")
        (out / f"{binary.name}.licences.txt").write_text(licences_of(tree, sources), "utf-8")
    (out / "SHA256SUMS").write_text(checksums(out), "utf-8")
    sys.stdout.write((out / "SHA256SUMS").read_text("utf-8"))


def musl_licence() -> list[Path]:
    """The file that Zig brings along."""
    return [*Path(ziglang.__file__).parent.glob("lib/libc/musl/COPYRIGHT")]


if __name__ == "__main__":
    main()
