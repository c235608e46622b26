"""A PostgreSQL by TLS, with the options that libpq knows.

The server of the tests has no TLS. A proxy speaks it for the server: it answers libpq's request for TLS, and
passes on what is inside. What is tested is the client's side.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest
import trustme

from tests.support.ports import HOST
from tests.support.postgres_parts import World
from tests.support.postgres_servers import Postgres

pytestmark = pytest.mark.systems

_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"  # SSLRequest, in PostgreSQL's protocol


class Front:
    """TLS before a server. A thread for each connection."""

    def __init__(self, target: int, context: ssl.SSLContext) -> None:
        self._target = target
        self._context = context
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self.seen: list[dict[str, Any] | None] = []  # certificates of clients
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # (To close it does not end an accept that waits.)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(raw,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, raw: socket.socket) -> None:
        with raw:
            if raw.recv(8) != _REQUEST:
                return
            raw.sendall(b"S")
            try:
                line = self._context.wrap_socket(raw, server_side=True)
            except OSError:  # the client does not trust us, or we do not trust it
                return
            with line, socket.create_connection((HOST, self._target)) as server:
                self.seen.append(line.getpeercert())
                back = threading.Thread(target=_pass, args=(server, line), daemon=True)
                back.start()
                _pass(line, server)
                back.join(10)


def _pass(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


class Authority:
    def __init__(self, folder: Path, name: str) -> None:
        self._ca = trustme.CA()
        self.file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.file))
        self._folder = folder

    def server(self, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*names).configure_cert(context)
        return context

    def asks_for_clients(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.load_verify_locations(self.file)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self) -> tuple[Path, Path]:
        issued = self._ca.issue_cert("layergate@shop.example")
        certificate, key = self._folder / "client.pem", self._folder / "client.key"
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))
        key.chmod(0o600)
        return certificate, key


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def front(server: Postgres, authority: Authority, world: World) -> Iterator[Front]:
    with Front(server.port, authority.server(HOST)) as made:
        yield made
        for parts in world.made:
            world.run(parts.close())


def test_a_server_that_is_verified(
    world: World, server: Postgres, front: Front, authority: Authority
):
    url = f"{server.url(front.port)}?sslmode=verify-full&sslrootcert={authority.file}"
    parts = world.parts(url)
    data = os.urandom(2_000_000)
    world.run(parts.blobs.set("test:tls", data, 60))
    for _ in range(3):
        assert world.run(parts.blobs.get_many(["test:tls"])) == [data]
    assert not world.run(parts.cells.wait("head", None, 0.01))
    assert len(front.seen) == 2


def test_an_unknown_authority_is_refused(
    world: World, server: Postgres, front: Front, tmp_path: Path
):
    other = Authority(tmp_path, "other")
    parts = world.parts(f"{server.url(front.port)}?sslmode=verify-full&sslrootcert={other.file}")
    with pytest.raises(psycopg.OperationalError, match="check sslrootcert"):
        world.run(parts.cells.load("x"))
    assert not front.seen


def test_a_certificate_for_another_host_is_refused(
    world: World, server: Postgres, authority: Authority
):
    with Front(server.port, authority.server("db.example")) as front:
        url = f"{server.url(front.port)}?sslrootcert={authority.file}&sslmode="
        with pytest.raises(psycopg.OperationalError, match="does not match host name"):
            world.run(world.parts(f"{url}verify-full").cells.load("x"))
        parts = world.parts(f"{url}verify-ca")
        assert world.run(parts.cells.load("x")) is None
        world.run(parts.close())


def test_a_client_shows_its_certificate(world: World, server: Postgres, authority: Authority):
    certificate, key = authority.client()
    context = authority.asks_for_clients(authority.server(HOST))
    with Front(server.port, context) as front:
        url = f"{server.url(front.port)}?sslmode=verify-full&sslrootcert={authority.file}"
        parts = world.parts(f"{url}&sslcert={certificate}&sslkey={key}")
        assert world.run(parts.cells.load("x")) is None
        assert "layergate@shop.example" in str(front.seen)
        without = world.parts(url, timeout=1.0, connect_timeout=1.0)
        with pytest.raises(psycopg.OperationalError):
            world.run(without.cells.load("x"))
        world.run(parts.close())
    assert len(front.seen) == 1


def test_a_server_without_tls_is_refused_where_it_is_required(world: World, server: Postgres):
    parts = world.parts(f"{server.url()}?sslmode=require")
    with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
        world.run(parts.cells.load("x"))
