"""``layergate purge --host /PATH`` and `layergate.host.purge`: purges from outside of the processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from layergate import ConfigError, HttpCache, PurgeRefused
from layergate.host import purge
from layergate.layers.host import HostLayer
from layergate.runtime.blocking import run_blocking
from layergate.runtime.threads import ThreadRuntime
from layergate.wsgi import LayerGate

Environ = dict[str, Any]


class Site:
    """A WSGI application behind LayerGate, as one process has it."""

    def __init__(self, folder: Path) -> None:
        self.calls = 0
        self.cache = HttpCache(runtime=ThreadRuntime(), shared=HostLayer(folder))
        self.gate = LayerGate(self._app, self.cache)

    def _app(self, environ: Environ, start_response: Any) -> list[bytes]:
        self.calls += 1
        tag = environ["PATH_INFO"].strip("/")
        start_response("200 OK", [("Cache-Control", "max-age=60"), ("Cache-Tag", tag)])
        return [b"%d" % self.calls]

    def get(self, path: str) -> bytes:
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "HTTP_HOST": "shop.example",
            "wsgi.url_scheme": "https",
        }
        body = self.gate(environ, lambda *_: lambda _: None)
        return b"".join(body)


def command(*arguments: str) -> tuple[int, str, str]:
    ran = subprocess.run(
        [sys.executable, "-m", "layergate", "purge", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


def test_the_command_purges_all_processes(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    one, other = Site(folder), Site(folder)
    assert one.get("/a") == other.get("/a") == b"1"
    assert one.get("/b") == other.get("/b") == b"2"
    code, out, err = command("--tag", "a", "--host", str(folder))
    assert (code, out, err) == (0, "purged: 2 of 2 processes have applied it\n", "")
    assert other.get("/a") == b"1"  # its own first call
    assert one.get("/a") == b"1"
    assert one.get("/b") == other.get("/b") == b"2"


@pytest.mark.parametrize(
    "what",
    [
        {"tags": ["a"]},
        {"urls": ["https://shop.example/a"]},
        {"urls": ["http://shop.example/a"]},
        {"prefixes": ["shop.example/a"]},
        {"hosts": ["shop.example"]},
        {"patterns": ["/a*"]},
        {"everything": True},
    ],
)
def test_whatever_a_purge_can_name(tmp_path: Path, what: dict[str, Any]) -> None:
    site = Site(tmp_path / "f")
    assert site.get("/a") == site.get("/a") == b"1"
    receipt = purge(tmp_path / "f", **what)
    assert receipt[:4] == (1, 1, True, "host")
    assert receipt.matched is None
    assert site.get("/a") == b"2"


def test_a_soft_purge(tmp_path: Path) -> None:
    site = Site(tmp_path / "f")
    assert site.get("/a") == b"1"
    assert purge(tmp_path / "f", tags=["a"], soft=True).final
    assert site.get("/a") == b"2"


def test_nobody_is_there(tmp_path: Path) -> None:
    site = Site(tmp_path / "f")
    assert site.get("/a") == b"1"
    run_blocking(site.cache.aclose())
    code, out, err = command("--everything", "--host", str(tmp_path / "f"), "--json")
    assert code == 1
    assert "no process uses the folder now" in err
    assert json.loads(out)["result"]["applied"] == 0
    assert site.get("/a") == b"2"  # who comes later knows of it


def test_the_command_makes_nothing(tmp_path: Path) -> None:
    for folder, said in (
        (tmp_path / "missing", "does not exist"),
        (tmp_path, "no process has used"),
    ):
        tmp_path.chmod(0o700)
        code, out, err = command("--everything", "--host", str(folder))
        assert (code, out) == (1, "")
        assert said in err
    assert not (tmp_path / "missing").exists()
    assert not list(tmp_path.glob("log*"))


def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a folder away")
    os.chown(tmp_path, 1, -1)
    code, _, err = command("--everything", "--host", str(tmp_path))
    assert code == 1
    assert "belongs to" in err
    assert "sudo -u" in err
    with pytest.raises(ConfigError, match="belongs to"):
        purge(tmp_path, everything=True)


def test_a_purge_of_nothing_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path / "f")
    site.get("/a")
    with pytest.raises(PurgeRefused):
        purge(tmp_path / "f")
    assert command("--host", str(tmp_path / "f"))[0] == 2
    assert command("--tag", "", "--host", str(tmp_path / "f"))[0] == 2


def test_a_writer_that_was_stopped_is_bypassed(tmp_path: Path) -> None:
    import fcntl

    site = Site(tmp_path / "f")
    assert site.get("/a") == b"1"
    fd = os.open(tmp_path / "f" / "log-1", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        assert purge(tmp_path / "f", tags=["a"]).final
    finally:
        os.close(fd)
    assert site.get("/a") == b"2"


def test_a_host_name_is_still_one(tmp_path: Path) -> None:
    code, _, err = command("--host", "shop.example")
    assert code == 2
    assert "--admin" in err
