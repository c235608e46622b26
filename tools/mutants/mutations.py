"""The mutants of one source file: what is changed, where, and the text that results.

`mutants_of` reads a file as a syntax tree and yields one `Mutant` for each small change: another
comparison, a dropped operand, a deleted statement. A change replaces a piece of the text, so that
everything else stays as it was written. `tools.mutants.campaign` calls it; nothing here runs a test.

These are left alone, because no test should hold them: annotations, decorators, docstrings,
`assert`, `if TYPE_CHECKING`, `__repr__`, calls of a logger, and the text of messages.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_COMPARISONS: Final[dict[type[ast.cmpop], tuple[str, tuple[str, ...]]]] = {
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
_ARITHMETIC: Final[dict[type[ast.operator], tuple[str, str]]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.BitOr: ("|", "&"),
    ast.BitAnd: ("&", "|"),
}
_LOGGERS: Final = frozenset({"log", "logger", "_log", "_logger", "warnings"})
_LARGEST: Final = 600  # numbers above it are sizes and dates; another one says nothing


@dataclass(frozen=True, slots=True)
class Mutant:
    path: str  # below the root, with slashes
    line: int
    function: str  # qualified name; "" at the top level of the file
    kind: str
    before: str  # the line as it is, stripped
    after: str  # the line as it becomes, stripped
    start: int  # the piece of the text (offsets in characters) ...
    end: int
    text: str  # ... and its replacement

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies a mutant when lines and files have moved."""
        return self.function, self.before, self.after

    def apply(self, source: str) -> str:
        return source[: self.start] + self.text + source[self.end :]

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.kind}\n    - {self.before}\n    + {self.after}"


