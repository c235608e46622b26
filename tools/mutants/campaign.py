"""One campaign: which mutants are tried, with which tests, and the score.

`Campaign` copies the tree, measures once which tests enter which functions, then tries mutants in
the order of a seed until the time is up. `tools.mutants.__main__` starts it and prints what it found.
It never writes into the checkout. Measurements are kept in the temporary folder of the machine, by
the content of the test file; they choose tests, nothing more.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tools.mutants.collected import Collected
from tools.mutants.equivalents import Equivalents
from tools.mutants.forked import Outcome, Runner
from tools.mutants.mutations import Mutant, mutants_of
from tools.mutants.suites import tests_of

_COPIED: Final = ("layergate", "tests", "examples", "benchmarks", "contrib", "docs", "tools", "pyproject.toml", "Makefile", "README.md", "CHANGELOG.md", "LICENSE", "CONTRIBUTING.md")  # fmt: skip
_FILES: Final = 3  # that are tried before all others
_SURE: Final = 0.3  # seconds; a shorter test hardly fails because the machine is busy


@dataclass(slots=True)
class Score:
    mutants: int = 0
    killed: int = 0
    survived: list[tuple[Mutant, int]] = field(default_factory=list)  # and how many tests passed
    equivalent: int = 0

    @property
    def tried(self) -> int:
        return self.killed + len(self.survived) + self.equivalent

    @property
    def share(self) -> float | None:
        counted = self.killed + len(self.survived)
        return self.killed / counted if counted else None


@dataclass(slots=True)
class Measured:
    """One test file: seconds by test, tests by function, and the tests that fail anyway."""

    seconds: dict[str, float]
    functions: dict[str, list[str]]
    failing: list[str]


class Campaign:
    """``budget``: seconds of tests (as measured) for a mutant. ``end``: no mutant is begun after it
    (`time.monotonic`)."""

    def __init__(self, root: Path, modules: Sequence[str], seed: int, budget: float) -> None:
        self.root = root
        self.modules = modules
        self.scores = {module: Score() for module in modules}
        self.equivalents = Equivalents.read(Path(__file__).with_name("equivalents.txt"))
        self._seed = seed
        self._budget = budget
        self.end = math.inf
        self._folder = tempfile.TemporaryDirectory(prefix="layergate-mutants-")
        self.copy = Path(self._folder.name).resolve() / "tree"
        self._runner = Runner(self.copy)
        self._measured: dict[str, Measured] = {}
        self._suites: dict[str, list[str]] = {}
        self._collected: Collected | None = None
        self._fast = False  # with the tests as they are collected already
        self._texts = (Path(), ("", ""), "")  # module, its text and the mutant's, function
        self._sound: dict[str, bool] = {}
        self._killers: dict[str, int] = {}  # tests that have killed, and how many

    # -- Preparations -------------------------------------------------------------------------

    def prepare(self) -> None:
        """Copy the tree, preload, and measure the tests of all modules."""
        self.copy.mkdir(parents=True)
        for name in _COPIED:
            source = self.root / name
            if source.is_dir():
                ignored = shutil.ignore_patterns(".venv", "__pycache__", "*.pyc", ".hypothesis")
                shutil.copytree(source, self.copy / name, ignore=ignored, symlinks=True)
            elif source.exists():
                shutil.copy(source, self.copy / name)
        # Bytecode is checked against the content of its source: a mutant may have the size and the
        # date of its original.
        compiling = [
            sys.executable,
            "-m",
            "compileall",
            "-q",
            "--invalidation-mode",
            "checked-hash",
        ]
        subprocess.run([*compiling, str(self.copy / "layergate")], check=True)  # noqa: S603
        self._runner.preload()
        for module in self.modules:
            files = [path.relative_to(self.copy).as_posix() for path in tests_of(module, self.copy)]
            self._suites[module] = files
        for name in dict.fromkeys(name for files in self._suites.values() for name in files):
            self._measured[name] = self._measure(name)
        self._collected = Collected(self._runner, list(self._measured))

    def _measure(self, name: str) -> Measured:
        kept = Path(tempfile.gettempdir()) / f"layergate-mutants-measured-{os.getuid()}"
        kept.mkdir(mode=0o700, exist_ok=True)
        digest = hashlib.sha256(
            f"{sys.version} {name}\n".encode() + (self.copy / name).read_bytes()
        )
        file = kept / f"{digest.hexdigest()[:32]}.json"
        if file.exists():
            return Measured(**json.loads(file.read_text()))
        print(f"  measures {name}", flush=True)
        outcome = self._runner.run([name], watch=True, first=False)
        functions: dict[str, list[str]] = {}
        for test, entered in outcome.functions.items():
            for function in entered:
                functions.setdefault(function, []).append(test)
        failing = list(dict.fromkeys(outcome.failed))
        if not outcome.survived and not failing:
            raise RuntimeError(f"{name} does not run without a mutation (status {outcome.ended})")
        if failing:
            print(f"  left out, fails without a mutation: {', '.join(failing)}", flush=True)
        measured = Measured(outcome.seconds, functions, failing)
        file.write_text(json.dumps({
            "seconds": measured.seconds, "functions": functions, "failing": failing,
        }))  # fmt: skip
        return measured

    # -- Mutants ------------------------------------------------------------------------------

    def mutants(self, module: str) -> list[Mutant]:
        """All of a module, a folder or a file (``core/flight.py``, ``core/flight.py:30``), in the
        order of the seed; two of one line come far apart."""
        name, _, line = module.partition(":")
        place = self.copy / "layergate" / name  # the checkout may change meanwhile
        paths = [place] if place.is_file() else sorted(place.rglob("*.py"))
        if not paths:
            raise ValueError(f"there is no module {name!r} below layergate/")
        rounds: dict[int, list[Mutant]] = {}
        taken: dict[tuple[str, int], int] = {}
        found: list[Mutant] = []
        for path in paths:
            text = path.read_text()
            found.extend(mutants_of(path.relative_to(self.copy).as_posix(), text))
        random.Random(f"{self._seed} {name}").shuffle(found)  # noqa: S311
        for mutant in found:
            if line and mutant.line != int(line):
                continue
            number = taken[mutant.path, mutant.line] = taken.get((mutant.path, mutant.line), 0) + 1
            rounds.setdefault(number, []).append(mutant)
        return [mutant for number in sorted(rounds) for mutant in rounds[number]]

    def run(self, count: int | None) -> Iterator[tuple[Mutant, str]]:
        """Try the mutants, one of each module in turn; ``count``: at most so many of each."""
        queues = {module: self.mutants(module) for module in self.modules}
        for module, queue in queues.items():
            self.scores[module].mutants = len(queue)
        place = 0
        while any(place < len(queue) for queue in queues.values()):
            if count is not None and place >= count:
                return
            for module, queue in queues.items():
                if time.monotonic() >= self.end:
                    return
                if place < len(queue):
                    yield queue[place], self._try(module, queue[place])
            place += 1

    def _try(self, module: str, mutant: Mutant) -> str:
        score = self.scores[module]
        if mutant.key in self.equivalents:
            score.equivalent += 1
            return "equivalent"
        order = self._selected(module, mutant)
        path = self.copy / mutant.path
        source = path.read_text()
        shutil.rmtree(self.copy / ".hypothesis", ignore_errors=True)
        path.write_text(mutant.apply(source))
        self._texts = (path, (source, mutant.apply(source)), mutant.function)
        try:
            # What survives is tried with fresh imports: some code has run only while it was imported.
            self._fast = True
            killer = self._failing(order)
            self._fast = False
            if killer is None:
                killer = self._killer(order)
        finally:
            path.write_text(source)
        if killer is None:
            score.survived.append((mutant, len(order)))
            return f"survived {len(order)} tests"
        score.killed += 1
        self._killers[killer] = self._killers.get(killer, 0) + 1
        return f"killed by {killer}"

    def _selected(self, module: str, mutant: Mutant) -> dict[str, int]:
        """Tests that enter the mutated function, those first that have killed before, then the
        cheapest. A line outside functions is held by the tests that enter any function of its file."""
        below = mutant.path.removeprefix("layergate/")
        name = mutant.function.removesuffix(".<locals>")
        seconds: dict[str, float] = {}
        everything: dict[str, float] = {}
        for file in self._suites[module]:
            measured = self._measured[file]
            everything |= measured.seconds
            for function, tests in measured.functions.items():
                if function == f"{below}:{name}" or (not name and function.startswith(f"{below}:")):
                    for test in tests:
                        seconds[test] = measured.seconds[test]
        failing = {test for file in self._suites[module] for test in self._measured[file].failing}
        ranked = sorted(
            seconds or everything, key=lambda test: (-self._killers.get(test, 0), everything[test])
        )
        chosen: dict[str, int] = {}
        left = self._budget
        for test in ranked:
            if test not in failing and left > 0:
                left -= everything[test] + 0.01
                chosen[test] = len(chosen)
        return chosen

    def _killer(self, order: dict[str, int]) -> str | None:
        """The test that fails. One that takes time has to fail twice: it may be the machine."""
        first = self._first(order)
        rest = {test: at for test, at in order.items() if test not in first}
        return self._failing(first) or self._failing(rest)

    def _first(self, order: dict[str, int]) -> dict[str, int]:
        """The short tests of the few files that most likely notice. Most of the time of a run is
        collection, and most mutants die here."""
        short = [test for test in order if self._seconds(test) < _SURE]
        files: dict[str, list[int]] = {}
        for test in short:
            counts = files.setdefault(test.partition("::")[0], [0, 0])
            counts[0] += self._killers.get(test, 0)
            counts[1] += 1
        best = sorted(files, key=lambda file: files[file], reverse=True)[:_FILES]
        return {test: order[test] for test in short if test.partition("::")[0] in best}

    def _failing(self, order: dict[str, int]) -> str | None:
        remaining = dict(order)
        while remaining:
            outcome = self._tests(remaining)
            if outcome.survived:
                return None
            killer = outcome.killer
            test = outcome.failed[0] if outcome.failed else outcome.last
            if self._fast and not test:
                return None  # no test has begun, so this says nothing
            if self._fast and not self._is_sound(test):
                del remaining[test]
                continue
            if not test or (outcome.failed and self._seconds(test) < _SURE):
                return killer
            if not self._tests({test: 0}).survived:
                return killer
            del remaining[test]  # it fails now and then; the others decide
        return None

    def _tests(self, order: dict[str, int]) -> Outcome:
        files = dict.fromkeys(test.partition("::")[0] for test in order)
        limits = {test: 15 + 8 * self._seconds(test) for test in order}
        if self._fast:
            outcome = self._in_collected(self._texts[1], order, limits)
            return Outcome(ended=0) if outcome is None else outcome
        return self._runner.run(files, order=order, limits=limits, total=60 + 8 * self._budget)

    def _in_collected(
        self, texts: tuple[str, str], order: dict[str, int], limits: dict[str, float]
    ) -> Outcome | None:
        assert self._collected is not None
        path, _, function = self._texts
        total = 60 + 8 * self._budget
        return self._collected.run(path, texts, function, order, limits, total)

    def _is_sound(self, test: str) -> bool:
        """Whether the test passes, as it is collected already, without a mutation."""
        if test not in self._sound:
            path, (before, after), _ = self._texts
            path.write_text(before)  # for processes that it starts
            outcome = self._in_collected((before, before), {test: 0}, {})
            path.write_text(after)
            self._sound[test] = outcome is not None and outcome.survived
        return self._sound[test]

    def _seconds(self, test: str) -> float:
        measured = self._measured.get(test.partition("::")[0])
        return 1.0 if measured is None else measured.seconds.get(test, 1.0)

    def close(self) -> None:
        if self._collected is not None:
            self._collected.close()
        os.chdir(self.root)
        self._folder.cleanup()
