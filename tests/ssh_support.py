"""What the suites of pipen-ssh have in common: machines and backends on them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_pipen_ssh.servers import Server
from snakemake_executor_plugin_pipen_ssh.staging import DEFAULT_WORKDIR, Staging

from .conformance.harness import Backend, Workflow
from .services.common import ServiceUnavailable
from .services.require import unavailable
from .services.ssh import SshHosts

PLAIN = Backend("pipen-ssh")


@contextlib.contextmanager
def hosts_or_skip(**settings: Any) -> Iterator[SshHosts]:
    """Machines of the test's own."""
    hosts = SshHosts(**settings)
    try:
        hosts.start()
    except ServiceUnavailable as reason:
        unavailable(reason)
    try:
        yield hosts
    finally:
        hosts.stop()


def backend_on(hosts: SshHosts, *servers: str, **changes: Any) -> Backend:
    """Return pipen-ssh as a backend on machines, each with four slots."""
    servers = servers or tuple(f"{name},slots=5" for name in hosts.machines)
    arguments = (
        *PLAIN.option("servers", *servers),
        *PLAIN.option("ssh_config", hosts.config),
    )
    return replace(PLAIN, arguments=arguments, **changes)


def staging_on(hosts: SshHosts, *servers: str) -> Backend:
    """Return pipen-ssh as a backend on machines that share nothing with this one."""

    def processes(workflow: Workflow) -> list[str]:
        mark = f"{workflow_name(workflow)}/".encode()
        found = []
        for proc in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (proc / "environ").read_bytes():
                    found.append(f"{proc.name} {(proc / 'cmdline').read_bytes()!r}")
        return found

    backend = backend_on(hosts, *servers, sees_files=False, find_processes=processes)
    return replace(backend, arguments=("--shared-fs-usage", "none", *backend.arguments))


class ApartWorkflow(Workflow):
    """A workflow on machines that share nothing with this one.

    What jobs leave beside their outputs stays there. A test that looks for such marks, or makes
    some for jobs that run, has all its jobs on one machine (:meth:`pin`). What is an output of
    a job is looked for here only: it has to be brought.
    """

    def __init__(self, tmp_path: Path, hosts: SshHosts) -> None:
        super().__init__(tmp_path, staging_on(hosts))
        self._hosts = hosts
        self._there: Path | None = None

    def tree(self) -> str:
        """Return where its files lie on a machine."""
        return f"/root/.pipen-ssh/{workflow_name(self)}"

    def pin(self, machine: str = "big1") -> None:
        """Run all jobs on one machine, and have their marks."""
        there = self._there = Path(f"{self._hosts.root(machine)}{self.tree()}")

        def read_elsewhere(path: Path) -> str:
            try:
                return (there / path.relative_to(self.dir)).read_text(errors="replace")
            except FileNotFoundError:
                return ""

        backend = staging_on(self._hosts, f"{machine},slots=16")
        self.backend = replace(backend, read_elsewhere=read_elsewhere)

    def _products(self) -> set[str]:
        files = [*self.job_root.glob("*/*/job.record"), *self.job_root.glob("*/*/job.settled")]
        return {name for file in files for name in json.loads(file.read_text())["products"]}

    def _marks(self, name: str) -> Path | None:
        """Return where a mark lies, which is no file of this machine."""
        if self._there is None or self.path(name).exists() or name in self._products():
            return None
        return self._there / name

    def read(self, name: str) -> str:
        """Return the text of a file, or of a mark."""
        mark = self._marks(name)
        return super().read(name) if mark is None else mark.read_text(errors="surrogateescape")

    def exists(self, name: str) -> bool:
        """Tell whether a file is here, or a mark there."""
        mark = self._marks(name)
        return super().exists(name) if mark is None else mark.exists()

    def glob(self, pattern: str) -> list[Path]:
        """Return marks that fit a pattern."""
        return super().glob(pattern) if self._there is None else list(self._there.glob(pattern))

    def unfinished(self, name: str) -> str:
        """Return what there is of an output that a job is making."""
        assert self._there is not None
        return (self._there / name).read_text()

    def file(self, name: str, text: str | bytes = "", mode: int = 0o644) -> Path:
        """Write a file; once jobs may wait for it, there too."""
        path = super().file(name, text, mode)
        if self._there is not None and self._processes:
            self.put(path)
        return path

    def put(self, path: Path) -> None:
        """Copy a file there, as somebody would who installs it."""
        assert self._there is not None
        for ours in (self._there.parent, self._there):
            ours.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = self._there / path.relative_to(self.dir)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, there)

    def lead(self) -> None:
        """Make the path of the workflow here lead to its tree there, for one that a rule made."""
        self.pin()
        path = Path(f"{self._hosts.root('big1')}{self.dir}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(self.tree())

    def close(self) -> None:
        """End too what a failed test has left on the machines."""
        super().close()
        for line in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.split()[0]), signal.SIGKILL)


def workflow_name(workflow: Workflow) -> str:
    """Return the name of the directory of a workflow on machines, below where all of them lie."""
    tree = Staging(str(workflow.dir), ".events", print).tree(Server("any", "any"))
    return tree.removeprefix(f"{DEFAULT_WORKDIR}/")
