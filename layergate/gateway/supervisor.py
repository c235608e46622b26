"""The supervisor of several workers: opens the sockets, starts the processes, and passes on the signals.

`run` makes one when there is more than one worker. It serves nothing itself. A worker that ends is
replaced; one that gives no sign of life is killed first.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import signal
from collections.abc import Mapping
from typing import Any, Final

from layergate.gateway import timeouts
from layergate.gateway.channel import (
    BEAT,
    ChannelBroken,
    ChannelClosed,
    new_instance,
    pack_options,
    receive,
)
from layergate.gateway.listening import Listeners
from layergate.gateway.notify import notify
from layergate.gateway.options import GatewayOptions
from layergate.gateway.process import Life, WorkerProcess, spawn
from layergate.gateway.reloading import Load, Reloader, log_reloaded
from layergate.gateway.reports import Reports
from layergate.layers.host.folder import PrivateFolder
from layergate.sizes import parse_size

__all__ = ["Supervisor"]

_logger = logging.getLogger("layergate.gateway")

_PAUSES: Final = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds before each further start


class _Rollout:
    """New options on their way to all workers. ``done``: set once each has taken them, or has ended."""

    def __init__(self, workers: Mapping[int, WorkerProcess]) -> None:
        self._workers = workers
        self._unready: set[int] = set()
        self.ignored: set[str] = set()  # options that wait for a restart
        self.done = asyncio.Event()

    def begin(self, options: GatewayOptions) -> None:
        frame = pack_options(options)
        self._unready, self.ignored = set(self._workers), set()
        self.done.clear()
        for worker in self._workers.values():
            worker.send_frame(frame)
        self.check()

    def taken(self, worker: WorkerProcess) -> None:
        self._unready.discard(worker.serial)
        self.check()

    def check(self) -> None:
        # A worker that replaces another is started with the new options.
        self._unready &= self._workers.keys()
        if not self._unready:
            self.done.set()

    @property
    def missing(self) -> int:
        return len(self._unready)


class Supervisor:
    """The workers of one gateway.

    ``load``: reads the settings again. ``worker``: the function that each process runs, as
    ``module:function``.
    """

    def __init__(self, options: GatewayOptions, load: Load, *, worker: str) -> None:
        self._entry = worker
        self._count = options.workers
        self._addresses = options.addresses
        # The workers share a folder, unless they share something else.
        self._shares_folder = options.cache.shared is None
        self._folder: PrivateFolder | None = None
        self._instance = new_instance()
        self._serials = itertools.count(1)
        self._workers: dict[int, WorkerProcess] = {}
        self._reloader = Reloader(load, options, self._reload)
        self._rollout = _Rollout(self._workers)
        self._reports = Reports(self._workers)
        self._stop = asyncio.Event()
        self._started = False  # all were ready once
        self._status = 0
        self._failed = ""
        self._listeners: Listeners | None = None

    async def run(self) -> int:
        """Run until a signal ends it. The exit status. Raises CannotListen, and ConfigError if there is no
        place for the folder that the workers share."""
        if self._shares_folder:
            self._folder = PrivateFolder()
        try:
            return await self._run()
        finally:
            if self._folder is not None:
                self._folder.remove()

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        self._listeners = Listeners(self._addresses, self._count)
        beat = loop.create_task(self._watch(), name="layergate watch")
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
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
                if worker.life is Life.ENDED:
                    if not self._started:
                        self._give_up(worker.obituary)
                        return
                    _logger.error("%s; it is replaced", worker.obituary)
                lasted = asyncio.get_running_loop().time() - worker.ready_at
                failures = 1 if lasted > timeouts.WORKER_STABLE else failures + 1
            pause = _PAUSES[min(max(failures - 1, 0), len(_PAUSES) - 1)]
            if pause and not self._stop.is_set():
                _logger.warning("worker %d is started again in %g s", number, pause)
                self._listeners.release(number)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), pause)

    async def _start(self, number: int) -> WorkerProcess:
        assert self._listeners is not None
        serial = next(self._serials)
        sockets = [sock.fileno() for sock in self._listeners.of(number)]
        start = {
            "workers": self._count,
            "folder": None if self._folder is None else str(self._folder.path),
            "instance": self._instance,
            "entry": self._entry,
        }
        worker, reader = await spawn(serial, number, sockets, start)
        self._workers[serial] = worker
        worker.send_frame(pack_options(self._reloader.options))
        loop = asyncio.get_running_loop()
        listening = loop.create_task(self._listen(worker, reader))
        worker.tasks = [listening, loop.create_task(self._attend(worker, listening))]
        if self._stop.is_set():  # meanwhile
            worker.kill()
        return worker

    async def _attend(self, worker: WorkerProcess, listening: asyncio.Task[None]) -> None:
        """See a worker to its end."""
        late = asyncio.get_running_loop().call_later(timeouts.WORKER_START, self._late, worker)
        try:
            await worker.process.wait()
        finally:
            late.cancel()
        # Its last words are still to be read; they are followed by an end, because no other process holds
        # its end of the channel.
        done, _ = await asyncio.wait((listening,), timeout=1.0)
        if not done:
            listening.cancel()
            await asyncio.wait((listening,))
        del self._workers[worker.serial]
        worker.close()
        self._reports.check()
        self._rollout.check()

    def _late(self, worker: WorkerProcess) -> None:
        if worker.life is Life.STARTING:
            worker.why = f"it was not ready within {timeouts.WORKER_START:g} s"
            worker.kill()

    def _give_up(self, why: str) -> None:
        """End a gateway that cannot start."""
        if not self._stop.is_set():
            self._failed, self._status = why, 1
            self._shut_down(0.0)

    async def _watch(self) -> None:
        """Replace workers that give no sign of life. Beats are counted, not seconds: while this process
        stands still itself, no worker falls behind."""
        while True:
            await asyncio.sleep(BEAT)
            for worker in self._workers.values():
                if worker.silent is not None:
                    worker.silent += 1
                    if worker.silent == round(timeouts.WORKER_SILENCE / BEAT):
                        worker.kill(f"gave no sign of life for {timeouts.WORKER_SILENCE:g} s")

    # -- signals -------------------------------------------------------------------------------

    def end(self) -> None:
        """As SIGTERM: end gracefully; the second time, at once."""
        if self._stop.is_set():
            self._cut()
            return
        drain = float(self._reloader.options.drain_timeout)
        _logger.info("stopping: requests that are under way have %g s", drain)
        self._shut_down(drain)

    def _shut_down(self, drain: float) -> None:
        notify("STOPPING=1")
        self._stop.set()
        assert self._listeners is not None
        self._listeners.close()
        for worker in self._workers.values():
            if worker.life is Life.STARTING:
                worker.kill()  # nothing is under way
            else:
                self._drain(worker, drain)

    def _drain(self, worker: WorkerProcess, seconds: float) -> None:
        """Have a worker end."""
        worker.send({"op": "stop"})
        self._expect_end(worker, seconds)

    def _expect_end(self, worker: WorkerProcess, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, worker.send, {"op": "stop", "now": True})
        loop.call_later(seconds + timeouts.WORKER_GRACE, self._overdue, worker)

    def _overdue(self, worker: WorkerProcess) -> None:
        if worker.life is not Life.ENDED:
            worker.kill("does not end")

    def _cut(self) -> None:
        """The second signal: now."""
        _logger.warning("stopping at once: requests that are under way are cut off")
        for worker in self._workers.values():
            self._expect_end(worker, 0.0)

    async def _reload(self, options: GatewayOptions) -> None:
        rollout = self._rollout
        rollout.begin(options)
        try:
            await asyncio.wait_for(rollout.done.wait(), timeouts.WORKER_START)
        except TimeoutError:
            _logger.warning("reload: %d workers have not answered yet", rollout.missing)
        log_reloaded(rollout.ignored)

    # -- what workers say ----------------------------------------------------------------------

    async def _listen(self, worker: WorkerProcess, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                self._take(worker, await receive(reader))
        except ChannelClosed:
            pass  # only a process that has ended closes its end
        except ChannelBroken as error:
            worker.kill(f"sends invalid messages: {error}")
        except Exception:
            _logger.exception("a message of worker %d is invalid", worker.number)
            worker.kill("sends invalid messages")

    def _take(self, worker: WorkerProcess, message: Mapping[str, Any]) -> None:
        match message["op"]:
            case "alive":
                worker.silent = 0
            case "ready":
                self._ready(worker)
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
                self._reports.begin(worker, int(message["id"]))
            case "stats":
                self._reports.take(worker, int(message["id"]), message["stats"])
            case op:
                raise ValueError(f"there is no message {op!r}")

    def _ready(self, worker: WorkerProcess) -> None:
        worker.life = Life.READY
        worker.ready_at = asyncio.get_running_loop().time()
        if self._started:
            _logger.info("worker %d is there again (process %d)", worker.number, worker.pid)
            return
        ready = {one.number for one in self._workers.values() if one.life is Life.READY}
        if len(ready) == self._count and not self._stop.is_set():
            self._started = True
            assert self._listeners is not None
            names = ", ".join(self._listeners.names)
            _logger.info("serving on %s with %d workers", names, self._count)
            if self._folder is not None:
                memory = parse_size(self._reloader.options.cache.memory or "64MB", option="memory")
                _logger.info(
                    "memory: at most %d x %d MB, and 2 x %d MB in %s, which the workers share",
                    self._count,
                    memory >> 20,
                    memory >> 20,
                    self._folder.path,
                )
            notify("READY=1")

    def _has_reloaded(self, worker: WorkerProcess, message: Mapping[str, Any]) -> None:
        if message["error"] is None:
            self._rollout.ignored.update(message["ignored"])
        else:
            # It has the old options and the others have the new ones. A worker that starts has the new.
            _logger.error(
                "reload: worker %d could not take the new settings and is replaced: %s",
                worker.number,
                message["error"],
            )
            self._drain(worker, float(self._reloader.options.drain_timeout))
        self._rollout.taken(worker)
