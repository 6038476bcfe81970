"""pipen-slurm: the conformance suite on a real Slurm.

What goes wrong with a Slurm, and how often it is asked, is in test_slurm_faults.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .conformance.ending import Failures, Success
from .conformance.harness import Workflow
from .conformance.strategies import Halt, KeepGoing
from .conformance.suite import ExecutorConformance
from .services.slurm import SlurmCluster
from .services.users import TEST_USER
from .slurm_support import PLAIN, backend_on, cluster_or_skip

pytestmark = pytest.mark.slurm

# Memory is asked for in the suite to see that it arrives, not to be held to it.
UNENFORCED = {"JobAcctGatherParams": "UsePss"}


@pytest.fixture(scope="module")
def accounted() -> Iterator[SlurmCluster]:
    """A cluster with accounting."""
    with cluster_or_skip(options=UNENFORCED) as running:
        yield running


@pytest.fixture(scope="module")
def bare() -> Iterator[SlurmCluster]:
    """A cluster without accounting, that forgets ended jobs at once."""
    with cluster_or_skip(accounting=False, min_job_age=2, options=UNENFORCED) as running:
        yield running


class TestSlurm(ExecutorConformance):
    """All of it, as root, with accounting."""

    __test__ = True
    backend = PLAIN

    @pytest.fixture(scope="class", autouse=True)
    def on_cluster(self, request: pytest.FixtureRequest, accounted: SlurmCluster) -> None:
        request.cls.backend = backend_on(accounted)

    def test_a_shadow_directory_on_a_disk_of_the_node(
        self, workflow: Workflow, tmp_path: Path
    ) -> None:
        """Only the node can make it there."""
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shadow: "minimal"
                shell: "pwd > {output}"
            """
        )
        prefix = tmp_path / "disk"
        prefix.mkdir()
        result = workflow.run("--shadow-prefix", str(prefix), "--verbose").ok()
        result.has("its shadow directory lies below --shadow-prefix")
        assert Path(workflow.read("a.out")).is_relative_to(prefix)


class TestSlurmAsUser(Success, Failures, KeepGoing, Halt):
    """The essential part as an ordinary user, without accounting.

    All of it direct: the user, and so the node, need no Python that they can read.
    """

    __test__ = True
    backend = PLAIN

    @pytest.fixture(scope="class", autouse=True)
    def on_cluster(self, request: pytest.FixtureRequest, bare: SlurmCluster) -> None:
        request.cls.backend = backend_on(bare, TEST_USER)
