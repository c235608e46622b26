"""Asks the project, through one of its applications, as its servers would."""

import asyncio
import io
import sys

import django
from django.core.management import call_command
from django.db import connection


def ask_wsgi(path, method="GET", body=b"", **fields):
    from shop.wsgi import application
    from tests.support.wsgi import ask

    # Some servers have no wrapper for files; Django then sends the blocks itself.
    extra = {"wsgi_input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body)) if body else ""}
    extra |= {f"HTTP_{name.upper()}": value for name, value in fields.items()}
    if body:
        extra["CONTENT_TYPE"] = "application/x-www-form-urlencoded"
    answer = ask(application, path, method, **extra)
    return int(answer.status[:3]), answer.headers, answer.body


def ask_asgi(path, method="GET", body=b"", **fields):
    from shop.asgi import application

    headers = [(b"host", b"example.org")]
    headers += [(name.encode(), value.encode()) for name, value in fields.items()]
    if body:
        headers.append((b"content-length", b"%d" % len(body)))
        headers.append((b"content-type", b"application/x-www-form-urlencoded"))
    sent = []

    async def receive():
        if asked:
            await asyncio.Event().wait()
        asked.append(1)
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    asked = []
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "headers": headers, "client": ("192.0.2.1", 1), "server": ("x", 80),
    }  # fmt: skip
    asyncio.run(application(scope, receive, send))
    got = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], got, b"".join(message.get("body", b"") for message in sent[1:])


def check(ask):
    from shop.models import Product
    from shop.urls import calls

    with connection.schema_editor() as editor:
        editor.create_model(Product)
    call_command("migrate", "sessions", verbosity=0)
    Product.objects.create(pk=7, name="lamp")
    connection.close()
    for path, content in [
        ("/", b"index"), ("/products/7", b'{"name": "lamp"}'), ("/stream", b"01234"),
    ]:  # fmt: skip
        calls.clear()
        for number in range(3):
            status, headers, body = ask(path)
            assert (status, body) == (200, content), (path, status, body)
            assert ("hit" in headers["cache-status"]) == (number > 0), (path, headers)
        assert len(calls) == 1, (path, calls)
    if ask is ask_wsgi:  # (Django itself warns of files under ASGI)
        first, second = ask("/file"), ask("/file")
        assert first[2] == second[2]
        assert "hit" in second[1]["cache-status"]
    etag = ask("/")[1]["etag"]
    status, headers, body = ask(
        "/", **{"if_none_match" if ask is ask_wsgi else "if-none-match": etag}
    )
    assert (status, body) == (304, b"")
    assert "hit" in headers["cache-status"]
    # Sessions.
    _, headers, _ = ask("/login")
    cookie = headers["set-cookie"].partition(";")[0]
    assert "stored" not in headers["cache-status"]
    assert ask("/me", cookie=cookie)[2] == b"ann"
    assert ask("/me")[2] == b"nobody"
    assert ask("/nowhere")[0] == 404
    # What a write changes is purged by its tag, by whoever knows of it.
    assert ask("/products/7/rename", "POST", b"name=desk")[0] == 204
    assert ask("/products/7")[2] == b'{"name": "lamp"}'
    if ask is ask_wsgi:
        from shop.wsgi import application

        application.purge(tags=["product:7"])
    else:
        from shop.asgi import application

        asyncio.run(application.purge(tags=["product:7"]))
    assert ask("/products/7")[2] == b'{"name": "desk"}'
    assert application.cache.stats()["flights"] == 0


if __name__ == "__main__":
    django.setup()
    check(ask_wsgi if sys.argv[1] == "wsgi" else ask_asgi)
    print(f"{sys.argv[1]}: fine")
