"""Jobs on machines that do not see the files of this one.

What a job needs is sent before it is started, and what it leaves is fetched; where it all
lies is known to :class:`Staging`. Whether a submission has begun is seen on the machine only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pipen_executors.exceptions import SchedulerError, TransientError, UserError
from pipen_executors.job import Job
from pipen_executors.jobdir import EVENTS, INFO
from pipen_executors.spec import JobSpec

from .host import Host
from .scheduler import SshScheduler
from .servers import Server
from .staging import Staging

_SERVER: Final = "job.server"
"""File of the job directory that names the machine before the job is sent there."""


class SendingSshScheduler(SshScheduler):
    """Runs jobs on some machines, and carries their files.

    Parameters
    ----------
    workdir, *others
        As :class:`SshScheduler` has them.
    keep_incomplete
        Whether the outputs of a failed job are wanted too (``--keep-incomplete``).
    """

    fs_shared = False
    stages = True
    brings_files = True
    has_own_paths = True
    staging_setting: str = "--pipen-ssh-staging"
    """What the setting is called in messages."""

    def __init__(self, workdir: Path, *others: Any, keep_incomplete: bool = False) -> None:
        self._staging = Staging(os.getcwd(), f"{workdir}/{EVENTS}", others[-1])
        self._keep_incomplete = keep_incomplete
        self._told_by: dict[str, Host] = {}
        self._unclear: set[Job] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        super().__init__(workdir, *others)

    def check(self, spec: JobSpec) -> None:
        """Check too that all files can be sent."""
        if spec.addresses:
            some = ", ".join(list(spec.addresses.values())[:3])
            raise UserError(
                f"Rule {spec.rule} has files in Snakemake's storage, which pipen-ssh does not "
                f"send: {some}. With --shared-fs-usage none and 'none' for "
                f"{self.staging_setting} Snakemake on the servers gets them by itself."
            )
        super().check(spec)

    # -- where files lie -----------------------------------------------------------------

    def tree(self, server: Server) -> str:
        """Return the directory of this workflow on a machine."""
        return self._staging.tree(server)

    def held(self, host: Host, job: Job) -> int:
        """Return how many bytes of a job's inputs are known to lie on a machine."""
        return self._staging.held(host, job)

    def host_of(self, job: Job) -> Host:
        """Return the machine that a job was submitted to, or was to be."""
        if job.jid:
            return super().host_of(job)
        return self._fleet.named(job.directory.read(_SERVER))

    def seen(self, path: str, address: str = "") -> str:
        """Return a path relative to the tree, which is another on each machine."""
        return self._staging.name(path)

    def seen_root(self) -> str:
        """Return the directory of all job directories."""
        return self.seen(str(self.workdir))

    def events_seen(self, job: Job) -> str:
        """Return the events directory on the machine of a job."""
        return self._on_host(job, self.events_directory())

    def cwd_seen(self, job: Job) -> str:
        """Return the working directory of a job on its machine."""
        return self._staging.cwd(self.placed[job], job)

    def _on_host(self, job: Job, path: str) -> str:
        return f"{self.placed[job].tree}/{self.seen(path)}"

    def write_wrapper(self, job: Job) -> None:
        """Write the wrapper of a job, and down which machine it was given."""
        if job not in self.placed:
            return  # it will be refused
        job.directory.write(_SERVER, self.placed[job].name)
        job.directory.mounted = self._on_host(job, job.directory.path)
        super().write_wrapper(job)

    def wrap_job_script(self, job: Job) -> str:  # type: ignore[override]
        """Return the wrapper of a job for the machine that it was given.

        Raises
        ------
        SchedulerError
            If it was given none, and the paths on each are others.
        """
        if job not in self.placed:
            raise SchedulerError("its wrapper is written for the machine that it will be given")
        return super().wrap_job_script(job)

    # -- there and back ------------------------------------------------------------------

    async def submit_to(self, host: Host, job: Job) -> str | TransientError:
        """Send what a job needs to a machine before it is started there.

        Whether a start has come through is seen there only, so that the machine is asked
        again: a second start of the same submission does nothing.
        """
        if job not in self._unclear:
            self._stocks.free(job)  # what an earlier attempt was going to read
            try:
                await self._staging.put(host, job)
            except TransientError as error:
                return self.elsewhere(error)
        try:
            jid: str | TransientError = await self._sessions.start(host, job)
        except TransientError as error:
            if not host.is_lost:
                self._unclear.add(job)
                raise
            jid = self.elsewhere(error)
        self._unclear.discard(job)
        return jid

    async def fetch(self, job: Job, *, outputs: bool) -> None:
        """Bring the files of a job here."""
        if not (job.jid or job.directory.read(_SERVER)):
            return
        host = self.host_of(job)
        if host.is_lost:
            raise SchedulerError(f"host lost: {host.trouble}")
        if not (outputs or job.settling):
            self._staging.use(host, job)  # it may run, as an earlier run has left it
        half = self._keep_incomplete and job.settling
        await self._staging.get(host, job, outputs=outputs or half)

    async def claim(self, job: Job) -> bool:
        """Give up the submission of an earlier run where the job would see that."""
        if not job.directory.read(_SERVER):
            return await super().claim(job)
        host = self.host_of(job)
        name = f"{self.seen(job.directory.path)}/{INFO}.{job.token}"
        while True:
            await host.come_back()
            if host.is_lost:
                return True  # nothing of it will ever come here
            with contextlib.suppress(TransientError):
                if await host.ask("claim", name, read=str) == "yes":
                    return True
                await self.fetch(job, outputs=False)
                return False
            await asyncio.sleep(0.2)

    def forget(self, job: Job) -> None:
        """Drop what is known of a job that has ended."""
        super().forget(job)
        self._stocks.free(job)

    # -- events --------------------------------------------------------------------------

    def hear(self, host: Host, event: str) -> None:
        """Take in an event, and who told it."""
        self._told_by[event] = host
        super().hear(host, event)

    def take_in_events(self, names: Sequence[str]) -> None:
        """Remove events on the machines that told them."""
        by_host: dict[Host, list[str]] = {}
        for name in names:
            host = self._told_by.pop(name, None)
            if host is not None:
                by_host.setdefault(host, []).append(name)
        for host, some in by_host.items():
            task = asyncio.create_task(self._forget_events(host, some))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forget_events(self, host: Host, names: Sequence[str]) -> None:
        with contextlib.suppress(TransientError):  # told again, and removed then
            await host.ask("forget", len(names), *names, read=str)
