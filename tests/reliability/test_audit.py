"""The audit hook sees what it is to see; the whole suite runs under it (tests/conftest.py)."""

from __future__ import annotations

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


@pytest.mark.parametrize("event", DEEDS)
def test_what_library_code_must_not_do_is_seen(event):
    AUDIT.start()
    before = AUDIT.refused.copy()
    code = compile(DEEDS[event], f"{PACKAGE}/text/evil.py", "exec")
    exec(code, {})
    seen, AUDIT.refused = AUDIT.refused - before, before
    assert any(each.startswith(f"{event} in /text/evil.py") for each in seen), seen


def test_what_others_do_is_not_the_librarys():
    AUDIT.start()
    before = AUDIT.refused.copy()
    exec(compile(DEEDS["exec"], "elsewhere.py", "exec"), {})
    assert AUDIT.refused == before