def mutants_of(path: str, source: str) -> Iterator[Mutant]:
    """Every mutant of the file that still compiles, each text once."""
    lines = source.splitlines(keepends=True)
    found = _Visitor(source, lines)
    found.visit(ast.parse(source))
    seen: set[tuple[int, int, str]] = set()
    for function, line, kind, start, end, text in found.changes:
        if (start, end, text) in seen or source[start:end] == text:
            continue
        seen.add((start, end, text))
        mutated = source[:start] + text + source[end:]
        try:
            compile(mutated, path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            continue
        before = lines[line - 1].strip()
        after = mutated.splitlines()[line - 1].strip()
        if "\n" in source[start:end]:
            before += " ..."
        yield Mutant(path, line, function, kind, before, after, start, end, text)


class _Visitor(ast.NodeVisitor):
    """Collects the changes: (function, line, kind, start, end, replacement)."""

    def __init__(self, source: str, lines: list[str]) -> None:
        self.changes: list[tuple[str, int, str, int, int, str]] = []
        self._source = source
        self._lines = lines
        self._starts = [0]
        for line in lines:
            self._starts.append(self._starts[-1] + len(line))
        self._names: list[str] = []

    def _offset(self, line: int, column: int) -> int:
        # Columns of the tree count bytes of UTF-8.
        text = self._lines[line - 1]
        if not text.isascii():
            column = len(text.encode()[:column].decode())
        return self._starts[line - 1] + column

    def _span(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._offset(node.lineno, node.col_offset),
            self._offset(node.end_lineno, node.end_col_offset),
        )

    def _text(self, node: ast.expr | ast.stmt) -> str:
        start, end = self._span(node)
        return self._source[start:end]

    def _add(self, kind: str, start: int, end: int, text: str) -> None:
        function = ".".join(self._names)
        line = self._source.count("\n", 0, start) + 1
        self.changes.append((function, line, kind, start, end, text))

    def _replace(self, kind: str, node: ast.expr | ast.stmt, text: str) -> None:
        self._add(kind, *self._span(node), text)

    def _between(self, kind: str, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """Replace the operator between two operands, wherever brackets and line breaks are."""
        start, end = self._span(left)[1], self._span(right)[0]
        at = self._source.find(old, start, end)
        if at >= 0:
            self._add(kind, at, at + len(old), new)

    # -- Definitions --------------------------------------------------------------------------

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        if node.name in {"__repr__", "__str__"}:
            return
        inside = not isinstance(node, ast.ClassDef)
        self._names.append(node.name)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for default in (*node.args.defaults, *node.args.kw_defaults):
                if default is not None:
                    self.visit(default)
        if inside:
            self._names.append("<locals>")
        for statement in node.body:
            self.visit(statement)
        del self._names[-2 if inside else -1 :]

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _definition  # noqa: N815

    # -- Statements ---------------------------------------------------------------------------

    def _delete(self, node: ast.stmt) -> None:
        self._replace("statement deleted", node, "pass")

    def visit_Expr(self, node: ast.Expr) -> None:
        value = node.value
        if isinstance(value, ast.Constant):
            return
        if isinstance(value, ast.Call) and _is_logging(value):
            return
        self._delete(node)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            if self._names and self._names[-2:] != ["__init__", "<locals>"]:
                self._delete(node)
        self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._delete(node)
        operator = _ARITHMETIC.get(type(node.op))
        if operator is not None:
            self._between("arithmetic", node.target, node.value, *operator)
        self.visit(node.value)

    def visit_Delete(self, node: ast.Delete) -> None:
        self._delete(node)

    def _leave(self, node: ast.Raise | ast.Break | ast.Continue) -> None:
        self._delete(node)

    visit_Raise = visit_Break = visit_Continue = _leave  # noqa: N815

    def visit_Assert(self, node: ast.Assert) -> None:
        return

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            self._delete(node)
            return
        # (Where a boolean is due, None is as good as False.)
        if not (isinstance(node.value, ast.Constant) and isinstance(node.value.value, bool | None)):
            self._replace("return None", node, "return None")
        self.visit(node.value)

    def _test(self, test: ast.expr) -> None:
        if isinstance(test, ast.Name | ast.Attribute | ast.Call | ast.Await | ast.Subscript):
            self._replace("condition negated", test, f"(not {self._text(test)})")

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self._test(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._test(node.test)
        start = self._span(node)[0]
        self._add("while becomes if", start, start + len("while"), "if")
        self.generic_visit(node)

    # -- Expressions --------------------------------------------------------------------------

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._test(node.test)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for operator, left, right in zip(node.ops, operands, operands[1:], strict=False):
            old, others = _COMPARISONS[type(operator)]
            for new in others:
                self._between("comparison", left, right, old, new)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        values = node.values
        for left, right in itertools.pairwise(values):
            self._between("and/or", left, right, old, new)
        neutral = "True" if isinstance(node.op, ast.And) else "False"
        for value in values:
            if not isinstance(value, ast.Constant):
                self._replace("operand dropped", value, neutral)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._replace("not dropped", node, f"({self._text(node.operand)})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        operator = _ARITHMETIC.get(type(node.op))
        if operator is not None and not _is_text(node.left) and not _is_text(node.right):
            self._between("arithmetic", node.left, node.right, *operator)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._replace("constant", node, str(not value))
        elif isinstance(value, int | float) and 0 <= value <= _LARGEST:
            other = 0 if value == 1 else value + 1 if isinstance(value, int) else value * 2 or 1.0
            self._replace("constant", node, str(other))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        return

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in {"min", "max"}:
            self._replace("min/max", node.func, "max" if node.func.id == "min" else "min")
        for keyword in node.keywords:
            if keyword.arg is None:
                continue
            start, end = self._span(keyword)
            rest = self._source[end : self._span(node)[1]]
            end += len(rest) - len(rest.lstrip(" \n,"))
            self._add("keyword dropped", start, end, "")
        self.generic_visit(node)


def _is_logging(call: ast.Call) -> bool:
    function = call.func
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id in _LOGGERS
    )


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )
