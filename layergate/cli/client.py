"""HTTP for the command line: one request, one response, no redirects, no proxies.

What is sent goes to the host that was named and nowhere else.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import ssl
from pathlib import Path
from typing import Any, Final, NamedTuple

from layergate.errors import ExplainRefused
from layergate.http.message.described import DescribedRequest
from layergate.http.message.fields import Lines

__all__ = ["AdminClient", "Answered", "Unreachable", "UsageError", "add_admin", "ask"]

ADMIN_VARIABLE: Final = "LAYERGATE_ADMIN"
TOKEN_VARIABLE: Final = "LAYERGATE_ADMIN_TOKEN"  # noqa: S105 - the name of a variable
_MOST: Final = 16 * 1024 * 1024  # bytes of an answer of the endpoint


class UsageError(Exception):
    """The command line is wrong. The message names the option and the remedy."""


class Unreachable(Exception):
    """No response, or a refusal."""


class Answered(NamedTuple):
    """The head of a response, and as much of its body as was wanted."""

    status: int
    lines: Lines
    body: bytes


def ask(
    asked: DescribedRequest, *, timeout: float, content: bytes | None = None, most: int = 0
) -> Answered:
    """Make a request. ``timeout``: seconds for the connection, and for each wait after it.
    ``most``: bytes of the body to read; the rest is not waited for.

    Raises Unreachable.
    """
    authority = dict(asked.lines)[b"host"].decode("latin-1")
    url = f"{asked.scheme}://{asked.authority}"
    if asked.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            asked.authority, timeout=timeout, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(asked.authority, timeout=timeout)
    target = (asked.path + b"?" + asked.query if asked.query else asked.path).decode()
    try:
        connection.putrequest(asked.method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in asked.lines:
            connection.putheader(name.decode(), value)
        if content is not None:
            connection.putheader("content-length", str(len(content)))
        connection.endheaders(content)
        response = connection.getresponse()
        lines = [
            (name.lower().encode("latin-1"), " ".join(value.split("\r\n")).encode("latin-1"))
            for name, value in response.getheaders()
        ]
        return Answered(response.status, lines, response.read(most) if most else b"")
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        told = str(error) or type(error).__name__
        named = "" if authority == asked.authority else f" (as {authority})"
        raise Unreachable(f"cannot reach {url}{named}: {told}") from None
    finally:
        connection.close()


def add_admin(parser: argparse.ArgumentParser) -> None:
    """The options that name the `Admin` endpoint of an instance."""
    group = parser.add_argument_group("a running instance")
    group.add_argument(
        "--admin",
        metavar="URL",
        default=os.environ.get(ADMIN_VARIABLE),
        help="its admin endpoint, such as http://localhost:8000/_layergate"
        f" (default: ${ADMIN_VARIABLE})",
    )
    group.add_argument(
        "--token-file",
        metavar="FILE",
        help=f"the file with the endpoint's token (default: the token in ${TOKEN_VARIABLE})",
    )
    group.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=10.0,
        help="for connecting, and for each wait after that (default: 10)",
    )


class AdminClient:
    """The admin endpoint of a running instance. Raises UsageError."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        url: str | None = arguments.admin
        if not url:
            raise UsageError("no instance to ask; write --admin http://host/_layergate")
        self._url = url.rstrip("/")
        self._timeout = checked_timeout(arguments)
        try:
            asked = DescribedRequest.of("GET", self._url, None)
        except ExplainRefused as error:
            raise UsageError(f"--admin: {error}") from None
        if asked.path == b"/" or asked.query:
            raise UsageError(
                f"--admin must be the URL of the endpoint, with the path of Admin(path=...), got"
                f" {url!r}; write for example {asked.scheme}://{asked.authority}/_layergate"
            )
        self._token = _token(arguments.token_file)

    def get(self, action: str) -> Any:
        """The JSON response to ``GET {admin}/{action}``. Raises Unreachable."""
        return self._call("GET", action, None)[1]

    def post(self, action: str, document: Any) -> tuple[int, Any]:
        """Status and JSON response of ``POST {admin}/{action}``. Raises Unreachable."""
        return self._call("POST", action, json.dumps(document).encode())

    def _call(self, method: str, action: str, content: bytes | None) -> tuple[int, Any]:
        url = f"{self._url}/{action}"
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        if content is not None:
            headers["Content-Type"] = "application/json"
        asked = DescribedRequest.of(method, url, headers)
        answered = ask(asked, timeout=self._timeout, content=content, most=_MOST)
        try:
            document = json.loads(answered.body)
        except (ValueError, RecursionError):
            document = None
        if answered.status in (200, 202) and isinstance(document, dict):
            return answered.status, document
        raise Unreachable(f"{url} answered {answered.status}{_why(answered, document)}")


def checked_timeout(arguments: argparse.Namespace) -> float:
    timeout: float = arguments.timeout
    if not 0 < timeout <= 3600:
        raise UsageError(f"--timeout must be from 0 to 3600 seconds, got {timeout:g}")
    return timeout


def _why(answered: Answered, document: Any) -> str:
    if 300 <= answered.status <= 399:
        return ", a redirect, which is not followed: the token is for this URL alone"
    if isinstance(document, dict) and isinstance(document.get("errors"), list):
        told = [error.get("message") for error in document["errors"] if isinstance(error, dict)]
        return f": {'; '.join(map(str, told))}"
    return "; is it the path of an Admin(path=...)?"


def _token(file: str | None) -> str:
    if file is not None:
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError) as error:
            raise UsageError(f"--token-file: cannot read {file!r}: {error}") from None
        where = f"--token-file: {file!r}"
    else:
        token, where = os.environ.get(TOKEN_VARIABLE, "").strip(), f"${TOKEN_VARIABLE}"
        if not token:
            raise UsageError(f"no token; write --token-file FILE or set {TOKEN_VARIABLE}")
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise UsageError(f"{where} must hold a token of printable ASCII without spaces")
    return token
