"""What LayerGate would do with a request, and with a response to it, step by step, and why.

`explain` asks the functions that the engine itself decides with, in the same order, and writes down
what they say. It changes nothing: nothing is counted, copied between layers, fetched or stored.

What it cannot know: a policy next to the route (`cached`), which is told when the app is called, and
what only the body will show (its end, its true length).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from layergate.config import Rule
from layergate.core.entry import Entry
from layergate.core.invalidation import Caught
from layergate.core.stack import Held
from layergate.http.engine.cache import Cache
from layergate.http.engine.decide import pause_reload, verdict_on
from layergate.http.engine.exchange import ORIGIN_ERRORS, Exchange
from layergate.http.engine.fetch import missing_rest, new_exchange, nominees, validators
from layergate.http.engine.hit_for_miss import marker_for, marker_ttl, recent_reason
from layergate.http.engine.lookup import Selected, select
from layergate.http.engine.markers import HitForMiss, VariantIndex
from layergate.http.engine.open import may_forward
from layergate.http.engine.posting import encloses_target, judged
from layergate.http.engine.purge import unsafe_invalidations
from layergate.http.engine.refresh import has_room_to_refresh
from layergate.http.engine.respond import remaining, respond
from layergate.http.engine.sharing import flight_key, refresh_key, why_uncollapsed
from layergate.http.engine.stand_in import excuse, may_stand_in, may_stand_in_for_error
from layergate.http.engine.store import refusal_of_layers
from layergate.http.engine.update import head_says
from layergate.http.engine.variant_index import room_for
from layergate.http.extensions.groups import group_name
from layergate.http.extensions.targeted import parse_targeted, policy_of
from layergate.http.message.credentials import Credential, credential_names, credential_of
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.key import target_of, variant_key
from layergate.http.message.request import Request
from layergate.http.message.stored import PartialResponse, StoredResponse
from layergate.http.message.uri import twin
from layergate.http.privacy.tokens import may_have_token
from layergate.http.rfc9111.decision import NO_ANSWER, Decision, Verdict, is_reload, passes
from layergate.http.rfc9111.freshness import Lifetime
from layergate.http.rfc9111.invalidation import SAFE_METHODS
from layergate.http.rfc9111.plan import Plan, plan_storage
from layergate.http.rfc9111.rest import Rest
from layergate.http.rfc9111.selecting import normalize
from layergate.http.rfc9111.storing import Refused
from layergate.http.rfc9111.validation import conditional_lines, freshens
from layergate.http.rfc9111.variants import nominating_line
from layergate.http.rules import Match

__all__ = ["Conclusion", "Explanation", "Response", "Step", "explain", "section"]

# Whose values are nobody's business: the fields that say who somebody is, in either direction.
_SECRET: Final = frozenset({b"authorization", b"set-cookie", b"set-cookie2"})
_VARIANTS: Final = 32  # of a target that are looked at one by one
_READS: Final = ("GET", "HEAD")


class Step(NamedTuple):
    """One thing that was looked at.

    ``name``     what: ``key``, ``rule``, ``layer``, ``decision``, …; see `explain`.
    ``outcome``  a word or two: what it came to.
    ``section``  where that is from: "RFC 9111 section 4.2.1", "LayerGate guarantee G1".
    ``text``     one English sentence.
    ``good``     True speaks for an answer from the store, False against it, None neither.
    ``data``     the facts, as JSON has them. Times are seconds.
    """

    name: str
    outcome: str
    section: str
    text: str
    good: bool | None = None
    data: Mapping[str, Any] = {}


class Conclusion(NamedTuple):
    """What it all comes to.

    ``answer``   ``hit``, ``stale``, ``revalidate``, ``miss``, ``only-if-cached`` (504), or ``pass``:
                 forwarded, none of the cache's business.
    ``fwd``      why the request goes forward (RFC 9211 2.2); "" if it does not.
    ``ttl``      seconds for which what is stored is still fresh, negative when stale; None: nothing
                 is stored for this request.
    ``stored``   whether the response is stored; None: no response was given that would be.
    ``refused``  the `Refused.token` of why not, or why the request passes; None.
    ``text``     one English sentence.
    """

    answer: str
    fwd: str
    ttl: int | None
    stored: bool | None
    refused: str | None
    text: str


class Explanation(NamedTuple):
    """The trace of one request."""

    method: str
    url: str
    steps: tuple[Step, ...]
    conclusion: Conclusion

    def step(self, name: str) -> Step | None:
        """The first step of this name, or None."""
        return next((step for step in self.steps if step.name == name), None)

    def as_json(self) -> dict[str, Any]:
        """What `json.dumps` takes."""
        return {
            "method": self.method,
            "url": self.url,
            "steps": [{**step._asdict(), "data": dict(step.data)} for step in self.steps],
            "conclusion": self.conclusion._asdict(),
        }

    @classmethod
    def of_json(cls, document: Any) -> Explanation:
        """From what `as_json` gave, perhaps elsewhere. Raises ValueError for anything else."""
        try:
            steps = tuple(Step(**step) for step in document["steps"])
            conclusion = Conclusion(**document["conclusion"])
            made = cls(document["method"], document["url"], steps, conclusion)
        except (TypeError, KeyError) as error:
            raise ValueError(f"this is no explanation: {error!r}") from None
        texts = [made.method, made.url, conclusion.answer, conclusion.text]
        texts += [part for step in steps for part in step[:4]]
        if not all(isinstance(text, str) for text in texts) or not all(
            isinstance(step.data, dict) and (step.good is None or isinstance(step.good, bool))
            for step in steps
        ):
            raise ValueError("this is no explanation: a text is none")
        return made


class Response(NamedTuple):
    """The head of a response to the request. ``took``: seconds it took to come.
    ``trailers``: trailer fields were announced."""

    status: int
    lines: Lines
    took: float = 0.0
    trailers: bool = False


async def explain(
    cache: Cache, request: Request, response: Response | None = None, *, live: bool = True
) -> Explanation:
    """The trace of ``request`` in ``cache`` as it is now; and of ``response``, as if that came now.

    ``live``: False for a cache that was made for this and holds nothing: what it holds is then no
    part of the trace.

    The steps, where they apply, in this order: ``key``, ``request``, ``range``, ``rule``,
    ``credentials``, ``directives``; ``search``, ``fleet``, ``layer`` (one for each), ``variants``,
    ``language``, ``stored``, ``policy``, ``lifetime``, ``age``, ``stale-windows``, ``validators``, ``tags``,
    ``groups``; ``decision``, ``precondition``, ``range``, ``marker``, ``flight``, ``rest``,
    ``validators``, ``refresh``, ``stale-if-error`` or ``stale-if-unreachable``; and of the response:
    ``response``, ``upstream``, ``invalidation``, ``validation``, ``method``, ``policy``,
    ``storable``, ``lifetime``, ``age``, ``stale-windows``, ``variants``, ``fields``, ``cookies``,
    ``tags``, ``groups``, ``tokens``, ``room``, ``shared``, ``marker``.
    """
    return await _Trace(cache, request, live).of(response)


def section(rfc: str) -> str:
    """`Refused.rfc`, spelled out: a section of RFC 9111 if there is no name, or a guarantee."""
    if re.fullmatch(r"G[0-9]+", rfc):
        return f"LayerGate guarantee {rfc}"
    name, _, number = rfc.rpartition(" ")
    return f"{name or 'RFC 9111'} section {number}"


# -- the sentences ---------------------------------------------------------------------------------

_DECIDED: Final = {
    "4": "Nothing usable is stored for this target.",
    "3.3": "What is stored is incomplete, and does not have all that is asked for.",
    "4.1": "What is stored for this target are other variants than the one this request selects.",
    "3.5": "What is stored may not be given to a request with Authorization.",
    "G1": "What is stored is for clients that do not say who they are.",
    "G3": "What is stored may have been purged unheard, so it is not used without asking.",
    "5.2.2.4": "The stored response says no-cache, so it is never used without asking.",
    "5.2.1": "The request wants more than a fresh response, but so did another one a moment ago, within the"
    " reload_pause: what is stored since then is used.",
    "5.2.1.4": "The request says no-cache, so what is stored is not used without asking.",
    "5.2.1.3": "The request wants more freshness (min-fresh) than the stored response has left.",
    "5.2.1.1": "The stored response is older than the max-age of the request allows.",
    "5.2.1.2": "The stored response is stale, and the request's max-stale takes it all the same.",
    "5.2.1.7": "The request says only-if-cached and nothing stored may be used: 504.",
    "4.2": "The stored response is fresh.",
    "4.2.4": "The stored response is stale, and nothing allows to use it so.",
    "RFC 8246 2": "The stored response is fresh and immutable, so a reload need not ask for it.",
    "RFC 5861 3": "The stored response is stale, and within its stale-while-revalidate window.",
}

_SOURCES: Final = {
    "s-maxage": ("5.2.2.10", "Its s-maxage says how long a shared cache may take it for fresh."),
    "max-age": ("5.2.2.1", "Its max-age says how long it is fresh."),
    "expires": ("5.3", "Its Expires, less its Date, says how long it is fresh."),
    "heuristic": ("4.2.2", "A fraction of the time since Last-Modified, as the option allows."),
    "rule": ("4.2.1", "The rule says so, since the response does not (or is overridden)."),
    "none": ("4.2.1", "Nothing says how long it is fresh, so it is stale at once."),
    "invalid": ("4.2.1", "What it says is unusable, so it is stale at once."),
    "other": (
        "4.2.1",
        "Not what its fields say: by a policy next to the route, a layer's ttl, a purge or a HEAD.",
    ),
}

_ALONE: Final = {
    "marker": "Its target is known not to be shareable, so nobody waits for anybody.",
    "collapse": "The option collapse is off.",
    "method": "Only GET requests share a fetch.",
    "ranges": "A response in several parts is passed on, so nobody waits for it.",
    "authorization": "Nobody waits for a response to a request with Authorization.",
    "user": "The app knows its user, so nobody waits for the response.",
    "request-no-store": "The request says no-store, so nobody may have its response.",
    "no-cache": "What is stored is not to be reused without validation, nor by those who wait.",
}

_REMEDIES: Final = {
    Refused.NO_FRESHNESS: "send Cache-Control: max-age=60 from the app, or give the path a"
    " Rule(..., ttl=60)",
    Refused.SET_COOKIE: "do not set a cookie on shared responses; or, if it is the same for"
    " everybody, Rule(..., allow_set_cookie=True)",
    Refused.COOKIE: "send max-age from the app, or, if the response is the same for everybody,"
    " Rule(..., allow_cookie=True)",
    Refused.AUTHORIZATION: "say public or s-maxage in the response, or, if it is the same for"
    " everybody, Rule(..., allow_authorization=True)",
    Refused.PATH: "send max-age from the app for this path, if it is one that exists",
    Refused.USER: "say public or s-maxage in the response, or keep the session off this route",
    Refused.SECURITY: "say public or s-maxage in the response, if it is the same for everybody",
    Refused.VARY_STAR: "name the request fields that the response depends on in Vary",
    Refused.EXPIRED: "give it a lifetime, a validator (ETag, Last-Modified) or a stale window",
    Refused.STREAM: "say max-age in the response if it has an end and is to be stored",
    Refused.TAG_TEMPLATE: "name a parameter of the path or the route in the tag",
    Refused.TAGS: "send fewer or shorter tags, or raise max_tags",
    Refused.TOO_LARGE: "raise max_body, and memory with it",
    Refused.TOKEN: "fetch the token by a request of its own, or send max-age from the app if the"
    " response is for everybody all the same",
    Refused.BUDGET: "raise max_inflight",
    Refused.NO_ROOM: "raise memory; what is asked for again soon is worth the room of others",
    Refused.KEY_TOO_LONG: "raise max_key_length",
    Refused.HOST: "ask with the canonical host: lower case, without the default port",
    Refused.RULE: "change the Rule with bypass=True that covers the path",
}


def _age(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds == int(seconds) else f"{seconds:.1f} s"


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")


def _is_secret(name: bytes) -> bool:
    """Is a field's value nothing to be shown: a credential, or a cookie?"""
    return name in _SECRET or credential_of(name) is not Credential.NONE


