"""The files of rows: each has rows, and says which section they are about."""

from __future__ import annotations

import re

import pytest

from tests.scenarios.rows import FILES, SCENARIOS, File


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_has_rows_of_the_section_in_its_name(file: File) -> None:
    assert file.scenarios, "no row is in this file, or another one imports it"
    name, title = file.name, file.title
    assert title.endswith("."), title
    if found := re.match(r"rfc(\d+)((?:_\d+)*)_[a-z]", name):
        rfc, section = found[1], found[2].strip("_").replace("_", ".")
        assert re.match(rf"RFC {rfc}\b", title), title
        assert not section or re.search(rf"\b{re.escape(section)}, [A-Zat]", title), title
    elif found := re.match(r"g(\d+)_", name):
        assert title.startswith(f"G{found[1]}, "), title


def test_every_row_is_in_a_file_of_this_folder() -> None:
    assert sum(len(file.scenarios) for file in FILES) == len(SCENARIOS)
