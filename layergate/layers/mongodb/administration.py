"""What ``layergate init`` and ``layergate check`` ask of a MongoDB. Blocks, on a client of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pymongo
from pymongo import MongoClient
from pymongo.errors import InvalidURI, OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri

from layergate.errors import ConfigError, LayerError, LayerRefused
from layergate.layers.mongodb.blobs import make_index
from layergate.layers.mongodb.client import Handles, MongoConnection
from layergate.layers.mongodb.errors import NO_STREAM, UNSUPPORTED, ported
from layergate.remote.urls import shown

__all__ = ["check_url", "examine", "setup"]

_ANSWERS = 10.0  # seconds


def check_url(url: object) -> None:
    """Raises ConfigError, without a secret in it, for what pymongo cannot read."""
    if isinstance(url, str) and url.startswith("mongodb+srv://"):
        return  # to read it means to ask the DNS
    try:
        if not isinstance(url, str):
            raise InvalidURI("it is no string")
        parse_uri(url, warn=False)
    except (PyMongoError, ValueError) as error:
        told = shown(url) if isinstance(url, str) else type(url).__name__
        raise ConfigError(
            f"url must be one that MongoDB reads, such as 'mongodb://host/database', got {told!r};"
            " see the section about connection strings in its documentation"
        ) from error


@contextmanager
def _handles(connection: MongoConnection, database: str, prefix: str) -> Iterator[Handles]:
    kind: Any = MongoClient
    client = kind(connection.url, appname="layergate", **connection.budget)
    try:
        with pymongo.timeout(_ANSWERS):
            hello = client.admin.command("hello")
            if not hello.get("isWritablePrimary"):
                raise LayerRefused(
                    connection.name,
                    "this server is no primary; name the replica set in the URL (replicaSet=...)",
                )
            handles = Handles(client, database, prefix, round(_ANSWERS * 1000))
            handles.standalone = "setName" not in hello and hello.get("msg") != "isdbgrid"
            yield handles
    except OperationFailure:
        raise
    except PyMongoError as error:
        raise LayerError(connection.name, f"cannot ask it: {error}") from error
    finally:
        client.close()


def setup(connection: MongoConnection, database: str, prefix: str) -> Sequence[str]:
    """See `SystemLayer.setup`."""
    try:
        with _handles(connection, database, prefix) as handles:
            names = handles.entries.database.list_collection_names()
            made = []
            for collection in (handles.entries, handles.cells):
                if collection.name not in names:
                    collection.database.create_collection(collection.name, check_exists=False)
                    made.append(f"Made the collection {collection.full_name}.")
            if "layergate_expires" not in handles.entries.index_information():
                make_index(handles.entries)
                made.append(f"Made the index layergate_expires on {handles.entries.full_name}.")
            return made
    except OperationFailure as error:
        if error.code == 48:  # another process made it at the same moment
            return setup(connection, database, prefix)
        raise ConfigError(
            f"the user of the URL cannot make the collections: {ported(connection.name, error)};"
            " give it the role readWrite on the database"
        ) from error


def examine(connection: MongoConnection, database: str, prefix: str) -> Sequence[str]:
    """See `SystemLayer.examine`."""
    told = []
    with _handles(connection, database, prefix) as handles:
        try:
            handles.cells.find_one({"_id": "layergate check"}, max_time_ms=round(_ANSWERS * 1000))
        except OperationFailure as error:
            if error.code not in UNSUPPORTED:
                return [f"The cells cannot be read: {ported(connection.name, error)}."]
            told.append(
                "This server does not read linearizably, as one that only resembles MongoDB: purges would not"
                " be final. Use it for bodies, and another system for coordination (Shared)."
            )
        try:
            handles.cells.update_one(
                {"_id": "layergate check"}, {"$set": {"d": b"", "v": b"check"}}, upsert=True
            )
            handles.cells.delete_one({"_id": "layergate check"})
        except OperationFailure as error:
            told.append(f"The cells cannot be written: {ported(connection.name, error)}.")
        if not handles.standalone:
            try:
                handles.watched.watch([]).close()
            except OperationFailure as error:
                if error.code not in NO_STREAM:
                    told.append(f"Changes cannot be watched: {ported(connection.name, error)}.")
        try:
            if "layergate_expires" not in handles.entries.index_information():
                told.append(
                    f"The index that removes what has expired is missing on {handles.entries.full_name}:"
                    " run layergate init URL."
                )
        except OperationFailure as error:
            if error.code != 26:
                told.append(f"The indexes cannot be read: {ported(connection.name, error)}.")
            else:
                told.append("The collections are missing: run layergate init URL.")
    return told
