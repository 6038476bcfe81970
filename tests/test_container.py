"""pipen-container: the conformance suite on a real Podman, a real dockerd, and Apptainer.

What goes wrong with containers, and what is special to them, is in test_container_faults.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import ClassVar

import pytest

from .conformance.cancelling import Cancelling
from .conformance.ending import Failures, Success, Timeouts
from .conformance.environment import Environment, Scripts
from .conformance.extremes import Extremes
from .conformance.harness import Workflow
from .conformance.kinds import Code, Kinds, Outputs
from .conformance.resuming import Resuming
from .conformance.strategies import Retries
from .conformance.suite import ExecutorConformance
from .container_support import (
    PLAIN,
    UNLIMITED,
    WITH_PYTHON,
    apptainer,
    backend_on,
    backend_on_apptainer,
    one_container,
    started,
)
from .services.containers import Docker, Podman, RootlessPodman, Runtime

pytestmark = pytest.mark.container


class OnRuntime:
    """The fixtures of a class whose tests share a runtime."""

    kind: ClassVar[type[Runtime]]
    arguments: ClassVar[tuple[str, ...]] = (*UNLIMITED, *WITH_PYTHON)
    runtime: Runtime

    @pytest.fixture(scope="class", autouse=True)
    def on_runtime(self, request: pytest.FixtureRequest) -> Iterator[None]:
        with started(request.cls.kind()) as runtime:
            request.cls.runtime = runtime
            request.cls.backend = backend_on(runtime, *request.cls.arguments)
            yield

    @pytest.fixture(autouse=True)
    def no_container_outlives_a_test(self, on_runtime: None) -> Iterator[None]:
        yield
        if left := self.runtime.containers():
            self.runtime.run("rm", "--force", *left)

    def kill_wrapper(self, workflow: Workflow) -> None:
        """Other than the suite: the numbers that a job knows are those in its container."""
        os.kill(self.runtime.pid(one_container(self.runtime, workflow)), signal.SIGKILL)


class TestPodman(OnRuntime, ExecutorConformance):
    """All of it."""

    __test__ = True
    backend = PLAIN
    kind = Podman


@pytest.mark.slow
class TestDocker(
    OnRuntime,
    Success,
    Failures,
    Timeouts,
    Retries,
    Cancelling,
    Outputs,
    Kinds,
    Code,
    Environment,
    Scripts,
    Extremes,
    Resuming,
):
    """All that a runtime has a say in; the rest is the same whatever the runtime."""

    __test__ = True
    backend = PLAIN
    kind = Docker


@pytest.mark.slow
class TestPodmanAsUser(OnRuntime, Success, Failures, Timeouts, Cancelling, Scripts, Resuming):
    """What depends on who one is, in a user namespace: files, ends, cancelling, taking up.

    All of it direct: a container of the user's can mount no Python that only root can read.
    """

    __test__ = True
    backend = PLAIN
    kind = RootlessPodman
    arguments = UNLIMITED

    @pytest.fixture(autouse=True)
    def is_direct(self, request: pytest.FixtureRequest) -> None:
        """Skip what runs Python in a job."""
        if "[snakemake" in request.node.name or "all_kinds" in request.node.name:
            pytest.skip("needs Python in the container")


class TestApptainer(Success, Failures, Timeouts, Cancelling, Code, Environment, Scripts, Resuming):
    """What is another with sessions in the place of containers.

    On the real Apptainer where there is one, else on the stand-in over bubblewrap.
    """

    __test__ = True
    backend = PLAIN

    @pytest.fixture(scope="class", autouse=True)
    def on_apptainer(self, request: pytest.FixtureRequest) -> Iterator[None]:
        with apptainer() as found:
            request.cls.backend = backend_on_apptainer(found, *WITH_PYTHON)
            yield
