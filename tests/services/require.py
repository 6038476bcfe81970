"""What a test does when a service that it needs cannot be had."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def unavailable(reason: object) -> NoReturn:
    """Skip the test, or fail it where every service is required (PIPEN_TEST_REQUIRE_ALL)."""
    if os.environ.get("PIPEN_TEST_REQUIRE_ALL"):
        pytest.fail(str(reason), pytrace=False)
    pytest.skip(str(reason))
