"""From a response's head to how it may be kept: storing, freshness, rules and tags put together."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

from layergate.config import MAX_TAG_LENGTH, ONE_REQUEST_STATUSES, Options, Rule
from layergate.core.entry import Entry
from layergate.http.extensions.groups import group_tags, without_groups
from layergate.http.extensions.targeted import policy_of
from layergate.http.message.cache_control import EMPTY, LAYERGATE_CONTROL, CacheControl
from layergate.http.message.fields import Fields, Lines, split_list
from layergate.http.message.request import Request
from layergate.http.message.stored import StoredResponse
from layergate.http.privacy.forwarding import forwarding_of
from layergate.http.privacy.tokens import has_token, head_has_token
from layergate.http.rfc9111.freshness import Lifetime, freshness_lifetime, initial_age
from layergate.http.rfc9111.selecting import vary_names, with_vary
from layergate.http.rfc9111.storing import (
    Refused,
    authorization_allows,
    may_store,
    refused_by_directives,
    says_for_all,
    storable_fields,
)
from layergate.http.rfc9111.validation import has_validator, updated_fields
from layergate.http.rules import Match, fill_tags

__all__ = [
    "TAG_FIELDS",
    "Plan",
    "certain_refusal",
    "internal_fields",
    "plan_storage",
    "plan_update",
    "response_tags",
    "targets_of",
]

TAG_FIELDS: Final = frozenset({b"cache-tag", b"surrogate-key"})
# Set-Cookie2 is obsolete (RFC 6265 section 9.4), and alone a field like any other, for no client acts on
# it. Beside Set-Cookie it says whose session that is.
_COOKIES: Final = frozenset({b"set-cookie", b"set-cookie2"})
_NOT_WHOLE: Final = frozenset({206, 304})
# RFC 9110 5.1, 5.5. An empty name leaves no trace in the names run together, hence the look for it.
_NAMES: Final[Callable[[bytes], object]] = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]*").fullmatch
_NOT_IN_VALUES: Final[Callable[[bytes], object]] = re.compile(rb"[\r\n\0]").search
# Media types of responses without an end. Whoever means to share one says so in the response.
_STREAMS: Final = frozenset({b"text/event-stream", b"multipart/x-mixed-replace"})


class Plan(NamedTuple):
    """How a response is to be stored. Times: seconds since the epoch; windows: seconds."""

    lines: Lines  # the fields to store
    generated: float
    response_time: float
    fresh_until: float
    stale_while_revalidate: float
    stale_if_error: float
    expires: float
    tags: tuple[str, ...]
    vary: tuple[bytes, ...]  # request fields that select it: those of Vary and of the rule
    names: tuple[bytes, ...]  # and those by which proxies tell the app where it is
    no_cache: bool
    must_revalidate: bool
    without_credentials_only: bool
    shared_with_authorization: bool
    shared_with_users: bool
    immutable: bool
    lifetime: Lifetime
    own: bytes | None = None  # LayerGate-Cache-Control, which is stored but not sent

    @property
    def lent(self) -> bool:
        """Is its lifetime not the response's own, but a rule's or a guess?"""
        return self.lifetime.source in ("rule", "heuristic")

    @property
    def shareable(self) -> bool:
        """May requests that wait for it now be answered with it, as with a stored response?"""
        return not self.no_cache and (
            self.fresh_until + self.stale_while_revalidate > self.response_time
        )


def targets_of(options: Options) -> tuple[bytes, ...]:
    """The target list of RFC 9213, lower-case names."""
    return _targets(options.targets)  # type: ignore[arg-type]  # a tuple by now


@lru_cache(maxsize=64)
def _targets(names: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(name.encode("ascii") for name in names)


def internal_fields(options: Options) -> frozenset[bytes]:
    """The response fields, lower-case names, that are for this cache and not for its clients."""
    return _kept_back(options.strip_tags, LAYERGATE_CONTROL in targets_of(options))


@lru_cache(maxsize=4)
def _kept_back(tags: bool, own: bool) -> frozenset[bytes]:
    names = TAG_FIELDS if tags else frozenset()
    return names | {LAYERGATE_CONTROL} if own else names


def response_tags(fields: Fields) -> tuple[str, ...] | None:
    """The tags of ``Cache-Tag`` (comma list) and ``Surrogate-Key`` (space list), in order, without
    duplicates; None if one is too long to be purged by, or has a NUL, as only tags of ours have."""
    tags: dict[str, None] = {}
    for line in fields.all(b"cache-tag"):
        for tag in split_list(line):
            tags[tag.decode("utf-8", "surrogateescape")] = None
    for line in fields.all(b"surrogate-key"):
        for tag in line.split():
            tags[tag.decode("utf-8", "surrogateescape")] = None
    if any(len(tag) > MAX_TAG_LENGTH or "\0" in tag for tag in tags):
        return None
    return tuple(tags)


def plan_storage(
    request: Request,
    status: int,
    fields: Fields,
    match: Match | None,
    options: Options,
    *,
    request_time: float,
    response_time: float,
) -> Plan | Refused:
    """Everything section 3 and 4.2 say about this response, and the rule where the response leaves
    room for one."""
    rule = match.rule if match is not None else None
    if rule is not None and rule.bypass:
        return Refused.RULE
    policy = policy_of(fields, targets_of(options))
    directives, seen = policy.directives, policy.fields
    if not policy.withheld:
        certain = certain_refusal(
            status,
            directives if policy.decided_by else None,
            rule,
            has_expires=b"expires" in seen,
            guesses=options.heuristic is not None,
            cookie=request.cookie,
            authorization=request.authorization,
            secured=request.secured,
        )
        if certain is not None:
            return certain

    if not _well_formed(fields.lines):
        return Refused.MALFORMED

    lifetime: Lifetime | None = None
    excuse: Refused | None = None
    granted_ttl = None if rule is None or policy.withheld else rule.lifetime(status)
    if rule is not None and granted_ttl is not None:
        explicit = directives.has_explicit or b"expires" in seen
        overridden = rule.override and not (directives.no_store or directives.private)
        if not explicit or overridden:
            excuse = _excuse(request, match)
            if excuse is None:
                lifetime = Lifetime(granted_ttl, "rule")
                # An override is about how long, never about fields that are someone's own.
                directives = EMPTY._replace(
                    private_fields=directives.private_fields,
                    no_cache_fields=directives.no_cache_fields,
                )
    by_rule = lifetime is not None
    if lifetime is None:
        lifetime = freshness_lifetime(
            seen,
            directives,
            status,
            response_time=response_time,
            heuristic_fraction=None if policy.withheld else options.heuristic,
        )

    refused = may_store(
        method="GET" if request.method == "HEAD" else request.method,
        request_fields=request.fields,
        request_cc=request.directives,
        status=status,
        fields=seen,
        cc=directives,
        explicit_lifetime=lifetime.source in ("rule", "heuristic"),
        allow_set_cookie=rule is not None and bool(rule.allow_set_cookie),
        allow_authorization=by_rule,
    )
    if refused is not None:
        # With an excuse: what is wrong with this response says nothing about one to a request that
        # the rule does cover.
        return refused if excuse is None else excuse
    guessed = lifetime.source == "heuristic"
    if guessed or by_rule:
        refused = _not_to_lend_to(request, fields, guessed=guessed)
        if refused is not None:
            return refused
    names = vary_names(fields)
    if names is None:
        return Refused.VARY_STAR
    allowed = authorization_allows(directives)
    for_all = says_for_all(directives)
    refused = _kept_to_one(request, for_all=for_all, by_rule=by_rule)
    if refused is not None:
        return refused
    if rule is not None:
        names = _selected_by(names, rule, by_rule=by_rule)
    tags = _all_tags(request, fields, match, options)
    if isinstance(tags, Refused):
        return tags

    age = initial_age(fields, request_time=request_time, response_time=response_time)
    generated = response_time - age
    # A rule's lifetime is ours to count: it runs from when the response came.
    fresh_until = (response_time if by_rule else generated) + lifetime.seconds
    must = directives.must_revalidate or directives.proxy_revalidate or directives.no_cache
    must_revalidate = must or directives.s_maxage is not None
    brief = by_rule and rule is not None and rule.is_brief(status)
    windows: list[float] = []
    for own, granted in (
        (directives.stale_while_revalidate, rule and rule.stale_while_revalidate),
        (directives.stale_if_error, rule and rule.stale_if_error),
    ):
        # s-maxage implies proxy-revalidate (5.2.2.10), but a response that names a stale window
        # beside it is "a cache extension that can override" (section 4), and origins do write
        # "s-maxage=60, stale-while-revalidate=30". A rule's window is no such thing.
        if own is not None:
            windows.append(0.0 if must else float(own))
        else:
            windows.append(0.0 if must_revalidate or brief or granted is None else float(granted))  # type: ignore[arg-type]
    swr, sie = windows
    keep = float(options.keep) if has_validator(fields) else 0.0  # type: ignore[arg-type]
    expires = fresh_until + max(swr, sie, keep)
    if expires <= response_time:
        return Refused.EXPIRED
    drop = internal_fields(options)
    if b"set-cookie" in fields and not keeps_cookies(match):
        drop |= _COOKIES
    return Plan(
        lines=with_vary(storable_fields(fields, directives, drop=drop), names),
        vary=names,
        generated=generated,
        response_time=response_time,
        fresh_until=fresh_until,
        stale_while_revalidate=swr,
        stale_if_error=sie,
        expires=expires if must_revalidate else max(expires, fresh_until + _unreachable(options)),
        tags=tags,
        names=forwarding_of(options.forwarding_fields).selecting(names, request.fields.names()),  # type: ignore[arg-type]
        no_cache=directives.no_cache,
        must_revalidate=must_revalidate,
        without_credentials_only=guessed
        or (by_rule and rule is not None and not rule.allow_cookie),
        shared_with_authorization=allowed
        or (by_rule and rule is not None and bool(rule.allow_authorization)),
        shared_with_users=for_all or (by_rule and rule is not None and rule.allow_cookie),
        immutable=directives.immutable,
        lifetime=lifetime,
        own=fields.get(LAYERGATE_CONTROL) if LAYERGATE_CONTROL in drop else None,
    )


def certain_refusal(
    status: int,
    control: CacheControl | None,
    rule: Rule | None,
    *,
    has_expires: bool,
    guesses: bool,
    cookie: bool,
    authorization: bool,
    secured: bool = False,
) -> Refused | None:
    """Why a response is certainly not stored, by what it says of caching, by its rule, and by the
    credentials of its request. None: look at the rest of it.

    These are the commonest refusals, and they need next to nothing. So `plan_storage` looks at them
    first, and for a target that is known not to be shareable they are looked at alone.

    ``control``: the directives of the response, or None if it has none. ``guesses``: a heuristic
    lifetime is configured.
    """
    ttl = None if rule is None else rule.lifetime(status)
    if control is None:
        if has_expires or guesses:
            return None
        if rule is None or ttl is None:
            return Refused.NO_FRESHNESS  # an app that does not speak of caching
        return _excuse_for(rule, cookie=cookie, authorization=authorization, secured=secured)
    if status in _NOT_WHOLE or not 200 <= status <= 599 or status in ONE_REQUEST_STATUSES:
        return None
    if ttl is not None and rule is not None and rule.override:
        if not (control.no_store or control.private):
            return None
    return refused_by_directives(EMPTY, control, status)


def _excuse(request: Request, match: Match | None) -> Refused | None:
    """Why the lifetime of a rule is not for the response to this request; None if it is."""
    assert match is not None
    excuse = _excuse_for(
        match.rule,
        cookie=request.cookie,
        authorization=request.authorization,
        secured=request.secured,
    )
    if excuse is not None:
        return excuse
    return None if match.is_certain(request) else Refused.PATH


def _excuse_for(rule: Rule, *, cookie: bool, authorization: bool, secured: bool) -> Refused | None:
    if secured:  # whatever the rule allows: it does not say for whom
        return Refused.SECURITY
    if cookie and not rule.allow_cookie:
        return Refused.COOKIE
    return Refused.AUTHORIZATION if authorization and not rule.allow_authorization else None


def _kept_to_one(request: Request, *, for_all: bool, by_rule: bool) -> Refused | None:
    """Why a response is for one client, whatever its lifetime is; None: it is not. ``for_all``: it says
    so itself; ``by_rule``: its lifetime is a rule's."""
    if request.secured and not for_all:
        # A route that asks who is calling knows its user, or sends the others away.
        return Refused.SECURITY
    return Refused.USER if request.personal and not (for_all or by_rule) else None


