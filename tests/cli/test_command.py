"""The command ``layergate``, as a process, against a real server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from layergate.cli import main
from tests.support.ports import free_port

ROOT = Path(__file__).parent.parent.parent
BOUND = 30.0  # seconds; only a test that hangs takes so long
TOKEN = "s3cret-token"


class Server:
    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin = f"{self.url}/_layergate"
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "uvicorn", "tests.cli.app:app",
                "--port", str(self.port), "--no-access-log", "--log-level", "error",
            ],
            cwd=ROOT,
        )  # fmt: skip
        deadline = time.monotonic() + BOUND
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            assert self.process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not begin"
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(BOUND)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


class Raw:
    """A server that says ``answer`` to every connection, and keeps what it was sent."""

    def __init__(self, answer: bytes, *, hang: bool = False) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.heads: list[bytes] = []
        self._answer = answer
        self._hang = hang
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.heads.append(connection.recv(65536))
                with contextlib.suppress(OSError):
                    connection.sendall(self._answer)
                if self._hang:
                    self._over.wait(BOUND)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(BOUND)
        assert not self._thread.is_alive()


class Ran:
    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.code = process.returncode
        self.out = process.stdout
        self.err = process.stderr

    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


def run(*arguments: str, **environment: str) -> Ran:
    """``python -m layergate``, as a process. Empty variables are ignored."""
    return Ran(
        subprocess.run(
            [sys.executable, "-m", "layergate", *arguments],
            cwd=ROOT,
            env={**os.environ, "LAYERGATE_ADMIN_TOKEN": TOKEN, "NO_COLOR": "", **environment},
            capture_output=True,
            text=True,
            timeout=BOUND,
            check=False,
        )
    )


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """`run` in this process, which is faster."""

    def call(*arguments: str, **environment: str) -> Ran:
        with monkeypatch.context() as patch:
            patch.setenv("LAYERGATE_ADMIN_TOKEN", TOKEN)
            patch.setenv("NO_COLOR", "")
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                code = main(arguments)
            except SystemExit as error:
                assert isinstance(error.code, int)
                code = error.code
        told = capsys.readouterr()
        return Ran(subprocess.CompletedProcess(arguments, code, told.out, told.err))

    return call


@pytest.fixture
def clean(server: Server, here: Callable[..., Ran]) -> Server:
    assert here("purge", "--everything", "--admin", server.admin).code == 0
    return server


# -- without an instance ---------------------------------------------------------------------------


def test_a_response_is_fetched_and_explained(server: Server) -> None:
    ran = run("explain", f"{server.url}/plain/fresh")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == f"GET {server.url}/plain/fresh"
    assert re.search(r"^\+ storable +stored +RFC 9111 section 3$", ran.out, re.MULTILINE)
    assert re.search(r"^\+ lifetime +60 s +RFC 9111 section 5\.2\.2\.1$", ran.out, re.MULTILINE)
    assert re.search(r"^  tags +product:7, products ", ran.out, re.MULTILINE)
    assert lines[-1].startswith("MISS: the request goes to the app. Stored, fresh for")
    assert "\x1b" not in ran.out  # no terminal, no colour


def test_the_installed_command_is_the_same(server: Server) -> None:
    script = Path(sys.executable).with_name("layergate")
    version = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("layergate ")


def test_json_for_tools(server: Server, here: Callable[..., Ran]) -> None:
    told = here("explain", "--json", f"{server.url}/plain/login", "-H", "Cookie: sid=mine").json()
    assert told["conclusion"]["refused"] == "set-cookie"
    assert told["conclusion"]["stored"] is False
    (step,) = [step for step in told["steps"] if step["name"] == "storable"]
    assert step["section"] == "LayerGate guarantee G1"
    assert "allow_set_cookie" in step["data"]["remedy"]
    # Nobody's credentials: neither those given here nor those in the response.
    assert "sid=mine" not in json.dumps(told)
    assert "s3cret-session" not in json.dumps(told)


def test_a_refusal_names_the_remedy(server: Server, here: Callable[..., Ran]) -> None:
    ran = here("explain", f"{server.url}/plain/silent")
    assert "- storable        no-freshness" in ran.out
    assert "Remedy: send Cache-Control: max-age=60" in ran.out
    assert "Not stored: Nothing in the response or the rules" in ran.out


def test_the_cache_in_front_is_told_of(server: Server, here: Callable[..., Ran]) -> None:
    here("explain", f"{server.url}/fresh")
    ran = here("explain", f"{server.url}/fresh")
    assert re.search(r"upstream +LayerGate; hit; ttl=", ran.out)


def test_what_is_sent(here: Callable[..., Ran]) -> None:
    with Raw(b"HTTP/1.1 200 OK\r\ncache-control: max-age=5\r\n\r\n") as raw:
        ran = here("explain", f"{raw.url}/a?b=c", "-H", "X-A: b", "-H", "Host: shop.example")
        assert ran.code == 0, ran.err
        assert ran.out.startswith("GET http://shop.example/a?b=c\n")
    (head,) = raw.heads
    request, *fields = head.decode().removesuffix("\r\n\r\n").split("\r\n")
    assert request == "GET /a?b=c HTTP/1.1"
    assert {line.partition(":")[0] for line in fields} == {"x-a", "host", "user-agent", "accept"}
    assert TOKEN not in head.decode()


def test_redirects_are_not_followed(server: Server, here: Callable[..., Ran]) -> None:
    with Raw(f"HTTP/1.1 302 Found\r\nlocation: {server.url}/\r\n\r\n".encode()) as raw:
        told = here("explain", "--json", raw.url, "-H", "Authorization: Bearer mine").json()
    (step,) = [step for step in told["steps"] if step["name"] == "response"]
    assert step["outcome"] == "302"
    assert len(raw.heads) == 1


def test_what_may_change_something_is_not_sent(here: Callable[..., Ran]) -> None:
    with Raw(b"HTTP/1.1 200 OK\r\n\r\n") as raw:
        told = here("explain", "--json", "-X", "DELETE", f"{raw.url}/a").json()
    assert raw.heads == []
    assert told["conclusion"]["answer"] == "pass"
    (step,) = [step for step in told["steps"] if step["name"] == "invalidation"]
    assert step["data"]["purged"] == [f"{raw.url}/a"]


def test_a_body_without_an_end_is_not_waited_for(here: Callable[..., Ran]) -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n"
    with Raw(answer, hang=True) as raw:
        assert here("explain", raw.url).code == 0


def test_what_a_server_sends_does_not_reach_the_terminal(here: Callable[..., Ran]) -> None:
    answer = b"HTTP/1.1 200 OK\r\ncache-control: max-age=5\r\ncache-tag: a\x1b[31m\xe9\r\n\r\n"
    with Raw(answer) as raw:
        for verbose in ((), ("-v",)):
            ran = here("explain", raw.url, *verbose)
            assert "\x1b" not in ran.out
            assert r"a\x1b[31m" in ran.out


def test_colours(server: Server) -> None:
    if sys.platform == "win32":
        pytest.skip("no pseudo-terminals")
    import pty

    def on_a_terminal(*arguments: str, **environment: str) -> str:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "layergate", "explain", f"{server.url}/plain/fresh", *arguments],
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm", "NO_COLOR": "", **environment},
            stdout=theirs,
        )
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
            while part := os.read(ours, 65536):
                seen += part
        os.close(ours)
        assert process.wait(BOUND) == 0
        return seen.decode()

    assert "\x1b[32mstored\x1b[0m" in on_a_terminal()
    assert "\x1b" not in on_a_terminal("--no-color")
    assert "\x1b" not in on_a_terminal(NO_COLOR="1")
    assert "\x1b" not in on_a_terminal(TERM="dumb")


# -- with one ---------------------------------------------------------------------------------------


def test_a_running_instance_is_asked(clean: Server, here: Callable[..., Ran]) -> None:
    ask = ("explain", f"{clean.url}/ruled/7", "--admin", clean.admin)
    ran = run(*ask)
    assert ran.code == 0, ran.err
    assert re.search(r"^  rule +/ruled/\{id\} ", ran.out, re.MULTILINE)
    assert re.search(r"^  layer +memory: nothing ", ran.out, re.MULTILINE)
    assert ran.out.splitlines()[-1] == "MISS: the request goes to the app."
    here("explain", f"{clean.url}/ruled/7")
    assert here(*ask).out.splitlines()[-1] == "HIT: the answer comes from the store."
    told = here(*ask, "--json", "-H", "Cookie: a=b").json()
    assert (told["conclusion"]["answer"], told["conclusion"]["fwd"]) == ("miss", "request")
    told = here(*ask, "--json", "-X", "POST").json()
    assert told["conclusion"]["answer"] == "pass"


def test_its_response_can_be_fetched_and_explained_too(
    clean: Server, here: Callable[..., Ran]
) -> None:
    ask = ("explain", f"{clean.url}/silent", "--admin", clean.admin, "--json")
    assert here(*ask).json()["conclusion"]["stored"] is None
    assert here(*ask, "--fetch").json()["conclusion"]["refused"] == "no-freshness"
    # What the instance remembers of it.
    told = here(*ask).json()
    assert "was not stored: Nothing in the response" in told["conclusion"]["text"]


def test_the_token_may_be_in_a_file(
    server: Server, tmp_path: Path, here: Callable[..., Ran]
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    ask = ("stats", "--admin", server.admin)
    assert here(*ask, "--token-file", str(file), LAYERGATE_ADMIN_TOKEN="").code == 0
    assert here(*ask, "--token-file", str(file), LAYERGATE_ADMIN_TOKEN="wrong").code == 0
    wrong = here(*ask, LAYERGATE_ADMIN_TOKEN="wrong-token")
    assert (wrong.code, wrong.out) == (1, "")
    assert "403: wrong token" in wrong.err
    assert "wrong-token" not in wrong.err


def test_the_token_goes_to_the_endpoint_and_nowhere_else(
    server: Server, here: Callable[..., Ran]
) -> None:
    moved = f"HTTP/1.1 307 Moved\r\nlocation: {server.admin}/explain\r\ncontent-length: 0\r\n\r\n"
    with Raw(moved.encode()) as raw:
        ran = here("explain", "http://a.example/", "--admin", f"{raw.url}/_layergate")
    assert ran.code == 1
    assert "redirect, which is not followed" in ran.err
    assert len(raw.heads) == 1
    assert f"authorization: Bearer {TOKEN}".encode() in raw.heads[0].lower().replace(
        b"bearer", b"Bearer"
    )


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n\r\n[]",
        b'HTTP/1.1 200 OK\r\n\r\n{"result": {}}',
        b'HTTP/1.1 200 OK\r\n\r\n{"result": {"steps": [], "conclusion": 1}}',
        b"HTTP/1.1 404 Not Found\r\n\r\n",
        b"HTTP/1.1 500 Oh\r\n\r\n" + b"[" * 100_000,
        b"nonsense\x1b[31m\r\n\r\n",
        b'HTTP/1.1 403 No\r\n\r\n{"errors": [{"message": "\\u001b[31m"}]}',
        b"",
    ],
)
def test_what_is_no_endpoint_is_said_to_be_none(answer: bytes, here: Callable[..., Ran]) -> None:
    with Raw(answer) as raw:
        ran = here("explain", "http://a.example/", "--admin", f"{raw.url}/_layergate")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("layergate: ")
    assert ran.err.count("\n") == 1, ran.err
    assert "\x1b" not in ran.err


def test_purge_and_stats(clean: Server, here: Callable[..., Ran]) -> None:
    admin = ("--admin", clean.admin)
    here("explain", f"{clean.url}/fresh")
    ran = run("purge", "--tag", "product:7", *admin)
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "purged: 1 of 1 instances have applied it",
        "scope: process (this process alone: other processes keep what they hold)",
        "matched: 1 in the memory of the process that was asked",
    ]
    ran = here("purge", "--tag", "product:77", *admin)
    assert ran.out.endswith("\nseen: no; something that was named is not in that memory\n")
    told = here("explain", f"{clean.url}/fresh", *admin, "--json").json()
    assert told["conclusion"]["answer"] == "miss"
    here("explain", f"{clean.url}/fresh")
    answer = here("purge", "--url", f"{clean.url}/fresh", "--soft", "--json", *admin).json()
    assert answer["result"] == {
        "applied": 1,
        "instances": 1,
        "scope": "process",
        "matched": 1,
        "matched_at_least": False,
        "seen": True,
        "unknown": [],
    }
    told = here("explain", f"{clean.url}/fresh", *admin, "--json").json()
    assert told["conclusion"]["answer"] == "stale"
    for option in (("--pattern", "/f*"), ("--host", "127.0.0.1"), ("--prefix", "127.0.0.1/f")):
        assert here("purge", *option, *admin).code == 0
    stats = here("stats", "--json", *admin).json()
    assert stats["events"]["purge"] >= 6
    assert re.search(r"^events\.purge +[0-9]+$", run("stats", *admin).out, re.MULTILINE)


def test_stats_are_watched_until_it_is_interrupted(clean: Server, here: Callable[..., Ran]) -> None:
    for extra in ((), ("--json",)):
        watching = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "layergate",
                "stats",
                "--watch",
                "0.1",
                *extra,
                "--admin",
                clean.admin,
            ],
            cwd=ROOT,
            env={**os.environ, "LAYERGATE_ADMIN_TOKEN": TOKEN},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell starts what runs in the background with SIGINT ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - one call
        )
        assert watching.stdout is not None
        assert watching.stderr is not None
        seen: list[str] = []
        if extra:
            for _ in range(2):
                json.loads(watching.stdout.readline())
        else:
            # From the second on with rates, of what has changed: this is what was asked itself.
            while not seen or not re.fullmatch(r"events\.purge +[0-9]+ +\+[0-9.]+/s\n", seen[-1]):
                assert here("purge", "--tag", "x", "--admin", clean.admin).code == 0
                while (line := watching.stdout.readline()) != "\n":
                    assert line, watching.stderr.read()
                    seen.append(line)
                    if "/s" in line:
                        break
        watching.send_signal(signal.SIGINT)
        assert watching.wait(BOUND) == 0
        assert watching.stderr.read() == ""
        watching.stdout.close()
        watching.stderr.close()


def test_a_purge_that_is_not_final_says_so(here: Callable[..., Ran]) -> None:
    body = b'{"success": true, "result": {"applied": 1, "instances": 3}}'
    with Raw(b"HTTP/1.1 202 Accepted\r\n\r\n" + body) as raw:
        ran = here("purge", "--everything", "--admin", f"{raw.url}/_layergate")
    assert (ran.code, ran.out) == (3, "purged: 1 of 3 instances have applied it\n")
    assert "not yet confirmed" in ran.err


def test_a_purge_that_reaches_one_process_of_several_says_so(here: Callable[..., Ran]) -> None:
    body = b'{"success": true, "result": {"applied": 1, "instances": 1, "scope": "process"}}'
    with Raw(b"HTTP/1.1 202 Accepted\r\n\r\n" + body) as raw:
        ran = here("purge", "--everything", "--admin", f"{raw.url}/_layergate")
    assert ran.code == 3
    assert "other processes keep what they hold" in ran.err
    assert "confirmed" not in ran.err


# -- what cannot be ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        ((), "command"),
        (("explain",), "URL"),
        (("explain", "/path"), "url must"),
        (("explain", "ftp://a.example/"), "url must"),
        (("explain", "http://user:s3cret-password@a.example/"), "without a password"),
        (("explain", "http://a.example/", "-H", "novalue"), "-H"),
        (("explain", "http://a.example/", "-H", ": x"), "-H"),
        (("explain", "http://a.example/", "-H", "a b: x"), "headers"),
        (("explain", "http://a.example/", "-X", "G T"), "method"),
        (("explain", "http://a.example/", "--timeout", "0"), "--timeout"),
        (("explain", "http://a.example/", "--timeout", "x"), "--timeout"),
        (("explain", "http://a.example/", "--fetch"), "--fetch"),
        (("explain", "http://a.example/", "--admin", "http://a.example"), "--admin"),
        (("explain", "http://a.example/", "--admin", "a.example/x"), "--admin"),
        (("explain", "http://a.example/", "--nosuch"), "--nosuch"),
        (("purge", "--admin", "http://a.example/_layergate"), "must name something"),
        (("purge", "--everything"), "--admin"),
        (("stats",), "--admin"),
        (("stats", "--admin", "http://a.example/x", "--watch", "0"), "--watch"),
        (("stats", "--admin", "http://a.example/x", "--watch", "nan"), "--watch"),
        (("stats", "--admin", "http://a.example/x", "--token-file", "/nosuch"), "--token-file"),
        (("nosuch",), "nosuch"),
    ],
)
def test_a_wrong_command_line(
    arguments: tuple[str, ...], mentions: str, here: Callable[..., Ran]
) -> None:
    ran = here(*arguments)
    assert (ran.code, ran.out) == (2, ""), ran.err
    assert mentions in ran.err
    assert "Traceback" not in ran.err
    assert "s3cret-password" not in ran.err


def test_a_shell_is_told_too() -> None:
    """What is unknown, what is missing, and what is no value: one of each."""
    for arguments in (("nosuch",), ("stats",), ("explain", "/path")):
        ran = run(*arguments)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err
        assert "Traceback" not in ran.err


def test_a_token_is_needed(here: Callable[..., Ran]) -> None:
    ran = here("stats", "--admin", "http://a.example/_layergate", LAYERGATE_ADMIN_TOKEN="")
    assert ran.code == 2
    assert "LAYERGATE_ADMIN_TOKEN" in ran.err
    assert "--token-file" in ran.err


def test_what_cannot_be_reached(here: Callable[..., Ran]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # nobody listens
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        for arguments in ((f"{url}/",), ("http://a.example/", "--admin", f"{url}/_layergate")):
            ran = here("explain", *arguments)
            assert (ran.code, ran.out) == (1, "")
            assert f"cannot reach {url}" in ran.err
    with Raw(b"", hang=True) as raw:
        ran = here("explain", raw.url, "--timeout", "0.2")
        assert ran.code == 1
        assert "timed out" in ran.err


def test_a_reader_that_has_enough(server: Server) -> None:
    """``| head -0``: the pipe is closed before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-m", "layergate", "explain", f"{server.url}/plain/fresh"],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=BOUND,
        check=False,
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (0, b"")
