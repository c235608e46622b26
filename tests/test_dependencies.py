"""What LayerGate is installed with."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
REQUIREMENTS = sorted(
    {
        requirement
        for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
        for requirement in group
    }
)


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_each_is_bounded_on_both_sides(requirement):
    """A next major version may change what is subclassed here, or what a default protects."""
    versions = requirement.partition(";")[0]
    assert ">=" in versions, requirement
    assert "<" in versions, requirement
