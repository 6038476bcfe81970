"""What the parts of the conformance suite have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from tests.services.require import unavailable

from .harness import Backend, Workflow


class ConformanceBase:
    """A part of the suite; the subclass for a backend sets :attr:`backend`."""

    __test__ = False

    backend: ClassVar[Backend]

    @pytest.fixture(autouse=True)
    def needs_executor(self) -> None:
        """Skip everything where the executor is not installed."""
        if not self.backend.is_installed:
            unavailable(f"executor plugin {self.backend.executor!r} is not installed")

    @pytest.fixture
    def workflow(self, tmp_path: Path) -> Iterator[Workflow]:
        """A workflow in the test's own directory; nothing of it outlives the test."""
        workflow = Workflow(tmp_path, self.backend)
        try:
            yield workflow
        finally:
            workflow.close()

    def needs_shared_files(self) -> None:
        """Skip what can only be seen where jobs write into the directory of the test."""
        if not self.backend.sees_files:
            pytest.skip("jobs of this backend do not see the files of the tests")
