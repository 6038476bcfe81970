"""Values of pipen's options as people write them.

Each reader raises ``ValueError`` with a sentence that says what is wrong.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from pipen_executors.units import one_of, whole_number

from .message import Table

MOST_RETRIES: Final = 10  # TaskSpec.max_retry_count
SECRET: Final = re.compile(r"projects/[^/]+/secrets/[^/]+/versions/[^/]+")
"""A reference to Secret Manager."""
_LABEL_KEY: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL: Final = re.compile(r"[a-z0-9_-]{0,63}")


def parse_labels(value: Any) -> dict[str, str]:
    """Read labels: a table, or YAML for one, or ``key=value,key=value``."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = yaml.safe_load(value)
    elif isinstance(value, str):
        pairs = [word.partition("=") for word in value.split(",") if word.strip()]
        value = {key.strip(): text.strip() for key, _, text in pairs}
    labels = {str(key): str(text) for key, text in dict(value or {}).items()}
    for key, text in labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL.fullmatch(text):
            raise ValueError("expected lower-case letters, digits, - and _, as in team=genomics")
    return labels


def parse_secrets(value: Any) -> dict[str, str]:
    """Read references to Secret Manager: ``NAME=projects/P/secrets/S/versions/V``, or a table."""
    pairs: Mapping[str, str] = (
        value
        if isinstance(value, Mapping)
        else {name: text for name, _, text in (str(word).partition("=") for word in value or ())}
    )
    for name, reference in pairs.items():
        if not name.isidentifier() or not SECRET.fullmatch(reference):
            raise ValueError("expected NAME=projects/<project>/secrets/<secret>/versions/<version>")
    return dict(pairs)


def parse_words(value: Any) -> tuple[str, ...]:
    """Read words of a command line: a list, or text that a shell would split."""
    return tuple(shlex.split(value)) if isinstance(value, str) else tuple(map(str, value or ()))


def parse_runnables(value: Any) -> tuple[tuple[int, Table], ...]:
    """Read further runnables: a list of tables, or YAML or JSON for one."""
    problem = "expected a list of runnables of the Batch API, each a table, perhaps with 'order'"
    try:
        tables = yaml.safe_load(value) if isinstance(value, str) else value or []
    except yaml.YAMLError:
        raise ValueError(problem) from None
    if not isinstance(tables, Sequence) or not all(isinstance(t, Mapping) for t in tables):
        raise ValueError(problem)
    try:
        numbered = [(int(table.get("order", 0)), dict(table)) for table in tables]
    except (TypeError, ValueError):
        raise ValueError("expected whole numbers for 'order'") from None
    for _, table in numbered:
        table.pop("order", None)
    return tuple(sorted(numbered, key=lambda pair: pair[0]))


def parse_retries(value: Any) -> int:
    """Read a number of retries, as Batch allows them."""
    number = whole_number(0)(value)
    if number > MOST_RETRIES:
        raise ValueError(f"expected a whole number from 0 to {MOST_RETRIES}")
    return number


def parse_model(value: Any) -> str:
    """Read a provisioning model (``AllocationPolicy.ProvisioningModel``)."""
    return one_of(("STANDARD", "SPOT", "PREEMPTIBLE", "RESERVATION_BOUND", "FLEX_START"))(value)


def parse_count(value: Any) -> int:
    """Read a number of things, 1 or more."""
    return whole_number(1)(value)
