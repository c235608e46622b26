"""A small shop's catalogue behind LayerGate: each way to say what may be cached, once.

    uvicorn app:app --app-dir examples/fastapi

What is slow here is slow for real: the queries in db.py sum up 60,000 sales.
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

# Who may change prices, who has an account. A real shop looks these up.
STAFF_TOKEN = os.environ.get("CATALOGUE_STAFF_TOKEN")
CUSTOMERS = {"ann-secret": "Ann", "bob-secret": "Bob"}

# Without a token there is no admin endpoint, and no PURGE method.
ADMIN_TOKEN = os.environ.get("CATALOGUE_ADMIN_TOKEN")

# With a Redis or Valkey, every process of the app shares what any of them fetched, and a purge in one
# is a purge in all: redis://localhost:6379/0. Without one, each caches for itself.
SHARED = os.environ.get("CATALOGUE_SHARED")

# One cache for the app. Handlers purge through it, the middleware serves from it.
#
# Way 1, a rule: the policy of a route, kept apart from it. "{id}" of the path names the tag.
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
    # Added before LayerGate, so it runs behind it: it sees what the cache let through.
    app.add_middleware(debug.CountCalls)
    app.include_router(debug.router)

app.add_middleware(LayerGate, cache=cache)


def price(cents: int) -> str:
    return f"{cents / 100:.2f} €"


@app.get("/", response_class=HTMLResponse)
def index(response: Response) -> str:
    """Way 2, the app's own Cache-Control: LayerGate obeys it, and so does every other cache."""
    response.headers["Cache-Control"] = "public, max-age=1, stale-while-revalidate=60"
    rows = db.best_sellers(10)
    # The page shows these products, so a purge of any of them has to take the page along.
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
    """Covered by the rule above. Its ETag lets clients and the cache revalidate."""
    found = db.product(id)
    if found is None:
        raise HTTPException(404, f"no product {id}")
    response.headers["ETag"] = f'"{id}-{found["version"]}"'
    return found


@app.get("/products", dependencies=[Depends(cache_policy(ttl=60, stale_while_revalidate=30))])
def list_products(
    response: Response, category: str = "kitchen", page: Annotated[int, Query(ge=1, le=100)] = 1
) -> list[dict[str, Any]]:
    """Way 3, the dependency: the policy beside the route. The tags are known only in here."""
    rows = db.products(category, page)
    response.headers["Cache-Tag"] = ",".join(f"product:{row['id']}" for row in rows)
    return rows


@app.get("/welcome")
@cached(ttl=300, vary=["Accept-Language"])
async def welcome(request: Request) -> JSONResponse:
    """Way 4, the decorator, as it works with any ASGI framework. One variant per language."""
    texts = {"en": "Welcome!", "fr": "Bienvenue !", "de": "Willkommen!"}
    wanted = request.headers.get("accept-language", "en")[:2].lower()
    language = wanted if wanted in texts else "en"
    return JSONResponse({"text": texts[language]}, headers={"Content-Language": language})


@app.get("/report")
def report(response: Response) -> list[dict[str, Any]]:
    """Fails when its database does. Then the last good one is better than none."""
    debug.maybe_fail()
    response.headers["Cache-Control"] = "public, max-age=1, stale-if-error=300"
    return db.monthly_report()


@app.get("/me")
async def me(request: Request) -> dict[str, str]:
    """Each customer's own page. It says nothing about caching: LayerGate must not share it."""
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    name = CUSTOMERS.get(token) or CUSTOMERS.get(request.cookies.get("session", ""))
    if name is None:
        raise HTTPException(401, "who are you?", {"WWW-Authenticate": "Bearer"})
    return {"name": name, "basket": f"{name}'s basket"}


class NewPrice(BaseModel):
    cents: PositiveInt


def staff(request: Request) -> None:
    if not STAFF_TOKEN or request.headers.get("authorization") != f"Bearer {STAFF_TOKEN}":
        raise HTTPException(403, "staff only")


@app.put("/products/{id}", dependencies=[Depends(staff)])
async def change_product(id: int, new: NewPrice) -> dict[str, Any]:  # noqa: A002
    """Changes a price and purges everything that showed the old one.

    The purge comes after the commit: what is fetched from then on is new. When it has returned,
    nothing fetched before it is served any more.
    """
    if not await run_in_threadpool(db.change_price, id, new.cents):
        raise HTTPException(404, f"no product {id}")
    await cache.purge(tags=[f"product:{id}"])
    for subscriber in subscribers:
        # A subscriber that doesn't read loses news, it doesn't pile them up here.
        if not subscriber.full():
            subscriber.put_nowait({"id": id, "price": price(new.cents)})
    return {"id": id, "cents": new.cents}


subscribers: set[asyncio.Queue[dict[str, Any]]] = set()


@app.get("/events")
async def events() -> StreamingResponse:
    """Price changes as they happen. Passes through the cache untouched, event by event."""

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
