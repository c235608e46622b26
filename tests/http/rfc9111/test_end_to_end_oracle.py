"""Random conversations against an oracle: whatever comes from the store may come from the store.

The oracle knows each response the origin ever gave, and reads sections 3, 4 and 5.2 again, on its
own and in the plainest way. It does not say when something has to be reused (the scenarios
does), only what must not be.
"""

import asyncio
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from layergate import HttpCache, LayerGate, MemoryLayer
from tests.scenarios.asgi import ask
from tests.scenarios.checks import OriginFailed
from tests.scenarios.model import Step
from tests.support.clocks import LoopClock


class Given(NamedTuple):
    """A response that the origin gave, and the request it gave it to."""

    time: float
    control: dict[str, Any]
    request: dict[str, str]
    vary: bool
    cookie: bool
    age: int
    before: int  # unsafe requests that were done when it was given


FLAGS = ("no-store", "private", "no-cache", "public", "must-revalidate", "proxy-revalidate")
TIMED = ("max-age", "s-maxage", "stale-while-revalidate", "stale-if-error")
mostly_not = st.integers(0, 7).map(lambda number: number == 0)
sometimes = st.integers(0, 2).map(lambda number: number == 0)


@st.composite
def response_controls(draw):
    control: dict[str, Any] = {name: True for name in FLAGS if draw(mostly_not)}
    for name in TIMED:
        if draw(st.booleans()):
            control[name] = draw(st.sampled_from([0, 5, 10, 20]))
    return control


@st.composite
def request_fields(draw):
    fields = {}
    if draw(sometimes):
        fields["foo"] = draw(st.sampled_from(["1", "2"]))
    if draw(mostly_not):
        fields["authorization"] = draw(st.sampled_from(["a", "b"]))
    if draw(mostly_not):
        fields["cookie"] = "c"
    if draw(sometimes):
        control = {name: True for name in ("no-cache", "no-store") if draw(mostly_not)}
        for name in ("max-age", "max-stale", "min-fresh", "stale-if-error"):
            if draw(sometimes):
                control[name] = draw(st.sampled_from([0, 5, 10, 20]))
        fields["cache-control"] = written(control)
    return fields


@st.composite
def steps(draw):
    return {
        "wait": draw(st.sampled_from([0, 0, 1, 5, 10, 20])),
        "method": draw(st.sampled_from(["GET", "GET", "GET", "GET", "HEAD", "POST"])),
        "fields": draw(request_fields()),
        "control": draw(response_controls()),
        "vary": draw(sometimes),
        "set-cookie": draw(mostly_not),
        "age": draw(st.sampled_from([0, 0, 0, 3])),
        "fails": draw(mostly_not),
        "raises": draw(mostly_not),
    }


def written(control: dict[str, Any]) -> str:
    return ", ".join(
        name if value is True else f"{name}={value}" for name, value in control.items()
    )


def read(value: str) -> dict[str, Any]:
    pairs = [part.strip().partition("=") for part in value.split(",") if part.strip()]
    return {name: int(number) if equals else True for name, equals, number in pairs}


def objection(given_: Given, asked: dict[str, str], now: float, failed: bool, unsafe: int) -> str:
    """Why this response must not be the answer to that request without asking; "" if it may."""
    control, first = given_.control, given_.request
    wants = read(asked.get("cache-control", ""))
    if "no-store" in control or "private" in control or given_.cookie:
        return "3: must not be stored"
    if "no-store" in read(first.get("cache-control", "")):
        return "5.2.1.5: its request said no-store"
    shared = {"public", "must-revalidate", "s-maxage"} & control.keys()
    if "authorization" in first and not shared:
        return "3.5: its request had Authorization"
    if "authorization" in asked and not shared:
        return "G1: this request has Authorization"
    if given_.vary and first.get("foo") != asked.get("foo"):
        return "4.1: another variant"
    if given_.before != unsafe:
        return "4.4: invalidated"
    if "no-cache" in control:
        return "5.2.2.4: no-cache"
    age = now - given_.time + given_.age
    # None at all is stale from the first moment, which a window may still cover (4.2.4).
    lifetime = control.get("s-maxage", control.get("max-age", 0))
    late = age - lifetime
    never = {"must-revalidate", "proxy-revalidate"} & control.keys()
    if late >= 0:
        by_client = "s-maxage" not in control and (
            late <= wants.get("max-stale", -1)
            or (failed and late < wants.get("stale-if-error", -1))
        )
        window = late < control.get("stale-while-revalidate", 0) or (
            failed and late < control.get("stale-if-error", 0)
        )
        if never or not (by_client or window):
            return f"4.2.4: stale for {late} s"
    if failed:
        return ""  # what the client would rather have had is not to be had
    if "no-cache" in wants:
        return "5.2.1.4: the client said no-cache"
    if "max-age" in wants and age > wants["max-age"] + wants.get("max-stale", 0):
        return "5.2.1.1: too old for this client"
    if -late < wants.get("min-fresh", -late):
        return "5.2.1.3: not fresh enough for this client"
    return ""


async def converse(conversation: list[dict[str, Any]]) -> int:
    clock = LoopClock()
    cache = HttpCache(runtime=clock, layers=[MemoryLayer("1MB", clock=clock.now)])
    known: dict[bytes, Given] = {}
    calls: list[bytes] = []
    unsafe = reused = 0
    step: dict[str, Any] = {}

    async def origin(scope, receive, send):
        body = b"%d" % len(calls)
        calls.append(body)
        if step["raises"]:
            raise OriginFailed
        if step["fails"]:
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b"failed " + body})
            return
        # A validator of its own: no HEAD and no 304 freshens another response by chance.
        lines = [(b"etag", b'"%b"' % body), (b"cache-control", written(step["control"]).encode())]
        lines += [(b"vary", b"Foo")] if step["vary"] else []
        lines += [(b"set-cookie", b"a=b")] if step["set-cookie"] else []
        lines += [(b"age", b"%d" % step["age"])] if step["age"] else []
        seen = {n.decode(): v.decode() for n, v in scope["headers"]}
        known[body] = Given(
            clock.time, step["control"], seen, step["vary"], step["set-cookie"], step["age"], unsafe
        )
        await send({"type": "http.response.start", "status": 200, "headers": lines})
        content = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": content})

    app = LayerGate(origin, cache=cache)
    for step in conversation:
        clock.time += step["wait"]
        before = len(calls)
        request = Step(method=step["method"], headers=tuple(step["fields"].items()))
        answer = await ask(app, request)
        now = clock.time
        foreground = len(calls)
        # A refresh in the background is made when the client has its answer already.
        await cache.aclose()
        where = f"{step}: {answer}"
        if answer.status == 200:
            name = (answer.get("etag") or "").strip('"').encode()
            if step["method"] != "HEAD":
                assert answer.body == name, where
            if name not in calls[before:]:
                assert step["method"] in ("GET", "HEAD"), where
                reused += 1
                failed = foreground > before and (step["fails"] or step["raises"])
                why = objection(known[name], step["fields"], now, failed, unsafe)
                assert not why, f"{why}; {known[name]}; {where}"
                age = int(now - known[name].time + known[name].age)
                assert answer.get("age") == str(age), where
                assert "hit" in (answer.get("cache-status") or "") or failed, where
        elif answer.status == 503:
            assert answer.body.startswith(b"failed"), where
        else:
            assert answer.status is None and step["raises"], where
        if step["method"] == "POST" and answer.status == 200:
            unsafe += 1
    return reused


@settings(max_examples=125, deadline=None, derandomize=True)
@given(st.lists(steps(), min_size=2, max_size=12))
def test_nothing_is_reused_that_must_not_be(conversation):
    asyncio.run(converse(conversation))
