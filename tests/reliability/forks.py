"""Command lines run in forks of a process that has imported everything and loaded every kernel, but run none.

GNU OpenMP does not survive a fork once it has started its threads, so this process must never run a kernel itself; and
Numba refuses to work in the child of a process that has asked how many threads there are, though not in a grandchild.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from numba.np.ufunc import parallel

from cllm_cli.kernels.ahead import compile_ahead
from cllm_cli.main import main, run
from cllm_cli.training import session
from cllm_cli.training.loop import Loop

SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8, "batch_size": 2, "dropout": 0.1, "sample_every": 20}
LENGTH = {"steps": 60, "eval_every": 10, "save_every": 5, "log_every": 1, "eval_batches": 2, "seed": 3}
SETTINGS = SIZES | LENGTH
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
TEXT = "".join(f"line {n} of {n * n % 97}, and {n * 7 % 13}\n" for n in range(90))


def warm_up(place: Path) -> None:
    """Writes text.txt into `place` and loads what `cllm train` will use there."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup and shells have them ignored, and children then
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    (place / "text.txt").write_text(TEXT, "utf-8")
    with contextlib.redirect_stdout(io.StringIO()):
        main(["train", "--help"])
    ready = session.start([place / "text.txt"], place / "warm", SETTINGS | {"threads": 1})
    for _ in compile_ahead(Loop(ready)._calls(), 2):
        pass
    ready.folder.unlock()


class Child:
    """`cllm ARGS` in a process of its own within `place`; its streams go to files of these names there.

    `during` is entered there before anything else.
    """

    def __init__(
        self,
        args: list[str],
        place: Path,
        out: str = "out.jsonl",
        err: str = "err.txt",
        during: contextlib.AbstractContextManager[None] | None = None,
    ) -> None:
        self._told, tell = os.pipe()
        self._middle = os.fork()
        if self._middle == 0:
            os.close(self._told)
            _stand_between(args, place, out, err, tell, during or contextlib.nullcontext())
        os.close(tell)
        self.pid = int.from_bytes(os.read(self._told, 4), "little")

    def ended_within(self, seconds: float | None) -> int | None:
        """Its exit code, or minus the signal that it died of; None where it still runs after so many seconds."""
        if not select.select([self._told], [], [], seconds)[0]:
            return None
        status = int.from_bytes(os.read(self._told, 4), "little")
        os.close(self._told)
        os.waitpid(self._middle, 0)
        return os.waitstatus_to_exitcode(status)

    def send(self, number: int) -> None:
        """Sends a signal, unless it has ended meanwhile."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def _stand_between(args: list[str], place: Path, out: str, err: str, tell: int, during: Any) -> None:
    """Starts the grandchild, and tells its id and then how it ended; does not return."""
    # A KeyboardInterrupt before the command line listens would unwind what called this, and remove its files.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(tell)
        with during:
            os._exit(_run(args, place, out, err))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.write(tell, pid.to_bytes(4, "little"))
    _, status = os.waitpid(pid, 0)
    os.write(tell, status.to_bytes(4, "little"))
    os._exit(0)


def _run(args: list[str], place: Path, out: str, err: str) -> int:
    parallel._set_init_process_lock()  # forks share a lock, which one that is killed may hold: each gets its own
    os.chdir(place)
    for number, name in ((0, os.devnull), (1, out), (2, err)):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644), number)
    sys.argv = ["cllm", *args]
    code = 0
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stderr.flush()
    return code
