"""What the suites of pipen-sge have in common: cells, and backends on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from .conformance.harness import Backend, Workflow
from .services.common import ServiceUnavailable
from .services.require import unavailable
from .services.sge import SgeCell

# Grid Engine starts about ten trivial jobs a second on two cores.
PLAIN = Backend("pipen-sge", slowness=2.0)


@contextlib.contextmanager
def cell_or_skip(**settings: Any) -> Iterator[SgeCell]:
    """A cell of the test's own."""
    cell = SgeCell(**settings)
    try:
        cell.start()
    except ServiceUnavailable as reason:
        unavailable(reason)
    try:
        yield cell
    finally:
        cell.stop()


def backend_on(cell: SgeCell, user: str | None = None, **changes: Any) -> Backend:
    """Return pipen-sge as a backend on a cell."""
    root = cell.scratch if user else None
    known = {"environment": cell.env, "user": user, "root": root, "settle": 20.0}
    return replace(PLAIN, **{**known, **changes})


def workflow_on(cell: SgeCell, tmp_path: Path, **changes: Any) -> Workflow:
    """Return a workflow in a directory of its own, run on a cell."""
    return Workflow(tmp_path, backend_on(cell, **changes))
