"""``layergate explain URL``: what LayerGate does with a request, and why.

With ``--admin`` a running instance explains; without, this process does, for a cache with default options
that holds nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from typing import Any

from layergate import __version__
from layergate.asgi.scope import asked_request
from layergate.assembly import HttpCache
from layergate.cli.client import (
    AdminClient,
    Unreachable,
    UsageError,
    add_admin,
    ask,
    checked_timeout,
)
from layergate.cli.text import printable, rendered, wants_colour
from layergate.errors import ExplainRefused
from layergate.http.explain.report import Explanation, Response
from layergate.http.explain.walk import explain
from layergate.http.message.described import DescribedRequest
from layergate.http.rfc9111.invalidation import SAFE_METHODS
from layergate.runtime.blocking import run_blocking
from layergate.runtime.threads import ThreadRuntime

__all__ = ["add"]

_DESCRIPTION = """\
Explain, step by step and with the section of the RFC, what LayerGate does with a request.

With --admin, a running instance explains what it would do now, by its rules and by what its layers
hold. It makes no request to the URL and changes nothing. It receives the header fields given here.

Without --admin, the command makes the request to the URL itself, and explains how LayerGate would
treat the response with default options and no rules. It follows no redirects, and does not send
methods that may change something.
"""


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "explain",
        help="show what LayerGate does with a request, and why",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", metavar="URL", help="for example https://host/path")
    parser.add_argument(
        "-H", "--header", metavar="'NAME: VALUE'", action="append", default=[], dest="headers",
        help="a header field of the request; can be repeated",
    )  # fmt: skip
    parser.add_argument("-X", "--method", default="GET", help="the method (default: GET)")
    parser.add_argument("--json", action="store_true", help="print the explanation as JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the facts of each step")
    parser.add_argument(
        "--no-color", action="store_true", help="print no colors (NO_COLOR does the same)"
    )
    add_admin(parser)
    parser.add_argument(
        "--fetch", action="store_true",
        help="with --admin: make the request too, and explain its response",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand; the exit status. Raises UsageError and Unreachable."""
    headers = [_header(text) for text in arguments.headers]
    try:
        asked = DescribedRequest.of(arguments.method, arguments.url, headers)
    except ExplainRefused as error:
        raise UsageError(str(error)) from None
    process: dict[str, Any] = {"pid": os.getpid(), "host": platform.node()}
    if arguments.admin:
        client = AdminClient(arguments)
        response = _fetched(asked, arguments) if arguments.fetch else None
        explanation, process = _asked(client, arguments, headers, response)
    elif arguments.fetch:
        raise UsageError("--fetch needs --admin; without --admin the request is made anyway")
    else:
        response = _fetched(asked, arguments)
        request = asked_request({"raw_path": b""}, asked, obey_directives=True)
        cache = HttpCache(runtime=ThreadRuntime(), memory="1MB")
        explanation = run_blocking(explain(cache, request, response, live=False))
    if arguments.json:
        print(json.dumps({**explanation.as_json(), "process": process}, indent=2))
    else:
        colour = wants_colour(refused=arguments.no_color)
        if arguments.admin:
            host = printable(str(process.get("host", "?")))
            pid = process.get("pid", "?")
            print(f"Process {pid} on {host} answered. Other processes have their own memory.\n")
        print(rendered(explanation, colour=colour, verbose=arguments.verbose))
    return 0


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise UsageError(f"-H must be 'Name: value', got {name!r}")
    return name.strip(), value.strip()


def _fetched(asked: DescribedRequest, arguments: argparse.Namespace) -> Response | None:
    """Makes the request, and returns the head of its response. None for a method that may change
    something: then it makes no request."""
    timeout = checked_timeout(arguments)
    if asked.method not in SAFE_METHODS:
        return None
    names = {name for name, _ in asked.lines}
    said = [(b"user-agent", f"layergate/{__version__}".encode()), (b"accept", b"*/*")]
    extra = [line for line in said if line[0] not in names]
    began = time.time()
    answered = ask(asked._replace(lines=[*asked.lines, *extra]), timeout=timeout)
    return Response(answered.status, answered.lines, max(0.0, time.time() - began))


def _asked(
    client: AdminClient,
    arguments: argparse.Namespace,
    headers: list[tuple[str, str]],
    response: Response | None,
) -> tuple[Explanation, dict[str, Any]]:
    document: dict[str, Any] = {
        "url": arguments.url,
        "method": arguments.method,
        "headers": headers,
    }
    if response is not None:
        document["response"] = {
            "status": response.status,
            "headers": [[n.decode("latin-1"), v.decode("latin-1")] for n, v in response.lines],
            "seconds": round(response.took, 3),
        }
    _, answer = client.post("explain", document)
    try:
        process = answer["result"].pop("process", {})
        return Explanation.of_json(answer["result"]), process if isinstance(process, dict) else {}
    except (KeyError, ValueError) as error:
        raise Unreachable(f"the answer is not from this version of LayerGate: {error}") from None
