"""Runs tests in forks of a process that has collected them already.

Most of the time of a small run is the import and the collection of its test files. `Collected` is a fork
of `Runner` that does both once, for all files of a campaign. For each mutant it forks again, and puts the
mutated code into the functions that are there (`exchange`). So it can try only mutants inside functions;
what is computed while modules are imported stays as it was. `tools.mutants.campaign` therefore tries the
others, and whatever survives here, with `Runner.run`, which imports everything anew.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import Pipe
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

from tools.mutants.forked import QUIET, Outcome, Reporter, Runner, be_alone


class _Wanted(NamedTuple):
    path: Path
    before: str  # the text of the module, and of the mutant
    after: str
    function: str
    order: dict[str, int]
    limits: dict[str, float]
    total: float


def exchange(path: Path, before: str, after: str, function: str) -> bool:
    """Put the code of ``after`` into the functions of this process that come from ``before``. False if
    they are the same, because the mutant is outside of all functions."""
    name = function.partition(".<locals>")[0]
    old, new = (
        list(_codes(compile(text, str(path), "exec", dont_inherit=True), name))
        for text in (before, after)
    )
    changed = [pair for pair in zip(old, new, strict=True) if pair[0] != pair[1]]
    found = False
    for one in gc.get_objects() if changed else ():
        if type(one) is FunctionType and one.__code__.co_qualname == name:
            for was, is_now in changed:
                if one.__code__ == was and one.__code__.co_filename == str(path):
                    one.__code__ = is_now
                    found = True
    return found


def _codes(code: CodeType, name: str) -> Iterator[CodeType]:
    for one in code.co_consts:
        if isinstance(one, CodeType):
            if one.co_qualname == name:
                yield one
            else:
                yield from _codes(one, name)


class Collected:
    """``files``: of the copy. The process ends with `close`."""

    def __init__(self, runner: Runner, files: Sequence[str]) -> None:
        self._asking, answering = Pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._asking.close()
                be_alone()
                import pytest

                reporter = Reporter(-1, None, None, frozenset())
                loop = _Loop(answering, runner, reporter)
                pytest.main([*QUIET, *files], plugins=[reporter, loop])
            finally:
                os._exit(70)
        answering.close()

    def run(
        self,
        path: Path,
        texts: tuple[str, str],
        function: str,
        order: Mapping[str, int],
        limits: Mapping[str, float],
        total: float,
    ) -> Outcome | None:
        """What became of the tests in ``order``; None if this mutant cannot be tried here. ``texts``: of
        the module, and of the mutant (the same text: no
        mutation)."""
        self._asking.send(_Wanted(path, *texts, function, dict(order), dict(limits), total))
        outcome: Outcome = self._asking.recv()
        return None if outcome.ended == _NOT_HERE else outcome

    def close(self) -> None:
        self._asking.close()
        os.waitpid(self._pid, 0)


_NOT_HERE = 71


class _Loop:
    """A pytest plugin: instead of running the tests, it waits for what is wanted."""

    def __init__(self, asked: Any, runner: Runner, reporter: Reporter) -> None:
        self._asked = asked
        self._runner = runner
        self._reporter = reporter

    def pytest_runtestloop(self, session: Any) -> bool:
        items = {item.nodeid: item for item in session.items}
        while True:
            try:
                wanted: _Wanted = self._asked.recv()
            except EOFError:
                return True

            def work(pipe: int, wanted: _Wanted = wanted) -> None:
                be_alone()
                texts = wanted.before, wanted.after
                try:
                    there = texts[0] == texts[1] or exchange(wanted.path, *texts, wanted.function)
                except ValueError:  # the mutant has other free variables
                    there = False
                if not there:
                    os._exit(_NOT_HERE)
                self._reporter.pipe = pipe
                os._exit(_run(session, [items[test] for test in wanted.order if test in items]))

            self._asked.send(self._runner.fork(work, wanted.limits, wanted.total))


def _run(session: Any, items: list[Any]) -> int:
    """File by file, in the order of the first test of each; up to the first failure."""
    files: dict[str, int] = {}
    for item in items:
        files.setdefault(str(item.path), len(files))
    items.sort(key=lambda item: files[str(item.path)])
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            session._setupstate.teardown_exact(None)
            return 1
    return 0