def _selected_by(names: tuple[bytes, ...], rule: Rule, *, by_rule: bool) -> tuple[bytes, ...]:
    """The request fields that select the response: ``names``, by its Vary, and those of the rule."""
    more = {name.encode("ascii") for name in rule.vary}
    if by_rule and rule.allow_authorization == "each":
        more.add(b"authorization")
    return tuple(sorted({*names, *more})) if more else names


def keeps_cookies(match: Match | None) -> bool:
    """Are Set-Cookie lines stored and repeated to everyone (``allow_set_cookie="keep"``)?"""
    return match is not None and match.rule.allow_set_cookie == "keep"


def _well_formed(lines: Lines) -> bool:
    """RFC 9110 5.5: "a recipient of CR, LF, or NUL within a field value MUST either reject the message
    or replace each of those characters with SP before further processing or forwarding". An obsolete
    line folding is such a one. Whoever sends the message on may; it is not kept to be repeated."""
    names = b"".join([name or b"\0" for name, _ in lines])
    return bool(_NAMES(names)) and not _NOT_IN_VALUES(b"".join([value for _, value in lines]))


def _all_tags(
    request: Request, fields: Fields, match: Match | None, options: Options
) -> tuple[str, ...] | Refused:
    """The tags of the response, of its rule and for its cache groups; or why it cannot have them."""
    tags = response_tags(fields)
    groups = group_tags(request.scheme, request.host, fields)
    if tags is None or groups is None:
        return Refused.TAGS
    if match is not None:
        filled = fill_tags(match.rule.tags, match.params)
        if filled is None:
            return Refused.TAG_TEMPLATE
        tags = tuple(dict.fromkeys(tags + filled))
    return Refused.TAGS if len(tags) > options.max_tags else tags + groups


