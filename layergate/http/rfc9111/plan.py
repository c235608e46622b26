"""Plan how a response is stored: from its head to a `Plan`, or to the reason not to store it.

`plan_storage` is the whole storing policy. It runs small steps in the order of RFC 9111 section 3:
configuration, syntax, lifetime, the conditions of section 3, privacy, tags, times. `plan_update` applies
the same policy to a stored response that a 304 or a response to HEAD has confirmed. Nothing here reads
the store.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

from layergate.config import MAX_TAG_LENGTH, ONE_REQUEST_STATUSES, Options, Rule
from layergate.core.entry import Entry
from layergate.http.extensions.groups import group_tags, without_groups
from layergate.http.extensions.targeted import Policy, policy_of
from layergate.http.message.cache_control import EMPTY, LAYERGATE_CONTROL, CacheControl
from layergate.http.message.fields import Fields, Lines, split_list
from layergate.http.message.request import Request
from layergate.http.message.stored import StoredResponse
from layergate.http.privacy.forwarding import forwarding_of
from layergate.http.privacy.tokens import has_token, head_has_token
from layergate.http.rfc9111.freshness import Lifetime, freshness_lifetime, initial_age
from layergate.http.rfc9111.selecting import vary_names, with_vary
from layergate.http.rfc9111.storing import (
    NotStored,
    authorization_allows,
    may_store,
    refusal_by_directives,
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
# Set-Cookie2 is obsolete (RFC 6265 section 9.4). Alone, it is an ordinary field, because no client acts on
# it. Beside Set-Cookie, it identifies the session.
_COOKIES: Final = frozenset({b"set-cookie", b"set-cookie2"})
# RFC 9110 5.1, 5.5. An empty name would be invisible in the joined names, so `_well_formed` marks it.
_NAMES: Final[Callable[[bytes], object]] = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]*").fullmatch
_NOT_IN_VALUES: Final[Callable[[bytes], object]] = re.compile(rb"[\r\n\0]").search
# Media types of responses that do not end. To share one, an app sets its own Cache-Control.
_STREAMS: Final = frozenset({b"text/event-stream", b"multipart/x-mixed-replace"})
_LENT: Final = ("rule", "heuristic")
_NOT_WHOLE: Final = frozenset({206, 304})


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
    names: tuple[bytes, ...]  # the same, plus those by which proxies describe the public URL
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
        """True if the lifetime is lent: it comes from a rule or a heuristic, not from the response."""
        return self.lifetime.source in _LENT

    @property
    def shareable(self) -> bool:
        """True if the response may answer the requests that wait for it, like a stored response."""
        return not self.no_cache and (
            self.fresh_until + self.stale_while_revalidate > self.response_time
        )


def targets_of(options: Options) -> tuple[bytes, ...]:
    """The target list of RFC 9213, lower-case names."""
    return _targets(options.targets)  # type: ignore[arg-type]  # a tuple after validation


@lru_cache(maxsize=64)
def _targets(names: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(name.encode("ascii") for name in names)


def internal_fields(options: Options) -> frozenset[bytes]:
    """The response fields, lower-case names, that are for this cache and not sent to clients."""
    return _internal_fields(options.strip_tags, LAYERGATE_CONTROL in targets_of(options))


@lru_cache(maxsize=4)
def _internal_fields(tags: bool, own: bool) -> frozenset[bytes]:
    names = TAG_FIELDS if tags else frozenset()
    return names | {LAYERGATE_CONTROL} if own else names


def response_tags(fields: Fields) -> tuple[str, ...] | None:
    """The tags in ``Cache-Tag`` (separated by commas) and ``Surrogate-Key`` (separated by spaces).

    In order, without duplicates. None if a tag is too long for a purge, or has a NUL, which is reserved
    for LayerGate's own tags.
    """
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
) -> Plan | NotStored:
    """The plan for storing a response, or the first reason against it.

    The response decides. A rule or a heuristic applies only where the response leaves room for it.
    """
    rule = None if match is None else match.rule
    if rule is not None and rule.bypass:
        return NotStored.RULE
    targets = targets_of(options)
    policy = policy_of(fields, targets)
    if not policy.withheld:
        refused = certain_refusal(
            status,
            policy.directives if policy.decided_by else None,
            rule,
            has_expires=b"expires" in policy.fields,
            guesses=options.heuristic is not None,
            cookie=request.cookie,
            authorization=request.authorization,
            secured=request.secured,
        )
        if refused is not None:
            return refused
    if not _well_formed(fields.lines):
        return NotStored.MALFORMED
    granted = _lifetime(request, status, policy, match, options, response_time)
    refused = (
        _not_storable(request, status, policy.fields, rule, granted)
        or _not_to_lend_to(request, fields, granted.lifetime)
        or _for_one_client(request, granted)
    )
    if refused is not None:
        return refused
    vary = _selected_by(fields, rule, by_rule=granted.by_rule)
    tags = _all_tags(request, fields, match, options)
    if isinstance(tags, NotStored):
        return tags
    age = initial_age(fields, request_time=request_time, response_time=response_time)
    times = _times(status, fields, rule, options, granted, response_time=response_time, age=age)
    if times.expires <= response_time:
        return NotStored.EXPIRED
    directives, by_rule = granted.directives, granted.by_rule
    drop = _internal_fields(options.strip_tags, LAYERGATE_CONTROL in targets)
    if b"set-cookie" in fields and not _keeps_cookies(match):
        drop |= _COOKIES
    return Plan(
        lines=with_vary(storable_fields(fields, directives, drop=drop), vary),
        generated=response_time - age,
        response_time=response_time,
        fresh_until=times.fresh_until,
        stale_while_revalidate=times.stale_while_revalidate,
        stale_if_error=times.stale_if_error,
        expires=times.expires,
        tags=tags,
        vary=vary,
        names=forwarding_of(options.forwarding_fields).selecting(vary, request.fields.names()),  # type: ignore[arg-type]
        no_cache=directives.no_cache,
        must_revalidate=times.must_revalidate,
        without_credentials_only=granted.lifetime.source == "heuristic"
        or (by_rule and rule is not None and not rule.allow_cookie),
        shared_with_authorization=authorization_allows(directives)
        or (by_rule and rule is not None and bool(rule.allow_authorization)),
        shared_with_users=says_for_all(directives)
        or (by_rule and rule is not None and rule.allow_cookie),
        immutable=directives.immutable,
        lifetime=granted.lifetime,
        own=fields.get(LAYERGATE_CONTROL) if LAYERGATE_CONTROL in drop else None,
    )


# -- the steps, in order ---------------------------------------------------------------------------


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
) -> NotStored | None:
    """Why a response is certainly not stored, by its directives, its rule, and the credentials of its
    request. None: the other steps decide.

    These refusals are the most common ones and cost the least. `plan_storage` therefore asks for them first,
    and for a target that is known not to be shareable the engine asks for them alone.

    ``control``: the directives of the response, or None if it has none. ``guesses``: a heuristic lifetime is
    configured.
    """
    seconds = None if rule is None else rule.lifetime(status)
    if control is None:
        if has_expires or guesses:
            return None
        if rule is None:
            return NotStored.NO_FRESHNESS  # the app doesn't use caching
        if seconds is None:
            return None  # the status, or the request, may say more
        return _excuse_for(rule, cookie=cookie, authorization=authorization, secured=secured)
    if status in _NOT_WHOLE or not 200 <= status <= 599 or status in ONE_REQUEST_STATUSES:
        return None
    if seconds is not None and rule is not None and rule.override:
        if not (control.no_store or control.private):
            return None
    return refusal_by_directives(EMPTY, control, status)


def _well_formed(lines: Lines) -> bool:
    """RFC 9110 5.5: "a recipient of CR, LF, or NUL within a field value MUST either reject the message
    or replace each of those characters with SP before further processing or forwarding".

    Obsolete line folding is such a value. Adapters may forward the message, but it is never stored.
    """
    names = b"".join([name or b"\0" for name, _ in lines])
    return bool(_NAMES(names)) and not _NOT_IN_VALUES(b"".join([value for _, value in lines]))


class _Granted(NamedTuple):
    """The lifetime of a response, and the directives that apply with it.

    ``by_rule``: the lifetime is a rule's. ``excuse``: why a matching rule does not apply to this request;
    None if it applies, or if there is no such rule.
    """

    lifetime: Lifetime
    directives: CacheControl
    by_rule: bool
    excuse: NotStored | None


def _lifetime(
    request: Request,
    status: int,
    policy: Policy,
    match: Match | None,
    options: Options,
    response_time: float,
) -> _Granted:
    """The lifetime from the response, or from a rule if the response has none or the rule overrides it."""
    directives, excuse = policy.directives, None
    rule = None if match is None else match.rule
    seconds = None if rule is None or policy.withheld else rule.lifetime(status)
    if match is not None and rule is not None and seconds is not None:
        explicit = directives.has_explicit or b"expires" in policy.fields
        overridden = rule.override and not (directives.no_store or directives.private)
        if not explicit or overridden:
            excuse = _excuse(request, match)
            if excuse is None:
                # An override concerns the lifetime, never the fields that belong to one client.
                directives = EMPTY._replace(
                    private_fields=directives.private_fields,
                    no_cache_fields=directives.no_cache_fields,
                )
                return _Granted(Lifetime(seconds, "rule"), directives, True, None)
    lifetime = freshness_lifetime(
        policy.fields,
        directives,
        status,
        response_time=response_time,
        heuristic_fraction=None if policy.withheld else options.heuristic,
    )
    return _Granted(lifetime, directives, False, excuse)


def _excuse(request: Request, match: Match) -> NotStored | None:
    """Why a rule's lifetime does not apply to the response to this request; None if it applies."""
    excuse = _excuse_for(
        match.rule,
        cookie=request.cookie,
        authorization=request.authorization,
        secured=request.secured,
    )
    if excuse is not None:
        return excuse
    return None if match.is_certain(request) else NotStored.PATH


