"""A real pgbouncer before a PostgreSQL, in transaction mode: each transaction may meet another session.

The program is the one on PATH, or the one that `make test-systems` has unpacked (tools/servers.sh). Without
one, the tests that need it are skipped with the reason.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Self

import psycopg
import pytest

from tests.support.fleet import ROOT
from tests.support.ports import HOST, free_port
from tests.support.postgres_servers import DATABASE, PASSWORD, USER, Postgres, as_nobody
from tests.support.processes import Process
from tests.support.waiting import wait_until

__all__ = ["Pooler"]

_UNPACKED = ROOT / ".servers" / "pgbouncer" / "usr"


def _program() -> Path:
    found = shutil.which("pgbouncer")
    unpacked = _UNPACKED / "sbin" / "pgbouncer"
    if found is None and not unpacked.exists():
        pytest.skip("pgbouncer is not installed here; `make test-systems` unpacks it on Debian")
    return Path(found) if found is not None else unpacked


class Pooler:
    """``size``: sessions of the server for all clients. ``mode``: of pooling."""

    def __init__(
        self, folder: Path, server: Postgres, *, size: int = 3, mode: str = "transaction"
    ) -> None:
        program = _program()
        self._server = server
        self._log = folder / f"pgbouncer-{os.urandom(3).hex()}.log"
        self.port = free_port()
        # Who is root runs it as nobody, who must be able to reach it.
        self._folder = Path(tempfile.mkdtemp(prefix="lg-pgbouncer-"))
        self._program = self._folder / "pgbouncer"
        shutil.copy(program, self._program)
        for library in (_UNPACKED / "lib").glob("*-linux-*/*.so*"):
            shutil.copy(library, self._folder, follow_symlinks=False)
        users = self._folder / "users"
        users.write_text(f'"{USER}" "{PASSWORD}"\n')
        self._config = self._folder / "pgbouncer.ini"
        self._config.write_text(
            f"""
            [databases]
            {DATABASE} = host={HOST} port={server.port} dbname={DATABASE}
            [pgbouncer]
            listen_addr = {HOST}
            listen_port = {self.port}
            unix_socket_dir =
            auth_type = scram-sha-256
            auth_file = {users}
            pool_mode = {mode}
            default_pool_size = {size}
            server_login_retry = 0.1
            """
        )
        if os.getuid() == 0:
            for path in (self._folder, *self._folder.iterdir()):
                os.chown(path, 65534, 65534, follow_symlinks=False)
        self._process: Process | None = None
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def url(self) -> str:
        return self._server.url(self.port)

    def start(self) -> None:
        self._process = Process(
            as_nobody(self._program, self._config),
            log=self._log,
            cwd=Path("/"),
            environ={"LD_LIBRARY_PATH": str(self._folder)},
        )
        wait_until(
            self._answers,
            lambda: f"pgbouncer to answer:\n{self._log.read_text()[-2000:]}",
            faults=psycopg.Error,
        )

    def _answers(self) -> bool:
        with psycopg.connect(self.url, autocommit=True, prepare_threshold=None) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
