"""A real, small Django project, with the two-line recipes for WSGI and ASGI.

In a process of its own: Django's settings are one per process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@pytest.mark.parametrize("side", ["wsgi", "asgi"])
def test_recipe(side: str, tmp_path: Path) -> None:
    environ = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "shop.settings",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT)]),
        "SHOP_DB": str(tmp_path / "db.sqlite3"),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "shop.check", side],
        env=environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{side}: fine" in done.stdout
