"""`layergate.gateway.supervisor`: real processes, started, killed, told to stop and to reload."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from layergate.gateway import timeouts
from layergate.gateway.supervisor import Supervisor
from tests.support.connections import Connection
from tests.support.gateway_processes import GatewayProcesses, HttpCall, gone, running
from tests.support.gateway_worker import options_of
from tests.support.origin import FRESH, OriginCall
from tests.support.ports import HOST
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")

GONE = (OSError, EOFError)
WORKER = "tests.support.gateway_worker:main"


@pytest.fixture
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def ones(*numbers: int, systems: tuple[int, ...] = ()) -> pytest.MarkDecorator:
    """With so many workers; with those in ``systems`` in `make test-systems` only."""
    rest = [pytest.param(number, marks=pytest.mark.systems) for number in systems]
    return pytest.mark.parametrize("workers", [*numbers, *rest], indirect=True)


# --------------------------------------------------------------------------------------- starting


@ones(1, 3)
async def test_it_serves_with_so_many_processes_and_stops(tmp_path, workers):
    async with GatewayProcesses(tmp_path, workers=workers) as gateway:
        async with gateway.each() as connections:
            expected = {gateway.pid} if workers == 1 else gateway.pids()
            assert set(connections) == expected
            assert len(connections) == workers
            for connection in connections.values():
                assert (await connection.get("/control/state")).body == b"ready"
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended() == 0
        assert "Traceback" not in gateway.log()
        with pytest.raises(ConnectionRefusedError):
            await gateway.get("/")


@ones(1, 2)
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("start:config", "the gateway cannot run: .*upstreams must be something else"),
        pytest.param(
            "ready:config",
            "the gateway cannot run: .*upstreams must be something else",
            marks=pytest.mark.systems,
        ),
        pytest.param("start:bug", "RuntimeError: a bug", marks=pytest.mark.systems),
    ],
)
async def test_one_that_cannot_start_says_why_and_ends(tmp_path, workers, fault, said):
    gateway = GatewayProcesses(tmp_path, workers=workers)
    async with gateway.origin:
        gateway.write()
        gateway.faults.write_text(fault)
        gateway.launch()
        assert await gateway.ended() == 1
        assert re.search(said, gateway.log()), gateway.log()
        if "config" in fault:
            assert "Traceback" not in gateway.log()


async def test_one_whose_worker_ends_before_it_is_ready_says_so(tmp_path):
    gateway = GatewayProcesses(tmp_path)
    async with gateway.origin:
        gateway.write()
        gateway.faults.write_text("start:exit")
        gateway.launch()
        assert await gateway.ended() == 1
        assert "ended with status 7" in gateway.log()


@ones(1, 2)
@pytest.mark.parametrize("reuses", [False, pytest.param(True, marks=pytest.mark.systems)])
async def test_a_port_in_use_is_an_error_that_names_it(tmp_path, workers, reuses):
    with socket.create_server((HOST, 0), reuse_port=reuses) as taken:
        gateway = GatewayProcesses(tmp_path, workers=workers)
        name = f"{HOST}:{taken.getsockname()[1]}"
        gateway.write(listen=[f"{HOST}:0", name])
        gateway.origin.port = 1
        gateway.launch()
        assert await gateway.ended() == 1
        assert f"cannot listen on {name}: Address already in use" in gateway.log()


@ones(2, systems=(1,))
async def test_a_second_gateway_on_the_port_does_not_start(tmp_path, workers):
    async with GatewayProcesses(tmp_path, workers=workers) as gateway:
        (tmp_path / "other").mkdir()
        other = GatewayProcesses(tmp_path / "other", workers=workers)
        other.write(listen=gateway.settings["listen"])
        other.origin.port = 1
        other.launch()
        assert await other.ended() == 1
        assert "Address already in use" in other.log()
        assert (await gateway.get("/x")).status == 200


@ones(1, systems=(2,))
async def test_a_unix_socket_that_was_left_behind_is_replaced_and_a_live_one_is_not(
    tmp_path, workers
):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listen = [f"unix:{path}", f"{HOST}:0"]
    async with GatewayProcesses(tmp_path, workers=workers, listen=listen) as gateway:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        (tmp_path / "other").mkdir()
        other = GatewayProcesses(tmp_path / "other", workers=workers, listen=listen)
        other.origin.port = 1
        other.write()
        other.launch()
        assert await other.ended() == 1
        assert f"cannot listen on unix:{path}: Address already in use" in other.log()
        assert path.is_socket()
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended() == 0
        assert not path.exists()


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    path = tmp_path / "precious"
    path.write_text("words")
    gateway = GatewayProcesses(tmp_path, listen=[f"unix:{path}"])
    gateway.origin.port = 1
    gateway.write()
    gateway.launch()
    assert await gateway.ended() == 1
    assert path.read_text() == "words"


async def test_systemd_is_told(tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(path)
        notified.setblocking(False)
        loop = asyncio.get_running_loop()

        async def told() -> str:
            async with asyncio.timeout(20):
                return (await loop.sock_recv(notified, 1000)).decode()

        async with GatewayProcesses(tmp_path, environ={"NOTIFY_SOCKET": path}) as gateway:
            assert await told() == "READY=1"
            gateway.signal(signal.SIGHUP)
            reloading, _, when = (await told()).partition("\n")
            assert reloading == "RELOADING=1"
            assert int(when.removeprefix("MONOTONIC_USEC="))
            assert await told() == "READY=1"
            gateway.signal(signal.SIGTERM)
            assert await told() == "STOPPING=1"
            assert await gateway.ended() == 0


# --------------------------------------------------------------------------------------- stopping


@ones(1, 2)
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.systems)]
)
async def test_what_is_under_way_is_finished(tmp_path, workers, number):
    async with GatewayProcesses(tmp_path, workers=workers, drain_timeout=20.0) as gateway:
        gate = gateway.origin.gated("/slow")
        async with gateway.each() as connections, Connection(gateway.port) as idle:
            await idle.get("/control/pid")
            for worker, connection in connections.items():
                connection.ask(f"/slow/{worker}")
            await gate.reached(len(connections))
            gateway.signal(number)
            await gateway.logged("stopping")
            # An idle connection is closed; nobody new is let in.
            with pytest.raises(GONE):
                await idle.head()
            await gateway.refuses()
            assert gateway.process.alive
            gate.open()
            for connection in connections.values():
                assert (await connection.answer()).body == b"1"
        assert await gateway.ended() == 0
        assert "killed" not in gateway.log()


@ones(2, systems=(1,))
async def test_what_takes_longer_is_cut(tmp_path, workers):
    async with GatewayProcesses(tmp_path, workers=workers, drain_timeout=0.3) as gateway:
        gate = gateway.origin.gated("/slow")
        async with Connection(gateway.port) as connection:
            connection.ask("/slow")
            await gate.reached()
            gateway.signal(signal.SIGTERM)
            assert await gateway.ended() == 0
            with contextlib.suppress(*GONE):
                assert (await connection.answer()).status >= 500


@ones(2, systems=(1,))
async def test_the_second_signal_cuts_at_once(tmp_path, workers):
    async with GatewayProcesses(tmp_path, workers=workers, drain_timeout=600.0) as gateway:
        gate = gateway.origin.gated("/slow")
        async with Connection(gateway.port) as connection:
            connection.ask("/slow")
            await gate.reached()
            gateway.signal(signal.SIGTERM)
            await gateway.logged("stopping")
            gateway.signal(signal.SIGINT)
            assert await gateway.ended() == 0


async def test_a_worker_that_stands_still_does_not_keep_it_from_ending(tmp_path):
    async with GatewayProcesses(tmp_path, drain_timeout=0.1) as gateway:
        async with gateway.each() as connections:
            stalled = min(connections)
            os.kill(stalled, signal.SIGSTOP)
            gateway.signal(signal.SIGTERM)
            assert await gateway.ended() == 0
        assert f"(process {stalled}) is killed: it does not end" in gateway.log()
        assert not running(stalled)


async def test_workers_end_when_their_supervisor_is_gone_and_finish_what_is_under_way(tmp_path):
    async with GatewayProcesses(tmp_path, drain_timeout=20.0) as gateway:
        gate = gateway.origin.gated("/slow")
        async with gateway.each() as connections:
            pids = gateway.pids()
            for pid, connection in connections.items():
                connection.ask(f"/slow/{pid}")
            await gate.reached(2)
            os.kill(gateway.pid, signal.SIGKILL)
            await gateway.logged("its supervisor is gone", 2)
            gate.open()
            for connection in connections.values():
                assert (await connection.answer()).body == b"1"
        for pid in pids:
            await gone(pid)
        await gateway.refuses()


# --------------------------------------------------------------------------------------- replacing


async def test_a_worker_that_is_killed_is_replaced_and_nobody_else_notices(tmp_path):
    async with GatewayProcesses(tmp_path, workers=3) as gateway:
        for _ in range(3):
            async with gateway.each() as connections:
                killed, *others = connections
                os.kill(killed, signal.SIGKILL)
                with pytest.raises(GONE):
                    await connections[killed].answer()
                for other in others:
                    assert (await connections[other].get("/x")).status == 200
                await gone(killed)
                await until(lambda: len(gateway.pids()) == 3)
        assert "was ended by SIGKILL; it is replaced" in gateway.log()
        async with gateway.each() as connections:
            assert len(connections) == 3


async def test_connections_that_wait_for_a_worker_that_died_are_taken_by_its_replacement(tmp_path):
    async with GatewayProcesses(tmp_path) as gateway, gateway.each() as connections:
        stalled = min(connections)
        os.kill(stalled, signal.SIGSTOP)
        # Some of them wait for the one that stands still.
        waiting = [await Connection(gateway.port).__aenter__() for _ in range(20)]
        for connection in waiting:
            connection.ask("/control/pid")
        os.kill(stalled, signal.SIGKILL)
        answers = await asyncio.gather(*(connection.answer() for connection in waiting))
        assert {answer.status for answer in answers} == {200}
        for connection in waiting:
            await connection.__aexit__()


@pytest.mark.systems
async def test_a_worker_that_is_told_to_end_is_replaced_before_it_has(tmp_path):
    async with GatewayProcesses(tmp_path, drain_timeout=20.0) as gateway:
        gate = gateway.origin.gated("/slow")
        async with gateway.each() as connections:
            pid, connection = next(iter(connections.items()))
            connection.ask("/slow")
            await gate.reached()
            os.kill(pid, signal.SIGTERM)
            await gateway.logged("is there again")
            os.kill(pid, signal.SIGTERM)  # said twice, it is no less graceful
            assert len(gateway.pids()) == 3
            assert pid in gateway.pids()
            gate.open()
            assert (await connection.answer()).body == b"1"
            await gone(pid)
        await until(lambda: len(gateway.pids()) == 2)


@pytest.mark.systems
async def test_one_that_keeps_ending_is_started_ever_later_and_the_others_serve(tmp_path):
    async with GatewayProcesses(tmp_path) as gateway:
        gateway.faults.write_text("start:exit")
        killed = min(gateway.pids())
        os.kill(killed, signal.SIGKILL)
        await gateway.logged("is started again in 1 s")
        assert "is started again in 0.5 s" in gateway.log()
        # Its share of the connections is the other one's now.
        for _ in range(20):
            assert (await gateway.get("/x")).status == 200
        gateway.faults.unlink()
        await gateway.logged("is there again")
        async with gateway.each() as connections:
            assert len(connections) == 2


@pytest.mark.systems
async def test_all_may_end_at_once(tmp_path):
    async with GatewayProcesses(tmp_path, workers=2) as gateway:
        before = gateway.pids()
        gateway.faults.write_text("start:exit")
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        await gateway.logged("is started again in 0.5 s", 2)
        gateway.faults.unlink()
        await gateway.logged("is there again", 2)
        assert (await gateway.get("/x")).status == 200
        assert not before & gateway.pids()


@pytest.fixture
async def inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[GatewayProcesses]:
    """A gateway whose supervisor is this process, so that its patience can be shortened."""
    gateway = GatewayProcesses(tmp_path)
    gateway.log = lambda: caplog.text  # type: ignore[method-assign]
    caplog.set_level(logging.INFO, "layergate.gateway")
    async with gateway.origin:
        gateway.write()
        for name, value in gateway.environ().items():
            monkeypatch.setenv(name, value)
        yield gateway


async def test_a_worker_that_gives_no_sign_of_life_is_replaced(inside, monkeypatch):
    monkeypatch.setattr(timeouts, "WORKER_SILENCE", 2.0)
    options = options_of(str(inside.file))
    running_it = Supervisor(options, lambda: options, worker=WORKER)
    task = asyncio.create_task(running_it.run())
    await inside.logged("serving on")
    async with inside.each() as connections:
        stalled = min(connections)
        os.kill(stalled, signal.SIGSTOP)
        await inside.logged(f"(process {stalled}) is killed: it gave no sign of life for 2 s")
        await inside.logged("is there again")
    running_it.end()
    assert await task == 0


async def test_a_worker_that_is_not_ready_in_time_is_one_that_cannot_start(inside, monkeypatch):
    monkeypatch.setattr(timeouts, "WORKER_START", 1.0)
    inside.faults.write_text("start:hang")
    options = options_of(str(inside.file))
    assert await Supervisor(options, lambda: options, worker=WORKER).run() == 1
    assert "the gateway cannot run: worker" in inside.log()
    assert "it was not ready within 1 s" in inside.log()


@pytest.mark.systems
async def test_a_worker_that_sends_what_cannot_be_is_replaced(inside, caplog):
    options = options_of(str(inside.file))
    running_it = Supervisor(options, lambda: options, worker=WORKER)
    task = asyncio.create_task(running_it.run())
    await inside.logged("serving on")
    for number, path in enumerate(("/control/garbage", "/control/nonsense", "/control/huge")):
        with contextlib.suppress(*GONE):
            await inside.get(path)
        await inside.logged("is there again", number + 1)
    assert caplog.text.count("is killed: it sends invalid messages") == 3
    running_it.end()
    assert await task == 0


# --------------------------------------------------------------------------------------- reloading


RULE = {"path": "/ruled", "ttl": 600}


async def hit_everywhere(gateway: GatewayProcesses, path: str) -> list[bool]:
    async with gateway.each() as connections:
        return [(await one.get(path)).hit for one in connections.values()]


def silent(gateway: GatewayProcesses) -> None:
    @gateway.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.reply(b"%d" % call.number, FRESH if call.path == "/fresh" else {})


@ones(1, 2)
async def test_new_rules_hold_in_all_workers_and_nothing_is_lost(tmp_path, workers):
    async with GatewayProcesses(tmp_path, workers=workers) as gateway:
        silent(gateway)
        pids = gateway.pids()
        for path in ("/fresh", "/ruled"):
            await hit_everywhere(gateway, path)
        gateway.write(rules=[RULE])
        gateway.signal(signal.SIGHUP)
        await gateway.logged("reload: the new settings are in effect")
        assert await hit_everywhere(gateway, "/fresh") == [True] * workers
        await hit_everywhere(gateway, "/ruled")
        assert await hit_everywhere(gateway, "/ruled") == [True] * workers
        assert gateway.pids() == pids


WRONG: list[tuple[str | None, str]] = [
    ('{"rules": [{"path": "no slash"}]}', "path must be a string that starts with"),
    ('{"rules": [{"path": "/{a}{b}"}]}', "path has two adjacent placeholders"),
    ('{"workers": 0}', "workers must be"),
    ("{", "is no JSON"),
    (None, "No such file"),
]


@ones(2, systems=(1,))
async def test_wrong_settings_change_nothing(tmp_path, workers):
    async with GatewayProcesses(tmp_path, workers=workers, rules=[RULE]) as gateway:
        silent(gateway)
        good = gateway.file.read_text()
        for number, (text, said) in enumerate(WRONG, start=1):
            if text is None:
                gateway.file.unlink()
            else:
                gateway.file.write_text(text)
            gateway.signal(signal.SIGHUP)
            await gateway.logged("reload: nothing has changed", number)
            assert said in gateway.log()
        await hit_everywhere(gateway, "/ruled")
        assert await hit_everywhere(gateway, "/ruled") == [True] * workers
        gateway.file.write_text(good)
        gateway.signal(signal.SIGHUP)
        await gateway.logged("the new settings are in effect")
        assert "Traceback" not in gateway.log()


@ones(2, systems=(1,))
async def test_what_cannot_change_is_named_and_the_rest_holds(tmp_path, workers):
    async with GatewayProcesses(tmp_path, workers=workers) as gateway:
        silent(gateway)
        gateway.write(
            listen=[f"{HOST}:1"],
            workers=workers + 1,
            cache={"memory": "1MB", "shared": "redis://127.0.0.1:1"},
            via="other",
            rules=[RULE],
        )
        gateway.settings["workers"] = workers
        gateway.signal(signal.SIGHUP)
        await gateway.logged("the new settings are in effect")
        assert (
            "reload: these options wait for a restart: listen, memory, shared, workers"
            in gateway.log()
        )
        assert "reload: these options wait for a restart: via" in gateway.log()
        await hit_everywhere(gateway, "/ruled")
        assert await hit_everywhere(gateway, "/ruled") == [True] * workers
        if workers > 1:
            # Nor for one that is started now: all of them share a layer, or none does.
            os.kill(min(gateway.pids()), signal.SIGKILL)
            await gateway.logged("is there again")
            async with gateway.each() as connections:
                for connection in connections.values():
                    stats = await gateway.stats(connection)
                    assert list(stats["layers"]) == ["memory", "host"]


@pytest.mark.systems
async def test_a_worker_that_starts_later_has_the_new_settings(tmp_path):
    async with GatewayProcesses(tmp_path) as gateway:
        silent(gateway)
        gateway.write(rules=[RULE])
        gateway.signal(signal.SIGHUP)
        await gateway.logged("the new settings are in effect")
        for pid in gateway.pids():
            os.kill(pid, signal.SIGKILL)
        await gateway.logged("is there again", 2)
        await hit_everywhere(gateway, "/ruled")
        assert await hit_everywhere(gateway, "/ruled") == [True, True]


@pytest.mark.systems
async def test_a_worker_that_cannot_take_them_is_replaced_by_one_that_starts_with_them(tmp_path):
    async with GatewayProcesses(tmp_path) as gateway:
        silent(gateway)
        before = gateway.pids()
        gateway.write(rules=[RULE], via="refused")
        gateway.signal(signal.SIGHUP)
        await gateway.logged("is there again", 2)
        await until(lambda: not before & gateway.pids())
        await hit_everywhere(gateway, "/ruled")
        assert await hit_everywhere(gateway, "/ruled") == [True, True]


@pytest.mark.systems
async def test_reloads_that_come_together_are_one_after_the_other(tmp_path):
    async with GatewayProcesses(tmp_path) as gateway:
        silent(gateway)
        for number in range(20):
            gateway.write(rules=[{"path": f"/old/{number}", "ttl": 1}])
            gateway.signal(signal.SIGHUP)
        gateway.write(rules=[RULE])
        gateway.signal(signal.SIGHUP)

        async def hold() -> bool:
            await hit_everywhere(gateway, "/ruled")
            return all(await hit_everywhere(gateway, "/ruled"))

        await until(hold)


async def test_all_workers_are_one_gateway_to_an_upstream(tmp_path):
    """What one of them has sent, and another gets, is a loop."""
    async with GatewayProcesses(tmp_path, whole=True) as gateway:
        said: set[str] = set()

        @gateway.origin.on("/said")
        async def handler(call: OriginCall) -> None:
            said.add(cast(HttpCall, call).headers["cdn-loop"])
            await call.reply(b"", {"cache-control": "no-store"})

        async def fetched() -> bool:
            await gateway.get("/said")
            async with Connection(gateway.port) as connection:
                each = (await gateway.stats(connection))["workers"]["each"]
            return len(each) == 2 and all(one["events"]["fetch"] for one in each.values())

        async with asyncio.timeout(20):
            while not await fetched():
                pass
        assert len(said) == 1
        for _ in range(4):
            async with Connection(gateway.port) as connection:
                connection.ask("/said?", headers={"cdn-loop": said.copy().pop()})
                assert (await connection.answer()).status == 508
