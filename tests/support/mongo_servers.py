"""A server that speaks MongoDB's protocol, a process on a loopback port: SecantusDB, from a wheel.

There is no MongoDB that comes from a package registry. SecantusDB is a single process, and therefore always
consistent: that reads and writes are as strong as they have to be is asserted on the wire
(`tests/layers/mongodb/test_wire.py`), not by what comes back. It is never imported.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pymongo
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.support.ports import HOST, free_port
from tests.support.processes import Process
from tests.support.systems import SystemServer
from tests.support.waiting import wait_until

__all__ = ["Mongo"]

DATABASE = "shop"


class Mongo(SystemServer):
    """``standalone``: it does not say that it is a replica set of one. ``options``: words of the command line."""

    system = "MongoDB (SecantusDB)"
    # It is written in Python, and takes a millisecond for what a MongoDB does in a tenth.
    layer_options: ClassVar = {"timeout": 1.0}

    def __init__(
        self,
        folder: Path,
        *,
        standalone: bool = False,
        options: Sequence[str] = (),
        start: bool = True,
    ) -> None:
        number = os.urandom(3).hex()
        self._log = folder / f"mongo-{number}.log"
        self.data = folder / f"mongo-{number}"
        self.data.mkdir()
        self.more = ""  # options of every URL
        self._options = [*options, *(["--standalone"] if standalone else [])]
        self._process: Process | None = None
        self.port = free_port()
        if start:
            self.start()

    def url(self, port: int | None = None, *, user: str = "", more: str = "") -> str:
        """``user``: with a password, as in ``ann:secret``. ``more``: options, as in ``tls=true``."""
        # (directConnection: or else the client would go to where the set says that it is, past a proxy.)
        options = "&".join(one for one in ("directConnection=true", more, self.more) if one)
        host = f"{user}@{HOST}" if user else HOST
        return f"mongodb://{host}:{port or self.port}/{DATABASE}?{options}"

    def start(self) -> None:
        program = shutil.which("secantusd-py", path=sysconfig.get_path("scripts"))
        assert program is not None, "secantusdb is not installed; `make test` does that"
        self._process = Process(
            [
                sys.executable, program, "--host", HOST, "--port", str(self.port), "--storage-path",
                self.data, "--log-level", "WARNING", *self._options,
            ],
            log=self._log,
            cwd=self.data,
        )  # fmt: skip
        wait_until(
            self._answers, lambda: f"it to answer: {self._log.read_text()}", faults=PyMongoError
        )

    def _answers(self) -> bool:
        assert self.process.alive, self._log.read_text()
        with self.client(timeout=1.0) as client:
            return bool(client.admin.command("ping")["ok"])

    @contextlib.contextmanager
    def failing(self, command: str, times: int = 1, **data: Any) -> Iterator[None]:
        """The next ``times`` commands of this kind fail, as ``data`` says: errorCode, closeConnection,
        writeConcernError. Needs the option ``--enable-test-commands``."""
        point: dict[str, Any] = {"configureFailPoint": "failCommand"}
        with self.client() as client:
            more = {"failCommands": [command], **data}
            client.admin.command({**point, "mode": {"times": times}, "data": more})
            try:
                yield
            finally:
                client.admin.command({**point, "mode": "off"})

    @contextlib.contextmanager
    def client(self, timeout: float = 20.0, user: str = "") -> Any:
        kind: Any = MongoClient
        more = f"authSource={DATABASE}" if user else ""
        with pymongo.timeout(timeout), kind(self.url(user=user, more=more)) as client:
            yield client

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    def _documents(self) -> Any:
        with self.client() as client:
            database = client[DATABASE]
            names = [
                one for one in database.list_collection_names() if one.startswith("layergate_")
            ]
            return {name: list(database[name].find()) for name in names}

    # What befalls it.

    def stall(self) -> None:
        self.process.stall()

    def resume(self) -> None:
        self.process.resume()

    def kill(self) -> None:
        self.process.kill()

    def stop(self) -> None:
        """SIGTERM: it keeps all that it has."""
        self.process.stop()

    def empty(self) -> None:
        with self.client() as client:
            for name in self._documents():
                client[DATABASE][name].delete_many({})

    def save(self) -> Any:
        return self._documents()

    def restore(self, saved: Any) -> None:
        self.kill()
        self.start()
        with self.client() as client:
            for name in {*saved, *self._documents()}:
                client[DATABASE][name].delete_many({})
                for one in saved.get(name, ()):  # (those who run may write, too)
                    client[DATABASE][name].replace_one({"_id": one["_id"]}, one, upsert=True)

    def garble(self) -> int:
        with self.client() as client:
            count = 0
            for name in self._documents():
                change = {"$set": {"d": b"\x00\xff garbage"}}
                count += client[DATABASE][name].update_many({}, change).matched_count
        return count

    def close(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.resume()
            self.kill()
        shutil.rmtree(self.data, ignore_errors=True)
