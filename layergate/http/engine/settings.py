"""The options of one cache as the engine reads them: parsed, typed, and with what follows from them.

`Cache` makes one `Settings` from its `Options`, and a new one for each reload. A `Settings` never
changes, so whoever has read one sees options that belong together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from layergate.config import Options
from layergate.http.engine.added_lines import StatusLines
from layergate.http.message.fields import Fields, Lines
from layergate.http.privacy.forwarding import Forwarding, forwarding_of
from layergate.http.rfc9111.plan import internal_fields, targets_of
from layergate.http.rfc9111.selecting import secondary_key
from layergate.http.rules import RuleSet

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Fields with the name of an option are that option. Sizes are in bytes, times in seconds.

    ``status``            makes the Cache-Status lines.
    ``forwarding``        the request fields by which proxies tell the app where it is.
    ``internal_fields``   the response fields, lower-case names, that no client gets.
    ``targets``           the target list of RFC 9213, lower-case names; ``target_names`` is its set.
    ``collapse_fallback_504``  whether ``collapse_fallback`` is "504".
    """

    options: Options
    rules: RuleSet
    status: StatusLines
    forwarding: Forwarding
    internal_fields: frozenset[bytes]
    targets: tuple[bytes, ...]
    target_names: frozenset[bytes]
    background_refreshes: int
    collapse: bool
    collapse_fallback_504: bool
    collapse_timeout: float
    hit_for_miss_ttl: float
    language_match: bool
    language_order: bool
    layer_timeout: float
    max_body: int
    max_inflight: int
    max_key_length: int
    max_tags: int
    max_variants: int
    max_waiters: int
    no_vary_search: bool
    nominate_codings: bool
    origin_timeout: float | None
    reload_pause: float
    request_directives: bool
    slow_reader_timeout: float
    stale_if_unreachable: float | None
    stale_if_untrusted: float | None

    @classmethod
    def of(cls, options: Options) -> Self:
        """Raises ConfigError for a rule whose path could be slow to match."""
        parsed: Any = options  # sizes and times are numbers by now
        return cls(
            options=options,
            rules=RuleSet(options.rules),
            status=StatusLines(options.name, sent=options.cache_status),
            forwarding=forwarding_of(parsed.forwarding_fields),
            internal_fields=internal_fields(options),
            targets=targets_of(options),
            target_names=frozenset(targets_of(options)),
            background_refreshes=options.background_refreshes,
            collapse=options.collapse,
            collapse_fallback_504=options.collapse_fallback == "504",
            collapse_timeout=float(parsed.collapse_timeout),
            hit_for_miss_ttl=float(parsed.hit_for_miss_ttl),
            language_match=options.language_match,
            language_order=options.language_order,
            layer_timeout=float(parsed.layer_timeout),
            max_body=parsed.max_body,
            max_inflight=parsed.max_inflight,
            max_key_length=options.max_key_length,
            max_tags=options.max_tags,
            max_variants=options.max_variants,
            max_waiters=options.max_waiters,
            no_vary_search=options.no_vary_search,
            nominate_codings=options.nominate_codings,
            origin_timeout=parsed.origin_timeout,
            reload_pause=float(parsed.reload_pause or 0.0),
            request_directives=options.request_directives,
            slow_reader_timeout=float(parsed.slow_reader_timeout),
            stale_if_unreachable=parsed.stale_if_unreachable,
            stale_if_untrusted=parsed.stale_if_untrusted,
        )

    def secondary(self, names: tuple[bytes, ...], fields: Fields) -> bytes:
        """`secondary_key` with the option ``language_order``."""
        return secondary_key(names, fields, language_order=self.language_order)

    def for_clients(self, lines: Lines) -> Lines:
        """The lines of a response's head that clients may see."""
        hidden = self.internal_fields
        if not hidden:
            return lines
        return [line for line in lines if line[0].lower() not in hidden]
