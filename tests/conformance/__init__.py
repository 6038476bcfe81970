"""The tests that every executor of the family passes, and what they stand on."""

from pathlib import Path

import pytest

# So that a failed assertion shows its values, as in a test module.
pytest.register_assert_rewrite(
    *(f"{__name__}.{path.stem}" for path in Path(__file__).parent.glob("[a-z]*.py"))
)
