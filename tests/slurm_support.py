"""What the suites of pipen-slurm have in common: clusters, backends on them, counted commands."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from .conformance.harness import Backend, Process, Workflow
from .services.common import ServiceUnavailable
from .services.require import unavailable
from .services.slurm import SlurmCluster

PLAIN = Backend("pipen-slurm")
_COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "sacctmgr", "srun")


@contextlib.contextmanager
def cluster_or_skip(**settings: Any) -> Iterator[SlurmCluster]:
    """A cluster of the test's own."""
    cluster = SlurmCluster(**settings)
    try:
        cluster.start()
    except ServiceUnavailable as reason:
        unavailable(reason)
    try:
        yield cluster
    finally:
        cluster.stop()


def backend_on(cluster: SlurmCluster, user: str | None = None, **changes: Any) -> Backend:
    """Return pipen-slurm as a backend on a cluster."""
    changes.setdefault("environment", cluster.env)
    # An ordinary user does not get into pytest's directories.
    root = cluster.scratch if user else None
    return replace(PLAIN, user=user, root=root, settle=20.0, **changes)


class Counted:
    """Slurm's commands, counted: small scripts before the real ones in PATH."""

    def __init__(self, cluster: SlurmCluster, directory: Path) -> None:
        directory.mkdir()
        self._log = directory / "log"
        self._log.touch()
        self._log.chmod(0o666)
        for name in _COMMANDS:
            shim = directory / name
            shim.write_text(
                f'#!/bin/sh\necho "{name} $*" >> {self._log}\nexec /usr/bin/{name} "$@"\n'
            )
            shim.chmod(0o755)
        self.environment = {
            **cluster.env,
            "PATH": f"{directory}{os.pathsep}{cluster.env['PATH']}",
        }

    @property
    def calls(self) -> list[str]:
        """The command lines up to now."""
        return self._log.read_text().splitlines()

    def of(self, name: str) -> list[str]:
        """The command lines of one command."""
        return [call for call in self.calls if call.split()[0] == name]


def reported(process: Process, rule: str) -> None:
    """Wait for the report of a job that has just ended: within ten seconds.

    On a machine that is overloaded by other work it may take longer in proportion.
    """
    overload = os.getloadavg()[0] / (os.cpu_count() or 1) / 2
    process.wait_for(
        lambda: f"Error in rule {rule}" in process.text,
        f"the report of {rule}",
        timeout=10 * max(1.0, overload),
    )


def jid_of(workflow: Workflow, rule: str) -> str:
    """Return Slurm's id of the one job of a rule; empty before it is submitted."""
    jobs = workflow.jobs(rule)
    return jobs[0].jid if jobs else ""


def wait_jid(process: Process, workflow: Workflow, rule: str) -> str:
    """Wait until the one job of a rule is submitted; return Slurm's id of it."""
    return process.wait_for(lambda: jid_of(workflow, rule), f"the submission of {rule}")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, its own and the system's for it (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
