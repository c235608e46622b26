"""``layergate purge`` and ``layergate stats``: the admin endpoint of a running instance."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from layergate.cli.client import AdminClient, UsageError, add_admin
from layergate.cli.text import printable

__all__ = ["add"]

# Option, its name in the endpoint's JSON, help.
_LISTS = (
    ("--tag", "tags", "a tag (surrogate key)"),
    ("--url", "files", "an absolute URL, with all its variants"),
    ("--prefix", "prefixes", "host/path, and all that begins so"),
    ("--host", "hosts", "a host name, any scheme and port"),
    ("--pattern", "patterns", "a URL or path in which * stands for anything"),
)


def add(commands: Any) -> None:
    """Add the subcommands."""
    purge: argparse.ArgumentParser = commands.add_parser(
        "purge",
        help="purge from a running instance, and the fleet it is part of",
        description="Purge. When it returns, no response whose fetch began before is served.",
        epilog="The options that name something may be repeated.",
    )
    for option, name, told in _LISTS:
        purge.add_argument(
            option, dest=name, metavar=option[2:].upper(), action="append", default=[], help=told
        )
    purge.add_argument("--everything", action="store_true", help="all of it")
    purge.add_argument("--soft", action="store_true", help="make stale instead of gone")
    purge.add_argument("--json", action="store_true", help="the endpoint's answer, for tools")
    add_admin(purge)
    purge.set_defaults(run=run_purge)

    stats: argparse.ArgumentParser = commands.add_parser(
        "stats",
        help="counters and sizes of a running instance",
        description="Counters since the instance started, and sizes as they are now.",
    )
    stats.add_argument("--json", action="store_true", help="the endpoint's answer, for tools")
    add_admin(stats)
    stats.set_defaults(run=run_stats)


def run_purge(arguments: argparse.Namespace) -> int:
    """Raises UsageError, Unreachable."""
    document: dict[str, Any] = {
        name: getattr(arguments, name) for _, name, _ in _LISTS if getattr(arguments, name)
    }
    if arguments.everything:
        document["purge_everything"] = True
    if not document:
        options = ", ".join(option for option, _, _ in _LISTS)
        raise UsageError(f"a purge must name something: {options} or --everything")
    document["soft"] = arguments.soft
    status, answer = AdminClient(arguments).post("purge", document)
    if arguments.json:
        print(json.dumps(answer, indent=2))
    else:
        result = answer.get("result")
        result = result if isinstance(result, dict) else {}
        applied, instances = result.get("applied"), result.get("instances")
        print(printable(f"purged: {applied} of {instances} instances have applied it"))
    if status == 202:
        print("layergate: not yet confirmed by every instance; it is made up for", file=sys.stderr)
        return 3
    return 0


def run_stats(arguments: argparse.Namespace) -> int:
    """Raises UsageError, Unreachable."""
    answer = AdminClient(arguments).get("stats")
    if arguments.json:
        print(json.dumps(answer, indent=2))
        return 0
    rows = list(_rows(answer, ""))
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"{name.ljust(width)}  {value}")
    return 0


def _rows(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _rows(inner, f"{name}.{key}" if name else str(key))
    else:
        yield printable(name), printable(str(value))
