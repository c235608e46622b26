"""``layergate serve``, ``check`` and ``completion``: what they make of a command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from layergate.cli import main
from layergate.errors import SettingsError
from layergate.gateway.catalogue import SETTINGS
from layergate.gateway.options import GatewayOptions
from layergate.gateway.settings import load
from tests.support.tls import tls_files

ROOT = Path(__file__).parent.parent.parent
BOUND = 60.0  # seconds; only a test that hangs takes so long
UP = "http://127.0.0.1:8000"
SECRET = "s3cret-of-some-length"


@pytest.fixture(autouse=True)
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables, and an empty folder."""
    for name in list(os.environ):
        if name.startswith("LAYERGATE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


class Supervisor:
    """Stands for the processes: keeps what it was given."""

    def __init__(self) -> None:
        self.options: list[GatewayOptions] = []
        self.load: Callable[[], GatewayOptions] | None = None

    def run(self, options: GatewayOptions, load: Callable[[], GatewayOptions]) -> int:
        self.options.append(options)
        self.load = load
        return 0


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    fake = Supervisor()
    module = types.ModuleType("layergate.gateway.run")
    module.run = fake.run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return fake


# -- serve -------------------------------------------------------------------------------------------


def test_serve_with_flags(supervisor: Supervisor):
    Path("token").write_text("tok\n")
    code = main([
        "serve", "--upstream", UP, "--listen", ":8081", "--listen", ":8082,[::1]:8083",
        "--memory", "256MB", "--workers", "2", "--no-pass-upgrades", "--access-log",
        "--admin-token-file", "token", "--via", "",
    ])  # fmt: skip
    assert code == 0
    (options,) = supervisor.options
    assert options.listen == (":8081", ":8082", "[::1]:8083")
    assert (options.cache.memory, options.workers, options.via) == (256 * 1024**2, 2, None)
    assert (options.pass_upgrades, options.access_log) == (False, True)
    assert options.admin is not None
    assert options.admin.token == "tok"


def test_serve_from_a_file_and_the_environment(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
):
    Path("layergate.toml").write_text(f'upstream = "{UP}"\nworkers = 2\n')
    monkeypatch.setenv("LAYERGATE_MAX_FIELDS", "50")
    monkeypatch.setenv("LAYERGATE_CONFIG", "layergate.toml")
    assert main(["serve"]) == 0
    assert main(["serve", "-c", "layergate.toml", "--workers", "3"]) == 0
    assert [options.workers for options in supervisor.options] == [2, 3]
    assert [options.max_fields for options in supervisor.options] == [50, 50]


def test_a_reload_reads_everything_again(
    supervisor: Supervisor, capsys: pytest.CaptureFixture[str]
):
    config = Path("layergate.toml")
    config.write_text(f'upstream = "{UP}"\n')
    assert main(["serve", "-c", "layergate.toml", "--max-fields", "50"]) == 0
    assert supervisor.load is not None
    config.write_text(f'upstream = "{UP}"\nmax_fields = 9\n[[rules]]\npath = "/a"\nttl = 1\n')
    again = supervisor.load()
    assert (again.max_fields, len(again.cache.rules)) == (50, 1)
    config.write_text("upstream =")
    with pytest.raises(SettingsError, match=r"^layergate.toml:1: "):
        supervisor.load()


def test_serve_with_what_cannot_work(supervisor: Supervisor, capsys: pytest.CaptureFixture[str]):
    Path("layergate.toml").write_text("workers = 0\nmax_haed = 1\n")
    assert main(["serve", "-c", "layergate.toml", "--upstream", UP, "--keep", "x"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "--keep: keep must be a number of seconds, got 'x'",
        "layergate.toml: workers must be an integer from 1 to 256, got 0",
        "layergate.toml: there is no option 'max_haed'; did you mean 'max_head'?",
    ]
    assert supervisor.options == []


def test_serve_without_its_libraries(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("layergate.cli.serve.find_spec", lambda name: None)
    assert main(["serve", "--upstream", UP]) == 2
    assert "pip install 'layergate[gateway]'" in capsys.readouterr().err


def test_the_other_commands_need_none_of_them():
    code = (
        "import sys, layergate.cli; from layergate.cli import main;"
        "main(['check', '--upstream', 'http://a']);"
        "sys.exit(bool({'httptools', 'uvloop', 'shtab', 'redis', 'layergate.gateway.clients.server'}"
        " & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=BOUND, check=False
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("option", ["--admin-token", "--shared-secret"])
def test_a_secret_has_no_place_on_a_command_line(option: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exited:
        main(["check", "--upstream", UP, option, "x"])
    assert exited.value.code == 2
    assert option in capsys.readouterr().err


# -- check -------------------------------------------------------------------------------------------


def _config() -> str:
    Path("token").write_text("tok\n")
    tls_files(Path())
    return """\
listen = ["127.0.0.1:8081", "unix:/run/x.sock"]
memory = "5MB"
keep = inf
via = ""
name = "a\\"b"
admin_token_file = "token"
trusted_proxies = ["10.0.0.0/8", "unix"]
upstream_read_timeout = 5

[[upstreams]]
url = "https://a.example"
hosts = ["a.example", "*.a.example"]
tls_ca_file = "cert.pem"

[[upstreams]]
url = "unix:/run/b.sock"
host = "b.example"

[[rules]]
path = "/products/{id}"
ttl = {200 = 60.5, 301 = inf, 404 = 5}
tags = ["product:{id}"]

[[rules]]
path = "/private/*"
bypass = true
"""


def test_check_shows_a_configuration_that_can_be_read_again(capsys: pytest.CaptureFixture[str]):
    Path("layergate.toml").write_text(_config())
    assert main(["check", "-c", "layergate.toml", "--workers", "2", "--shared-namespace", "x"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert re.search(r"^workers = 2 +# --workers$", told.out, re.MULTILINE)
    assert re.search(r'^memory = "5MB" +# layergate.toml$', told.out, re.MULTILINE)
    assert re.search(r"^max_fields = 100 +# default$", told.out, re.MULTILINE)
    assert re.search(r"^# tls_cert = none +# default$", told.out, re.MULTILINE)
    Path("shown.toml").write_text(told.out)
    flags = {"workers": "2", "shared_namespace": "x"}
    assert load("shown.toml", {}, {}).options == load("layergate.toml", {}, flags).options


def test_check_writes_nothing_a_terminal_would_do(capsys: pytest.CaptureFixture[str]):
    Path("layergate.toml").write_text(
        f'upstream = "{UP}"\n[[rules]]\npath = "/a\\u001b[31m\\u009b\\u007f é"\nttl = 1\n'
    )
    assert main(["check", "-c", "layergate.toml"]) == 0
    shown = capsys.readouterr().out
    assert all(char.isprintable() or char == "\n" for char in shown)
    Path("shown.toml").write_text(shown)
    assert load("shown.toml", {}, {}).options == load("layergate.toml", {}, {}).options


def test_check_hides_secrets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    Path("layergate.toml").write_text('admin_token = "t0ken"\nshared = "redis://:t0ken@h/1"\n')
    monkeypatch.setenv("LAYERGATE_SHARED_SECRET", f"t0ken-{SECRET}")
    check = ["check", "-c", "layergate.toml", "--upstream", UP]
    assert main(check) == 0
    shown = capsys.readouterr().out
    assert main([*check, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    for text in (shown, json.dumps(told)):
        assert "t0ken" not in text
    assert re.search(
        r"^# admin_token = \(hidden\) +# layergate.toml, not shown", shown, re.MULTILINE
    )
    assert re.search(r"^# shared = redis://h:6379 +# layergate.toml", shown, re.MULTILINE)
    assert told["options"]["shared_secret"] == {
        "value": "(hidden)",
        "from": "$LAYERGATE_SHARED_SECRET",
        "hidden": True,
    }


def test_check_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    Path("layergate.toml").write_text(_config())
    monkeypatch.setenv("LAYERGATE_WORKRES", "2")
    assert main(["check", "-c", "layergate.toml", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["valid"] is True
    assert told["warnings"] == ["$LAYERGATE_WORKRES is not known; did you mean LAYERGATE_WORKERS?"]
    assert told["options"]["keep"] == {"value": "inf", "from": "layergate.toml"}
    assert told["options"]["via"] == {"value": None, "from": "layergate.toml"}
    assert told["upstreams"][1]["host"] == {"value": "b.example", "from": "layergate.toml"}
    assert told["upstreams"][1]["read_timeout"] == {"value": 5.0, "from": "layergate.toml"}
    ttl = {"200": 60.5, "301": "inf", "404": 5}
    assert told["rules"][0]["ttl"] == {"value": ttl, "from": "layergate.toml"}


def test_check_of_what_cannot_work(capsys: pytest.CaptureFixture[str]):
    Path("layergate.toml").write_text("[[rules]]\npath = '/a'\nttl = -5\n")
    check = ["check", "-c", "layergate.toml", "--upstream", UP]
    assert main(check) == 1
    told = capsys.readouterr()
    assert (told.out, told.err) == (
        "",
        "layergate.toml: rules[0].ttl must be >= 0 seconds, got -5 in rule '/a'\n",
    )
    assert main([*check, "--json"]) == 1
    told = capsys.readouterr()
    assert told.err == ""
    assert json.loads(told.out) == {
        "valid": False,
        "warnings": [],
        "problems": [
            {
                "where": "layergate.toml",
                "problem": "rules[0].ttl must be >= 0 seconds, got -5 in rule '/a'",
            }
        ],
    }


def test_a_misspelt_variable_is_told_of_beside_what_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LAYERGATE_UPSTREM", UP)
    for command, code in (("check", 1), ("serve", 2)):
        assert main([command]) == code
        first, second = capsys.readouterr().err.splitlines()
        assert first.endswith("$LAYERGATE_UPSTREM is not known; did you mean LAYERGATE_UPSTREAM?")
        assert "there is no upstream" in second


def test_without_an_upstream_it_says_how_to_name_one(capsys: pytest.CaptureFixture[str]):
    assert main(["check"]) == 1
    assert capsys.readouterr().err.startswith("layergate: there is no upstream; write upstream =")


# -- help and completion -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["serve", "check"])
def test_help_names_every_option(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exited:
        main([command, "--help"])
    assert exited.value.code == 0
    shown = capsys.readouterr().out
    for setting in SETTINGS.values():
        if setting.flag is not None:
            assert f"{setting.flag} " in shown or f"{setting.flag}," in shown


def test_as_a_module():
    ran = subprocess.run(
        [sys.executable, "-m", "layergate", "check", "--upstream", UP, "--json"],
        cwd=ROOT, capture_output=True, timeout=BOUND, check=True,
    )  # fmt: skip
    assert json.loads(ran.stdout)["valid"] is True


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_that_shell(shell: str, capsys: pytest.CaptureFixture[str]):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for name in ("serve", "check", "purge", "explain", "max-head", "watch"):
        assert name in script
    binary = shutil.which(shell)
    if binary is not None:
        ran = subprocess.run(
            [binary, "-n"], input=script, capture_output=True, text=True, timeout=BOUND, check=False
        )
        assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["s"], {"serve", "stats"}),
        (["serve", "--max-h"], {"--max-head"}),
        (["check", "--no-pass"], {"--no-pass-upgrades"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
        (["serve", "--config", "lay"], {"layergate.toml"}),
        (["purge", "--ever"], {"--everything"}),
    ],
)
def test_bash_completes(words: list[str], expected: set[str], capsys: pytest.CaptureFixture[str]):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    Path("layergate.toml").touch()
    assert main(["completion", "bash"]) == 0
    script = f"""{capsys.readouterr().out}
function=$(complete -p layergate | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=(layergate "$@") COMP_CWORD=$#
"$function"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    ran = subprocess.run(
        [bash, "--norc", "-c", script, "bash", *words],
        capture_output=True, text=True, timeout=BOUND, check=True,
    )  # fmt: skip
    assert set(ran.stdout.split()) == expected


def test_completion_without_its_library(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'layergate[gateway]'" in capsys.readouterr().err
