"""The decorator: what the key of a call is, and that different calls never share one."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import inspect
import itertools
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layergate.assembly import CacheStack
from layergate.core.wrap import _encoded
from layergate.errors import ConfigError, KeyRefused
from tests.core.support import Boom, DictLayer, TopLayer
from tests.support.clocks import StillRuntime
from tests.support.waiting import turns


@pytest.fixture
def runtime() -> StillRuntime:
    return StillRuntime()


@pytest.fixture
def stack(runtime) -> CacheStack:
    return CacheStack([TopLayer(), DictLayer()], runtime=runtime)


async def test_a_coroutine_function(stack, runtime) -> None:
    calls = []

    @stack.wrap(ttl=60, key="user:{id}", tags=["user", "user:{id}"])
    async def user(id: int, *, deep: bool = False) -> dict:  # noqa: A002
        """Find a user."""
        calls.append(id)
        return {"id": id, "call": len(calls)}

    assert await user(7) == {"id": 7, "call": 1}
    assert await user(id=7) == {"id": 7, "call": 1}
    assert await user(8) == {"id": 8, "call": 2}
    assert user.key(7) == "user:7"
    assert stack.peek("user:7").tags == ("user", "user:7")
    assert await user.refresh(7) == {"id": 7, "call": 3}
    assert await user(7) == {"id": 7, "call": 3}
    await stack.invalidate_by_tag("user:7")
    assert await user(7) == {"id": 7, "call": 4}
    assert await user(8) == {"id": 8, "call": 2}
    assert await user.invalidate(8) is True
    assert await user.invalidate(8) is False
    assert (user.__name__, user.__doc__) == ("user", "Find a user.")
    assert list(inspect.signature(user).parameters) == ["id", "deep"]


async def test_a_plain_function_is_awaited_too(stack) -> None:
    @stack.wrap(ttl=60)
    def double(number: int) -> int:
        return number * 2

    assert await double(4) == 8
    assert stack.peek(double.key(4)).value == 8


async def test_all_options_of_get_hold(stack, runtime) -> None:
    calls = []

    @stack.wrap(ttl=60, stale_while_revalidate=30, refresh_ahead=0.5, stale_if_error=300)
    async def load() -> int:
        calls.append(1)
        if len(calls) == 4:
            raise Boom
        return len(calls)

    assert await load() == 1
    await runtime.advance(30)
    assert await load() == 1
    await turns()
    assert await load() == 2
    await runtime.advance(70)
    assert await load() == 2
    await turns()
    assert await load() == 3
    await runtime.advance(100)
    assert await load() == 3
    assert len(calls) == 4


async def test_concurrent_calls_share_one(stack) -> None:
    gate, calls = asyncio.Event(), []

    @stack.wrap(ttl=60)
    async def slow(number: int) -> int:
        calls.append(number)
        await gate.wait()
        return number

    waits = [asyncio.ensure_future(slow(1)) for _ in range(10)]
    await turns()
    gate.set()
    assert await asyncio.gather(*waits) == [1] * 10
    assert calls == [1]


async def test_a_callable_key_takes_the_same_arguments(stack) -> None:
    @stack.wrap(ttl=60, key=lambda first, second=2: f"{first}/{second}")
    async def join(first: int, second: int = 2) -> int:
        return first + second

    assert join.key(1) == "1/2"
    assert join.key(1, second=3) == "1/3"
    assert await join(1, second=3) == 4
    assert stack.peek("1/3").value == 4


async def test_a_method_binds(stack) -> None:
    class Shop:
        def __init__(self, name: str) -> None:
            self.name = name

        @stack.wrap(ttl=60, key="{self.name}:{item}")
        async def price(self, item: str) -> str:
            return f"{self.name} {item}"

    shop, other = Shop("a"), Shop("b")
    assert await shop.price("x") == "a x"
    assert await other.price(item="x") == "b x"
    assert shop.price.key("x") == "a:x"
    assert Shop.price.key(shop, "x") == "a:x"
    assert await shop.price.refresh("x") == "a x"
    assert await shop.price.invalidate("x") is True
    assert stack.peek("a:x") is None and stack.peek("b:x") is not None


def test_the_same_call_has_one_key_however_it_is_written(stack) -> None:
    @stack.wrap(ttl=60)
    async def function(first, second=2, *rest, third=3, **others) -> None: ...

    keys = {
        function.key(1),
        function.key(first=1),
        function.key(1, 2),
        function.key(1, second=2, third=3),
    }
    assert len(keys) == 1
    assert function.key(1, a=1, b=2) == function.key(1, b=2, a=1)
    assert function.key(1, 2, 3) != function.key(1, 2, third=3, a=3)
    assert len({function.key(1), function.key(2), function.key(1, 2, 3), function.key(1, x=1)}) == 4
    with pytest.raises(TypeError):
        function.key()

    @stack.wrap(ttl=60)
    async def simple(first, second=2) -> None: ...

    assert simple.key(1) == simple.key(1, 2) == simple.key(second=2, first=1) != simple.key(1, 3)
    for args in ((), (1, 2, 3)):
        with pytest.raises(TypeError):
            simple.key(*args)


def test_two_functions_never_share_a_default_key(stack) -> None:
    @stack.wrap(ttl=60)
    async def one(number) -> None: ...

    @stack.wrap(ttl=60)
    async def two(number) -> None: ...

    assert one.key(1) != two.key(1)
    assert one.key(1).startswith("tests.core.test_wrap.")


def test_closures_that_share_a_name_need_a_key(stack) -> None:
    def factory(factor: int, **options):
        @stack.wrap(ttl=60, **options)
        async def times(number: int) -> int:
            return number * factor

        return times

    factory(2)
    with pytest.raises(ConfigError, match=r"key=\.\.\."):
        factory(3)
    factory(3, key="three:{number}")
    stack.wrap(ttl=60)(lambda number: number)
    with pytest.raises(ConfigError, match=r"key=\.\.\."):
        stack.wrap(ttl=60)(lambda number: number + 1)


def test_an_app_factory_may_wrap_the_same_function_again(stack) -> None:
    def factory():
        @stack.wrap(ttl=60)
        async def same(number: int) -> int:
            return number

        return same

    assert factory().key(1) == factory().key(1)


def test_arguments_without_a_default_key_are_refused(stack) -> None:
    @stack.wrap(ttl=60)
    async def function(thing) -> None: ...

    for thing in (object(), lambda: 1, [object()], iter(())):
        with pytest.raises(KeyRefused, match=r"'thing'.*key=\.\.\."):
            function.key(thing)
    loop: list = []
    loop.append(loop)
    with pytest.raises(KeyRefused, match="deep"):
        function.key(loop)


def test_long_arguments_are_hashed(stack) -> None:
    @stack.wrap(ttl=60)
    async def function(text) -> None: ...

    first, second = function.key("x" * 100_000), function.key("x" * 100_001)
    assert first != second
    assert len(first) < 300
    assert function.key("\ud800" * 1000) != first


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Other(enum.IntEnum):
    RED = 1


class Text(enum.StrEnum):
    RED = "red"


@dataclasses.dataclass(frozen=True)
class Point:
    x: object
    y: object = 0


@dataclasses.dataclass(frozen=True)
class Spot:
    x: object
    y: object = 0


DIFFERENT = [
    None, True, False, 0, 1, -1, 0.0, -0.0, 1.0, 1.5, "", "1", "None", "n", b"", b"1", "ab", b"ab",
    (), [], {}, set(), frozenset(), (1,), [1], {1}, frozenset({1}), {1: 1}, (1, 2), (12,), ((1,), 2),
    ((1, 2),), ("a", "b"), ("ab",), ("a,b",), ("", "ab"), ("a", "", "b"), {"a": 1}, {"a": "1"},
    {"a": 1, "b": 2}, [("a", 1)], 1j, float("inf"), 10, 16,
    datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2),  # noqa: DTZ001
    datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC), datetime.time(1), datetime.timedelta(1),
    decimal.Decimal(1), decimal.Decimal("1.0"), uuid.UUID(int=1), Colour.RED, Colour.BLUE,
    Other.RED, Text.RED, "red", Point(1), Point(1, 1), Point("1"), Spot(1), (1, 0), Point((1, 0)),
]  # fmt: skip


def test_different_arguments_have_different_encodings() -> None:
    seen: dict[str, object] = {}
    for value in DIFFERENT:
        text = _encoded(value, "a")
        assert text not in seen, f"{value!r} and {seen[text]!r}"
        seen[text] = value


def test_no_encoding_is_the_beginning_of_another() -> None:
    """So a row of them can be read in one way only."""
    texts = sorted(_encoded(value, "a") for value in DIFFERENT)
    for first, second in itertools.pairwise(texts):
        assert not second.startswith(first)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=6,
)


def exact(value: object) -> str:
    """`repr` tells these types apart, and the order of a dict does not matter."""
    if isinstance(value, dict):
        return f"dict{sorted((key, exact(each)) for key, each in value.items())}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}{[exact(each) for each in value]}"
    return repr(value)


@given(first=st.lists(plain, max_size=3), second=st.lists(plain, max_size=3))
def test_g9_rows_of_arguments_share_an_encoding_only_if_equal(first, second) -> None:
    texts = ["".join(_encoded(value, "a") for value in row) for row in (first, second)]
    assert (texts[0] == texts[1]) == (exact(first) == exact(second))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ttl": -1}, "ttl"),
        ({"ttl": 60, "key": "user:{uid}"}, "'id'"),
        ({"ttl": 60, "key": "user:{}"}, "'id'"),
        ({"ttl": 60, "key": "user:{id"}, "format"),
        ({"ttl": 60, "key": 7}, "got 7"),
        ({"ttl": 60, "tags": ["{uid}"]}, "tags"),
        ({"ttl": 60, "tags": ["{id}", 3]}, "tags"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_written(stack, options, said) -> None:
    async def user(id: int) -> None: ...  # noqa: A002

    with pytest.raises(ConfigError, match=said):
        stack.wrap(**options)(user)


def test_only_functions_can_be_wrapped(stack) -> None:
    async def stream():
        yield 1

    with pytest.raises(ConfigError):
        stack.wrap(ttl=60)(stream)
    with pytest.raises(ConfigError):
        stack.wrap(ttl=60)(7)


async def test_a_tag_made_from_arguments_that_cannot_be_is_not_stored(stack) -> None:
    @stack.wrap(ttl=60, tags=["{name}"])
    async def load(name: str) -> str:
        return name

    assert await load("") == ""
    assert await load("x" * 300) == "x" * 300
    assert stack.peek(load.key("")) is None
    assert stack.metrics()["events"]["refused"] == 2