def _shown(lines: Iterable[tuple[bytes, bytes]]) -> list[list[str]]:
    """Header lines for whoever reads the trace, without anyone's credentials."""
    return [[_text(name), "…" if _is_secret(name) else _text(value)] for name, value in lines]


def _tags(tags: Iterable[str]) -> list[str]:
    """Tags as they were sent; not those that only we give (they begin with a NUL)."""
    return [
        tag.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        for tag in tags
        if not tag.startswith("\0")
    ]


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _caught(caught: Caught) -> dict[str, Any]:
    # (a NUL at the end: of a pattern that is meant for what No-Vary-Search makes equivalent)
    (value,) = _tags([caught.value.removesuffix("\0")]) or [""]
    return {"kind": caught.kind, "value": value, "soft": caught.soft, "time": caught.time}


def _parts(stored: PartialResponse) -> list[list[int]]:
    """First and last position of each."""
    return [[first, first + len(octets) - 1] for first, octets in stored.parts]


def _digest(key: bytes) -> str:
    return blake2b(key, digest_size=16).hexdigest()


class _Trace:
    """One explanation being written."""

    def __init__(self, cache: Cache, request: Request, live: bool) -> None:
        self._engine = cache.engine
        self._settings = cache.engine.settings
        self._stack = cache.stack
        self._request = request
        self._live = live
        self._now = cache.stack.runtime.now()
        self._match: Match | None = None
        self._rest: Rest | None = None
        self._steps: list[Step] = []

    def _add(
        self,
        name: str,
        outcome: str,
        rfc: str,
        text: str,
        good: bool | None = None,
        **data: Any,
    ) -> None:
        """``rfc``: as `Refused.rfc`."""
        self._steps.append(Step(name, outcome, section(rfc), text, good, data))

    def _refusal(self, name: str, reason: Refused, **data: Any) -> None:
        remedy = _REMEDIES.get(reason)
        if remedy is not None:
            data["remedy"] = remedy
        self._add(name, reason.token, reason.rfc, reason.explain, False, **data)

    def _concluded(self, *conclusion: Any) -> Explanation:
        request = self._request
        return Explanation(
            request.method, target_of(request.key), tuple(self._steps), Conclusion(*conclusion)
        )

    async def of(self, response: Response | None) -> Explanation:
        engine, request = self._engine, self._request
        self._key()
        reason = self._passes()
        if reason is None:
            self._match = self._settings.rules.match(request.path, request.host)
            reason = self._rule()
        else:
            self._refusal("rule" if reason is Refused.RULE else "request", reason)
        if reason is not None:
            return self._passed(reason, response)

        self._asker()
        selected = await select(engine, request, quiet=True)
        if self._live:
            await self._held(selected)
        if request.key != request.exact:
            text = "What the path's responses say in No-Vary-Search makes these targets one."
            self._add("search", target_of(request.key), "4", text, digest=_digest(request.key))
        verdict = verdict_on(request, selected.entry, self._now, vary_miss=selected.vary_miss)
        if is_reload(verdict.decision, verdict.fwd):
            verdict = pause_reload(engine, request, selected, self._match, verdict, self._now)
        if request.foreign_range and verdict.decision in (Decision.MISS, Decision.REVALIDATE):
            self._refusal("request", Refused.RANGE)
            return self._passed(Refused.RANGE, response)
        told = await self._decision(verdict, selected)
        entry = selected.entry
        ttl = None if entry is None else remaining(entry, self._now)
        stored, refused = None, None
        if response is not None and verdict.decision is not Decision.GATEWAY_TIMEOUT:
            stored, refused, told = self._response(response, verdict, selected)
        return self._concluded(
            verdict.decision.value, verdict.fwd, ttl, stored, refused, _summary(verdict, told)
        )

    # -- the request ---------------------------------------------------------------------------

    def _key(self) -> None:
        request = self._request
        self._add(
            "key",
            target_of(request.key),
            "2",
            "The key is made of scheme, host, path and query, byte for byte.",
            digest=_digest(request.key),
            length=len(request.key),
            host=_text(request.host),
            path=request.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
            headers=_shown(request.fields.lines),
        )

    def _passes(self) -> Refused | None:
        """Why this request is none of the cache's business, but for a rule, or None."""
        settings, request = self._settings, self._request
        longest = settings.max_key_length
        # As the middleware does, which looks at these rules before anything else.
        if request.method in _READS and settings.rules.bypasses.cover(request.path, longest):
            return Refused.RULE
        return passes(request, max_key_length=longest)

    def _rule(self) -> Refused | None:
        match = self._match
        self._add(
            "request",
            self._request.method,
            "3",
            "A GET or HEAD without content may be answered from the store.",
            True,
        )
        ranges = self._request.ranges
        if ranges is not None:
            self._add(
                "range",
                _text(self._request.fields.get(b"range") or b""),
                "RFC 9110 14.2",
                "It asks for a part, which may be cut from what is stored if that has all of it.",
                count=len(ranges),
            )
        if match is None:
            if len(self._settings.rules):
                self._add("rule", "none", "3", "No rule covers this path and host.")
            return None
        if match.rule.bypass:
            self._refusal("rule", Refused.RULE, rule=match.rule.path)
            return Refused.RULE
        ttl: Any = match.rule.ttl
        lifetime = ""
        if isinstance(ttl, Mapping):
            by_status = ", ".join(f"{seconds:g} s for {status}" for status, seconds in ttl.items())
            lifetime = f", with a lifetime of {by_status}"
        elif ttl is not None:
            lifetime = f", with a lifetime of {ttl:g} s"
        self._add(
            "rule",
            match.rule.path,
            "3",
            f"The first rule that covers this path and host{lifetime}, where the response leaves"
            " room for it.",
            rule=_rule_data(match.rule),
            params=dict(match.params),
        )
        return None

    def _asker(self) -> None:
        request, options = self._request, self._settings.options
        named = sorted(_text(name) for name in credential_names(request.fields.names()))
        if request.authorization:
            self._add(
                "credentials",
                "authorization",
                "3.5",
                "Only what says public, must-revalidate or s-maxage is shared with a request that"
                " has Authorization.",
                fields=["authorization", *named],
            )
        elif request.personal:
            text = "The app knows the user, so only what says public or s-maxage is shared."
            self._add("credentials", "user", "G1", text, fields=named)
        elif request.cookie:
            self._add(
                "credentials",
                "cookie",
                "G1",
                "It says who is asking, so no rule's or guessed lifetime is for it, unless the rule"
                " says allow_cookie.",
                fields=named,
            )
        control = request.fields.get(b"cache-control")
        name = "5.2.1" if control is not None else "5.4"
        if control is None:
            control = request.fields.get(b"pragma")
        if control is not None and options.request_directives:
            text = "What the client asks of this answer is obeyed."
            self._add("directives", _text(control), name, text)
        elif control is not None:
            text = "The option request_directives is off, so what the client asks is not obeyed."
            self._add("directives", "ignored", name, text)

    def _passed(self, reason: Refused, response: Response | None) -> Explanation:
        request = self._request
        if reason is not Refused.RULE and not may_forward(request, reason):
            text = _DECIDED["5.2.1.7"]
            self._add("decision", "only-if-cached", "5.2.1.7", text, False)
            return self._concluded("only-if-cached", "", None, None, reason.token, text)
        told = "The request goes to the app, and the response back, untouched."
        stored, refused = False, reason.token
        if request.method not in SAFE_METHODS:
            told = self._unsafe(response)
            if request.method == "POST" and response is not None:
                stored, posted = self._posted(response)
                told += " " + posted
        fwd = "method" if reason is Refused.METHOD else "bypass"
        self._add("decision", "pass", reason.rfc, told, False)
        return self._concluded(
            "pass", fwd, None, stored, None if stored else refused, f"PASS: {reason.explain} {told}"
        )

    def _posted(self, response: Response) -> tuple[bool, str]:
        """Whether a response to POST is stored, for later GETs, and a sentence."""
        fields = Fields(response.lines)
        if not encloses_target(target_of(self._request.key), response.status, fields):
            text = (
                "A POST's response is stored if it is a 200 whose Content-Location is its target."
            )
            self._add("storable", "no", "RFC 9110 9.3.3", text, False)
            return False, "Its response is not stored."
        exchange, planned = judged(
            self._engine,
            self._request,
            response.status,
            fields,
            trailers=response.trailers,
            request_time=self._now - response.took,
        )
        if planned is Refused.METHOD:
            text = (
                "A POST's response is stored, for its target alone, if it says itself for how long it"
                " is fresh, and if no field of the request names another method."
            )
            self._add("storable", "no", "RFC 9110 9.3.3", text, False)
            return False, "Its response is not stored."
        if isinstance(planned, Refused):
            self._refusal("storable", planned)
            return False, f"Its response is not stored: {planned.explain}"
        text = (
            "Its Content-Location is its target and it says how long it is fresh: good for a GET."
        )
        self._add("method", "POST", "RFC 9110 9.3.3", text, True)
        return True, self._judged(exchange, planned, response.status, fields)[2]

    def _unsafe(self, response: Response | None) -> str:
        request = self._request
        status, lines = (200, []) if response is None else (response.status, response.lines)
        invalidations = unsafe_invalidations(
            self._settings, target_of(request.key), request.method, status, lines
        )
        # (Each under http and under https, of which one is told of.)
        named = [invalidation.value for invalidation in invalidations if invalidation.kind == "key"]
        purged = [one for at, one in enumerate(named) if twin(one) not in named[:at]]
        groups = [
            name
            for invalidation in invalidations
            if (name := group_name(invalidation.value)) is not None
        ]
        origins = [
            invalidation.value for invalidation in invalidations if invalidation.kind == "prefix"
        ]
        if purged:
            if response is None:
                told = "If it succeeds, what is stored for its target is purged."
            else:
                told = "It succeeded, so what is stored for these targets is purged."
        else:
            told = "It did not succeed, so nothing is purged."
        self._add("invalidation", str(len(purged)), "4.4", told, None, purged=purged)
        if groups or origins:
            text = "What is stored in the cache groups that the response names is purged."
            if origins:
                text = "It names so many cache groups that all that its origin has is purged."
            self._add(
                "invalidation", _quoted(groups or origins), "RFC 9875 3", text, None, groups=groups
            )
            told += " " + text
        return told

    # -- what is held --------------------------------------------------------------------------

    async def _held(self, selected: Selected) -> None:
        stack, request = self._stack, self._request
        if not stack.trusted:
            self._add(
                "fleet",
                "cut off",
                "G3",
                "The shared layer has not been heard of for too long, so what is held here counts"
                " as stale.",
                False,
            )
        inspect = await stack.inspect(request.key)
        self._layers(inspect, "target")
        if selected.storage_key != request.key:
            self._layers(await stack.inspect(selected.storage_key), "variant")
        index = next(
            (
                held.entry.value
                for held in inspect
                if held.entry is not None
                and not held.purged
                and isinstance(held.entry.value, VariantIndex)
            ),
            None,
        )
        if index is not None:
            await self._variants(index, selected)
        if selected.entry is not None:
            self._stored(selected.entry, selected.storage_key)

    def _layers(self, inspect: list[Held], what: str) -> None:
        for held in inspect:
            self._layer(held, what)

    def _layer(self, held: Held, what: str) -> None:
        now, entry = self._now, held.entry
        data: dict[str, Any] = {"layer": held.layer, "of": what}
        where = f"The layer {held.layer!r}"
        if held.error is not None:
            text = f"{where} failed ({type(held.error).__name__}), which counts as a miss."
            self._add("layer", f"{held.layer}: failed", "G5", text, False, **data)
            return
        if entry is None:
            text = f"{where} holds nothing for this {what}."
            self._add("layer", f"{held.layer}: nothing", "4", text, None, **data)
            return
        value = entry.value
        data |= {
            "ttl": round(-entry.staleness(now), 3),
            "kept": round(entry.expires - now, 3),
            "stamp": entry.stamp,
            "position": self._stack.invalidations.position,
            "purges": [_caught(caught) for caught in held.caught],
        }
        kind = "fresh" if entry.fresh_until > now else "stale"
        rfc, good = "4.2", kind == "fresh"
        if isinstance(value, StoredResponse):
            data |= {"status": value.status, "bytes": sum(len(held) for _, held in value.held)}
            data["age"] = round(now - value.generated, 3)
            holds = "a response"
            if isinstance(value, PartialResponse):
                holds = "parts of a response"
                data |= {"parts": _parts(value), "of_bytes": value.length}
            left = _age(abs(round(-entry.staleness(now), 1)))
            text = f"{where} holds {holds}, {kind} for {left}."
            if kind == "fresh":
                text = f"{where} holds {holds}, fresh for {left} more."
        elif isinstance(value, VariantIndex):
            kind, rfc, good = "index", "4.1", True
            text = f"{where} holds an index of the variants of this target."
        elif isinstance(value, HitForMiss):
            kind, rfc, good = "marker", "G4", False
            data["reason"] = value.reason.token
            text = f"{where} remembers that what is asked for is not shareable."
        else:
            kind, rfc, good = "unknown", "4", False
            text = f"{where} holds something that is no response."
        if held.caught:
            by = _purged_by(held.caught)
            if held.purged:
                kind, rfc, good = "purged", "G3", False
                text = f"{where} still holds something, but it was purged {by}."
            elif kind == "stale":
                rfc, text = "G3", f"{where} holds a response, made stale {by}."
        self._add("layer", f"{held.layer}: {kind}", rfc, text, good, **data)

    async def _variants(self, index: VariantIndex, selected: Selected) -> None:
        fields = self._request.fields
        selects = []
        for names in index.names:
            one: dict[str, str | None] = {}
            for name in names:
                order = self._settings.language_order
                value = normalize(name, fields.all(name), language_order=order)
                secret = value is not None and _is_secret(name)
                one[_text(name)] = "…" if secret else None if value is None else _text(value)
            selects.append(one)
        variants = []
        for key in index.variants[-_VARIANTS:]:
            found = await self._stack.lookup(key, quiet=True)
            entry = None if found is None else found.entry
            response = entry is not None and isinstance(entry.value, StoredResponse)
            variants.append(
                {
                    "digest": _digest(key),
                    "selected": key == selected.storage_key,
                    "ttl": None if entry is None else round(-entry.staleness(self._now), 3),
                    "status": entry.value.status if entry is not None and response else None,
                }
            )
        by = ", ".join(", ".join(one) or "nothing" for one in selects)
        there = selected.entry is not None
        found_text = "one of the stored variants" if there else "none of the stored variants"
        self._add(
            "variants",
            by,
            "4.1",
            f"The target varies by {by}, and this request selects {found_text}.",
            there,
            selects=selects,
            count=len(index.variants),
            variants=variants,
        )
        if selected.language:
            language = _text(selected.language)
            text = (
                f"It prefers {language!r} to every other language, and what is stored in that for"
                " others is used, as the option language_match says."
            )
            self._add("language", language, "RFC 9110 12.5.4", text, True)

    def _stored(self, entry: Entry, key: bytes) -> None:
        stored: StoredResponse = entry.value
        now = self._now
        ttl = -entry.staleness(now)
        octets = sum(len(held) for _, held in stored.held)
        of, parts = "", {}
        if isinstance(stored, PartialResponse):
            of = " (of more)" if stored.length is None else f" (of {stored.length})"
            parts = {"parts": _parts(stored), "of_bytes": stored.length}
        self._add(
            "stored",
            str(stored.status),
            "3",
            f"A stored response with status {stored.status} and {octets} bytes of body{of} is"
            " selected for this request.",
            True,
            status=stored.status,
            headers=_shown(stored.lines),
            bytes=octets,
            **parts,
            response_time=stored.response_time,
            stamp=entry.stamp,
        )
        self._policy(Fields(stored.all_lines))
        lifetime = self._lifetime_of(entry, stored)
        by_rule = lifetime.source == "rule"
        begins = stored.response_time if by_rule else stored.generated
        self._lifetime(Lifetime(max(0.0, entry.stale_from - begins), lifetime.source), ttl)
        self._aged(now - stored.generated)
        self._windows(
            entry.stale_while_revalidate,
            entry.stale_if_error,
            stored.must_revalidate,
            stored.no_cache,
        )
        conditional = conditional_lines(stored.fields)
        if conditional:
            names = " and ".join(_text(name) for name, _ in conditional)
            text = f"Once stale it can be validated with {names}."
            if not validators(self._engine, key, stored):
                text += " Since a 304 updates nothing (see 'validator'), it is fetched anew."
            self._add("validators", names, "4.3.1", text, lines=_shown(conditional))
        else:
            text = "It has no validator, so once stale it is fetched anew."
            self._add("validators", "none", "4.3.1", text)
        self._tagged(entry.tags)

    def _lifetime_of(self, entry: Entry, stored: StoredResponse) -> Lifetime:
        """Where the lifetime of a stored response is from, which it does not carry: by planning
        once more what is stored, as an anonymous client's, and comparing."""
        request = self._request
        asked = request.for_refresh()
        lines = [line for line in request.fields.lines if not _is_secret(line[0])]
        asked.fields = Fields(lines)
        asked.authorization = asked.cookie = asked.personal = False
        age = int(stored.response_time - stored.generated)
        planned = plan_storage(
            asked,
            stored.status,
            Fields([*stored.all_lines, (b"age", b"%d" % age)]),
            self._match,
            self._settings.options,
            request_time=stored.response_time,
            response_time=stored.response_time,
        )
        if isinstance(planned, Plan) and abs(planned.fresh_until - entry.stale_from) <= 1.0:
            return planned.lifetime
        return Lifetime(0.0, "other")

    # -- the parts that a stored and a new response have in common -----------------------------

    def _policy(self, fields: Fields) -> None:
        """Which field decides how the response is kept, where there was a choice."""
        targets = self._settings.targets
        present = [name for name in targets if name in fields]
        if not present:
            return
        policy = policy_of(fields, targets)
        ignored = [name for name in present if parse_targeted(fields.get(name) or b"") is None]
        decided = _text(policy.decided_by or (b"expires" if b"expires" in fields else b"none"))
        data = {"field": decided, "ignored": list(map(_text, ignored))}
        if policy.targeted:
            text = "This field decides; Cache-Control and Expires are not looked at."
            if policy.withheld:
                text = (
                    "This field decides, and since Cache-Control says private or no-store, no rule"
                    " or guess adds a lifetime to it."
                )
        else:
            names = " and ".join(map(_text, ignored))
            text = f"Ignored, since it is empty or no dictionary of directives: {names}."
        self._add("policy", decided, "RFC 9213 2.2", text, None, **data)

    def _lifetime(self, lifetime: Lifetime, ttl: float) -> None:
        rfc, text = _SOURCES[lifetime.source]
        self._add(
            "lifetime",
            _age(lifetime.seconds),
            rfc,
            text,
            ttl > 0,
            seconds=round(lifetime.seconds, 3),
            source=lifetime.source,
            ttl=round(ttl, 3),
        )

    def _aged(self, seconds: float) -> None:
        text = "How old it is: by its Age and Date, the time it took to come, and since then."
        age = max(0.0, seconds)
        self._add("age", _age(round(age, 1)), "4.2.3", text, seconds=round(age, 3))

    def _windows(self, swr: float, sie: float, must_revalidate: bool, no_cache: bool) -> None:
        outcome = ", ".join(
            f"{name} {_age(window)}"
            for name, window in (("stale-while-revalidate", swr), ("stale-if-error", sie))
            if window
        )
        data: dict[str, Any] = {"stale_while_revalidate": swr, "stale_if_error": sie}
        if no_cache:
            text = "It says no-cache, so each use is validated first."
            self._add("stale-windows", "none", "5.2.2.4", text, **data)
        elif outcome:
            text = "How long it may still be used once it is stale."
            self._add("stale-windows", outcome, "RFC 5861 3", text, **data)
        elif must_revalidate:
            text = "Its must-revalidate, proxy-revalidate or s-maxage forbids to use it stale."
            self._add("stale-windows", "none", "4.2.4", text, **data)
        else:
            text = "Nothing says that it may be used once it is stale."
            window = self._settings.stale_if_unreachable
            if window:
                text = "Once stale it may be used only if the origin cannot be reached."
                data["stale_if_unreachable"] = window
            self._add("stale-windows", "none", "4.2.4", text, **data)

    def _tagged(self, tags: tuple[str, ...]) -> None:
        shown = _tags(tags)
        if shown:
            text = "A purge of any of these tags purges it."
            self._add("tags", ", ".join(shown), "G3", text, tags=shown)
        groups = [name for tag in tags if (name := group_name(tag)) is not None]
        if groups:
            text = "A response to an unsafe request that names one of these groups purges it."
            self._add("groups", _quoted(groups), "RFC 9875 2", text, groups=groups)

    # -- the decision --------------------------------------------------------------------------

    async def _decision(self, verdict: Verdict, selected: Selected) -> str:
        """Returns a sentence for the conclusion, or ""."""
        engine, request, entry = self._engine, self._request, selected.entry
        decision = verdict.decision
        text = _DECIDED[verdict.rfc]
        if decision is Decision.MISS and not self._live:
            text = "Nothing is stored yet."
        usable = decision in (Decision.HIT, Decision.STALE)
        good = True if usable else None if not self._live else False
        self._add("decision", decision.value, verdict.rfc, text, good, fwd=verdict.fwd)
        if usable:
            assert entry is not None
            status = respond(engine, request, entry, []).status
            if status == 304:
                text = "The client has this response already: it gets a 304 without content."
                self._add("precondition", "304", "4.3.2", text, True)
            elif status == 206:
                text = "The range is cut from what is stored."
                self._add("range", "206", "RFC 9110 15.3.7", text, True)
            elif status == 416:
                text = "What is stored is complete, and ends before the range begins."
                self._add("range", "416", "RFC 9110 15.5.17", text, True)
            elif request.ranges is not None:
                text = "The range does not apply (If-Range, or the status), so the answer is whole."
                self._add("range", "ignored", "RFC 9110 14.2", text)
            if decision is Decision.STALE:
                self._refresh(selected)
        elif decision is not Decision.GATEWAY_TIMEOUT and self._live:
            entry = entry if decision is Decision.REVALIDATE else None
            return await self._forward(entry, selected, verdict)
        return ""

    def _refresh(self, selected: Selected) -> None:
        engine = self._engine
        entry = selected.entry
        assert entry is not None
        present = engine.flights.get(refresh_key(entry, self._request, selected))
        if present is not None and present.joinable(self._request):
            outcome, text = "under way", "It is being refreshed already."
        elif not has_room_to_refresh(engine):
            outcome, text = "put off", "As many refreshes as background_refreshes allows are going."
        else:
            outcome, text = "begins", "It is refreshed in the background."
        self._add("refresh", outcome, "RFC 5861 3", text)

    async def _forward(self, entry: Entry | None, selected: Selected, verdict: Verdict) -> str:
        engine, request, told = self._engine, self._request, ""
        marker = await marker_for(engine, request, selected, quiet=True)
        if marker is not None:
            self._refusal("marker", marker.reason)
            told = f"Its last response was not stored: {marker.reason.explain}"
        elif (other := await recent_reason(engine, selected)) is not None:
            told = (
                f"Its last response was not stored, to a request with other fields: {other.explain}"
            )
        why = why_uncollapsed(self._settings, request, entry, self._match, marker)
        if why is not None:
            self._add("flight", "alone", "G4", _ALONE[why], None, why=why)
        else:
            present = engine.flights.get(flight_key(request, self._match, selected))
            if present is not None and present.joinable(request):
                text = "The same is being fetched already, and this request waits for that."
                self._add("flight", "follows", "4", text, True, readers=present.readers)
            else:
                text = "It is fetched now, once for all who ask meanwhile."
                self._add("flight", "leads", "4", text)
            if verdict.fwd == "partial":
                self._rest = missing_rest(engine, request, selected.entry)
        if self._rest is not None:
            first, stop = self._rest.missing
            text = "The rest is fetched, and the answer made of what is stored and that."
            outcome = f"{first}-{stop - 1}"
            self._add("rest", outcome, "3.4", text, None, headers=_shown(self._rest.lines))
        nominated = nominees(engine, request, selected, entry, self._match)
        if nominated:
            name, value = nominating_line(nominated)
            text = "A 304 that names one of the stored variants makes that one the answer."
            self._add("validators", _text(name), "4.3.1", text, lines=_shown([(name, value)]))
        if entry is not None and may_stand_in_for_error(engine, request, entry):
            text = "If the app fails, the stored response stands in for it."
            self._add("stale-if-error", "allowed", "RFC 5861 4", text, True)
        elif entry is not None and may_stand_in(engine, request, entry, unreachable=True):
            text = "If the origin cannot be reached, the stored response stands in for it."
            self._add("stale-if-unreachable", "allowed", "4.2.4", text, True)
        return told

    # -- the response --------------------------------------------------------------------------

    def _response(
        self, response: Response, verdict: Verdict, selected: Selected
    ) -> tuple[bool, str | None, str]:
        """Whether the response is stored, the token of why not, and a sentence."""
        engine, request = self._engine, self._request
        decision, entry = verdict.decision, selected.entry
        fields = Fields(response.lines)
        self._add(
            "response",
            str(response.status),
            "3",
            "The response whose storing is explained, as if it came now.",
            headers=_shown(fields.lines),
        )
        status = fields.get(b"cache-status")
        if status is not None:
            text = "What the caches that it came through say of their part in it."
            self._add("upstream", _text(status), "RFC 9211 2", text)
        if decision is Decision.STALE:
            part = entry is not None and isinstance(entry.value, PartialResponse)
            request = request.for_refresh(part=part)
        exchange = new_exchange(
            engine,
            request,
            selected,
            None,
            None if decision is Decision.MISS else entry,
            verdict.fwd,
            self._match,
        )
        exchange.request_time = self._now - response.took
        exchange.origin_status = response.status
        exchange.rest = self._rest
        # The order of `Exchange.head`.
        if exchange.conditional and response.status == 304:
            return self._validation(exchange, fields)
        if exchange.rest is not None and response.status in (206, 416):
            completes = exchange.completion(fields, self._now, trailers=response.trailers)
            if completes is None:
                reason = Refused.PARTIAL
                text = (
                    "It does not complete what is stored, so what the client asks for is fetched."
                )
                self._add("validation", "mismatch", "3.4", text, False)
                return False, reason.token, text
            return self._judged(exchange, completes, response.status, fields)
        if (
            response.status in ORIGIN_ERRORS
            and exchange.entry is not None
            and may_stand_in(
                engine, request, exchange.entry, unreachable=response.status in NO_ANSWER
            )
        ):
            text = "The stored response stands in for the error, which is not stored."
            window = excuse(
                engine, request, exchange.entry, unreachable=response.status in NO_ANSWER
            )
            rfc = "RFC 5861 4" if window == "stale-if-error" else "4.2.4"
            self._add("validation", window, rfc, text, True)
            return False, None, text
        if request.method != "GET":
            return self._head(exchange, entry, response.status, fields)
        planned = exchange.judged(response.status, fields, self._now, trailers=response.trailers)
        return self._judged(exchange, planned, response.status, fields)

    def _validation(self, exchange: Exchange, fields: Fields) -> tuple[bool, str | None, str]:
        if not exchange.confirmed_by(fields):
            reason, entry = Refused.NOT_MODIFIED, exchange.entry
            if exchange.reused_by(fields, self._now) is not None:
                text = "The stored response is unchanged: it is the answer, and nothing is updated."
                self._add("validation", "reused", "4.3.4", text, None)
                return False, Refused.VALIDATOR.token, Refused.VALIDATOR.explain
            if entry is None:
                text = "The 304 names none of the stored variants: it is fetched anew."
            elif freshens(entry.value.fields, fields):
                text = "The stored response was purged meanwhile, so it is fetched anew."
            else:
                text = "The 304 speaks of another response than the stored one: it is fetched anew."
            self._add("validation", "mismatch", "4.3.4", text, False)
            return False, reason.token, text
        entry = exchange.entry
        assert entry is not None
        planned, lines = exchange.update(entry, fields, self._now)
        if not exchange.still_covered(entry.value, planned, lines):
            text = (
                "The range no longer applies to the updated parts (If-Range): it is fetched anew."
            )
            self._add("validation", "mismatch", "3.3", text, False)
            return False, Refused.NOT_MODIFIED.token, text
        text = "The stored response is still good: its fields are updated, and it is the answer."
        if exchange.nominees:
            text = "The 304 names a stored variant: that is the answer, for this request too."
        self._add("validation", "confirmed", "4.3.4", text, True)
        return self._judged(exchange, planned, entry.value.status, fields)

    def _head(
        self, exchange: Exchange, entry: Entry | None, status: int, fields: Fields
    ) -> tuple[bool, str | None, str]:
        says = head_says(self._engine, exchange, entry, status, fields, self._now)
        if says is None:
            outcome, text = (
                "left",
                "A response to HEAD is not stored, and this one changes nothing.",
            )
        elif isinstance(says, Refused):
            outcome, text = "outdated", "It differs from what is stored for GET, which is outdated."
        else:
            outcome, text = "freshened", "It confirms what is stored for GET, which is freshened."
        self._add("validation", outcome, "4.3.5", text, None if says is None else outcome[0] == "f")
        return False, None, text

    def _judged(
        self, exchange: Exchange, planned: Plan | Refused, status: int, fields: Fields
    ) -> tuple[bool, str | None, str]:
        self._policy(fields)
        if isinstance(planned, Refused):
            exchange.refused = planned
            self._refusal("storable", planned)
            ttl = marker_ttl(self._settings, exchange)
            if ttl:
                text = "For so long nobody waits for another one's response to this target."
                self._add("marker", _age(ttl), "G4", text, None, seconds=ttl)
            return False, planned.token, f"Not stored: {planned.explain}"
        planned = exchange.located(planned)
        exchange.secondary = self._settings.secondary(planned.names, exchange.request.fields)
        variant = variant_key(exchange.primary, exchange.secondary)
        room = room_for(self._engine, exchange.primary, planned.names, variant, quiet=True)
        if not room.there:
            self._refusal("storable", Refused.VARIANTS)
            return False, Refused.VARIANTS.token, f"Not stored: {Refused.VARIANTS.explain}"
        text = "Nothing forbids to store it, and something allows it."
        self._add("storable", "stored", "3", text, True, status=status)
        self._lifetime(planned.lifetime, planned.fresh_until - self._now)
        self._aged(planned.response_time - planned.generated)
        self._windows(
            planned.stale_while_revalidate,
            planned.stale_if_error,
            planned.must_revalidate,
            planned.no_cache,
        )
        if planned.names:
            by = ", ".join(map(_text, planned.names))
            text = "It is one variant of its target, for requests that agree in these fields."
            self._add("variants", by, "4.1", text, names=list(map(_text, planned.names)))
        kept = {name for name, _ in planned.lines}
        dropped = sorted({_text(name) for name, _ in fields.lines if name not in kept})
        if dropped:
            text = "These fields of the response are not stored with it."
            self._add("fields", ", ".join(dropped), "3.1", text, dropped=dropped)
        if b"set-cookie" in kept:
            text = "Its Set-Cookie is stored and goes to every client, since the rule says keep."
            self._add("cookies", "kept", "7.3", text, None)
        self._tagged(planned.tags)
        unkept = self._room(exchange, planned, fields)
        if unkept is not None:
            return False, unkept.token, f"Not stored: {unkept.explain}"
        left = planned.fresh_until - self._now
        for_whom = "everybody"
        if planned.without_credentials_only:
            for_whom = "clients that do not say who they are"
        elif not planned.shared_with_authorization:
            for_whom = "requests without Authorization"
        if planned.shareable:
            text = f"It may be given to {for_whom}, those who wait for it now included."
            self._add("shared", "yes", "4", text, True)
        else:
            text = f"It may be given to {for_whom}, after validation, so those who wait ask again."
            self._add("shared", "no", "4", text, False)
        expect = f"fresh for {_age(round(left, 1))}" if left > 0 else "to be validated on each use"
        return True, None, f"Stored, {expect}."

    def _room(self, exchange: Exchange, plan: Plan, fields: Fields) -> Refused | None:
        """Whether there is room for it, as far as its head tells; why not, or None."""
        if plan.lent and may_have_token(fields):
            text = "It is not stored if a CSRF token or a nonce is found in it, for a rule gives it time."
            self._add("tokens", "not seen", "G1", text)
        if exchange.origin_status == 304:
            return None
        length, refused = exchange.announced, None
        if length is None:
            text = "Cache-Status says 'stored' only if all of it is at hand with its head."
            self._add("room", "unknown length", "G11", text)
        else:
            refused = refusal_of_layers(self._engine, exchange, plan, length)
            if length > self._settings.max_inflight:
                refused = Refused.BUDGET
            if refused is None:
                self._add("room", "yes", "G11", "A layer takes a response of this size.", True)
            else:
                self._refusal("room", refused)
        return refused