def _unreachable(options: Options) -> float:
    """For how long after its freshness a response is kept in case the origin cannot be reached."""
    window = options.stale_if_unreachable
    return 0.0 if window is None else float(window)  # type: ignore[arg-type]


def _not_to_lend_to(request: Request, fields: Fields, *, guessed: bool) -> Refused | None:
    """Why a rule's lifetime, or one that is ``guessed``, is not for this response."""
    if _is_stream(fields):
        return Refused.STREAM
    if head_has_token(fields):
        return Refused.TOKEN
    return Refused.COOKIE if guessed and request.cookie else None


def _is_stream(fields: Fields) -> bool:
    media_type = (fields.first(b"content-type") or b"").partition(b";")[0]
    return media_type.strip().lower() in _STREAMS


def plan_update(
    request: Request,
    entry: Entry,
    fields: Fields,
    match: Match | None,
    options: Options,
    *,
    request_time: float,
    response_time: float,
) -> tuple[Plan | Refused, Lines]:
    """How a stored response is to be kept now that a 304 or a HEAD response with these ``fields``
    has confirmed it (3.2, 4.3.4, 4.3.5); and its updated fields as they are sent."""
    stored: StoredResponse = entry.value
    directives = policy_of(fields, targets_of(options)).directives
    lines = updated_fields(
        stored.all_lines,
        fields,
        directives,
        targets=targets_of(options),
        allow_set_cookie=keeps_cookies(match),
    )
    if b"date" not in fields:
        # RFC 9110 6.6.1: then the time of receipt is its date, not that of the older response.
        lines = [line for line in lines if line[0] != b"date"]
    # Age is of this message, not to be stored, but to be counted.
    ages = [(b"age", value) for value in fields.all(b"age")]
    planned = plan_storage(
        request,
        stored.status,
        Fields([*lines, *ages]),
        match,
        options,
        request_time=request_time,
        response_time=response_time,
    )
    if isinstance(planned, Plan) and planned.lent and has_token(stored.fields, stored.body):
        planned = Refused.TOKEN  # which a rule that is new, or has changed, would not have let in
    if isinstance(planned, Plan):
        tags = planned.tags
        if TAG_FIELDS.isdisjoint(fields.names()):
            # It does not speak of tags: those of the stored response stay. (Its groups are in the
            # updated fields, or are no more; nor do other tags of ours come from the response.)
            own = tuple(tag for tag in entry.tags if not tag.startswith("\0"))
            tags = tuple(dict.fromkeys(own + tags))
        if len(without_groups(tags)) > options.max_tags:
            planned = Refused.TAGS
        else:
            planned = planned._replace(tags=tags)
    hidden = internal_fields(options)
    return planned, [line for line in lines if line[0] not in hidden]
