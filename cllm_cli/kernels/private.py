"""Whether a folder is the user's alone: what lies in it will run as code.

Whoever can write to a folder can put another one in place of what it holds, so every folder on the way is looked at as
well: it belongs to the user or to root and nobody else can write to it, unless it is one like /tmp (sticky), where
others cannot touch what is not theirs.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import stat
from pathlib import Path

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def make_private(folder: Path) -> bool:
    """Makes a folder, or closes one that is there to everybody else; whether it is safe. Raises OSError."""
    for step in reversed(folder.parents):
        if not step.exists():
            step.mkdir(mode=0o700, exist_ok=True)  # with `parents` those would be as open as the umask has them
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & OTHERS_WRITE or not _way_is_safe(folder):
        return False
    if status.st_mode & 0o077:
        folder.chmod(0o700)
    return os.access(folder, os.W_OK)


def make_private_within(folder: Path) -> None:
    """The same for a folder in a private one; one that others could enter, or have left a file in, is made anew.

    Raises OSError.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    if not _is_own(folder):
        if folder.is_symlink():
            folder.unlink()
        else:
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700)


def _is_own(folder: Path) -> bool:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        return False
    with os.scandir(folder) as entries:
        return all(_is_own_file(entry) for entry in entries)


def _is_own_file(entry: os.DirEntry[str]) -> bool:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # another process replaces what it has compiled
        return True
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def _way_is_safe(folder: Path) -> bool:
    """Whether nobody else decides where `folder` leads: as it is written, and as links on the way have it."""
    written = Path(os.path.normpath(folder.absolute()))
    steps = {*written.parents, written, *folder.resolve().parents}
    return all(step.lstat().st_uid in (0, os.geteuid()) and not _others_can_write(step) for step in steps)


def _others_can_write(step: Path) -> bool:
    status = step.lstat()
    if stat.S_ISLNK(status.st_mode) or status.st_mode & stat.S_ISVTX:
        return False
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _is_alone_in(status.st_gid)


def _is_alone_in(group: int) -> bool:
    """Whether a group is the user's own, as many systems make one for each user."""
    try:
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return user.pw_gid == group and user.pw_name == found.gr_name and set(found.gr_mem) <= {user.pw_name}
