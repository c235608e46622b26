"""The project's own files agree with each other."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import layergate
from tests import conftest

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Folders of one machine or one person. The expressions are built, so that they don't find themselves.
MACHINE_PATHS = re.compile(
    rb"(?<![\w.~/$}>-])/(?:" + rb"|".join([rb"wo" + rb"rk", rb"ro" + rb"ot", rb"home/\w+"]) + rb")/"
)


def tracked_files() -> list[Path]:
    """What git tracks here; empty where there is no git or no repository (an sdist)."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    paths = [ROOT / name for name in listed.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_the_version_is_the_same_in_the_package_and_in_its_metadata():
    assert layergate.__version__ == PYPROJECT["project"]["version"]


def test_the_changelog_knows_the_version():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{PYPROJECT['project']['version']}]" in changelog


def test_the_longest_test_files_exist():
    missing = [name for name in conftest.LONGEST if not (ROOT / "tests" / name).is_file()]
    assert not missing
    assert len(set(conftest.LONGEST)) == len(conftest.LONGEST)


def test_each_marker_has_a_target_that_ci_runs():
    described = {
        line.partition(":")[0] for line in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]
    }
    assert described == set(conftest.TARGETS)
    makefile = (ROOT / "Makefile").read_text()
    (left_out,) = re.findall(r'^\t\$\(PY\) .*-m "not \((.*)\)"', makefile, re.MULTILINE)
    assert set(left_out.split(" or ")) == described
    ci = (ROOT / ".ci" / "run").read_text()
    for marker, target in conftest.TARGETS.items():
        name = target.removeprefix("make ")
        assert re.search(rf'^{name}:.*\n(\t.*\n)*\t.*-m "?{marker}\b', makefile, re.MULTILINE), name
        assert re.search(rf"\b{name}\b", ci) or marker == "soak", name


def test_py_typed_ships_in_the_wheel():
    wheel = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["layergate"]
    assert not wheel.get("exclude")
    assert (ROOT / "layergate" / "py.typed").is_file()


def test_the_library_needs_two_small_packages_beside_python():
    fields, codec = PYPROJECT["project"]["dependencies"]
    assert fields.startswith("http-sf>=")
    assert codec.startswith("msgpack>=")


def test_the_readme_is_the_description_on_the_index():
    assert PYPROJECT["project"].get("readme") == "README.md", (
        'README.md is there: add `readme = "README.md"` below `version` in pyproject.toml'
    )


def test_no_file_names_a_folder_of_one_machine():
    files = tracked_files()
    if not files:
        pytest.skip("not a git checkout")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]!r}"
        for path in files
        for number, line in enumerate(path.read_bytes().splitlines(), 1)
        if MACHINE_PATHS.search(line)
    ]
    assert not found, "\n".join(found)
