"""Compare the gateway with nginx (proxy_cache) and Varnish, each on one core, wrk on the other core.

    python benchmarks/gateway.py [--seconds 4] [--rounds 3] [--quick]

wrk is required. nginx and varnishd are skipped if they are not installed; Debian has all three
(``apt-get install nginx-light varnish wrk``). One server at a time gets load, the others are idle. The
rounds are interleaved, so a slow phase of the machine affects all servers.

``CPU`` is the processor time of the server's processes, user and system, per request. Unlike the rates, it
is comparable on a machine that runs other programs, too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from _measure import describe_machine

CLOCK_TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
MEMORY = "2GB"
MANY = 128  # connections: enough that the workers get similar numbers

# Name, path, count. {n} repeats the numbers below the count; with a count of 0 it never repeats.
CASES = (
    ("hit 2 KB, 1 URL", "/2048/hit", 1),
    ("hit 2 KB, 10,000 URLs", "/2048/hit/{n}", 10_000),
    ("hit 100 KB, 1 URL", "/102400/hit", 1),
    ("hit 100 KB, 10,000 URLs", "/102400/hit/{n}", 10_000),
    ("miss 2 KB, stored", "/2048/cold/{n}", 0),
    ("pass 2 KB, no-store", "/2048/pass", 1),
)

SCRIPT = """
local n, path, base = {count}, "{path}", "{base}-"
local i = 0
request = function()
  i = i + 1
  local k = n == 0 and (base .. i) or tostring(i % n)
  return wrk.format("GET", (path:gsub("{{n}}", k)))
end
"""

NGINX = """
worker_processes 1; daemon off; pid {dir}/pid; error_log {dir}/error.log; user root;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_temp_path {dir}/a;
  proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c; uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;
  proxy_cache_path {dir}/cache keys_zone=z:64m max_size=4g inactive=1h;
  upstream origin {{ server 127.0.0.1:{origin}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://origin;
      proxy_cache z; add_header X-Cache $upstream_cache_status;
    }}
  }}
}}
"""

VCL = 'vcl 4.1; backend default {{ .host = "127.0.0.1"; .port = "{origin}"; }}'


class Origin(asyncio.Protocol):
    """``/SIZE/hit…`` and ``/SIZE/cold…`` may be stored for an hour, ``/SIZE/pass`` may not be stored."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        for head in data.split(b"\r\n\r\n")[:-1]:
            _, size, kind, *_ = head.split(b" ", 2)[1].split(b"/")
            policy = b"no-store" if kind == b"pass" else b"max-age=3600"
            body = b"x" * int(size)
            self.transport.write(  # type: ignore[attr-defined]
                b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncache-control: %b\r\n"
                b'etag: "abc"\r\ncontent-length: %d\r\n\r\n%b' % (policy, len(body), body)
            )


def serve_origin(port: int) -> None:
    import uvloop

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Origin, "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(main())


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass
class Contender:
    name: str
    port: int
    process: subprocess.Popen[bytes]
    rates: dict[str, list[float]] = field(default_factory=dict)
    cpus: dict[str, list[float]] = field(default_factory=dict)
    latencies: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    resident: float = 0.0

    def tree(self) -> list[int]:
        pids = [self.process.pid]
        for pid in pids:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    pids.extend(map(int, (task / "children").read_text().split()))
        return pids

    def cpu(self) -> float:
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += int(stat[11]) + int(stat[12])
        return total / CLOCK_TICK

    def memory(self) -> float:
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return total * PAGE / 1e6


