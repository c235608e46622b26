"""Whether a server runs several processes (`layergate.runtime.processes`), by made-up inputs."""

from __future__ import annotations

import pytest

from layergate.runtime.processes import several_processes, workers_of

TWO = {"WEB_CONCURRENCY": "2"}


@pytest.mark.parametrize(
    ("command", "environ", "expected"),
    [
        ("/v/bin/uvicorn a:app --workers 2", {}, ("uvicorn", 2)),
        ("/v/uvicorn/__main__.py a:app --workers=3", {}, ("uvicorn", 3)),
        ("uvicorn.exe a:app --workers 2", {}, ("uvicorn", 2)),
        ("uvicorn a:app", {}, ("uvicorn", 1)),
        ("uvicorn a:app", TWO, ("uvicorn", 2)),
        ("uvicorn a:app", {"WEB_CONCURRENCY": "many"}, ("uvicorn", 1)),
        ("uvicorn a:app --workers 1", TWO, ("uvicorn", 1)),
        ("uvicorn a:app --reload", TWO, ("uvicorn", 1)),
        ("uvicorn a:app --reload --workers 2", {}, ("uvicorn", 1)),
        ("uvicorn a:app --workers", {}, ("uvicorn", 1)),
        ("fastapi run a.py --workers 4", {}, ("fastapi", 4)),
        ("fastapi dev a.py", TWO, ("fastapi", 1)),
        ("gunicorn -w 2 a:app", {}, ("gunicorn", 2)),
        ("gunicorn -w4 a:app", {}, ("gunicorn", 4)),
        ("gunicorn --workers 1 a:app", TWO, ("gunicorn", 1)),
        ("gunicorn a:app", TWO, ("gunicorn", 2)),
        ("gunicorn a:app", {"GUNICORN_CMD_ARGS": "--workers=3"}, ("gunicorn", 3)),
        ("gunicorn -w 1 a:app", {"GUNICORN_CMD_ARGS": "--workers=3"}, ("gunicorn", 1)),
        ("gunicorn -k uvicorn.workers.UvicornWorker -w 2 a:app", {}, ("gunicorn", 2)),
        ("gunicorn --worker-class sync -w 1 a:app", {}, ("gunicorn", 1)),
        ("gunicorn -c conf.py a:app", {}, None),
        ("hypercorn -w 2 a:app", {}, ("hypercorn", 2)),
        ("hypercorn a:app", TWO, ("hypercorn", 1)),
        ("granian --workers 2 a:app", {}, ("granian", 2)),
        ("granian a:app", {"GRANIAN_WORKERS": "2"}, ("granian", 2)),
        ("granian a:app", TWO, ("granian", 1)),
        ("manage.py clear --workers 2", TWO, None),
        ("/v/celery/__main__.py worker", TWO, None),
        ("waitress-serve a:app", TWO, None),
    ],
)
def test_workers_of_a_command_line(
    command: str, environ: dict[str, str], expected: tuple[str, int] | None
) -> None:
    assert workers_of(command.split(), environ) == expected


def test_no_command_line() -> None:
    assert workers_of([], TWO) is None
    assert several_processes([], TWO) is None


@pytest.mark.parametrize(
    ("command", "facts", "expected"),
    [
        ("uvicorn --workers 2", {}, "uvicorn with 2 workers"),
        ("uvicorn", {}, None),
        ("run.py", {"multiprocess": True}, "wsgi.multiprocess"),
        ("run.py", {"multiprocess": False, "forked": True}, None),
        ("uwsgi", {"uwsgi": 2}, "uWSGI with 2 processes"),
        ("uwsgi", {"uwsgi": 1, "forked": True}, None),
        ("run.py", {"forked": True}, "a fork after the cache was made"),
        ("gunicorn -w 1 --preload", {"forked": True}, None),
        ("gunicorn -c conf.py --preload", {"forked": True}, "a fork after the cache was made"),
        ("run.py", {}, None),
    ],
)
def test_what_shows_several_processes(
    command: str, facts: dict[str, object], expected: str | None
) -> None:
    assert several_processes(command.split(), {}, **facts) == expected  # type: ignore[arg-type]
