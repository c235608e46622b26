"""``layergate init`` and ``layergate check URL``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from layergate.cli import main
from layergate.core.shared import Joining
from layergate.errors import ConfigError
from layergate.layers import schemes
from layergate.shared.capabilities import Capabilities
from layergate.testing.memory import MemoryLayer, MemorySystem
from tests.support.ports import free_port
from tests.support.redis_servers import SharedValkey

pytest_plugins = ("tests.support.redis_servers",)


def test_what_a_redis_promises_and_how_long_it_takes(
    shared_valkey: SharedValkey, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", shared_valkey.url]) == 0
    told, wrong = capsys.readouterr()
    assert wrong == ""
    assert re.search(r"an entry +stored and read back in \d+\.\d ms", told)
    assert re.search(r"a purge +final after \d+\.\d ms", told)
    assert "one fetch for all instances" in told
    assert "final within milliseconds; woken by pub/sub" in told
    assert "2,880 calls an hour" in told
    assert "problem" not in told
    kept = [key for key in shared_valkey.cli("KEYS", "*layergate-check*") if b":e:" in key]
    assert kept == [], "no entry is left behind"


def test_for_tools(shared_valkey: SharedValkey, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", shared_valkey.url]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["usable"] is True
    assert told["problems"] == []
    assert told["capabilities"]["woken_by"] == "pub/sub"
    assert len(told["final_purge_seconds"]) == 5
    assert told["idle_calls_an_hour"] == 2880


def test_a_system_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"redis://:{'s3cret'}@127.0.0.1:{free_port()}/0"
    assert main(["check", url]) == 1
    told, wrong = capsys.readouterr()
    assert "problem: " in told
    assert "onnect" in told
    assert "s3cret" not in told + wrong


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check", "nowhere://x"], "must begin with a scheme"),
        (["check", "host:/tmp/x"], "nothing to be checked"),
        (["init", "host:shop"], "nothing to be checked"),
        (["init"], "init needs a URL, as an argument or in $LAYERGATE_SHARED"),
    ],
)
def test_what_is_no_such_system(
    arguments: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LAYERGATE_SHARED", raising=False)
    assert main(arguments) == 2
    assert says in capsys.readouterr().err


class Tables(MemoryLayer):
    """A system that has to be prepared."""

    system = MemorySystem()
    ready = False
    refuses = False

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        super().__init__(self.system, **{"name": "tables", **options})

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            leases=False, final_after=None, woken_by="looking", staleness=60.0, look_every=1.0
        )

    def setup(self) -> list[str]:
        if self.refuses:
            raise ConfigError("user must be allowed to create tables; GRANT CREATE")
        made, type(self).ready = not self.ready, True
        return ["Made the table entries."] if made else []

    def examine(self) -> list[str]:
        return [] if self.ready else ["The table entries is missing; run: layergate init URL"]

    def join(self, joining: Joining) -> Any:
        assert self.ready
        return super().join(joining)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> type[Tables]:
    monkeypatch.setattr(Tables, "ready", False)
    monkeypatch.setattr(Tables, "refuses", False)
    monkeypatch.setitem(schemes._added, "tables", Tables)
    return Tables


def test_init_makes_what_check_misses(
    tables: type[Tables],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["check", "tables://db"]) == 1
    assert (
        "problem: The table entries is missing; run: layergate init URL" in capsys.readouterr().out
    )
    monkeypatch.setenv("LAYERGATE_SHARED", "tables://db")
    assert main(["init"]) == 0
    assert capsys.readouterr().out == "Made the table entries.\n"
    assert main(["init", "tables://db"]) == 0
    assert capsys.readouterr().out == "There is nothing to make.\n"
    assert main(["check", "tables://db"]) == 0
    told = capsys.readouterr().out
    assert "never final: up to 60 s stale" in told
    assert "each instance fetches for itself" in told
    assert "6,480 calls an hour" in told  # 2,880 heartbeats, and 3,600 looks


def test_a_system_that_refuses_to_be_prepared(
    tables: type[Tables], capsys: pytest.CaptureFixture[str]
) -> None:
    tables.refuses = True
    assert main(["init", "tables://db"]) == 1
    assert "GRANT CREATE" in capsys.readouterr().err


def test_without_a_url_it_is_the_gateways_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--upstream", "http://127.0.0.1:1"]) == 0
    assert "upstream" in capsys.readouterr().out