def started(name: str, command: list[str], port: int, core: str) -> Contender:
    process = subprocess.Popen(
        ["taskset", "-c", core, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return Contender(name, port, process)
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"{name} did not start: {' '.join(command)}")


@contextlib.contextmanager
def contenders(folder: Path, origin: int) -> Iterator[list[Contender]]:
    there: list[Contender] = []
    try:
        port = free_port()
        there.append(started("LayerGate", _layergate(origin, MEMORY)(port, 1), port, "0"))
        if shutil.which("nginx"):
            port = free_port()
            there.append(started("nginx", _nginx(origin, folder)(port, 1), port, "0"))
        if shutil.which("varnishd"):
            port = free_port()
            vcl = folder / "default.vcl"
            vcl.write_text(VCL.format(origin=origin))
            command = [
                "varnishd", "-j", "none", "-F", "-n", str(folder / "varnish"), "-a", f"127.0.0.1:{port}",
                "-f", str(vcl), "-s", "malloc,4g", "-T", "none",
            ]  # fmt: skip
            there.append(started("Varnish", command, port, "0"))
        yield there
    finally:
        for contender in there:
            contender.process.send_signal(signal.SIGTERM)
        for contender in there:
            with contextlib.suppress(subprocess.TimeoutExpired):
                contender.process.wait(10)
            contender.process.kill()


def load(
    contender: Contender, case: str, path: str, count: int, seconds: float, folder: Path
) -> None:
    script = folder / "load.lua"
    base = time.time_ns()  # cold URLs are new in each round
    script.write_text(SCRIPT.format(count=count, path=path, base=base))
    before = contender.cpu()
    out = subprocess.run(
        [
            "taskset", "-c", "1", "wrk", "-t1", "-c32", f"-d{seconds:g}s", "--latency",
            "-s", str(script), f"http://127.0.0.1:{contender.port}",
        ],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    used = contender.cpu() - before
    if "Non-2xx" in out or "Socket errors" in out:
        raise RuntimeError(f"{contender.name}, {case}: {out}")
    total = int(re.search(r"(\d+) requests in", out)[1])  # type: ignore[index]
    rate = float(re.search(r"Requests/sec: +([\d.]+)", out)[1])  # type: ignore[index]
    contender.rates.setdefault(case, []).append(rate)
    contender.cpus.setdefault(case, []).append(used / total * 1e6)
    p50, p99 = (_milliseconds(out, percent) for percent in ("50%", "99%"))
    contender.latencies.setdefault(case, []).append((p50, p99))
    contender.resident = contender.memory()


def _milliseconds(out: str, percent: str) -> float:
    found = re.search(rf"{percent} +([\d.]+)(us|ms|s)\b", out)
    assert found is not None
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


def warm(contender: Contender, path: str, count: int) -> None:
    # The first requests use urllib, which raises if the configuration is wrong.
    url = f"http://127.0.0.1:{contender.port}{path.replace('{n}', '0')}"
    for _ in range(2):
        urllib.request.urlopen(url).read()
    if count > 1:
        asyncio.run(_fill(contender.port, path, count))


async def _fill(port: int, path: str, count: int) -> None:
    numbers = iter(range(count))

    async def some() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            target = path.replace("{n}", str(number))
            writer.write(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            assert length is not None
            await reader.readexactly(int(length[1]))
        writer.close()

    await asyncio.gather(*(some() for _ in range(8)))


def table(there: list[Contender], cases: list[tuple[str, str, int]]) -> None:
    ours = there[0]
    others = there[1:]
    head = "".join(f"{f'x {other.name}':>11}" for other in others)
    cpu = "".join(f"{f'CPU x {other.name}':>15}" for other in others)
    print(f"\n{'':26}{'requests/s':>11}{'CPU us':>8}{'p50 ms':>8}{'p99 ms':>8}{head}{cpu}")
    for case, _, _ in cases:
        for contender in there:
            rate = statistics.median(contender.rates[case])
            used = statistics.median(contender.cpus[case])
            p50 = statistics.median(p50 for p50, _ in contender.latencies[case])
            p99 = statistics.median(p99 for _, p99 in contender.latencies[case])
            row = f"{case if contender is ours else '':26}{rate:>11,.0f}{used:>8.1f}{p50:>8.2f}{p99:>8.2f}"
            if contender is ours:
                for other in others:
                    row += f"{rate / statistics.median(other.rates[case]):>10.2f}x"
                for other in others:
                    row += f"{statistics.median(other.cpus[case]) / used:>14.2f}x"
            print(f"{row}   {contender.name}")
    print("\nresident memory, MB: " + ", ".join(f"{c.name} {c.resident:,.0f}" for c in there))


def workers(origin: int, folder: Path, seconds: float, rounds: int) -> None:
    """Compare two workers on two cores with one worker on one core.

    A machine with two cores has none to spare for wrk, so in both cases each core runs a worker and a wrk.
    """
    print("\nHits of 2 KB, with a wrk on the core of each worker:")
    there: list[tuple[Contender, Contender]] = []
    try:
        pairs = [_pair("LayerGate", _layergate(origin, "256MB"))]
        if shutil.which("nginx"):
            pairs.append(_pair("nginx", _nginx(origin, folder)))
        for pair in pairs:
            there.append(pair)
            for contender in pair:
                wait_until_idle(contender)
                warm(contender, "/2048/hit", 1)
        rates: dict[int, list[list[float]]] = {}
        for _ in range(rounds):
            for place, pair in enumerate(there):
                got = [together(pair[0], ("0",), seconds), together(pair[1], ("0", "1"), seconds)]
                rates.setdefault(place, []).append(got)
        for place, pair in enumerate(there):
            one, two = (statistics.median(column) for column in zip(*rates[place], strict=True))
            print(
                f"{pair[0].name:>12}: 1 worker on 1 core {one:,.0f}/s,"
                f" 2 workers on 2 cores {two:,.0f}/s: {two / one:.2f}x"
            )
    finally:
        for pair in there:
            for contender in pair:
                contender.process.terminate()
                contender.process.wait(15)


def _layergate(origin: int, memory: str) -> Callable[[int, int], list[str]]:
    return lambda port, count: [
        sys.executable, "-m", "layergate", "serve", "--upstream", f"http://127.0.0.1:{origin}",
        "--listen", f"127.0.0.1:{port}", "--memory", memory, "--workers", str(count),
    ]  # fmt: skip


def _nginx(origin: int, folder: Path) -> Callable[[int, int], list[str]]:
    def command(port: int, count: int) -> list[str]:
        own = folder / f"nginx{port}"
        own.mkdir()
        conf = own / "nginx.conf"
        text = NGINX.format(dir=own, port=port, origin=origin)
        conf.write_text(text.replace("worker_processes 1", f"worker_processes {count}"))
        return ["nginx", "-c", str(conf)]

    return command


def _pair(name: str, command: Callable[[int, int], list[str]]) -> tuple[Contender, Contender]:
    one, two = free_port(), free_port()
    return started(name, command(one, 1), one, "0"), started(name, command(two, 2), two, "0,1")


def wait_until_idle(contender: Contender) -> None:
    """Wait until all processes of a server have started and are idle."""
    before = -1.0
    while before != (now := contender.cpu()):
        before = now
        time.sleep(0.3)


def together(contender: Contender, cores: tuple[str, ...], seconds: float) -> float:
    """The total requests per second, with one wrk on each of these cores."""
    generators = [
        subprocess.Popen(
            [
                "taskset", "-c", core, "wrk", "-t1", f"-c{MANY}", f"-d{seconds:g}s",
                f"http://127.0.0.1:{contender.port}/2048/hit",
            ],
            stdout=subprocess.PIPE, text=True,
        )
        for core in cores
    ]  # fmt: skip
    rate = 0.0
    for generator in generators:
        out, _ = generator.communicate()
        if generator.returncode or "Non-2xx" in out or "Socket errors" in out:
            raise RuntimeError(f"{contender.name}: {out}")
        rate += float(re.search(r"Requests/sec: +([\d.]+)", out)[1])  # type: ignore[index]
    return rate


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="only 2 KB, one URL, and misses")
    parser.add_argument("--origin", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.origin:
        serve_origin(arguments.origin)
        return 0
    if not shutil.which("wrk") or not shutil.which("taskset"):
        print("wrk and taskset are required: apt-get install wrk util-linux")
        return 1
    cases = [
        case for case in CASES if not arguments.quick or (case[2] < 2 and "100" not in case[0])
    ]
    print(describe_machine())
    port = free_port()
    origin = subprocess.Popen(
        ["taskset", "-c", "1", sys.executable, __file__, "--origin", str(port)]
    )
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with contenders(folder, port) as there:
                missing = {"nginx", "Varnish"} - {contender.name for contender in there}
                if missing:
                    print(f"skipped, because not installed: {', '.join(sorted(missing))}")
                for _, path, count in cases:
                    for contender in there:
                        if count:
                            warm(contender, path, count)
                for _ in range(arguments.rounds):
                    for case, path, count in cases:
                        for contender in there:
                            load(contender, case, path, count, arguments.seconds, folder)
                table(there, cases)
            workers(port, folder, arguments.seconds, arguments.rounds)
    finally:
        origin.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