def _summary(verdict: Verdict, told: str) -> str:
    decided = {
        Decision.HIT: "HIT: it is answered from the store.",
        Decision.STALE: "STALE: it is answered from the store, which is refreshed meanwhile.",
        Decision.REVALIDATE: "REVALIDATE: the app is asked whether what is stored is still good.",
        Decision.MISS: "MISS: the app is asked.",
        Decision.GATEWAY_TIMEOUT: "504: the client wants no forwarding.",
    }
    return f"{decided[verdict.decision]} {told}".rstrip()


def _purged_by(caught: Iterable[Caught]) -> str:
    words = []
    for one in caught:
        soft = "a soft purge" if one.soft else "a purge"
        (value,) = _tags([one.value]) or [""]
        if one.kind == "log":
            words.append("by a purge that may have been missed (the log was lost or trimmed)")
        elif one.kind == "all":
            words.append(f"by {soft} of everything")
        elif one.kind == "tag" and (group := group_name(one.value)) is not None:
            words.append(f"by {soft} of the cache group {group!r}")
        elif one.kind == "tag" and not value:
            words.append("by what was stored instead")
        else:
            named = {"key": "the URL", "path": "the pattern", "glob": "the pattern"}
            words.append(f"by {soft} of {named.get(one.kind, 'the ' + one.kind)} {value!r}")
    return " and ".join(words)


def _rule_data(rule: Rule) -> dict[str, Any]:
    """What a rule says, where that is not the default."""
    plain = Rule(rule.path)
    data: dict[str, Any] = {"path": rule.path}
    for name in Rule.__slots__:
        value = getattr(rule, name)
        if value != getattr(plain, name):
            if isinstance(value, frozenset):
                value = sorted(value)
            elif isinstance(value, Mapping):
                value = {str(key): inner for key, inner in value.items()}
            data[name] = value
    return data
