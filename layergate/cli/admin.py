"""``layergate purge`` and ``layergate stats``: the admin endpoint of a running instance."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from layergate.cli.client import AdminClient, Unreachable, UsageError, add_admin
from layergate.cli.text import printable
from layergate.errors import ConfigError, PurgeRefused
from layergate.host import purge

__all__ = ["add"]

_LEAST_WATCH: Final = 0.1  # seconds
# Option, its name in the endpoint's JSON, help.
_LISTS = (
    ("--tag", "tags", "a tag (surrogate key)"),
    ("--url", "files", "an absolute URL, with all its variants"),
    ("--prefix", "prefixes", "host/path, and all that begins so"),
    ("--host", "hosts", "a host name, any scheme and port; or a folder, see below"),
    ("--pattern", "patterns", "a URL or path in which * stands for anything"),
)


def add(commands: Any) -> None:
    """Add the subcommands."""
    purge: argparse.ArgumentParser = commands.add_parser(
        "purge",
        help="purge from a running instance, and the fleet it is part of",
        description="Purge. When it returns, no response whose fetch began before is served.",
        epilog="The options that name something may be repeated. --host /PATH names no host, but the"
        " folder that the processes of this machine share (shared='host:/PATH'): they are purged through"
        " it, without an admin endpoint and a token, if you may write to it.",
    )
    for option, name, told in _LISTS:
        purge.add_argument(
            option, dest=name, metavar=option[2:].upper(), action="append", default=[], help=told
        )
    purge.add_argument("--everything", action="store_true", help="all of it")
    purge.add_argument("--soft", action="store_true", help="make stale instead of gone")
    purge.add_argument(
        "--exact-scheme", action="store_true", help="URLs under the scheme that they name alone"
    )
    purge.add_argument("--json", action="store_true", help="the endpoint's answer, for tools")
    add_admin(purge)
    purge.set_defaults(run=run_purge)

    stats: argparse.ArgumentParser = commands.add_parser(
        "stats",
        help="counters and sizes of a running instance",
        description="Counters since the instance started, and sizes as they are now.",
    )
    stats.add_argument(
        "--json", action="store_true", help="the endpoint's answer, for tools; watched, a line each"
    )
    stats.add_argument(
        "--watch", metavar="SECONDS", nargs="?", type=float, const=2.0,
        help="again and again, with what changes per second (default: every 2 seconds)",
    )  # fmt: skip
    add_admin(stats)
    stats.set_defaults(run=run_stats)


def run_purge(arguments: argparse.Namespace) -> int:
    """Raises UsageError, Unreachable."""
    folders = [host for host in arguments.hosts if host.startswith("/")]
    arguments.hosts = [host for host in arguments.hosts if not host.startswith("/")]
    document: dict[str, Any] = {
        name: getattr(arguments, name) for _, name, _ in _LISTS if getattr(arguments, name)
    }
    if arguments.everything:
        document["purge_everything"] = True
    if not document:
        options = ", ".join(option for option, _, _ in _LISTS)
        raise UsageError(f"a purge must name something: {options} or --everything")
    document["soft"] = arguments.soft
    if arguments.exact_scheme:
        document["schemes"] = "exact"
    if folders:
        return _purge_folders(folders, arguments, document)
    status, answer = AdminClient(arguments).post("purge", document)
    if arguments.json:
        print(json.dumps(answer, indent=2))
    else:
        result = answer.get("result")
        result = result if isinstance(result, dict) else {}
        applied, instances = result.get("applied"), result.get("instances")
        print(printable(f"purged: {applied} of {instances} instances have applied it"))
        for line in _met(result):
            print(printable(line))
    purged = answer.get("result")
    if status == 202 and isinstance(purged, dict) and purged.get("scope") == "process":
        print("layergate: other processes keep what they hold; share a cache", file=sys.stderr)
        return 3
    if status == 202:
        print("layergate: not yet confirmed by every instance; it is made up for", file=sys.stderr)
        return 3
    return 0


def _purge_folders(
    folders: list[str], arguments: argparse.Namespace, document: dict[str, Any]
) -> int:
    """Purge from the processes of this machine. 1 if there are none. Raises UsageError, Unreachable."""
    named = {
        {"files": "urls", "purge_everything": "everything"}.get(name, name): value
        for name, value in document.items()
    }
    found = 0
    for folder in folders:
        try:
            receipt = purge(folder, **named)
        except PurgeRefused as error:
            raise UsageError(str(error)) from None
        except (ConfigError, OSError) as error:
            raise Unreachable(f"--host: {error}") from None
        found += receipt.instances
        result = receipt._asdict()
        if arguments.json:
            print(json.dumps({"folder": folder, "result": result}, indent=2))
        else:
            told = f"purged: {receipt.applied} of {receipt.instances} processes have applied it"
            print(printable(told))
    if not found:
        print("layergate: no process uses the folder now", file=sys.stderr)
        return 1
    return 0


_SCOPES: Final = {
    "process": "this process alone: other processes keep what they hold",
    "host": "the processes of one machine that share a folder",
    "fleet": "all instances that share a layer",
}


def _met(result: dict[str, Any]) -> list[str]:
    """The lines of a receipt about its scope and matches; none for a receipt of an older version."""
    scope, matched = result.get("scope"), result.get("matched")
    if scope is None:
        return []
    number = "unknown" if matched is None else str(matched)
    if matched is not None and result.get("matched_at_least"):
        number = f">= {number}"
    unknown = result.get("unknown")
    others = (
        f" ({', '.join(map(str, unknown))}: unknown)"
        if isinstance(unknown, list) and unknown
        else ""
    )
    lines = [
        f"scope: {scope} ({_SCOPES.get(str(scope), 'unknown')})",
        f"matched: {number} in the memory of the process that was asked{others}",
    ]
    if result.get("seen") is False:
        lines.append("seen: no; something that was named is not in that memory")
    return lines


def run_stats(arguments: argparse.Namespace) -> int:
    """Raises UsageError, Unreachable."""
    client = AdminClient(arguments)
    if arguments.watch is not None:
        return _watch(client, arguments.watch, as_json=arguments.json)
    answer = client.get("stats")
    if arguments.json:
        print(json.dumps(answer, indent=2))
    else:
        print("\n".join(_table(dict(_rows(answer, "")))))
    return 0


def _watch(client: AdminClient, interval: float, *, as_json: bool) -> int:
    """Show the statistics until interrupted. Raises UsageError, Unreachable."""
    if not _LEAST_WATCH <= interval <= 86_400:
        raise UsageError(f"--watch must be from {_LEAST_WATCH} to 86400 seconds, got {interval:g}")
    before: dict[str, Any] = {}
    asked = 0.0
    try:
        while True:
            now = time.monotonic()
            answer = client.get("stats")
            if as_json:
                print(json.dumps(answer), flush=True)
            else:
                rows = dict(_rows(answer, ""))
                # On a terminal each report replaces the one before.
                print("\x1b[H\x1b[2J" if sys.stdout.isatty() else "", end="")
                print("\n".join(_table(rows, before, now - asked)), end="\n\n", flush=True)
                before = rows
            asked = now
            time.sleep(interval)
    except KeyboardInterrupt:
        return 0


def _table(
    rows: Mapping[str, Any], before: Mapping[str, Any] | None = None, seconds: float = 1.0
) -> Iterator[str]:
    """``before``: the rows of ``seconds`` ago, to show the changes."""
    names = {name: printable(name) for name in rows}
    values = {name: printable(str(value)) for name, value in rows.items()}
    width = max(map(len, names.values()), default=0)
    broad = max(map(len, values.values()), default=0)
    for name, value in rows.items():
        line = f"{names[name].ljust(width)}  {values[name]}"
        old = None if before is None else before.get(name)
        if _is_number(value) and _is_number(old) and value != old:
            line = f"{line.ljust(width + 2 + broad)}  {(value - old) / seconds:+.1f}/s"
        yield line


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rows(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _rows(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
