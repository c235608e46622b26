from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from layergate.gateway.toml_lines import Place, key_lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", {}),
        ("# a = 1\n\n", {}),
        ("a = 1", {("a",): 1}),
        ("\n# x\n  a=1 # b = 2\nc = 3", {("a",): 3, ("c",): 4}),
        ("a = 1\r\nb = 2\r\n", {("a",): 1, ("b",): 2}),
        # dotted and quoted
        ("\na . \"b.c\".'d' = 1", {("a",): 2, ("a", "b.c"): 2, ("a", "b.c", "d"): 2}),
        ('"\\u0061\\"" = 1\n"" = 2', {('a"',): 1, ("",): 2}),
        ("a.b = 1\na.c = 2", {("a",): 1, ("a", "b"): 1, ("a", "c"): 2}),
        # strings that look like something else
        ('a = "\\" b = 1 #"\nc = 1', {("a",): 1, ("c",): 2}),
        ("a = 'x\\'\nc = 1", {("a",): 1, ("c",): 2}),
        ('a = """\nb = 1\n[[c]]\n\\""" "" """\nd = 2', {("a",): 1, ("d",): 5}),
        ('a = """x"""""\nb = """"""\nc = 1', {("a",): 1, ("b",): 2, ("c",): 3}),
        ("a = '''\n'b = 1\n'''''\nd = 2", {("a",): 1, ("d",): 4}),
        # arrays
        (
            "a = [ # x ]\n  1, 'x]',\n  2 , ]\nb = 1",
            {("a",): 1, ("a", 0): 2, ("a", 1): 2, ("a", 2): 3, ("b",): 4},
        ),
        ("a = []\nb = [[], [\n1]]", {
            ("a",): 1, ("b",): 2, ("b", 0): 2, ("b", 1): 2, ("b", 1, 0): 3,
        }),
        # inline tables
        ("a = { b = 1, c.d = [\n{e = 2}] }\nf = {}", {
            ("a",): 1, ("a", "b"): 1, ("a", "c"): 1, ("a", "c", "d"): 1, ("a", "c", "d", 0): 2,
            ("a", "c", "d", 0, "e"): 2, ("f",): 3,
        }),
        # tables
        ("[a]\nb = 1\n[a.c]\nd = 1\n[ e . 'f' ]", {
            ("a",): 1, ("a", "b"): 2, ("a", "c"): 3, ("a", "c", "d"): 4, ("e",): 5, ("e", "f"): 5,
        }),
        ("[a.b]\n[a]\nc = 1", {("a",): 1, ("a", "b"): 1, ("a", "c"): 3}),
        # arrays of tables
        ("[[a]]\nb = 1\n[[a]]\n[[ a ]]\nb = 3", {
            ("a",): 1, ("a", 0): 1, ("a", 0, "b"): 2, ("a", 1): 3, ("a", 2): 4, ("a", 2, "b"): 5,
        }),
        ("[[a]]\n[a.b]\nc = 1\n[[a]]\n[[a.d]]\n[[a.d]]\nc = 2\n[a.b]", {
            ("a",): 1, ("a", 0): 1, ("a", 0, "b"): 2, ("a", 0, "b", "c"): 3, ("a", 1): 4,
            ("a", 1, "d"): 5, ("a", 1, "d", 0): 5, ("a", 1, "d", 1): 6, ("a", 1, "d", 1, "c"): 7,
            ("a", 1, "b"): 8,
        }),
        # what ends at a delimiter
        ("a = [1979-05-27 07:32:00,inf]\nb = {c = -1e5 }", {
            ("a",): 1, ("a", 0): 1, ("a", 1): 1, ("b",): 2, ("b", "c"): 2,
        }),
    ],
)  # fmt: skip
def test_lines(text: str, lines: dict[Place, int]):
    tomllib.loads(text)  # or there is nothing to be said
    assert key_lines(text) == lines


_KEYS = st.sampled_from(
    ["a", "b", "c-d", "'a'", '"b"', '"\\u0061.b"', "'#= ['", '"]"', '"\\""', "1"]
)
_SPACES = st.sampled_from(["", " ", "\t", "  "])
_BREAKS = st.sampled_from(["", " ", "\n", " # [a] = '\n", "\r\n\t"])
_STRINGS = st.sampled_from([
    '""', "''", '"a"', "'#'", '"\\\\"', '"\\"]"', '"""\n[a]\nb = 1\n"""', '"""a"b""c\\""""""', "''''''",
    "'''\n'''''", '"""""x"""', "'''''x'''", '"""\\\n   x"""', "'\\'", '"é"',
])  # fmt: skip
_SCALARS = st.sampled_from(
    ["1", "-1.5e3", "inf", "true", "1979-05-27 07:32:00", "07:32:00.5", "0xff", "1_000"]
)


def _arrays(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    parts = st.tuples(_BREAKS, values, _BREAKS).map("".join)
    return st.tuples(st.lists(parts, max_size=3), st.sampled_from(["", ",", ", #]\n"])).map(
        lambda made: f"[{','.join(made[0])}{made[1] if made[0] else ''}]"
    )


def _pairs(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    dotted = st.lists(_KEYS, min_size=1, max_size=3)
    return st.tuples(dotted, _SPACES, _SPACES, values).map(
        lambda made: f"{f'{made[1]}.{made[2]}'.join(made[0])}{made[1]}={made[2]}{made[3]}"
    )


def _tables(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(_SPACES, st.lists(_pairs(values), max_size=3)).map(
        lambda made: f"{{{made[0]}{f'{made[0]},{made[0]}'.join(made[1])}{made[0]}}}"
    )


_VALUES = st.recursive(
    _STRINGS | _SCALARS, lambda inner: _arrays(inner) | _tables(inner), max_leaves=6
)
_HEADERS = st.tuples(
    st.lists(_KEYS, min_size=1, max_size=3), _SPACES, st.sampled_from(["[]", "[[]]"])
).map(
    lambda made: made[2].replace(
        "[]", f"[{made[1]}{f'{made[1]}.{made[1]}'.join(made[0])}{made[1]}]"
    )
)
_LINES = st.tuples(_SPACES, _HEADERS | _pairs(_VALUES), st.sampled_from(["", " # x", "\t#"]))


def _places(value: Any, place: Place = ()) -> Iterator[Place]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, held in inner:
        yield (*place, key)
        if isinstance(held, dict | list):
            yield from _places(held, (*place, key))


@given(st.lists(_LINES.map("".join), max_size=6), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_every_key_that_tomllib_finds_is_found_and_no_other(parts: list[str], end: str):
    # Of parts that contradict each other, those that can stay.
    lines: list[str] = []
    for part in parts:
        try:
            tomllib.loads(end.join([*lines, part]))
        except tomllib.TOMLDecodeError:
            continue
        lines.append(part)
    assume(lines)
    text = end.join(lines)
    document = tomllib.loads(text)
    found = key_lines(text)
    assert set(found) == set(_places(document))
    assert all(1 <= line <= text.count("\n") + 1 for line in found.values())


@given(_LINES.map("".join), st.integers(0, 3))
def test_what_stands_before_a_key_counts(part: str, before: int):
    try:
        tomllib.loads(part)
    except tomllib.TOMLDecodeError:
        assume(False)
    later = key_lines("x = [\n]" + "\n" * before + "# \n" + part)
    later = {place: line - before - 2 for place, line in later.items() if place != ("x",)}
    assert later == key_lines(part)
