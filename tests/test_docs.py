"""The documentation says what is there: links, files, tests, options, reasons and names of telemetry.

What the pages claim about behavior has tests of its own; these keep tables and references complete.
"""

from __future__ import annotations

import ast
import asyncio
import enum
import importlib
import inspect
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import httpx
import pytest

from layergate import Admin
from layergate.cli import main
from layergate.cli.client import Answered
from layergate.config import Options, Rule
from layergate.http.engine.witness import MAX_WITNESSES
from layergate.http.message.described import DescribedRequest
from layergate.http.rfc9111 import storing
from layergate.layers.memcached import MemcachedLayer
from layergate.layers.mongodb import MongoLayer
from layergate.layers.postgres import PostgresLayer
from layergate.layers.redis import RedisLayer
from layergate.shared.layer import SystemLayer
from layergate.sizes import parse_size
from layergate.telemetry import names
from tests.support.asgi import World

ROOT = Path(__file__).parent.parent
PAGES = sorted([
    *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md"),
    *ROOT.glob("examples/*/*.md"),
])  # fmt: skip
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
README = TEXTS["README.md"]

# Files that a reader makes, or that `make` does.
MADE_BY_READERS = {"shop.py", "layergate.toml", "benchmarks/.venv"}


def section(text: str, title: str) -> str:
    """From its heading to the next of the same or a higher level."""
    found = re.search(rf"^(#+) {re.escape(title)}\n", text, re.MULTILINE)
    assert found is not None, title
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest if end is None else rest[: end.start()]


def rows(text: str) -> Iterator[tuple[str, str]]:
    """The names and the default of each row of a table of options."""
    for left, default in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.*?) \| ", text, re.MULTILINE):
        for name in re.findall(r"\w+", left):
            yield name, default.replace("`", "")


def code(text: str) -> Iterator[str]:
    """What stands between backticks, code blocks left out."""
    yield from re.findall(
        r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    )


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    bare = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", bare, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tracked() -> list[str]:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.split("\0") if name]


# -- references ------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (ROOT / page).parent / path if path else ROOT / page
        assert linked.exists(), target
        if anchor:
            name = linked.resolve().relative_to(ROOT.resolve()).as_posix()
            assert anchor in anchors(TEXTS[name]), target


@pytest.mark.parametrize("page", TEXTS)
def test_files_and_tests_that_are_named_exist(page: str) -> None:
    files = tracked()
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for word in code(TEXTS[page]):
        if word in MADE_BY_READERS:
            continue
        if re.fullmatch(r"test_\w+(…|\*|\[\w+\])?", word):
            name = re.split(r"[…*\[]", word)[0]
            assert re.search(rf"def {name}", tests) or any(f"/{name}" in f for f in files), word
        elif re.fullmatch(r"[\w./-]+\.(py|md|toml|yml|json|service|sh)", word):
            assert any(f == word or f.endswith(f"/{word}") for f in files), word
        elif re.fullmatch(r"(tests|docs|contrib|benchmarks|examples)/[\w./*-]*", word):
            assert any(ROOT.glob(word)), word


