"""What ``layergate init`` and ``layergate check`` ask of a MongoDB. Blocks, on a client of its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pymongo
from pymongo import MongoClient
from pymongo.errors import (
    CollectionInvalid,
    ConfigurationError,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri

from layergate.errors import ConfigError, LayerError, LayerRefused
from layergate.layers.mongodb.blobs import INDEX, make_index
from layergate.layers.mongodb.client import (
    RESEMBLES,
    Handles,
    MongoConnection,
    passed,
    resembling,
    trial,
)
from layergate.layers.mongodb.errors import NO_PRIMARY, NO_SET, NO_STREAM, UNSUPPORTED, reason
from layergate.remote.urls import shown

__all__ = ["check_url", "examine", "setup"]

_ANSWERS: Final = 10.0  # seconds
_EXISTS: Final = 48
_IMMUTABLE: Final = 66
_NOBODY: Final = {"_id": "layergate check", "v": "nobody's"}  # matches no document


def check_url(url: object) -> None:
    """Raises ConfigError, without a secret in it, for what pymongo cannot use. Connects to nothing."""
    kind: Any = MongoClient
    try:
        if not isinstance(url, str):
            raise ConfigurationError("it is no string")
        if not url.startswith("mongodb+srv:"):  # to parse those means to ask the DNS
            parse_uri(url, warn=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            # (Of a server that only resembles MongoDB, which may do for bodies.)
            warnings.filterwarnings("ignore", "You appear to be connected")
            kind(url, connect=False)
    except (PyMongoError, ValueError, UserWarning) as error:
        told = shown(url) if isinstance(url, str) else type(url).__name__
        raise ConfigError(
            f"url must be one that MongoDB reads, such as 'mongodb://host/database', got {told!r};"
            " see the section about connection strings in its documentation"
        ) from error
    except OSError as error:  # a file that the URL names
        raise ConfigError(f"url must name files that can be read: {error.args[-1]}") from error


@contextmanager
def _handles(connection: MongoConnection) -> Iterator[Handles]:
    """Raises LayerError for what is neither expected nor an answer of the server."""
    client = connection.make(MongoClient, _ANSWERS)
    try:
        with pymongo.timeout(_ANSWERS):
            hello = client.admin.command("hello")
            if not hello.get("isWritablePrimary"):
                raise LayerRefused(connection.name, NO_PRIMARY)
            yield connection.handles(client)
    except PyMongoError as error:
        raise LayerError(connection.name, f"cannot ask it: {reason(error)}") from error
    finally:
        client.close()


def setup(connection: MongoConnection) -> Sequence[str]:
    """See `SystemLayer.setup`."""
    with _handles(connection) as handles:
        try:
            return list(_made(handles))
        except OperationFailure as error:
            raise ConfigError(f"the collections cannot be made: {reason(error)}") from error


def _made(handles: Handles) -> Iterator[str]:
    names = _collections(handles)
    for collection in (handles.entries, handles.cells):
        if collection.name in names:
            continue
        try:
            collection.database.create_collection(collection.name, check_exists=False)
            yield f"Made the collection {collection.full_name}."
        except (OperationFailure, CollectionInvalid) as error:
            # Another process may have made it at the same moment.
            if getattr(error, "code", _EXISTS) != _EXISTS:
                raise
    if not _indexed(handles):
        make_index(handles.entries)
        yield f"Made the index {INDEX} on {handles.entries.full_name}."


def _collections(handles: Handles) -> list[str]:
    """Those that the user may know of."""
    found: list[str] = handles.entries.database.list_collection_names(
        authorizedCollections=True, nameOnly=True
    )
    return found


def _indexed(handles: Handles) -> bool:
    return INDEX in handles.entries.index_information()


def examine(connection: MongoConnection) -> Sequence[str]:
    """See `SystemLayer.examine`."""
    with _handles(connection) as handles:
        return list(_told(handles))


def _told(handles: Handles) -> Iterator[str]:
    try:
        names = _collections(handles)
        missing = [
            one.full_name for one in (handles.entries, handles.cells) if one.name not in names
        ]
        if missing:
            yield f"Missing: {' and '.join(missing)}. Run layergate init URL."
            return
        if not _indexed(handles):
            yield (
                f"The index that removes what has expired is missing on {handles.entries.full_name}:"
                " run layergate init URL."
            )
    except OperationFailure as error:
        yield f"It cannot be told what is missing: {reason(error)}."
    yield from _coordination(handles)
    for collection, what in ((handles.entries, "Entries"), (handles.cells, "Cells")):
        yield from _rights(collection, what)


def _concerned(handles: Handles) -> bool:
    """True if the server looks at read concerns."""
    try:
        handles.cells.database.command(trial(handles))
    except OperationFailure as error:
        return passed(error)
    return False


def _coordination(handles: Handles) -> Iterator[str]:
    """What keeps purges from being final."""
    try:
        if resembling(handles) or not _concerned(handles):
            yield f"{RESEMBLES[0].upper()}{RESEMBLES[1:]}."
            return
        handles.cells.find_one(_NOBODY)
    except OperationFailure as error:
        if error.code == NO_SET and handles.alone:
            pass
        elif error.code in UNSUPPORTED:
            yield (
                f"This server reads nothing linearizably ({reason(error)}): it cannot coordinate. Use it for"
                " bodies, and another system for coordination (Shared)."
            )
            return
        else:
            yield f"Cells cannot be read: {reason(error)}."
    if handles.alone:
        yield (
            "This server is standalone: a purge is found by looking instead of by a change stream, and a disk that"
            " is lost loses the log. A replica set of one member has change streams."
        )
        return
    try:
        handles.watched.watch([]).close()
    except OperationFailure as error:
        if error.code in NO_STREAM:
            yield "This server has no change streams: processes look for purges at intervals."
        else:
            yield f"Changes of cells cannot be watched: {reason(error)}."


def _rights(collection: Any, what: str) -> Iterator[str]:
    """By operations that change nothing, whoever may do them."""
    change = {"$set": {"d": b""}}
    trials: tuple[tuple[str, Callable[[], object]], ...] = (
        (
            "read",
            lambda: collection.with_options(read_concern=ReadConcern("local")).find_one(_NOBODY),
        ),
        ("changed", lambda: collection.update_one(_NOBODY, change)),
        # (What is looked for is not what would be made, so MongoDB refuses that; but first it looks at the rights.)
        (
            "made",
            lambda: collection.update_one(_NOBODY, {"$set": {"_id": "layergate"}}, upsert=True),
        ),
        ("removed", lambda: collection.delete_one(_NOBODY)),
    )
    for done, attempt in trials:
        try:
            attempt()
        except WriteConcernError as error:
            yield f"{what} are not confirmed by a majority of the set: {reason(error)}."
            return
        except OperationFailure as error:
            if error.code != _IMMUTABLE:
                yield f"{what} cannot be {done}: {reason(error)}."
