"""No two files of the package import each other, directly or through others.

`lint-imports` holds the direction between folders; this holds it between files. Imports inside of functions
and under ``TYPE_CHECKING`` count: a reader has to follow those too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "layergate"


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(source: str, known: Mapping[str, object]) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in known else node.module
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """The modules of one circle, in the order in which they import each other; [] if there is none."""
    done: set[str] = set()
    path: list[str] = []

    def visit(module: str) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        path.append(module)
        for other in sorted(graph[module]):
            if found := visit(other):
                return found
        path.pop()
        done.add(module)
        return []

    for module in sorted(graph):
        if found := visit(module):
            return found
    return []


def test_no_circle_of_imports() -> None:
    known = modules()
    graph = {
        name: {
            other for other in imported(path.read_text(), known) if other in known and other != name
        }
        for name, path in known.items()
    }
    assert len(graph) > 100
    found = circle(graph)
    assert not found, " -> ".join(found)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}}, ["a", "b", "a"]),
        ({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"b"}}, ["b", "d", "b"]),
    ],
    ids=["none", "two", "behind-another"],
)
def test_a_circle_is_found(graph: dict[str, set[str]], expected: list[str]) -> None:
    assert circle(graph) == expected
