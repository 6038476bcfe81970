"""Each refusal names the setting or rule, the value, and what would be right, in plain words."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import pytest

from tests.messages import TABLES, Case, page

CASES = list(chain.from_iterable(TABLES.values()))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.backend}: {case.shown()}")
def test_message(case: Case) -> None:
    message = case.message()
    assert message, "it is taken"
    assert "\n" not in message
    assert message.endswith(".")
    assert not re.search(r"must be|is none|nothing here|Traceback|invalid literal", message)
    if case.settings:
        (name,) = case.settings
        assert f"--pipen-{case.backend}-{name.replace('_', '-')}" in message
    else:
        assert re.search(r"\brule align\b", message, re.IGNORECASE)
        for name in (*case.resources, *case.options):
            assert name in message or name in ("gpu", "mpi"), "what it is about"


def test_the_page_of_messages() -> None:
    """docs/messages.md shows what is said: python -m tests.messages > docs/messages.md."""
    assert (Path(__file__).parents[2] / "docs" / "messages.md").read_text() == page()
