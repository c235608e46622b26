"""A smaller version of the catalogue, as a Flask app behind LayerGate.

    flask --app examples/flask/app run                     # or any WSGI server:
    gunicorn --chdir examples/flask --threads 8 app:app

The slow endpoints are really slow: each query adds up 60,000 sales.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, abort, g, jsonify, request, stream_with_context

from layergate import Admin, Rule, cached
from layergate.wsgi import LayerGate

STAFF_TOKEN = os.environ.get("CATALOGUE_STAFF_TOKEN")
ADMIN_TOKEN = os.environ.get("CATALOGUE_ADMIN_TOKEN")

app = Flask(__name__)

# Way 1, a rule: the policy of a route, separate from its code. "{id}" in the path becomes part of the tag.
gate = LayerGate(
    app.wsgi_app,
    memory="64MB",
    admin=Admin(path="/_layergate", token=ADMIN_TOKEN) if ADMIN_TOKEN else None,
    rules=[
        Rule(
            "/products/{id}",
            ttl=60,
            stale_while_revalidate=30,
            stale_if_error=300,
            tags=["product:{id}"],
        )
    ],
)
app.wsgi_app = gate  # type: ignore[method-assign]


class Shop:
    """Products and their sales, in memory. Created on first use, so each forked worker has its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def query(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        with self._lock:
            if self._connection is None:
                self._connection = self._seeded()
            rows = self._connection.execute(sql, parameters).fetchall()
        return [dict(row) for row in rows]

    @staticmethod
    def _seeded() -> sqlite3.Connection:
        connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("CREATE TABLE product (id INTEGER PRIMARY KEY, name, cents, version)")
        connection.execute("CREATE TABLE sale (product, quantity)")
        pick = random.Random(9111)
        connection.executemany(
            "INSERT INTO product VALUES (?, ?, ?, 1)",
            [
                (number, f"Product No. {number}", pick.randrange(300, 30_000))
                for number in range(1, 501)
            ],
        )
        connection.executemany(
            "INSERT INTO sale VALUES (?, ?)",
            [(pick.randrange(1, 501), pick.randrange(1, 4)) for _ in range(60_000)],
        )
        return connection


shop = Shop()
BY_SALES = """
    SELECT p.id, p.name, p.cents, p.version, SUM(s.quantity) AS sold
    FROM product p JOIN sale s ON s.product = p.id GROUP BY p.id ORDER BY sold DESC, p.id
"""


@app.before_request
def who() -> None:
    # Flask's g, sessions and teardown work as usual: the app runs on the thread of its request.
    g.staff = bool(STAFF_TOKEN) and request.headers.get("Authorization") == f"Bearer {STAFF_TOKEN}"


@app.get("/")
def index() -> Response:
    """Way 2, the app's own Cache-Control. Only the handler knows the tags."""
    rows = shop.query(BY_SALES + " LIMIT 10")
    response = jsonify(rows)
    response.headers["Cache-Control"] = "public, max-age=1, stale-while-revalidate=60"
    response.headers["Cache-Tag"] = ",".join(f"product:{row['id']}" for row in rows)
    return response


@app.get("/products/<int:id>")
def show_product(id: int) -> Response:  # noqa: A002 - the path's name
    """The rule above applies. With the ETag, clients and the cache can revalidate."""
    rows = shop.query(f"SELECT * FROM ({BY_SALES}) WHERE id = ?", id)  # noqa: S608 - a constant
    if not rows:
        abort(404)
    response = jsonify(rows[0])
    response.set_etag(f"{id}-{rows[0]['version']}")
    return response


@app.get("/welcome")
@cached(ttl=300, vary=["Accept-Language"])
def welcome() -> Response:
    """Way 3, a decorator, below that of the route. Each language is a variant."""
    texts = {"en": "Welcome!", "fr": "Bienvenue !", "de": "Willkommen!"}
    return jsonify(text=texts[request.accept_languages.best_match(texts) or "en"])


@app.get("/export")
def export() -> Response:
    """Stream row by row, to all clients that request the export at the same time."""

    def lines() -> Iterator[str]:
        for row in shop.query(BY_SALES):
            yield f"{row['id']},{row['sold']}\n"

    headers = {"Cache-Control": "public, max-age=60", "Cache-Tag": "export"}
    return Response(stream_with_context(lines()), mimetype="text/csv", headers=headers)


@app.put("/products/<int:id>")
def change_product(id: int) -> dict[str, int]:  # noqa: A002
    """Change a price, and purge every response that shows the old one."""
    if not g.staff:
        abort(403)
    cents = int(request.get_json()["cents"])
    shop.query("UPDATE product SET cents = ?, version = version + 1 WHERE id = ?", cents, id)
    # A blocking call. When it has returned, LayerGate no longer serves any response fetched before it.
    gate.purge(tags=[f"product:{id}"])
    return {"id": id, "cents": cents}
