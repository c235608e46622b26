"""A load generator: one thread, keep-alive connections, one request in flight on each.

    python benchmarks/_load.py PORT PATH SECONDS CONNECTIONS    prints one line of JSON

It uses raw sockets and an epoll loop, so it is several times faster than the servers under test. If the
generator were the bottleneck, all servers would look alike. It reports its own processor time, so you can
check that it was not.
"""

from __future__ import annotations

import json
import re
import select
import socket
import sys
import time

__all__ = ["run"]

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def run(port: int, path: str, seconds: float, connections: int) -> dict[str, float]:
    """The rate and latencies of 200 responses within ``seconds``. Raises RuntimeError for any other response."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: */*\r\n\r\n".encode()
    poller = select.epoll() if hasattr(select, "epoll") else select.poll()
    sockets: dict[int, socket.socket] = {}
    pending: dict[int, bytes] = {}
    began: dict[int, float] = {}
    latencies: list[float] = []
    clock = time.perf_counter
    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", port), 5)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        number = connection.fileno()
        sockets[number] = connection
        pending[number] = b""
        poller.register(number, select.POLLIN)
    cpu = time.process_time()
    start = clock()
    for number, connection in sockets.items():
        began[number] = clock()
        connection.send(request)
    end = start + seconds
    while clock() < end:
        for number, _ in poller.poll(1):
            data = sockets[number].recv(65536)
            if not data:
                raise RuntimeError("the server closed a connection")
            if pending[number]:
                data = pending[number] + data
            head = data.find(b"\r\n\r\n")
            length = LENGTH.search(data, 0, head + 2) if head >= 0 else None
            if length is None or len(data) < head + 4 + int(length[1]):
                if head >= 0 and length is None:
                    raise RuntimeError(f"no Content-Length: {data[:head]!r}")
                pending[number] = data
                continue
            if not data.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"not 200: {data[:200]!r}")
            pending[number] = b""
            now = clock()
            latencies.append(now - began[number])
            began[number] = now
            sockets[number].send(request)
    elapsed = clock() - start
    cpu = time.process_time() - cpu
    for connection in sockets.values():
        connection.close()
    latencies.sort()
    return {
        "rate": len(latencies) / elapsed,
        "busy": cpu / elapsed,
        "p50": latencies[len(latencies) // 2],
        "p99": latencies[len(latencies) * 99 // 100],
    }


if __name__ == "__main__":
    port, path, seconds, connections = sys.argv[1:]
    print(json.dumps(run(int(port), path, float(seconds), int(connections))))
