"""The hit path: a plain fresh hit in the top layer, answered by one plain function.

Adapters call `HitPath.peek` (as `Cache.first_look`) before anything else. It takes no coroutine, no
lock, no I/O and no `Request`. None means "not this easily", and the request goes on to `Cache.open`.
Whatever `peek` answers, `open` would answer too; a property test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from layergate.core.shared import MappedLog
from layergate.core.stack import Stack
from layergate.http.engine.added_lines import AGES, MEMO, age_line
from layergate.http.engine.hit_for_miss import WITH_COOKIE
from layergate.http.engine.markers import HitForMiss, VariantIndex
from layergate.http.engine.settings import Settings
from layergate.http.engine.witness import live_hit_for_miss
from layergate.http.extensions.no_vary_search import SearchVariance, class_key, path_key
from layergate.http.message.cache_control import parse_cache_control
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.key import variant_key
from layergate.http.message.stored import Audience, PartialResponse, StoredResponse
from layergate.http.privacy.full_decision import FULL_DECISION_FIELDS, ByAudience, RequestTests

__all__ = ["FirstLook", "HitPath"]

_OTHER_DECISION_FIELDS: Final = FULL_DECISION_FIELDS - {b"authorization"}

FirstLook: TypeAlias = Callable[
    [bytes, Mapping[bytes, bytes]], tuple[StoredResponse, Lines] | HitForMiss | None
]
"""`HitPath.peek`, or what telemetry and the log have put around it."""


class HitPath:
    """What `peek` needs, bound once, since each attribute walk shows in the time of a hit."""

    __slots__ = (
        "_counters",
        "_hit_lines",
        "_invalidations",
        "_limits",
        "_mapped_log",
        "_monotonic",
        "_now",
        "_obeys",
        "_places",
        "_plain",
        "_says_status",
        "_secondaries",
        "_settings",
        "_shared_log",
        "_stack",
        "_tests",
        "_top",
        "_top_peek",
    )

    def __init__(self, stack: Stack, settings: Settings) -> None:
        self._stack = stack
        self._top_peek = stack.top_peek
        self._top = stack.layers[0].name
        self._invalidations = stack.invalidations
        log = self._shared_log = stack.shared_log
        self._mapped_log = log if isinstance(log, MappedLog) else None
        self._counters = stack.counters
        self._now = stack.runtime.now
        self._monotonic = stack.runtime.monotonic
        self._tests = RequestTests(settings.forwarding)
        self._plain = self._tests.none
        self._secondaries: dict[Any, tuple[bytes, ByAudience]] = {}
        self._limits: dict[bytes, tuple[float, float]] = {}
        self._places: dict[bytes, tuple[bytes, SearchVariance, bytes]] = {}
        self.reload(settings)

    def reload(self, settings: Settings) -> None:
        """Go by new options."""
        self._settings = settings
        self._obeys = settings.request_directives
        self._says_status = settings.status.sent
        self._hit_lines = settings.status.hits
        self._secondaries = {}  # after the options, which a thread may be making one by

    def peek(  # noqa: C901 - written out for speed
        self, key: bytes, fields: Mapping[bytes, bytes]
    ) -> tuple[StoredResponse, Lines] | HitForMiss | None:
        """The stored response and the lines to send, if this is a plain fresh hit in the top layer.

        Or the hit-for-miss marker, if the target is known not to be shareable and nothing in the
        request needs the full decision. Then the caller may forward at once; see `uncacheable`.

        ``fields``: the request's fields, none of which occurred twice. Agrees with `decision.decide`.
        """
        # Written for speed: what `stack.peek` and a few helpers would do stands here in line.
        log = self._shared_log
        if log is not None:
            mapped = self._mapped_log
            if mapped is None:
                if self._monotonic() >= log.trusted_until and not log.look():
                    return None
            elif mapped.end[0] != mapped.applied or self._monotonic() >= mapped.until:
                if not log.look():
                    return None
        try:
            entry = self._top_peek(key)
            if entry is None:
                return None
            position = self._invalidations.position
            if entry.checked != position and not self._stack.admits(key, entry):
                return None
            stored = entry.value
            plain = self._plain
            if stored.__class__ is VariantIndex:
                for names in stored.names:
                    if len(names) == 1:  # by far the most common: Accept-Encoding, or Accept
                        memo: Any = names, fields.get(names[0])
                    else:
                        memo = names, tuple(map(fields.get, names))
                    selected = self._secondaries.get(memo)
                    if selected is None:
                        selected = self._secondary(names, fields, memo)
                    digest, plain = selected
                    variant = key + digest
                    entry = self._top_peek(variant)
                    if entry is not None and entry.value.__class__ is StoredResponse:
                        if entry.checked == position or self._stack.admits(variant, entry):
                            break
                    elif entry is not None and entry.value.__class__ is PartialResponse:
                        return None  # the variant to look at, but more closely
                else:
                    return None
                stored = entry.value
        except Exception as error:
            self._stack.peek_failed(error)
            return None
        if stored.__class__ is not StoredResponse:
            if stored.__class__ is HitForMiss and self.forwards_plainly(fields):
                return live_hit_for_miss(self._now(), fields.items(), entry)
            return None
        now = self._now()
        ttl = entry.fresh_until - now
        if ttl <= 0 or stored.no_cache:
            return None
        nothing_matters = plain[stored.audience]
        if not nothing_matters(fields) and self._tests.needs_full_decision(nothing_matters, fields):
            return None
        elapsed = now - stored.generated
        if b"cache-control" in fields and self._obeys:
            control = fields[b"cache-control"]
            max_age, min_fresh = self._limits.get(control) or self._read_limits(control)
            if elapsed > max_age or ttl < min_fresh:
                return None
        counters = self._counters
        hits = counters.hits = counters.hits + 1
        if not hits & counters.sampled:
            counters.tracer.sample(elapsed, self._top)  # type: ignore[union-attr]
        age = int(elapsed)
        age_field = AGES[age] if 0 <= age < 3600 else age_line(age)
        if not self._says_status:
            return stored, [*stored.lines, age_field]
        return stored, [*stored.lines, age_field, self._hit_lines[int(ttl)]]

    def peek_search(
        self, key: bytes, fields: Mapping[bytes, bytes]
    ) -> tuple[StoredResponse, Lines] | HitForMiss | None:
        """As `peek`, for the option ``no_vary_search``: also looks at what No-Vary-Search makes
        equivalent, if nothing is stored under the target's own key."""
        hit = self.peek(key, fields)
        if hit is None and self._stack.peek(key) is None:
            path, variance, place = self._places.get(key) or (path_key(key), None, b"")
            said = self._stack.peek(path)
            if said is not None and said.value.__class__ is SearchVariance:
                if variance != said.value:
                    variance, place = said.value, class_key(key, said.value)
                    if len(key) + sum(map(len, variance.names)) <= 1024:
                        if len(self._places) >= MEMO:
                            self._places.clear()
                        self._places[key] = path, variance, place
                hit = self.peek(place, fields)
        return hit

    def forwards_plainly(self, fields: Mapping[bytes, bytes]) -> bool:
        """True if nothing in these fields, none of which occurred twice, keeps the request from being
        forwarded as it is when nothing stored can answer it."""
        if not self._plain[Audience.EVERYONE](fields):
            return False
        control = fields.get(b"cache-control")
        return control is None or b"only-if-cached" not in control.lower()

    def cookie_hit_for_miss(self, key: bytes, fields: Mapping[bytes, bytes]) -> HitForMiss | None:
        """The marker for requests with these cookies or other credentials, if nothing in these fields
        needs the full decision. For a request that `peek` has not answered."""
        if not self.forwards_plainly(fields):
            return None
        entry = self._stack.peek(key + WITH_COOKIE)
        return live_hit_for_miss(self._now(), fields.items(), entry, credentials=True)

    def is_for_one_user(self, key: bytes, fields: Mapping[bytes, bytes]) -> bool:
        """True for a request with Authorization, in which nothing else needs the full decision, for a
        target of which certainly nothing is stored. Its response is for nobody else, so nobody waits
        for it."""
        return (
            b"authorization" in fields
            and b"cache-control" not in fields
            and _OTHER_DECISION_FIELDS.isdisjoint(fields)
            and self._settings.forwarding.names.isdisjoint(fields)
            and self._stack.peek_is_enough
            and not self._settings.no_vary_search
            and self._stack.peek(key) is None
        )

    def _secondary(
        self, names: tuple[bytes, ...], fields: Mapping[bytes, bytes], memo: object
    ) -> tuple[bytes, ByAudience]:
        """What a variant's key ends in, and the tests for names that matter for it."""
        memos = self._secondaries  # before the options, so that a reload drops what older ones made
        present = [(name, fields[name]) for name in names if name in fields]
        digest = variant_key(b"", self._settings.secondary(names, Fields(present)))
        selected = digest, self._tests.selected_by(names)
        # Clients choose the values and origins the names, so the memo is bounded in number and length.
        if sum(len(value) for _, value in present) + sum(map(len, names)) <= 512:
            if len(memos) >= MEMO:
                memos.clear()
            memos[memo] = selected
        return selected

    def _read_limits(self, control: bytes) -> tuple[float, float]:
        """The greatest age and the least remaining lifetime that a request's Cache-Control allows
        without the full decision, seconds. An age of -1: none."""
        directives = parse_cache_control(control)
        max_age = float("inf")
        if directives.no_cache or directives.max_stale is not None or directives.max_age == 0:
            max_age = -1.0
        elif directives.max_age is not None:
            max_age = float(directives.max_age)
        limits = max_age, float(directives.min_fresh or 0)
        if len(control) <= 256:
            if len(self._limits) >= MEMO:
                self._limits.clear()
            self._limits[control] = limits
        return limits
