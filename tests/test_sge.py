"""pipen-sge: the conformance suite on a real Grid Engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from .conformance.cancelling import Cancelling
from .conformance.ending import Failures, Success, Timeouts
from .conformance.environment import Environment, Scripts
from .conformance.extremes import Extremes
from .conformance.hooking import Hooks
from .conformance.kinds import Code, Kinds, Outputs
from .conformance.nodes import Nodes
from .conformance.resuming import Resuming
from .conformance.scheduler_api import SchedulerApi
from .conformance.settings import BadSettings, Execution, GoodSettings, Metadata
from .conformance.strategies import Halt, KeepGoing, Retries
from .services.sge import SgeCell
from .services.users import TEST_USER
from .sge_support import PLAIN, backend_on, cell_or_skip

pytestmark = pytest.mark.sge


@pytest.fixture(scope="module")
def cell() -> Iterator[SgeCell]:
    """A cell with as many slots as the largest test has jobs in the queue at a time."""
    with cell_or_skip(slots=64) as running:
        yield running


# Rules of the suite ask for a few megabytes, and h_vmem is what a process gets at most.
MEMORY = ("--pipen-sge-memory", "none")


class TestSge(
    Success,
    Failures,
    Timeouts,
    Retries,
    KeepGoing,
    Halt,
    Cancelling,
    Nodes,
    Resuming,
    SchedulerApi,
):
    """What Grid Engine has a part in, as root: running, ending, cancelling, taking up."""

    __test__ = True
    backend = PLAIN

    @pytest.fixture(scope="class", autouse=True)
    def on_cell(self, request: pytest.FixtureRequest, cell: SgeCell) -> None:
        request.cls.backend = backend_on(cell, arguments=MEMORY)


@pytest.mark.slow
class TestSgeRest(
    Outputs,
    Kinds,
    Code,
    Environment,
    Scripts,
    Hooks,
    Extremes,
    BadSettings,
    GoodSettings,
    Execution,
    Metadata,
):
    """The rest of the suite, which other backends run in the quick subset."""

    __test__ = True
    backend = PLAIN

    @pytest.fixture(scope="class", autouse=True)
    def on_cell(self, request: pytest.FixtureRequest, cell: SgeCell) -> None:
        request.cls.backend = backend_on(cell, arguments=MEMORY)


class TestSgeAsUser(Success, Failures, Timeouts, Cancelling, Resuming):
    """What depends on who one is: running, ending, cancelling, taking up."""

    __test__ = True
    backend = PLAIN

    @pytest.fixture(scope="class", autouse=True)
    def on_cell(self, request: pytest.FixtureRequest, cell: SgeCell) -> None:
        request.cls.backend = backend_on(cell, user=TEST_USER, arguments=MEMORY)

    @pytest.fixture(autouse=True)
    def needs_interpreter(self, request: pytest.FixtureRequest, cell: SgeCell) -> None:
        """Skip what runs Python in a job, where the user may not run that of the tests."""
        name = request.node.name
        if "[snakemake" in name or "all_kinds" in name:
            found = cell.run("test", "-x", sys.executable, user=TEST_USER, check=False)
            if found.returncode:
                pytest.skip(f"{TEST_USER} may not run {sys.executable}")