@pytest.mark.parametrize("page", TEXTS)
def test_modules_and_targets_that_are_named_exist(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name in re.findall(r"\bfrom (layergate(?:\.\w+)*) import", TEXTS[page]):
        importlib.import_module(name)
    for target in re.findall(r"`make ([a-z-]+)", TEXTS[page]):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for word in code(TEXTS[page]):
        if re.fullmatch(r"layergate(\.[a-z_0-9]+)+", word) and word not in TELEMETRY | LOGGERS:
            importlib.import_module(word)


# -- options ---------------------------------------------------------------------------------------


def test_the_readme_has_every_option_with_its_default_and_no_other() -> None:
    told = dict(rows(section(README, "Options")))
    assert list(told) and set(told) == {option.name for option in fields(Options)}
    assert parse_size(ast.literal_eval(told.pop("memory")), option="") == Options().memory
    for option in fields(Options):
        if option.name in told:
            assert ast.literal_eval(told[option.name]) == option.default, option.name


def test_the_readme_has_every_option_of_a_rule() -> None:
    told = dict(rows(section(README, "Rules")))
    expected = {o.name: o.default for o in fields(Rule) if o.init}
    assert set(told) == set(expected)
    assert told.pop("path") == ""
    assert expected.pop("path") is MISSING
    assert {name: ast.literal_eval(default) for name, default in told.items()} == expected


def test_the_page_on_sharing_has_every_option_of_the_layer() -> None:
    told = dict(rows(section(TEXTS["docs/sharing.md"], "RedisLayer")))
    parameters = dict(inspect.signature(SystemLayer).parameters)
    assert told.pop("backoff") == "Backoff()"
    assert parameters.pop("backoff").default is None
    expected = {name: parameter.default for name, parameter in parameters.items()}
    expected["name"] = RedisLayer("redis://localhost").name
    assert {name: ast.literal_eval(default) for name, default in told.items()} == expected


# -- what is reported ------------------------------------------------------------------------------


def test_every_reason_is_explained_and_no_other() -> None:
    text = section(TEXTS["docs/observability.md"], "Reasons in `detail`")
    told = re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE)
    reasons = {
        member.value
        for kind in vars(storing).values()
        if isinstance(kind, type) and issubclass(kind, enum.Enum)
        for member in kind
    } - {"method"}  # which is `fwd=method`
    assert told == sorted(reasons)


INSTRUMENTS = {
    names.REQUESTS, names.AGES, *names.DURATIONS.values(), *names.COUNTS.values(),
    *names.LAYERS.values(), *names.LOG.values(), *names.STATES.values(),
}  # fmt: skip
ATTRIBUTES = {
    value
    for name, value in {**vars(names), **names.ATTRIBUTES}.items()
    if isinstance(value, str) and "." in value and not name.startswith("_")
}
LOGGERS = {"layergate.decisions", "layergate.access"}
TELEMETRY = ATTRIBUTES | {*names.SPANS.values()} | {one.name for one in INSTRUMENTS}


def test_every_name_of_telemetry_is_listed() -> None:
    text = TEXTS["docs/observability.md"]
    told = set(code(section(text, "Spans and metrics")))
    assert told >= TELEMETRY
    layers = {word for word in told if re.fullmatch(r"layergate(\.[a-z_]+)+", word)}
    assert layers <= TELEMETRY | LOGGERS | {"layergate.telemetry.otel"}


# -- examples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", TEXTS)
def test_examples_are_python(page: str) -> None:
    for example in blocks(TEXTS[page], "python"):
        compile(example, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


async def test_the_first_example_does_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    example = blocks(section(README, "Quick start"), "python")[0]
    space: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), space)
    slept: list[float] = []
    sleep = asyncio.sleep

    async def short(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0.01)

    monkeypatch.setattr(asyncio, "sleep", short)
    transport = httpx.ASGITransport(space["app"])
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        burst = await asyncio.gather(*(client.get("/top") for _ in range(100)))
        again = await client.get("/top")
    assert {response.text for response in burst} == {'["tea","coffee"]'}
    assert slept == [1]
    told = [response.headers["cache-status"] for response in burst]
    assert told.count("LayerGate; fwd=uri-miss; stored") == 1
    assert re.fullmatch(r"LayerGate; hit; ttl=(29|30)", again.headers["cache-status"])
    assert "age" in again.headers


# -- samples of `explain` --------------------------------------------------------------------------

SAMPLES = [
    (page, sample)
    for page, text in TEXTS.items()
    for sample in blocks(text, "console")
    if "$ layergate explain " in sample
]


def sample_app() -> World:
    """The app that the samples are about."""
    world = World(admin=Admin(token="s3cret"))
    cacheable = {
        "cache-control": "max-age=60, stale-while-revalidate=30",
        "etag": '"7-3"',
        "cache-tag": "product:7, products",
        "content-length": "1804",
    }
    world.origin.answers("/products/7", cacheable, b"x" * 1804)
    cart = {"cache-control": "max-age=60", "set-cookie": "cart=81", "content-length": "0"}
    world.origin.answers("/cart", cart, b"")
    return world


def test_there_are_samples_of_explain() -> None:
    assert {page for page, _ in SAMPLES} == {"README.md", "docs/observability.md"}


