"""Every command on a terminal, with names and texts that would take it over: nothing of that reaches it raw."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from cllm_cli.main import COMMANDS
from cllm_cli.training import train
from cllm_cli.training.run_folder import RunFolder

from .forks import TEXT

HOSTILE = "\x1b]0;title\x07\x1b[8m\u202e\x9b2J"
UNSAFE = ("\x1b]", "\x07", "\x1b[8m", "\u202e", "\x9b")
SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8, "batch_size": 2, "dropout": 0.0, "threads": 1}
OFTEN = {"steps": 2, "eval_every": 2, "save_every": 1, "log_every": 1, "sample_every": 1}
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in (SIZES | OFTEN).items()]
TXT, RUN, NOWHERE = f"{HOSTILE}.txt", f"{HOSTILE}.run", f"{HOSTILE}.nowhere"
CASES = {
    "train": (["train", TXT, "-o", f"{HOSTILE}.new", *FLAGS], 0),
    "train on what there is": (["train", TXT, "-o", RUN], 1),
    "train with a name by itself": (["train", TXT, *FLAGS], 0),
    "train on nothing": (["train", NOWHERE], 1),
    "train on hostile rows": (["train", "rows.jsonl"], 1),
    "train with a hostile preset": (["train", TXT, "--preset", HOSTILE], 1),
    "train with a hostile flag": (["train", TXT, f"--{HOSTILE}"], 2),
    "train with a hostile value": (["train", TXT, "--steps", HOSTILE], 2),
    "resume": (["train", TXT, "-o", RUN, "--resume", "--steps", "3"], 0),
    "resume with a damaged checkpoint": (["train", TXT, "-o", "damaged", "--resume", "--steps", "3"], 0),
    "eval": (["eval", RUN, TXT, "--per-line"], 0),
    "eval of nothing": (["eval", NOWHERE], 1),
    "generate": (["generate", RUN, "--tokens", "30", "--temperature", "5", "--prompt", HOSTILE], 0),
    "tokenize": (["tokenize", TXT, "-o", f"{HOSTILE}.tok", "--tokenizer", "char"], 0),
    "inspect a text": (["inspect", TXT], 0),
    "inspect a run": (["inspect", RUN], 0),
    "inspect a tokenizer": (["inspect", f"{RUN}/tokenizer.json"], 0),
    "gradcheck": (["gradcheck", "--layer", HOSTILE], 1),
    "gradcheck of a run": (["gradcheck", RUN, "--flow"], 0),
    "profile": (["profile", RUN, "--steps", "1"], 0),
    "warmup": (["warmup", "--out", f"text.txt/{HOSTILE}"], 1),
    "doctor": (["doctor"], 0),
    "a command that is none": ([HOSTILE], 2),
}

SILENT = {"train with a hostile value", "eval", "inspect a tokenizer", "gradcheck of a run", "profile", "warmup"}
"""Commands that show none of it; all others show it escaped."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A text of hostile characters, a run on it, and one whose newest checkpoint has a hostile manifest."""
    place = tmp_path_factory.mktemp("terminals")
    for name in (TXT, "text.txt"):
        (place / name).write_text(TEXT + HOSTILE * 60, "utf-8")
    (place / "rows.jsonl").write_text(json.dumps({HOSTILE: "x"}), "utf-8")
    for _ in train([place / TXT], place / RUN, tokenizer="char", **SIZES | OFTEN):
        pass
    shutil.copytree(place / RUN, place / "damaged")
    newest = max(RunFolder(place / "damaged").checkpoints.iterdir())
    (newest / "manifest.json").write_text(json.dumps({"format": HOSTILE, "parts": {"state.safetensors": {}}}), "utf-8")
    return place


def on_terminal(args: list[str], place: Path) -> tuple[int, str]:
    """The exit code of a command, and all that its terminal was sent."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "OMP_WAIT_POLICY": "passive"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "CLLM_HOSTILE": HOSTILE}
    environment.pop("COLUMNS", None)
    command = [sys.executable, "-m", "cllm_cli", *args]
    streams = {"stdin": follower, "stdout": follower, "stderr": follower}
    shown = b""
    with subprocess.Popen(command, cwd=place, env=environment, **streams) as process:
        os.close(follower)
        try:
            while piece := os.read(leader, 1 << 16):
                shown += piece
        except OSError:  # the other end was closed
            pass
    os.close(leader)
    return process.returncode, shown.decode("utf-8", "surrogateescape")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_nothing_hostile_reaches_a_terminal(case, made, tmp_path):
    args, code = CASES[case]
    place = Path(shutil.copytree(made, tmp_path / "place"))
    ended, shown = on_terminal(args, place)
    assert ended == code, shown
    assert "Traceback" not in shown
    assert [sign for sign in UNSAFE if sign in shown] == [], shown
    assert (r"\x1b" in shown) == (case not in SILENT), shown


def test_every_command_is_tried():
    assert {args[0] for args, _ in CASES.values()} >= set(COMMANDS)
