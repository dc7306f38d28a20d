"""A source distribution is downloaded, compared with the lock, and never run."""

from __future__ import annotations

import hashlib
import io
import socket
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tools import lock, sources


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index with thing-1.0.tar.gz, whose build would leave a file; and a lock that has its hash."""
    page = tmp_path / "index" / "thing"
    page.mkdir(parents=True)
    script = f"open({str(tmp_path / 'was run')!r}, 'w')".encode()
    with tarfile.open(page / "thing-1.0.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("thing-1.0/setup.py")
        member.size = len(script)
        archive.addfile(member, io.BytesIO(script))
    (page / "index.html").write_text(
        "<a href='nothing-1.0.tar.gz'>x</a><a data-x='' href=\"../thing/thing-1.0.tar.gz#sha256=ab\">thing</a>", "utf-8"
    )
    digest = hashlib.sha256((page / "thing-1.0.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(sources, "LOCK", tmp_path / "lock")
    sources.LOCK.write_text(f"thing==1.0 ; a marker \\\n    --hash=sha256:{digest}\nthing-two==2 \\\n    --hash=x\n")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"file://{tmp_path}/nowhere")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"file://{tmp_path}/index/")
    return tmp_path


def test_what_is_locked_is_downloaded_and_not_run(index):
    assert sources.link("thing", "1.0").endswith("/index/thing/thing-1.0.tar.gz#sha256=ab")
    made = sources.fetch("thing", index)
    assert made.read_bytes() == (index / "index" / "thing" / made.name).read_bytes()
    assert not (index / "was run").exists()


def test_what_has_another_hash_is_not_written(index):
    with (index / "index/thing/thing-1.0.tar.gz").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match="none of the hashes"):
        sources.fetch("thing", index)
    assert not (index / "thing-1.0.tar.gz").exists()


def test_what_is_not_there_is_named(index):
    with pytest.raises(FileNotFoundError, match=r"thing-9\.tar\.gz is in none of .*nowhere.*index"):
        sources.link("thing", "9")
    with pytest.raises(ValueError, match="lacks other"):
        sources.locked("other")


def test_why_an_index_could_not_be_read_is_told_without_its_password(index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:secret@127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "http://me:secret@127.0.0.1:port/simple no-address")
    with pytest.raises(FileNotFoundError) as raised:
        sources.link("thing", "9")
    told = str(raised.value)
    assert "http://127.0.0.1:1/simple (<urlopen error [Errno 111] Connection refused>)" in told
    assert "http://127.0.0.1:port/simple (nonnumeric port: 'port')" in told
    assert "no-address (unknown url type" in told
    assert "secret" not in told


def test_a_name_and_password_in_the_address_of_an_index_are_sent(index, monkeypatch):
    class Guarded(BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.headers["Authorization"] == "Basic bWU6YTpi"  # me:a:b
            self.send_response(200 if known and self.path == "/simple/thing/" else 404)
            self.end_headers()
            self.wfile.write(b"<a href='../../thing-1.0.tar.gz'>")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Guarded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://me:a%3Ab@127.0.0.1:{server.server_port}"
        monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
        assert sources.link("thing", "1.0") == f"{address}/thing-1.0.tar.gz"
        server.shutdown()


def test_an_index_that_does_not_answer_is_given_up(index, monkeypatch):
    monkeypatch.setattr(sources, "PATIENCE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
        assert "/index/thing/" in sources.link("thing", "1.0")


def test_the_source_that_the_launcher_is_made_of_is_locked():
    version, hashes = sources.locked("zstandard")
    assert version
    assert hashes


def test_the_lock_has_the_hash_of_the_source_too(index, monkeypatch):
    monkeypatch.setattr(lock, "SOURCES", ("thing",))
    monkeypatch.setattr(lock, "resolved", lambda python: {("thing", "1.0"): "cd", ("other", "2"): "ef"})
    monkeypatch.setattr(lock, "LOCK", index / "new")
    monkeypatch.setattr(sys, "argv", ["lock.py"])
    assert lock.main() == 0
    *_, entries = (index / "new").read_text("utf-8").partition("\n")
    assert (
        entries == "other==2 \\\n    --hash=sha256:ef\nthing==1.0 \\\n    --hash=sha256:ab \\\n    --hash=sha256:cd\n"
    )


def test_a_source_that_the_index_tells_no_hash_of_is_not_locked(index, monkeypatch):
    monkeypatch.setattr(lock, "SOURCES", ("thing",))
    monkeypatch.setattr(lock, "resolved", lambda python: {("thing", "1.0"): "cd"})
    monkeypatch.setattr(lock, "link", lambda name, version: "https://index/thing-1.0.tar.gz")
    monkeypatch.setattr(lock, "LOCK", index / "new")
    monkeypatch.setattr(sys, "argv", ["lock.py"])
    with pytest.raises(ValueError, match=r"tells no SHA-256 of the source of thing 1\.0"):
        lock.main()