@pytest.mark.parametrize(("page", "sample"), SAMPLES)
def test_a_sample_of_explain_is_the_output_of_a_run(
    page: str, sample: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = sample_app()

    async def sent(asked: DescribedRequest, content: bytes | None) -> Answered:
        transport = httpx.ASGITransport(world.app)
        async with httpx.AsyncClient(transport=transport) as session:
            url = f"{asked.scheme}://{asked.authority}{asked.path.decode()}"
            answer = await session.request(asked.method, url, headers=asked.lines, content=content)
            return Answered(answer.status_code, answer.headers.raw, answer.content)

    def ask(asked: DescribedRequest, *, content: bytes | None = None, **_: object) -> Answered:
        return asyncio.run(sent(asked, content))

    for path in ("/products/7", "/cart"):
        for client in range(MAX_WITNESSES):  # after so many a marker is for all clients
            fields = {"user-agent": f"browser {client}"}
            ask(DescribedRequest.of("GET", f"http://localhost:8000{path}", fields))
    world.clock.advance(12)
    monkeypatch.setattr("layergate.cli.client.ask", ask)
    monkeypatch.setattr(platform, "node", lambda: "web-1")
    monkeypatch.setenv("LAYERGATE_ADMIN_TOKEN", "s3cret")
    (command,) = re.findall(r"^\$ layergate (explain .*)$", sample, re.MULTILINE)
    assert main(shlex.split(command)) == 0
    output = capsys.readouterr().out.replace(f"Process {os.getpid()} ", "Process 4711 ")
    assert sample.partition(f"$ layergate {command}\n")[2] == output, page


# -- the glossary ----------------------------------------------------------------------------------


def test_the_glossary_is_sorted_and_says_each_term_in_one_sentence() -> None:
    seen: set[str] = set()
    for part in re.split(r"^## ", TEXTS["docs/glossary.md"], flags=re.MULTILINE)[1:]:
        found = re.findall(r"^\| ([^|`]+?) \| (.+) \| (\S.*?) \|$", part, re.MULTILINE)
        terms = [term for term, _, rfc in found if rfc not in ("RFC", "---")]
        assert terms
        assert terms == sorted(terms)
        assert not seen & set(terms)
        seen |= set(terms)
        for term, meaning, rfc in found:
            if term in terms:
                assert re.fullmatch(r"[A-Z][^|]*\.", meaning), term
                assert ". " not in meaning, term
                assert re.fullmatch(r"-|[0-9]{4} [0-9.]+(, [0-9.]+)*", rfc), term


# -- shared systems --------------------------------------------------------------------------------


def test_the_table_of_systems_says_what_the_layers_say() -> None:
    """`tests/systems/test_costs.py` measures it."""
    table = section(TEXTS["docs/sharing.md"], "Compared")
    told = {
        cells[0]: cells[1:]
        for line in table.splitlines()
        if line.startswith("| ")
        and (cells := [cell.strip() for cell in line.strip("| ").split(" | ")])
    }
    layers: list[SystemLayer] = [
        RedisLayer("redis://h"),
        PostgresLayer("postgresql://h"),
        MongoLayer("mongodb://h"),
        MemcachedLayer("memcached://h"),
    ]
    for column, layer in enumerate(layers):
        found = layer.capabilities
        assert found is not None

        def said(row: str, column: int = column) -> str:
            return told[row][column]

        assert said("one fetch for all instances") == ("yes" if found.leases else "no")
        assert said("a purge is final within") == found.final_after
        assert said("instances are woken by") == found.woken_by
        assert said("calls for a hit") == str(found.hit)
        assert said("calls for a miss that is stored") == str(found.miss)
        assert said("calls for a purge") == str(found.purge)
        idle = found.idle_calls(layer.max_disconnected)
        assert said("calls an hour of an idle process") == f"{idle:,}"


def test_each_system_has_a_page_with_what_it_does_not_cover() -> None:
    for name in ("postgres", "mongodb", "memcached"):
        page = TEXTS[f"docs/systems/{name}.md"]
        assert "Not covered" in page
        assert "## What it costs" in page
        assert "shared=" in page