def _excuse_for(
    rule: Rule, *, cookie: bool, authorization: bool, secured: bool
) -> NotStored | None:
    """As `_excuse`, by the credentials of the request alone."""
    if secured:  # no option of a rule covers this, because a rule does not know the users
        return NotStored.SECURITY
    if cookie and not rule.allow_cookie:
        return NotStored.COOKIE
    return NotStored.AUTHORIZATION if authorization and not rule.allow_authorization else None


def _not_storable(
    request: Request, status: int, fields: Fields, rule: Rule | None, granted: _Granted
) -> NotStored | None:
    """The conditions of section 3; see `may_store`. ``fields``: those of the policy."""
    refused = may_store(
        method="GET" if request.method == "HEAD" else request.method,
        request_fields=request.fields,
        request_cc=request.directives,
        status=status,
        fields=fields,
        cc=granted.directives,
        explicit_lifetime=granted.lifetime.source in _LENT,
        allow_set_cookie=rule is not None and bool(rule.allow_set_cookie),
        allow_authorization=granted.by_rule,
    )
    # With an excuse, report that: the response to a request that the rule covers may be storable.
    return refused if refused is None or granted.excuse is None else granted.excuse


def _not_to_lend_to(request: Request, fields: Fields, lifetime: Lifetime) -> NotStored | None:
    """Why a lent lifetime (see `Plan.lent`) does not apply to this response; None if it applies, or if
    the lifetime is not lent."""
    if lifetime.source not in _LENT:
        return None
    if _is_stream(fields):
        return NotStored.STREAM
    if head_has_token(fields):
        return NotStored.TOKEN
    return NotStored.COOKIE if lifetime.source == "heuristic" and request.cookie else None


