"""Every name that LayerGate's telemetry uses: spans, metrics, attributes. Nothing else names any.

OpenTelemetry's semantic conventions name what is not ours (``http.*``, ``error.type``); there are
none for caches. What is ours is under ``layergate.``, with units as the conventions have them:
seconds ``s``, bytes ``By``, and counted things in braces.

Of a request no attribute tells more than its method. Path, query and fields may hold what is
nobody's business, and a key is made of them: it is told only on request, and hashed (`KEY_HASH`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

SCOPE: Final = "layergate"
"""The instrumentation scope of all of it."""

# -- spans: what the engine calls an operation -> its span ---------------------------------------

SPANS: Final[Mapping[str, str]] = {
    "lookup": "layergate.lookup",          # what is stored for a request, in all layers
    "fetch": "layergate.fetch",            # a call of the app (or of a fetch function)
    "revalidate": "layergate.revalidate",  # one with validators of ours
    "refresh": "layergate.refresh",        # one in the background: a trace of its own
    "wait": "layergate.wait",              # a follower's, for a fetch of another request
    "store": "layergate.store",            # of what was fetched, into all layers
    "backfill": "layergate.backfill",      # of what a lower layer had, into one above
    "purge": "layergate.purge",            # until every instance has applied it
}  # fmt: skip

READY: Final = "layergate.fetch.ready"
"""Event on a fetch's span: the fleet's lease is ours (or is not waited for any longer), the app is
called from here on."""

# -- attributes: what the engine calls a fact -> its attribute -----------------------------------

ERROR_TYPE: Final = "error.type"
METHOD: Final = "http.request.method"
STATUS: Final = "http.response.status_code"
AGE: Final = "layergate.age"
CACHE: Final = "layergate.cache.name"
FINAL: Final = "layergate.purge.final"
INSTANCES: Final = "layergate.purge.instances"
APPLIED: Final = "layergate.purge.applied"
MATCHED: Final = "layergate.purge.matched"
PURGE_SCOPE: Final = "layergate.purge.scope"
KEY_HASH: Final = "layergate.key.hash"
KINDS: Final = "layergate.purge.kinds"
LAYER: Final = "layergate.layer"
INVALIDATIONS: Final = "layergate.purge.invalidations"
OPERATION: Final = "layergate.operation"
OUTCOME: Final = "layergate.outcome"
REASON: Final = "layergate.reason"
RESULT: Final = "layergate.result"
SCOPE_OF_WAIT: Final = "layergate.wait.scope"
SOURCE: Final = "layergate.source"

ATTRIBUTES: Final[Mapping[str, str]] = {
    "age": AGE,                       # of the stored response, seconds
    "keys": "layergate.keys",         # how many, of a fetch or lookup in bulk
    "layer": LAYER,                   # a layer's name
    "method": METHOD,
    "reason": REASON,                 # why there is a fetch, in the words of RFC 9211 2.2
    "refused": "layergate.refused",   # why a response is not stored
    "result": RESULT,                 # of a lookup: hit, stale, revalidate, miss; of a wait: how it ended
    "rule": "layergate.rule",         # the pattern of the rule that matched
    "scope": SCOPE_OF_WAIT,           # process, or fleet
    "size": "layergate.size",         # of what is stored, bytes
    "source": SOURCE,                 # the layer that an entry is copied from
    "status": STATUS,
    "stored": "layergate.stored",     # was it, in the end?
}  # fmt: skip

# By what durations are told apart.
DURATION_ATTRIBUTES: Final[Mapping[str, str]] = {"scope": SCOPE_OF_WAIT, "status": STATUS}
# By what events are counted apart (`layergate.core.events.LABELS`).
EVENT_ATTRIBUTES: Final[Mapping[str, str]] = {
    "layer": LAYER,
    "operation": OPERATION,
    "reason": REASON,
    "source": SOURCE,
}

# -- metrics -------------------------------------------------------------------------------------


class Instrument(NamedTuple):
    """``kind``: what it is by OpenTelemetry's names: ``histogram``, ``counter``, ``updown`` (what
    can be added up over instances), ``gauge`` (what cannot: of several the highest tells most),
    ``least`` (a gauge of which the lowest does).

    What is counted has its unit in braces: then every exporter to Prometheus makes the same name of
    it. (Of the unit ``1`` some make the suffix ``_ratio``.)"""

    name: str
    unit: str
    description: str
    kind: str = "counter"


# Durations of operations, as histograms, by what the engine calls them.
_FETCH: Final = Instrument(
    "layergate.fetch.duration", "s", "Calls of the app, to the end of its response.", "histogram"
)
DURATIONS: Final[Mapping[str, Instrument]] = {
    "fetch": _FETCH,
    "revalidate": _FETCH,
    "refresh": _FETCH,
    "wait": Instrument("layergate.wait.duration", "s", "Waits for the fetch of another request.", "histogram"),
    "purge": Instrument("layergate.purge.duration", "s", "From a purge to its being applied everywhere.", "histogram"),
}  # fmt: skip
AGES: Final = Instrument(
    "layergate.hit.age",
    "s",
    "Age of the response at a hit; of hits in the top layer one in 256.",
    "histogram",
)
BUCKETS: Final[Mapping[str, tuple[float, ...]]] = {
    # As the conventions advise for HTTP durations.
    _FETCH.name: (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
    DURATIONS["wait"].name: (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    DURATIONS["purge"].name: (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5),
    AGES.name: (1, 5, 15, 60, 300, 900, 3600, 14400, 43200, 86400, 604800),
}

REQUESTS: Final = Instrument(
    "layergate.requests", "{request}", "GET and HEAD requests, by how they were answered."
)

# Counted by the engine, as events; by what it calls them.
COUNTS: Final[Mapping[str, Instrument]] = {
    "backfill": Instrument("layergate.backfills", "{entry}", "Entries copied into a layer above."),
    "fetch_error": Instrument("layergate.fetch.errors", "{error}", "Calls of the app that raised."),
    "layer_error": Instrument("layergate.layer.errors", "{error}", "Operations of layers that failed."),
    "purge": Instrument("layergate.purges", "{purge}", "Purges made here, by unsafe requests too."),
    "refresh": Instrument("layergate.refreshes", "{refresh}", "Background refreshes begun."),
    "refresh_skipped": Instrument(
        "layergate.refresh.skipped", "{refresh}", "Background refreshes that were not needed, or too many."
    ),
    "refused": Instrument("layergate.refusals", "{response}", "Responses not stored, by reason."),
    "stale": Instrument(
        "layergate.stale",
        "{response}",
        "Stale responses used, by reason; of those who waited for the same error, one.",
    ),
    "store": Instrument("layergate.stores", "{entry}", "Entries written, markers and indexes included."),
    "wait_timeout": Instrument("layergate.wait.timeouts", "{request}", "Waits given up."),
    "write_error": Instrument("layergate.write.errors", "{error}", "Entries that a layer did not take."),
}  # fmt: skip

# What a layer says of itself (`Layer.stats`).
LAYERS: Final[Mapping[str, Instrument]] = {
    "breaker": Instrument(
        "layergate.breaker.state", "{state}", "0 closed, 1 half-open, 2 open.", "gauge"
    ),
    "budget": Instrument("layergate.layer.limit", "By", "What a layer may use.", "updown"),
    "bytes": Instrument("layergate.layer.usage", "By", "What a layer uses.", "updown"),
    "entries": Instrument("layergate.layer.entries", "{entry}", "Entries in a layer.", "updown"),
    "evictions": Instrument("layergate.evictions", "{entry}", "Entries removed to make room."),
}
# What the log says of itself (`Log.stats`).
LOG: Final[Mapping[str, Instrument]] = {
    "log_lag": Instrument(
        "layergate.log.lag",
        "{position}",
        "Positions of the shared log known to be there and not applied yet.",
        "gauge",
    ),
    "log_outbox": Instrument(
        "layergate.log.outbox", "{record}", "Purges that wait for the shared layer.", "updown"
    ),
    "log_position": Instrument(
        "layergate.log.position", "{position}", "Last position of the shared log applied.", "gauge"
    ),
    "log_trusted": Instrument(
        "layergate.log.trusted",
        "{state}",
        "1: in touch with the fleet; 0: cut off from it.",
        "least",
    ),
}
# What is under way, as `Cache.stats` says.
STATES: Final[Mapping[str, Instrument]] = {
    "flights": Instrument(
        "layergate.flights", "{fetch}", "Fetches under way that others may join.", "updown"
    ),
    "inflight_bytes": Instrument(
        "layergate.flight.usage", "By", "Bodies being received to be stored.", "updown"
    ),
    "refreshing": Instrument(
        "layergate.refresh.active", "{refresh}", "Background refreshes under way.", "updown"
    ),
    "waiters": Instrument(
        "layergate.waiters", "{request}", "Requests that wait for another one's fetch.", "updown"
    ),
}
