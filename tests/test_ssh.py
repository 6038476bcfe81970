"""pipen-ssh: the conformance suite on two real sshd.

What goes wrong with connections and machines is in test_ssh_faults.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .conformance.suite import ExecutorConformance
from .services.ssh import SshHosts
from .ssh_support import PLAIN, backend_on, hosts_or_skip

pytestmark = pytest.mark.ssh


@pytest.fixture(scope="module")
def shared() -> Iterator[SshHosts]:
    """Machines that see the files of this one."""
    with hosts_or_skip() as running:
        yield running


class TestSsh(ExecutorConformance):
    """All of it, with a shared file system."""

    __test__ = True
    backend = PLAIN

    @pytest.fixture(scope="class", autouse=True)
    def on_hosts(self, request: pytest.FixtureRequest, shared: SshHosts) -> None:
        request.cls.backend = backend_on(shared)
