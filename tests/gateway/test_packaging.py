"""What comes with the gateway says what it is: its documentation, and what is in contrib/."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from layergate.config import Rule
from layergate.gateway.catalogue import SETTINGS
from layergate.gateway.settings import load
from layergate.gateway.timeouts import TIMEOUTS
from layergate.gateway.upstream_options import UpstreamOptions
from tests.support.tls import tls_files

ROOT = Path(__file__).parent.parent.parent
GUIDE = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")
CONTRIB = ROOT / "contrib"


def section(title: str) -> str:
    """From its heading to the next of any level."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", GUIDE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def rows(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^\| `(\w+)` \| (.*?) \| ", text, re.MULTILINE)


def shown(default: Any) -> str:
    if default is None:
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, str | tuple):
        return f"`{json.dumps(default)}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def test_every_option_is_in_the_guide_with_its_default_and_no_other():
    told = rows(section("Options"))
    assert told == [(name, shown(setting.default)) for name, setting in SETTINGS.items()]


def test_the_guide_describes_each_option_as_the_command_line_does():
    told = dict(
        re.findall(
            r"^\| `(\w+)` \| .*? \| (.*?)(?:, see \[below\].*?)? \|$",
            section("Options"),
            re.MULTILINE,
        )
    )
    assert told == {name: setting.help for name, setting in SETTINGS.items()}


def test_every_time_limit_is_in_the_guide():
    told = re.findall(
        r"^\| `?([\w ]+?)`? \| ([\d.]+) \| (.*?) \| (.*?) \|$", section("Time limits"), re.MULTILINE
    )
    assert told == [
        (
            each.name if each.fixed is None else each.name.replace("_", " "),
            f"{each.default:g}",
            each.bounds,
            each.then,
        )
        for each in TIMEOUTS
    ]
    limits = {
        name
        for name in SETTINGS
        if name.startswith("upstream_") or SETTINGS[name].group == "limits"
    }
    limits = {name for name in limits if name.endswith("_timeout")}
    assert limits == {each.name for each in TIMEOUTS if each.fixed is None}


def test_so_is_every_option_of_an_upstream():
    expected = [(o.name, shown(o.default)) for o in fields(UpstreamOptions) if o.init]
    assert rows(section("Of an upstream")) == [("url", ""), *expected[1:]]


def test_so_is_every_option_of_a_rule():
    told = re.findall(r"`(\w+)`", section("Of a rule"))
    assert set(told) - {"Rule"} == {option.name for option in fields(Rule)}


def test_the_examples_of_the_guide_can_be_loaded(tmp_path: Path):
    examples = re.findall(r"^```toml\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
    assert len(examples) >= 3
    _files(tmp_path)
    path = tmp_path / "layergate.toml"
    for example in examples:
        path.write_text(example)
        flags = {} if "[[upstreams]]" in example else {"upstream": "http://a"}
        load(path, {}, flags)


def test_every_option_that_the_guide_speaks_of_exists():
    known = {*SETTINGS, *(o.name for kind in (Rule, UpstreamOptions) for o in fields(kind))}
    # What Varnish and nginx have is in the first column.
    ours = re.sub(
        r"^\| .*? \| ", "", GUIDE.partition("# Coming from Varnish")[2], flags=re.MULTILINE
    )
    for name in re.findall(r"`(\w+)(?: = [^`]*)?`", ours):
        if "_" in name and name.islower():
            assert name in known, name


def _files(folder: Path) -> None:
    """Those that the examples name."""
    certificate, key = tls_files(folder)
    certificate.rename(folder / "server.pem")
    key.rename(folder / "server.key")
    for name in ("token", "shared-secret", "admin-token"):
        (folder / name).write_text("x" * 16)


def _uncommented(text: str) -> str:
    return re.sub(r"^#(\w+ = )", r"\1", text, flags=re.MULTILINE)


def test_the_annotated_configuration_can_be_loaded(tmp_path: Path):
    found = load(CONTRIB / "layergate.toml", {}, {})
    assert [upstream.name for upstream in found.options.upstreams] == ["api", "shop"]
    assert len(found.options.cache.rules) == 3
    # And so can all that is commented out.
    text = _uncommented((CONTRIB / "layergate.toml").read_text(encoding="utf-8"))
    assert text.count("\n#") < (CONTRIB / "layergate.toml").read_text().count("\n#")
    _files(tmp_path)
    (tmp_path / "layergate.toml").write_text(text)
    whole = load(tmp_path / "layergate.toml", {}, {}).options
    # It shows another value than the default, as it says.
    for name in tomllib.loads(text):
        setting = SETTINGS[name]
        owner: Any = whole if hasattr(whole, name) else whole.cache
        if not name.startswith("upstream") and name != "listen":
            assert getattr(owner, name) != setting.default, name


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd")
def test_systemd_takes_the_unit(tmp_path: Path):
    text = (CONTRIB / "layergate.service").read_text()
    assert "ExecReload=/bin/kill -HUP $MAINPID" in text
    unit = tmp_path / "layergate.service"
    unit.write_text(text.replace("/opt/layergate/bin/layergate", "/bin/true"))
    ran = subprocess.run(
        ["systemd-analyze", "verify", str(unit)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "layergate.service" not in ran.stderr, ran.stderr
    assert ran.returncode == 0


def test_the_container_installs_what_there_is():
    text = (CONTRIB / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", text)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists()
    # Whoever takes it over is not root, and its variables are known.
    assert re.search(r"^USER [1-9]\d*$", text, re.MULTILINE)
    variables = {setting.variable for setting in SETTINGS.values()} | {"LAYERGATE_CONFIG"}
    assert set(re.findall(r"LAYERGATE_\w+", text)) <= variables


def test_the_extra_is_part_of_what_is_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extra = project["project"]["optional-dependencies"]["gateway"]
    assert set(extra) <= {str(line) for line in project["dependency-groups"]["test"]}
