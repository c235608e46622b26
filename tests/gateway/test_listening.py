"""The gateway's sockets."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator

import pytest

from layergate.gateway.addresses import Address
from layergate.gateway.listening import CannotListen, Listeners

HOST = "127.0.0.1"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="SO_REUSEPORT balances on Linux")


@contextlib.contextmanager
def listening(*addresses: Address, workers: int = 1) -> Iterator[Listeners]:
    listeners = Listeners(addresses, workers)
    try:
        yield listeners
    finally:
        listeners.close()


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


def six() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@LINUX
def test_each_worker_has_a_socket_of_its_own_on_one_port():
    with listening(Address(HOST, 0), Address(HOST, 0), workers=3) as listeners:
        each = [listeners.of(number) for number in range(3)]
        assert len({sock.fileno() for own in each for sock in own}) == 6
        assert len({tuple(map(port_of, own)) for own in each}) == 1
        assert len(set(map(port_of, each[0]))) == 2


def test_nobody_is_let_in_before_a_worker_listens():
    with listening(Address(HOST, 0)) as listeners:
        (sock,) = listeners.of(0)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(sock.getsockname())
        sock.listen()
        socket.create_connection(sock.getsockname()).close()


@LINUX
def test_the_system_gives_all_connections_to_those_who_are_there():
    with listening(Address(HOST, 0), workers=2) as listeners:
        (one,), (two,) = listeners.of(0), listeners.of(1)
        name = one.getsockname()
        for sock in (one, two):
            sock.listen()
            sock.setblocking(False)
        listeners.release(0)
        for _ in range(20):
            with socket.create_connection(name):
                two.setblocking(True)
                two.settimeout(5)
                two.accept()[0].close()
        listeners.renew(0)
        (again,) = listeners.of(0)
        assert again.getsockname() == name
        listeners.renew(0)  # does nothing
        assert listeners.of(0) == [again]


@LINUX
def test_all_may_be_released_and_their_port_taken_meanwhile():
    with listening(Address(HOST, 0), workers=2) as listeners:
        name = listeners.of(0)[0].getsockname()
        listeners.release(0)
        listeners.release(1)
        with socket.create_server(name), pytest.raises(CannotListen, match=f"{HOST}:{name[1]}"):
            listeners.renew(0)
        listeners.renew(0)
        listeners.renew(1)
        assert [port_of(listeners.of(number)[0]) for number in range(2)] == [name[1]] * 2


@pytest.mark.parametrize("workers", [1, 2])
def test_every_interface_is_both_families_on_one_port(workers):
    with listening(Address("", 0), workers=workers) as listeners:
        socks = listeners.of(0)
        families = {sock.family for sock in socks}
        assert families == ({socket.AF_INET, socket.AF_INET6} if six() else {socket.AF_INET})
        assert len(set(map(port_of, socks))) == 1
        for sock in socks:
            sock.listen()
        socket.create_connection((HOST, port_of(socks[0]))).close()


@pytest.mark.skipif(not six(), reason="no IPv6 here")
def test_an_ipv6_address():
    with listening(Address("::1", 0), workers=2) as listeners:
        (sock,) = listeners.of(1)
        assert listeners.names == [f"[::1]:{port_of(sock)}"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("address", "said"),
    [
        (Address("no-such-host.invalid", 80), "cannot listen on no-such-host.invalid:80: "),
        (Address("192.0.2.1", 8080), "cannot listen on 192.0.2.1:8080: "),
        (
            Address(path="/no/such/folder/s"),
            "cannot listen on unix:/no/such/folder/s: No such file",
        ),
    ],
)
def test_what_cannot_be_is_named_and_nothing_is_left_open(address, said, workers):
    with pytest.raises(CannotListen, match=said):
        Listeners([Address(HOST, 0), address], workers)
    # (A socket left open would warn, and warnings are failures.)


def test_a_unix_socket_that_another_has_taken_since_is_left_to_it(tmp_path):
    path = tmp_path / "s"
    with listening(Address(path=str(path)), workers=2) as listeners:
        assert listeners.of(0) == listeners.of(1)
        assert listeners.names == [f"unix:{path}"]
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            listeners.close()
            assert path.exists()
