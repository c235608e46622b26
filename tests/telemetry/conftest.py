from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.telemetry.support import Sdk


@pytest.fixture
def sdk() -> Iterator[Sdk]:
    """One of the test's own, shut down after it."""
    sdk = Sdk()
    yield sdk
    sdk.close()
