"""Who runs the gateway's workers: opens the sockets, starts the processes, and passes on the signals.

`run` is what ``layergate serve`` calls. With one worker there is nobody to supervise: it runs in the
same process, on an `Alone` channel. With more, a `Supervisor` starts each in a fresh interpreter
(nothing is forked that has threads or a loop) and replaces those that end. It serves nothing itself.

SIGTERM and SIGINT  end the gateway: workers accept nothing more, finish what is under way within
                    ``drain_timeout`` and are cut off then. The second such signal cuts at once.
SIGHUP              has the settings read anew. Wrong ones change nothing; right ones are put into
                    effect in the running workers, which keep what they hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, Final, TypeAlias

from layergate.errors import ConfigError
from layergate.gateway import logs
from layergate.gateway.channel import (
    BEAT,
    Channel,
    ChannelBroken,
    ChannelClosed,
    Reload,
    Stats,
    new_instance,
    pack,
    pack_options,
    receive,
)
from layergate.gateway.listening import Listeners
from layergate.gateway.notify import VARIABLE, notify
from layergate.gateway.options import GatewayOptions
from layergate.gateway.reloading import held, waiting
from layergate.gateway.siblings import TERM
from layergate.gateway.spawned import entry as entry_of
from layergate.http.rules import RuleSet
from layergate.runtime.clock import monotonic
from layergate.shared.members import Members

__all__ = ["WORKER", "Alone", "Load", "Supervisor", "run"]

_logger = logging.getLogger("layergate.gateway")

Load: TypeAlias = Callable[[], GatewayOptions]

WORKER: Final = "layergate.gateway.worker:main"
_START: Final = 60.0  # seconds within which a worker must be ready
_SILENT: Final = 60  # beats without a sign of life after which it is replaced
_STABLE: Final = 5.0  # seconds after which the end of a worker has nothing to do with its start
_PAUSES: Final = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds before each further start
_GRACE: Final = 2.0  # seconds between being cut and being killed
_REPORT: Final = 1.0  # seconds
_MAX_QUEUE: Final = 64 * 1024 * 1024  # bytes for a worker that it does not read
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def run(options: GatewayOptions, load: Load, *, worker: str = WORKER) -> int:
    """Run the gateway until it is told to stop. The exit status: 0; 1 if it could not start.

    ``load``: reads the settings again; raises ConfigError. ``worker``: what runs in each process, as
    ``module:function`` (see `channel`).
    """
    logs.set_up()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    try:
        if options.workers > 1:
            return asyncio.run(Supervisor(options, load, worker=worker).run())
        listeners = Listeners(options.addresses, 1)
        try:
            entry_of(worker)(options, listeners.of(0), Alone(options, load, listeners.names))
        finally:
            listeners.close()
            notify("STOPPING=1")
    except (ConfigError, OSError) as error:
        _logger.critical("the gateway cannot run: %s", error)
        return 1
    return 0


async def _loaded(load: Load, old: GatewayOptions) -> GatewayOptions | None:
    """What the settings say now, as far as it can change; None, and a line in the log, if they are
    wrong. ``old``: what the gateway was started with."""
    try:
        # Not in the loop: files may be slow, and nobody is to lose trust over it.
        told = await asyncio.to_thread(load)
        RuleSet(told.cache.rules)  # what is only found when they are compiled
        new = held(old, told)
    except (ConfigError, OSError) as error:
        _logger.error("reload: nothing has changed: %s", error)  # noqa: TRY400 - for who wrote them
        return None
    except Exception:
        _logger.exception("reload: nothing has changed")
        return None
    later = waiting(old, told)
    if later:
        _logger.warning("reload: %s will hold after a restart", ", ".join(later))
    return new


class _Reloader:
    """SIGHUP: one reload after the other; one that is asked for meanwhile comes next, once.

    ``options``: the ones that hold. ``act``: puts new ones into effect; raises nothing.
    """

    def __init__(
        self,
        load: Load,
        options: GatewayOptions,
        act: Callable[[GatewayOptions], Awaitable[object]],
    ) -> None:
        self._load = load
        self._first = options
        self.options = options
        self._act = act
        self._again = False
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._reload(), name="layergate reload")

    async def _reload(self) -> None:
        while self._again:
            self._again = False
            notify("RELOADING=1")
            new = await _loaded(self._load, self._first)
            if new is not None:
                self.options = new
                await self._act(new)
            notify("READY=1")


class Alone(Channel):
    """The channel of the only worker: the signals of its own process."""

    def __init__(self, options: GatewayOptions, load: Load, names: Iterable[str]) -> None:
        super().__init__()
        self._names = tuple(names)
        self._drain = float(options.drain_timeout)
        self._reloader = _Reloader(load, options, self._act)

    async def open(self, *, reload: Reload, stats: Stats) -> None:
        """See `Channel.open`."""
        await super().open(reload=reload, stats=stats)
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.ask)

    def ready(self) -> None:
        """See `Channel.ready`."""
        super().ready()
        _logger.info("serving on %s", ", ".join(self._names))
        notify("READY=1")

    def _end(self) -> None:
        if self.stopping.is_set():
            self.stop(now=True)
            return
        notify("STOPPING=1")
        _logger.info("stopping; what is under way has %g s", self._drain)
        self.stop()
        asyncio.get_running_loop().call_later(self._drain, self.cut.set)

    async def _act(self, options: GatewayOptions) -> None:
        self._drain = float(options.drain_timeout)
        ignored, error = self._reloaded(options)
        if error is None:
            _say_reloaded(ignored)


def _say_reloaded(ignored: Collection[str]) -> None:
    if ignored:
        _logger.warning("reload: %s will hold after a restart", ", ".join(sorted(ignored)))
    _logger.info("reload: the new settings are in effect")


class _Life(enum.Enum):
    STARTING = enum.auto()
    READY = enum.auto()
    LEAVING = enum.auto()
    ENDED = enum.auto()


class _Worker:
    """One process. ``serial``: a number never used twice; ``number``: which worker it is."""

    def __init__(
        self,
        serial: int,
        number: int,
        process: asyncio.subprocess.Process,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.serial = serial
        self.number = number
        self.process = process
        self.life = _Life.STARTING
        self.ready_at = float("inf")
        self.silent: int | None = None  # beats since it was heard; None before it was
        self.why = ""  # it failed, by its own word
        self.moved = asyncio.Event()  # ``life`` is past READY
        self.tasks: list[asyncio.Task[Any]] = []
        self._writer = writer

    def send(self, frame: bytes) -> None:
        """Nothing is raised, or waited for: one that does not read is killed."""
        if self.life is _Life.ENDED or self._writer.is_closing():
            return
        self._writer.write(frame)
        if self._writer.transport.get_write_buffer_size() > _MAX_QUEUE:
            self.kill("does not read what it is sent")

    def kill(self, why: str = "") -> None:
        if why:
            _logger.error(
                "worker %d (process %d) is killed: it %s", self.number, self.process.pid, why
            )
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    def leaving(self) -> None:
        if self.life is _Life.READY:  # else it has failed, and its end will be what is told
            self.life = _Life.LEAVING
            self.moved.set()

    def close(self) -> None:
        self.life = _Life.ENDED
        self.moved.set()
        self._writer.close()


class _Report:
    """The statistics of all, as one of them has asked for."""

    def __init__(self, asker: _Worker, number: int, wanted: set[int]) -> None:
        self.asker = asker
        self.number = number
        self.wanted = wanted
        self.stats: list[Mapping[str, Any]] = []


class Supervisor:
    """The workers of one gateway, when there are several."""

    def __init__(self, options: GatewayOptions, load: Load, *, worker: str = WORKER) -> None:
        self._entry = worker
        self._count = options.workers
        self._addresses = options.addresses
        # With a shared layer the log is there.
        self._siblings = options.cache.shared is None
        self._instance = new_instance()
        self._reloader = _Reloader(load, options, self._reload)
        self._serials = itertools.count(1)
        self._reports: dict[int, _Report] = {}
        self._report_numbers = itertools.count()
        self._workers: dict[int, _Worker] = {}
        self._members: Members[int] = Members(monotonic, term=TERM)
        self._due: asyncio.TimerHandle | None = None
        self._stop = asyncio.Event()
        self._started = False  # all were ready once
        self._status = 0
        self._failed = ""
        self._listeners: Listeners | None = None
        # The workers that have yet to take new options, and what they say must wait.
        self._unready: set[int] = set()
        self._ignored: set[str] = set()
        self._all_reloaded = asyncio.Event()

    async def run(self) -> int:
        """Run until a signal ends it. The exit status. Raises CannotListen."""
        loop = asyncio.get_running_loop()
        self._listeners = Listeners(self._addresses, self._count)
        beat = loop.create_task(self._watch(), name="layergate watch")
        try:
            for number in _SIGNALS:
                loop.add_signal_handler(number, self.end)
            loop.add_signal_handler(signal.SIGHUP, self._reloader.ask)
            slots = [loop.create_task(self._keep(number)) for number in range(self._count)]
            await asyncio.gather(*slots)
            await self._all_ended()
        finally:
            beat.cancel()
            for worker in self._workers.values():
                worker.kill()
            await self._all_ended()
            self._listeners.close()
        if self._failed:
            _logger.critical("the gateway cannot run: %s", self._failed)
        else:
            _logger.info("stopped")
        return self._status

    async def _all_ended(self) -> None:
        while tasks := [
            task for one in self._workers.values() for task in one.tasks if not task.done()
        ]:
            await asyncio.wait(tasks)

    # -- the workers ---------------------------------------------------------------------------

    async def _keep(self, number: int) -> None:
        """See that there is a worker of this number, until the end."""
        assert self._listeners is not None
        failures = 0
        while not self._stop.is_set():
            try:
                self._listeners.renew(number)
                worker = await self._start(number)
            except OSError as error:
                if not self._started:
                    self._give_up(f"worker {number} cannot be started: {error}")
                    return
                _logger.warning("worker %d cannot be started: %s", number, error)
                failures += 1
            else:
                await worker.moved.wait()
                if self._stop.is_set():
                    return
                if worker.life is _Life.ENDED:
                    if not self._started:
                        self._give_up(_obituary(worker))
                        return
                    _logger.error("%s; it is replaced", _obituary(worker))
                lasted = asyncio.get_running_loop().time() - worker.ready_at
                failures = 1 if lasted > _STABLE else failures + 1
            pause = _PAUSES[min(max(failures - 1, 0), len(_PAUSES) - 1)]
            if pause and not self._stop.is_set():
                _logger.warning("worker %d is started again in %g s", number, pause)
                self._listeners.release(number)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), pause)

    async def _start(self, number: int) -> _Worker:
        assert self._listeners is not None
        serial = next(self._serials)
        # Before it can hold anything: it is told of every purge from now on.
        self._members.join(serial)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sockets = [sock.fileno() for sock in self._listeners.of(number)]
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # no folder of code is where the gateway happens to be started
                "-m",
                "layergate.gateway.spawned",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *sockets),
                # Ctrl-C is for the supervisor to hear.
                process_group=0,
                env={name: value for name, value in os.environ.items() if name != VARIABLE},
            )
        except BaseException:
            ours.close()
            self._members.leave(serial)
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        worker = _Worker(serial, number, process, writer)
        self._workers[serial] = worker
        options = self._reloader.options
        worker.send(
            pack(
                {
                    "op": "start",
                    "number": number,
                    "workers": self._count,
                    "siblings": self._siblings,
                    "instance": self._instance,
                    "entry": self._entry,
                    "path": sys.path,
                    "sockets": sockets,
                }
            )
        )
        worker.send(pack_options(options))
        loop = asyncio.get_running_loop()
        listening = loop.create_task(self._listen(worker, reader))
        worker.tasks = [listening, loop.create_task(self._attend(worker, listening))]
        if self._stop.is_set():  # meanwhile
            worker.kill()
        return worker

    async def _attend(self, worker: _Worker, listening: asyncio.Task[None]) -> None:
        """See a worker to its end."""
        late = asyncio.get_running_loop().call_later(_START, self._late, worker)
        try:
            await worker.process.wait()
        finally:
            late.cancel()
        # What it said last is still to be read; then there is an end, for it was the only one there.
        done, _ = await asyncio.wait((listening,), timeout=1.0)
        if not done:
            listening.cancel()
            await asyncio.wait((listening,))
        del self._workers[worker.serial]
        worker.close()
        self._left(worker)
        self._check_reports()
        self._look_at_reload()

    def _late(self, worker: _Worker) -> None:
        if worker.life is _Life.STARTING:
            worker.why = f"it was not ready within {_START:g} s"
            worker.kill()

    def _give_up(self, why: str) -> None:
        """A gateway that cannot start says so, and ends."""
        if not self._stop.is_set():
            self._failed, self._status = why, 1
            self._shut_down(0.0)

    async def _watch(self) -> None:
        """Replace workers that give no sign of life. By beats, not by the clock: where this process
        stands still too, nothing is counted."""
        while True:
            await asyncio.sleep(BEAT)
            for worker in self._workers.values():
                if worker.silent is not None:
                    worker.silent += 1
                    if worker.silent == _SILENT:
                        worker.kill(f"gave no sign of life for {_SILENT * BEAT:g} s")

    # -- signals -------------------------------------------------------------------------------

    def end(self) -> None:
        """As SIGTERM: end gracefully; the second time, at once."""
        if self._stop.is_set():
            self._cut()
            return
        drain = float(self._reloader.options.drain_timeout)
        _logger.info("stopping; what is under way has %g s", drain)
        self._shut_down(drain)

    def _shut_down(self, drain: float) -> None:
        notify("STOPPING=1")
        self._stop.set()
        assert self._listeners is not None
        self._listeners.close()
        for worker in self._workers.values():
            if worker.life is _Life.STARTING:
                worker.kill()  # nothing is under way
            else:
                self._drain(worker, drain)

    def _drain(self, worker: _Worker, seconds: float) -> None:
        """Have a worker end."""
        worker.send(pack({"op": "stop"}))
        self._expect_end(worker, seconds)

    def _expect_end(self, worker: _Worker, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, worker.send, pack({"op": "stop", "now": True}))
        loop.call_later(seconds + _GRACE, self._overdue, worker)

    def _overdue(self, worker: _Worker) -> None:
        if worker.life is not _Life.ENDED:
            worker.kill("does not end")

    def _cut(self) -> None:
        """The second signal: now."""
        _logger.warning("stopping at once; what is under way is cut off")
        for worker in self._workers.values():
            self._expect_end(worker, 0.0)

    async def _reload(self, options: GatewayOptions) -> None:
        frame = pack_options(options)
        self._unready, self._ignored = set(self._workers), set()
        self._all_reloaded.clear()
        for worker in self._workers.values():
            worker.send(frame)
        self._look_at_reload()
        try:
            await asyncio.wait_for(self._all_reloaded.wait(), _START)
        except TimeoutError:
            _logger.warning("reload: %d workers have not answered yet", len(self._unready))
        _say_reloaded(self._ignored)

    def _look_at_reload(self) -> None:
        self._unready &= self._workers.keys()  # who comes in place of another has them already
        if not self._unready:
            self._all_reloaded.set()

    # -- what workers say ----------------------------------------------------------------------

    async def _listen(self, worker: _Worker, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                self._take(worker, await receive(reader))
        except ChannelClosed:
            self._left(worker)  # only a process that has ended closes its end
        except ChannelBroken as error:
            worker.kill(f"sends what cannot be: {error}")
        except Exception:
            _logger.exception("what worker %d sends cannot be", worker.number)
            worker.kill("sends what cannot be")

    def _take(self, worker: _Worker, message: Mapping[str, Any]) -> None:
        match message["op"]:
            case "sync":
                worker.silent = 0
                worker.send(pack({"op": "grant", "until": self._members.grant(worker.serial)}))
            case "ready":
                self._ready(worker)
            case "purge":
                self._purge(worker, message)
            case "applied":
                self._members.applied(worker.serial, int(message["n"]))
                self._settle()
            case "leave":
                self._left(worker)
            case "draining":
                if not self._stop.is_set():
                    _logger.info("worker %d ends, and is replaced", worker.number)
                    self._expect_end(worker, float(self._reloader.options.drain_timeout))
                worker.leaving()
            case "failed":
                worker.why = str(message["why"])
            case "reloaded":
                self._has_reloaded(worker, message)
            case "report":
                self._begin_report(worker, int(message["id"]))
            case "stats":
                report = self._reports.get(int(message["id"]))
                if report is not None and worker.serial in report.wanted:
                    report.wanted.discard(worker.serial)
                    report.stats.append(dict(message["stats"]))
                    self._check_reports()
            case op:
                raise ValueError(f"a worker says {op!r}")

    def _ready(self, worker: _Worker) -> None:
        worker.life = _Life.READY
        worker.ready_at = asyncio.get_running_loop().time()
        if self._started:
            _logger.info("worker %d is there again (process %d)", worker.number, worker.process.pid)
            return
        ready = {one.number for one in self._workers.values() if one.life is _Life.READY}
        if len(ready) == self._count and not self._stop.is_set():
            self._started = True
            assert self._listeners is not None
            names = ", ".join(self._listeners.names)
            _logger.info("serving on %s with %d workers", names, self._count)
            notify("READY=1")

    def _has_reloaded(self, worker: _Worker, message: Mapping[str, Any]) -> None:
        if message["error"] is None:
            self._ignored.update(message["ignored"])
        else:
            # It goes by the old ones, and the others by the new: one that starts has no old ones.
            _logger.error(
                "reload: worker %d could not take the new settings and is replaced: %s",
                worker.number,
                message["error"],
            )
            self._drain(worker, float(self._reloader.options.drain_timeout))
        self._unready.discard(worker.serial)
        self._look_at_reload()

    # -- purges --------------------------------------------------------------------------------

    def _purge(self, worker: _Worker, message: Mapping[str, Any]) -> None:
        position = self._members.append(worker.serial, int(message["id"]))
        frame = pack(
            {"op": "purged", "n": position, "time": message["time"], "marks": message["marks"]}
        )
        for other in self._workers.values():
            if other is not worker:
                other.send(frame)
        self._settle()

    def _left(self, worker: _Worker) -> None:
        self._members.leave(worker.serial)
        self._settle()

    def _settle(self) -> None:
        """Answer the purges that are final, and look again when the next one may be."""
        for done in self._members.settled():
            asker = self._workers.get(done.by)
            if asker is not None:
                asker.send(
                    pack(
                        {
                            "op": "final",
                            "id": done.number,
                            "applied": done.applied,
                            "instances": done.instances,
                        }
                    )
                )
        if self._due is not None:
            self._due.cancel()
            self._due = None
        due = self._members.due()
        if due is not None:
            left = max(0.0, due - monotonic())
            self._due = asyncio.get_running_loop().call_later(left, self._settle)

    # -- statistics ----------------------------------------------------------------------------

    def _begin_report(self, asker: _Worker, number: int) -> None:
        own = next(self._report_numbers)
        heard = [worker for worker in self._workers.values() if worker.silent is not None]
        self._reports[own] = _Report(asker, number, {worker.serial for worker in heard})
        for worker in heard:
            worker.send(pack({"op": "stats", "id": own}))
        asyncio.get_running_loop().call_later(_REPORT, self._end_report, own)

    def _check_reports(self) -> None:
        for number, report in list(self._reports.items()):
            report.wanted &= self._workers.keys()
            if not report.wanted:
                self._end_report(number)

    def _end_report(self, number: int) -> None:
        report = self._reports.pop(number, None)
        if report is not None:
            report.asker.send(pack({"op": "report", "id": report.number, "stats": report.stats}))


def _obituary(worker: _Worker) -> str:
    """What became of a worker."""
    code = worker.process.returncode
    if worker.why:
        return f"worker {worker.number}: {worker.why}"
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"worker {worker.number} was ended by {name}"
    return f"worker {worker.number} ended with status {code}"