def _is_stream(fields: Fields) -> bool:
    media_type = (fields.first(b"content-type") or b"").partition(b";")[0]
    return media_type.strip().lower() in _STREAMS


def _for_one_client(request: Request, granted: _Granted) -> NotStored | None:
    """Why the response is for one client, whatever its lifetime; None if it is not."""
    if not (request.secured or request.personal) or says_for_all(granted.directives):
        return None
    if request.secured:
        # A route that requires authentication knows its user, or rejects the request.
        return NotStored.SECURITY
    return None if granted.by_rule else NotStored.USER


def _selected_by(fields: Fields, rule: Rule | None, *, by_rule: bool) -> tuple[bytes, ...]:
    """The request fields that select the response: those of its Vary and those of the rule."""
    names = vary_names(fields)
    assert names is not None  # `may_store` refuses "*"
    if rule is None:
        return names
    more = {name.encode("ascii") for name in rule.vary}
    if by_rule and rule.allow_authorization == "each":
        more.add(b"authorization")
    return tuple(sorted({*names, *more})) if more else names


def _keeps_cookies(match: Match | None) -> bool:
    """True if Set-Cookie lines are stored and sent to every client (``allow_set_cookie="keep"``)."""
    return match is not None and match.rule.allow_set_cookie == "keep"


