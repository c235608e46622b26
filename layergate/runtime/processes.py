"""Whether a server runs several processes of an application, as far as one of them can know.

`HttpCache` asks, without a shared layer, to warn that each process has a cache of its own. A worker's
``sys.argv`` is its server's command line, whether it was forked or spawned. The functions are pure.

Not found: processes that are started one by one (systemd, containers), workers that a program asks for
(``uvicorn.run(workers=2)``), and ASGI workers that only a configuration file names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Final

__all__ = ["REMEDY", "several_processes", "workers_of"]

REMEDY: Final = (
    'add shared="host" so that the workers of this machine share one cache, or'
    ' shared="redis://..." for several machines'
)
"""What to do about it."""

_WORKERS: Final = {
    "uvicorn": ("--workers",),
    "fastapi": ("--workers",),
    "gunicorn": ("-w", "--workers"),
    "hypercorn": ("-w", "--workers"),
    "granian": ("--workers",),
}
_VARIABLES: Final = {
    "uvicorn": "WEB_CONCURRENCY",
    "fastapi": "WEB_CONCURRENCY",
    "gunicorn": "WEB_CONCURRENCY",
    "granian": "GRANIAN_WORKERS",
}


def several_processes(
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    multiprocess: bool | None = None,
    uwsgi: int | None = None,
    forked: bool = False,
) -> str | None:
    """What shows that other processes serve the same application, or None.

    ``multiprocess``  ``wsgi.multiprocess`` of a request. None: not known.
    ``uwsgi``         how many processes uWSGI runs. None: the server is another one.
    ``forked``        True if this process is the child of the one that made the cache.
    """
    if multiprocess is not None:
        return "wsgi.multiprocess" if multiprocess else None
    if uwsgi is not None:
        return f"uWSGI with {uwsgi} processes" if uwsgi > 1 else None
    found = workers_of(argv, environ)
    if found is not None:
        server, workers = found
        return f"{server} with {workers} workers" if workers > 1 else None
    return "a fork after the cache was made" if forked else None


def workers_of(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[str, int] | None:
    """The server whose command line this is, and the number of its workers. None for another program, and
    if the number is not known."""
    if not argv:
        return None
    path = PurePath(argv[0])
    # python -m uvicorn
    server = path.parent.name if path.name == "__main__.py" else path.stem
    if server not in _WORKERS:
        return None
    words = list(argv[1:])
    if server == "gunicorn":
        words = [*environ.get("GUNICORN_CMD_ARGS", "").split(), *words]
    reloads = "--reload" in words or (server == "fastapi" and "dev" in words[:1])
    if server in ("uvicorn", "fastapi") and reloads:
        return server, 1
    number = _number(words, _WORKERS[server])
    if number is None:
        number = _whole(environ.get(_VARIABLES.get(server, ""), ""))
    if number is None and server != "gunicorn":  # which may read gunicorn.conf.py
        number = 1
    return None if number is None else (server, number)


def _number(words: Sequence[str], names: Sequence[str]) -> int | None:
    """The value of the last of these options that is there: ``-w 2``, ``-w2``, ``--workers=2``."""
    found = None
    for at, word in enumerate(words):
        for name in names:
            if word == name:
                found = _whole(words[at + 1]) if at + 1 < len(words) else None
            elif word.startswith(name + "=") or (len(name) == 2 and word.startswith(name)):
                found = _whole(word.removeprefix(name).removeprefix("="))
    return found


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None
