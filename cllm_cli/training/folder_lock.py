"""The lock of a run folder: one process trains there at a time, and it dies with its process."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from cllm_cli.errors import RunError
from cllm_cli.training.durable import make_folder, remove_temporaries, sync_folder

LOCK = ".lock"


class FolderLock:
    """The lock of the folder at `path`. `made` says whether the folder came into being with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made = False
        self._handle: int | None = None

    def take(self, *swept: Path) -> None:
        """Makes the folder and holds it until `release` or the process's end; killed writers' files in `swept` go.

        Raises RunError where another process holds it, or where it cannot be made or written to.
        """
        try:
            self.made = make_folder(self.path)
            self._handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.check()
            sync_folder(self.path)  # without its lock a start that failed is not known for one
            for folder in swept:
                remove_temporaries(folder)
        except BlockingIOError as error:
            self.release()
            raise RunError(
                f"another process is training in {self.path}", "wait for it, or choose another --out"
            ) from error
        except OSError as error:
            self.release()
            raise RunError(
                f"cannot write to {self.path}: {error.strerror}", "choose another folder with --out"
            ) from error
        except RunError:
            self.release()
            raise

    def check(self) -> None:
        """Raise RunError where the folder that this process has locked is no longer the one at the path.

        Somebody has removed it, or its lock, and another process may have a run there: it must not be written into.
        """
        if self._handle is None:
            return
        try:
            same = os.path.samestat(os.fstat(self._handle), (self.path / LOCK).lstat())
        except (FileNotFoundError, NotADirectoryError):
            same = False
        except OSError as error:
            raise RunError(f"cannot use {self.path}: {error.strerror}", "go on with --resume, or try again") from error
        if not same:
            raise RunError(
                f"{self.path} is not the folder that this run has locked: it, or its {LOCK}, was moved or removed",
                "what is there now was left alone; where this run is now, --resume goes on from its last checkpoint",
            )

    def release(self) -> None:
        """Gives the folder back."""
        if self._handle is not None:
            with contextlib.suppress(OSError):  # the handle is closed all the same, whatever the disk says
                os.close(self._handle)
            self._handle = None
