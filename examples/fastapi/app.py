"""A small shop's catalogue behind LayerGate. It shows each way to set a caching policy once.

    uvicorn app:app --app-dir examples/fastapi

The slow endpoints are really slow: the queries in db.py add up 60,000 sales.
"""

from __future__ import annotations

import asyncio
import html
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, PositiveInt

import db
import debug
from layergate import Admin, HttpCache, LayerGate, Rule, cached
from layergate.fastapi import cache_policy

# The token of the staff, and the customers by token. A real shop reads these from a database.
STAFF_TOKEN = os.environ.get("CATALOGUE_STAFF_TOKEN")
CUSTOMERS = {"ann-secret": "Ann", "bob-secret": "Bob"}

# Without a token, LayerGate has no admin endpoint and no PURGE method.
ADMIN_TOKEN = os.environ.get("CATALOGUE_ADMIN_TOKEN")

# The URL of a Redis or Valkey, such as redis://localhost:6379/0. With one, all processes of the app share
# their stored responses, and a purge in one process applies to all. Without one, each has its own cache.
SHARED = os.environ.get("CATALOGUE_SHARED")

# One cache for the app. Handlers purge it, and the middleware serves from it.
#
# Way 1, a rule: the policy of a route, separate from its code. "{id}" in the path becomes part of the tag.
cache = HttpCache(
    memory="64MB",
    shared=SHARED or None,
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


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    await run_in_threadpool(db.seed)
    yield


app = FastAPI(title="LayerGate catalogue", lifespan=lifespan)

if debug.ENABLED:
    # Added before LayerGate, so it runs behind it and sees only the requests that the cache forwards.
    app.add_middleware(debug.CountCalls)
    app.include_router(debug.router)

app.add_middleware(LayerGate, cache=cache)


def price(cents: int) -> str:
    return f"{cents / 100:.2f} €"


@app.get("/", response_class=HTMLResponse)
def index(response: Response) -> str:
    """Way 2, the app's own Cache-Control. LayerGate obeys it, like every other cache."""
    response.headers["Cache-Control"] = "public, max-age=1, stale-while-revalidate=60"
    rows = db.best_sellers(10)
    # The page shows these products, so a purge of any of them has to purge the page too.
    response.headers["Cache-Tag"] = ",".join(f"product:{row['id']}" for row in rows)
    items = "\n".join(
        f'<li><a href="/products/{row["id"]}">{html.escape(row["name"])}</a>'
        f" <b>{price(row['cents'])}</b>, sold {row['sold']}</li>"
        for row in rows
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Catalogue</title>
<style>body {{ font: 1rem/1.6 sans-serif; max-width: 40rem; margin: 2rem auto }}</style>
<h1>Best sellers</h1>
<ol>
{items}
</ol>
<p>Price changes as they happen: <output>none yet</output></p>
<script>
new EventSource("/events").addEventListener("price", (event) => {{
  document.querySelector("output").textContent = event.data;
}});
</script>
</html>
"""


@app.get("/products/{id}")
def show_product(id: int, response: Response) -> dict[str, Any]:  # noqa: A002 - the path's name
    """The rule above applies. With the ETag, clients and the cache can revalidate."""
    found = db.product(id)
    if found is None:
        raise HTTPException(404, f"no product {id}")
    response.headers["ETag"] = f'"{id}-{found["version"]}"'
    return found


@app.get("/products", dependencies=[Depends(cache_policy(ttl=60, stale_while_revalidate=30))])
def list_products(
    response: Response, category: str = "kitchen", page: Annotated[int, Query(ge=1, le=100)] = 1
) -> list[dict[str, Any]]:
    """Way 3, a dependency: the policy next to the route. Only the handler knows the tags."""
    rows = db.products(category, page)
    response.headers["Cache-Tag"] = ",".join(f"product:{row['id']}" for row in rows)
    return rows


@app.get("/welcome")
@cached(ttl=300, vary=["Accept-Language"])
async def welcome(request: Request) -> JSONResponse:
    """Way 4, a decorator, which works with any ASGI framework. Each language is a variant."""
    texts = {"en": "Welcome!", "fr": "Bienvenue !", "de": "Willkommen!"}
    wanted = request.headers.get("accept-language", "en")[:2].lower()
    language = wanted if wanted in texts else "en"
    return JSONResponse({"text": texts[language]}, headers={"Content-Language": language})


@app.get("/report")
def report(response: Response) -> list[dict[str, Any]]:
    """Fails if its database is down. Then the cache serves the last good report."""
    debug.maybe_fail()
    response.headers["Cache-Control"] = "public, max-age=1, stale-if-error=300"
    return db.monthly_report()


@app.get("/me")
async def me(request: Request) -> dict[str, str]:
    """A page for one customer, without any caching header. LayerGate does not share it."""
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    name = CUSTOMERS.get(token) or CUSTOMERS.get(request.cookies.get("session", ""))
    if name is None:
        raise HTTPException(401, "not signed in", {"WWW-Authenticate": "Bearer"})
    return {"name": name, "basket": f"{name}'s basket"}


class NewPrice(BaseModel):
    cents: PositiveInt


def staff(request: Request) -> None:
    if not STAFF_TOKEN or request.headers.get("authorization") != f"Bearer {STAFF_TOKEN}":
        raise HTTPException(403, "staff only")


@app.put("/products/{id}", dependencies=[Depends(staff)])
async def change_product(id: int, new: NewPrice) -> dict[str, Any]:  # noqa: A002
    """Change a price, and purge every response that shows the old one.

    Purge after the commit, so that every later fetch reads the new price. When the purge has returned,
    LayerGate no longer serves any response fetched before it.
    """
    if not await run_in_threadpool(db.change_price, id, new.cents):
        raise HTTPException(404, f"no product {id}")
    await cache.purge(tags=[f"product:{id}"])
    for subscriber in subscribers:
        # A subscriber that does not read misses events; they do not accumulate here.
        if not subscriber.full():
            subscriber.put_nowait({"id": id, "price": price(new.cents)})
    return {"id": id, "cents": new.cents}


subscribers: set[asyncio.Queue[dict[str, Any]]] = set()


@app.get("/events")
async def events() -> StreamingResponse:
    """Price changes as they happen. The cache forwards each event immediately and unchanged."""

    async def stream() -> AsyncIterator[str]:
        news: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=100)
        subscribers.add(news)
        try:
            yield "event: hello\ndata: listening\n\n"
            while True:
                yield f"event: price\ndata: {json.dumps(await news.get(), ensure_ascii=False)}\n\n"
        finally:
            subscribers.discard(news)

    return StreamingResponse(
        stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )
