"""The audit hook sees what it is to see; the whole suite runs under it (tests/conftest.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reliability.audit import AUDIT, PACKAGE

DEEDS = {
    "socket.__new__": "import socket; socket.socket().close()",
    "subprocess.Popen": "import subprocess; subprocess.run(['true'])",
    "os.system": "import os; os.system('true')",
    "exec": "exec('1')",
    "compile": "eval('1')",
    "marshal.loads": "import marshal; marshal.loads(marshal.dumps(1))",
    "pickle.find_class": "import pickle; pickle.loads(pickle.dumps(print))",
}


TESTS = Path(__file__).parents[1]
SHARED = f"""
import pytest

@pytest.fixture(scope="session")
def shared():
    exec(compile("exec('1')", {PACKAGE + "/text/evil.py"!r}, "exec"), {{}})

def test_that_passes(shared):
    pass
"""


@pytest.mark.parametrize("place", ["/text/evil.py", "/commands/inspect.py"])  # as the standard library has one
@pytest.mark.parametrize("event", DEEDS)
def test_what_library_code_must_not_do_is_seen(event, place):
    AUDIT.start()
    before = AUDIT.refused.copy()
    code = compile(DEEDS[event], PACKAGE + place, "exec")
    exec(code, {})
    seen, AUDIT.refused = AUDIT.refused - before, before
    assert any(each.startswith(f"{event} in {place}") for each in seen), seen


@pytest.mark.slow
@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "workers"])
def test_what_a_shared_fixture_has_refused_fails_the_session(tmp_path, workers):
    """It is made before the audit of the test that asks for it."""
    (tmp_path / "test_shared.py").write_text(SHARED, "utf-8")
    options = ["--no-warmup", "-p", "conftest", "-p", "no:cacheprovider", "-c", str(TESTS.parent / "pyproject.toml")]
    command = [sys.executable, "-m", "pytest", *options, *workers, str(tmp_path / "test_shared.py")]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1, done.stdout


def test_what_others_do_is_not_the_librarys():
    AUDIT.start()
    before = AUDIT.refused.copy()
    exec(compile(DEEDS["exec"], "elsewhere.py", "exec"), {})
    assert AUDIT.refused == before
