"""The catalogue's database: SQLite from the standard library, seeded on first use.

All functions block. Endpoints that are plain functions call them, and FastAPI runs those endpoints in its
thread pool, so each thread has its own connection.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "PAGE_SIZE",
    "best_sellers",
    "change_price",
    "monthly_report",
    "product",
    "products",
    "seed",
]

PAGE_SIZE = 20

SCHEMA = """
CREATE TABLE category (
    id      INTEGER PRIMARY KEY,
    parent  INTEGER REFERENCES category,
    slug    TEXT NOT NULL UNIQUE,
    name    TEXT NOT NULL
);
CREATE TABLE product (
    id       INTEGER PRIMARY KEY,
    category INTEGER NOT NULL REFERENCES category,
    name     TEXT NOT NULL,
    cents    INTEGER NOT NULL CHECK (cents > 0),
    version  INTEGER NOT NULL DEFAULT 1
);
CREATE TABLE sale (
    id       INTEGER PRIMARY KEY,
    basket   INTEGER NOT NULL,
    product  INTEGER NOT NULL REFERENCES product,
    quantity INTEGER NOT NULL,
    month    INTEGER NOT NULL
);
CREATE INDEX sale_product ON sale (product);
CREATE INDEX sale_basket ON sale (basket);
"""

TREE = {
    "kitchen": {"pans": "Pan", "knives": "Knife", "kettles": "Kettle"},
    "garden": {"spades": "Spade", "hoses": "Hose", "pots": "Pot"},
    "office": {"lamps": "Lamp", "desks": "Desk", "pens": "Pen"},
}
ADJECTIVES = ["Plain", "Sturdy", "Blue", "Folding", "Small", "Old", "Quiet", "Nordic"]
PRODUCTS = 500
BASKETS = 20_000

_local = threading.local()


def _path() -> str:
    return os.environ.get("CATALOGUE_DB", str(Path(__file__).with_name("catalogue.db")))


@contextmanager
def _connection() -> Iterator[sqlite3.Connection]:
    """This thread's connection, in a transaction."""
    connection: sqlite3.Connection | None = getattr(_local, "connection", None)
    if connection is None:
        connection = sqlite3.connect(_path(), timeout=10)
        connection.row_factory = sqlite3.Row
        _local.connection = connection
    with connection:
        yield connection


def _rows(query: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    with _connection() as connection:
        return [dict(row) for row in connection.execute(query, parameters)]


def seed() -> None:
    """Create and fill the database unless it exists. The data is the same every time."""
    with _connection() as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        # A single transaction, so that an interrupted start leaves no partial data. If several workers
        # start at once, one seeds while the others wait.
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sale'").fetchone():
            return
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        pick = random.Random(9111)
        leaves = []
        for top, children in TREE.items():
            parent = connection.execute(
                "INSERT INTO category (slug, name) VALUES (?, ?)", (top, top.title())
            ).lastrowid
            for child, noun in children.items():
                leaf = connection.execute(
                    "INSERT INTO category (parent, slug, name) VALUES (?, ?, ?)",
                    (parent, child, child.title()),
                ).lastrowid
                leaves.append((leaf, noun))
        connection.executemany(
            "INSERT INTO product (id, category, name, cents) VALUES (?, ?, ?, ?)",
            (
                (number, leaf, f"{pick.choice(ADJECTIVES)} {noun} No. {number}", cents)
                for number in range(1, PRODUCTS + 1)
                for (leaf, noun), cents in [(pick.choice(leaves), pick.randrange(300, 30_000))]
            ),
        )
        # A few products sell very often, as in real shops.
        popularity = [1 / rank for rank in range(1, PRODUCTS + 1)]
        connection.executemany(
            "INSERT INTO sale (basket, product, quantity, month) VALUES (?, ?, ?, ?)",
            (
                (basket, product, pick.randrange(1, 4), basket * 12 // BASKETS + 1)
                for basket in range(BASKETS)
                for product in pick.choices(range(1, PRODUCTS + 1), popularity, k=3)
            ),
        )


def product(number: int) -> dict[str, Any] | None:
    """One product, with its rank and the products bought together with it. Tens of milliseconds.

    The rank needs the revenue of every product, and therefore every sale.
    """
    found = _rows(
        """
        WITH revenue AS (
            SELECT p.id, SUM(s.quantity * p.cents) AS cents
            FROM product p LEFT JOIN sale s ON s.product = p.id
            GROUP BY p.id
        ), ranked AS (
            SELECT id, cents, RANK() OVER (ORDER BY cents DESC) AS rank FROM revenue
        )
        SELECT p.id, p.name, p.cents, p.version, c.slug AS category,
               COALESCE(r.cents, 0) AS revenue_cents, r.rank
        FROM product p JOIN category c ON c.id = p.category JOIN ranked r ON r.id = p.id
        WHERE p.id = :id
        """,
        {"id": number},
    )
    if not found:
        return None
    found[0]["bought_along"] = _rows(
        """
        SELECT other.product AS id, p.name, COUNT(*) AS times
        FROM sale mine
        JOIN sale other ON other.basket = mine.basket AND other.product != mine.product
        JOIN product p ON p.id = other.product
        WHERE mine.product = :id
        GROUP BY other.product ORDER BY times DESC, other.product LIMIT 5
        """,
        {"id": number},
    )
    return found[0]


def products(category: str, page: int) -> list[dict[str, Any]]:
    """One page of a category and its subcategories, best sellers first. Pages count from 1."""
    return _rows(
        """
        WITH RECURSIVE below (id) AS (
            SELECT id FROM category WHERE slug = :category
            UNION ALL
            SELECT c.id FROM category c JOIN below b ON c.parent = b.id
        )
        SELECT p.id, p.name, p.cents, COALESCE(SUM(s.quantity), 0) AS sold
        FROM product p LEFT JOIN sale s ON s.product = p.id
        WHERE p.category IN (SELECT id FROM below)
        GROUP BY p.id ORDER BY sold DESC, p.id LIMIT :size OFFSET :skip
        """,
        {"category": category, "size": PAGE_SIZE, "skip": (page - 1) * PAGE_SIZE},
    )


def best_sellers(count: int) -> list[dict[str, Any]]:
    """The best-selling products of all categories."""
    return _rows(
        """
        SELECT p.id, p.name, p.cents, SUM(s.quantity) AS sold
        FROM product p JOIN sale s ON s.product = p.id
        GROUP BY p.id ORDER BY sold DESC, p.id LIMIT :count
        """,
        {"count": count},
    )


def monthly_report() -> list[dict[str, Any]]:
    """Revenue by month and top category, with the category's share of the month."""
    return _rows(
        """
        SELECT s.month, top.slug AS category, SUM(s.quantity * p.cents) AS cents,
               ROUND(100.0 * SUM(s.quantity * p.cents)
                     / SUM(SUM(s.quantity * p.cents)) OVER (PARTITION BY s.month), 1) AS percent
        FROM sale s
        JOIN product p ON p.id = s.product
        JOIN category leaf ON leaf.id = p.category
        JOIN category top ON top.id = leaf.parent
        GROUP BY s.month, top.id ORDER BY s.month, cents DESC
        """,
        {},
    )


def change_price(number: int, cents: int) -> bool:
    """Set a product's price. False if there is no such product."""
    with _connection() as connection:
        changed = connection.execute(
            "UPDATE product SET cents = :cents, version = version + 1 WHERE id = :id",
            {"id": number, "cents": cents},
        )
        return changed.rowcount == 1