def _all_tags(
    request: Request, fields: Fields, match: Match | None, options: Options
) -> tuple[str, ...] | NotStored:
    """The tags of the response, of its rule and of its cache groups; or the reason against them."""
    tags = response_tags(fields)
    groups = group_tags(request.scheme, request.host, fields)
    if tags is None or groups is None:
        return NotStored.TAGS
    if match is not None:
        filled = fill_tags(match.rule.tags, match.params)
        if filled is None:
            return NotStored.TAG_TEMPLATE
        tags = tuple(dict.fromkeys(tags + filled))
    return NotStored.TAGS if len(tags) > options.max_tags else tags + groups


class _Times(NamedTuple):
    """The times of a plan, and ``must_revalidate``, which voids its stale windows."""

    fresh_until: float
    stale_while_revalidate: float
    stale_if_error: float
    expires: float
    must_revalidate: bool


def _times(
    status: int,
    fields: Fields,
    rule: Rule | None,
    options: Options,
    granted: _Granted,
    *,
    response_time: float,
    age: float,
) -> _Times:
    """How long the response is fresh, may be used stale, and is kept (section 4.2, RFC 5861)."""
    directives = granted.directives
    # A rule's lifetime begins when the response arrives, whatever its age.
    begin = response_time if granted.by_rule else response_time - age
    fresh_until = begin + granted.lifetime.seconds
    strict = directives.must_revalidate or directives.proxy_revalidate or directives.no_cache
    must_revalidate = strict or directives.s_maxage is not None
    # s-maxage implies proxy-revalidate (5.2.2.10). But a stale window in the same response is "a cache
    # extension that can override" it (section 4), and origins do write "s-maxage=60,
    # stale-while-revalidate=30". A rule's window can't override it.
    from_rule = not must_revalidate and not (
        granted.by_rule and rule is not None and rule.is_brief(status)
    )
    windows: list[float] = []
    for own, from_options in (
        (directives.stale_while_revalidate, rule and rule.stale_while_revalidate),
        (directives.stale_if_error, rule and rule.stale_if_error),
    ):
        if own is not None:
            windows.append(0.0 if strict else float(own))
        else:
            windows.append(float(from_options) if from_rule and from_options is not None else 0.0)  # type: ignore[arg-type]
    keep = float(options.keep) if has_validator(fields) else 0.0  # type: ignore[arg-type]
    expires = fresh_until + max(*windows, keep)
    if expires > response_time and not must_revalidate and options.stale_if_unreachable is not None:
        expires = max(expires, fresh_until + float(options.stale_if_unreachable))  # type: ignore[arg-type]
    return _Times(fresh_until, windows[0], windows[1], expires, must_revalidate)


# -- updating --------------------------------------------------------------------------------------


def plan_update(
    request: Request,
    entry: Entry,
    fields: Fields,
    match: Match | None,
    options: Options,
    *,
    request_time: float,
    response_time: float,
) -> tuple[Plan | NotStored, Lines]:
    """The plan for a stored response that a 304 or a response to HEAD has confirmed, and the updated
    lines to send (3.2, 4.3.4, 4.3.5).

    ``fields``: those of the confirming response.
    """
    stored: StoredResponse = entry.value
    directives = policy_of(fields, targets_of(options)).directives
    lines = updated_fields(
        stored.all_lines,
        fields,
        directives,
        targets=targets_of(options),
        allow_set_cookie=_keeps_cookies(match),
    )
    if b"date" not in fields:
        # RFC 9110 6.6.1: its date is then the time of receipt, not the date of the stored response.
        lines = [line for line in lines if line[0] != b"date"]
    # The Age of this message counts, but is not stored.
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
        planned = NotStored.TOKEN  # possible if the rule is new or has changed
    if isinstance(planned, Plan):
        tags = planned.tags
        if TAG_FIELDS.isdisjoint(fields.names()):
            # Without tags in the update, those of the stored response remain. Its groups come from the
            # updated fields, and LayerGate's other tags do not come from the response.
            own = tuple(tag for tag in entry.tags if not tag.startswith("\0"))
            tags = tuple(dict.fromkeys(own + tags))
        if len(without_groups(tags)) > options.max_tags:
            planned = NotStored.TAGS
        else:
            planned = planned._replace(tags=tags)
    hidden = internal_fields(options)
    return planned, [line for line in lines if line[0] not in hidden]
