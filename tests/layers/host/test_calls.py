"""How the processes of one host tell each other their statistics (`layergate.layers.host.calls`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from layergate import HttpCache
from layergate.layers.host import HostLayer
from layergate.layers.host.calls import NAME, Answering, asked
from layergate.runtime.blocking import run_blocking
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime
from tests.support.waiting import wait_until

MEMBER = """
import sys
from layergate import HttpCache
from layergate.layers.host import HostLayer
from layergate.runtime.blocking import run_blocking
from layergate.runtime.threads import ThreadRuntime
cache = HttpCache(runtime=ThreadRuntime(), shared=HostLayer(sys.argv[1]))
run_blocking(cache.stack.join())
print("joined", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def member(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", MEMBER, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "joined\n"
            yield process
        finally:
            process.kill()  # it may be stopped


def stopped(process: subprocess.Popen[str]) -> bool:
    state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "T"


def test_the_statistics_of_all_processes(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    cache = HttpCache(runtime=ThreadRuntime(), shared=HostLayer(folder))
    run_blocking(cache.stack.join())
    with member(folder) as one, member(folder) as other:
        report: Any = run_blocking(cache.report())
        assert report["workers"]["running"] == report["workers"]["answered"] == 3
        pids = {each["pid"] for each in report["workers"]["each"].values()}
        assert pids == {os.getpid(), one.pid, other.pid}
        assert report["invalidation"]["members"] == 3
        os.kill(other.pid, signal.SIGSTOP)  # does not answer, and holds nobody up for long
        wait_until(lambda: stopped(other), "the stop")
        report = run_blocking(cache.report())
        assert (report["workers"]["running"], report["workers"]["answered"]) == (3, 2)
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        report = run_blocking(cache.report())
        assert (report["workers"]["running"], report["workers"]["answered"]) == (2, 2)


def test_under_asyncio_too(tmp_path: Path) -> None:
    async def work() -> None:
        caches = [HttpCache(shared=HostLayer(tmp_path / "f")) for _ in range(2)]
        for cache in caches:
            await cache.stack.join()
        for cache in caches:
            report = await cache.report()
            assert report["workers"]["answered"] == 2
        await caches[0].aclose()
        assert (await caches[1].report())["workers"]["running"] == 1
        await caches[1].aclose()

    asyncio.run(work())


def test_closing_ends_the_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    answering = Answering(tmp_path, 0, dict)
    (thread,) = set(threading.enumerate()) - before
    answering.close()
    thread.join(20)
    assert not thread.is_alive()


def test_a_long_path(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    folder.mkdir(parents=True)
    answering = Answering(folder, 0, lambda: {"a": 1})
    (answer,) = run_blocking(asked(folder, [0], ThreadRuntime(), 5.0))
    assert answer == {"a": 1, "pid": os.getpid(), "worker": 0}
    answering.close()


@pytest.mark.parametrize("sent", [b"", b"../../x", b"nobody", b"\xff" * 64])
def test_a_question_that_makes_no_sense_is_passed_over(tmp_path: Path, sent: bytes) -> None:
    answering = Answering(tmp_path, 3, dict)
    stranger = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    stranger.sendto(sent, str(tmp_path / NAME / "3"))
    stranger.close()
    assert len(run_blocking(asked(tmp_path, [3], ThreadRuntime(), 5.0))) == 1
    answering.close()


def test_an_answer_that_makes_no_sense(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    stranger = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    stranger.bind(str(tmp_path / NAME / "0"))

    def answer() -> None:
        question = stranger.recv(64)
        stranger.sendto(b"not JSON", str(tmp_path / NAME / question.decode()))

    thread = threading.Thread(target=answer)
    thread.start()
    assert run_blocking(asked(tmp_path, [0], ThreadRuntime(), 1.0)) == []
    thread.join()
    stranger.close()


def test_nobody_answers(tmp_path: Path) -> None:
    assert asyncio.run(asked(tmp_path, [0, 1], LoopRuntime(), 0.1)) == []


# It stops itself, so that this thread goes on first: it was not inside of a blocking system call.
STOPPED = """
import os, signal, socket, sys, threading, time
from pathlib import Path
from layergate.layers.host.calls import Answering

taken = 0
for number in range(int(sys.argv[2])):
    answering = Answering(Path(sys.argv[1]), number, dict)
    (thread,) = [one for one in threading.enumerate() if one.name == "layergate calls"]
    stat = Path(f"/proc/self/task/{thread.native_id}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "S":
        time.sleep(0.0005)
    os.kill(os.getpid(), signal.SIGSTOP)
    answering.close()
    left, right = socket.socketpair()  # has the numbers that are free
    left.send(b"x" * 200)
    right.send(b"x" * 200)
    thread.join(10)
    assert not thread.is_alive()
    taken += left.recv(200) != b"x" * 200 or right.recv(200) != b"x" * 200
    left.close()
    right.close()
print(taken)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")
def test_a_process_that_was_stopped_reads_from_no_socket_of_others(tmp_path: Path) -> None:
    """It goes on while the folder was replaced, and a connection has the number of a socket that was
    closed."""
    command = [sys.executable, "-c", STOPPED, str(tmp_path), "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while True:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                break
            os.kill(process.pid, signal.SIGCONT)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.stdout is not None
        assert (process.returncode, process.stdout.read()) == (0, "0\n")
