"""Jobs on machines that are reached over ssh.

Each machine has one connection, and on it one agent (``agent.sh``), which starts, looks
after and ends all jobs of the machine (:mod:`.sessions`) and tells of their ends. Jobs go on
while a connection is lost, or Snakemake is gone. Where machines do not see the files of this
one, see :mod:`.sending`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from xqute.schedulers.ssh_scheduler.scheduler import SshScheduler as XquteSshScheduler

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.job import Job
from pipen_executors.scheduler import BatchScheduler
from pipen_executors.spec import JobSpec
from pipen_executors.states import Outcome, Presence, Report

from . import ends
from .client import Access
from .fleet import Fleet
from .host import Host
from .placement import Room
from .servers import Server
from .sessions import RemoteSessions, server_of
from .stock import OCCUPYING, Stocks

_RING: Final = r"""[[ -p $pipen_bell ]] &&
    printf '%s\n' "$pipen_key.$pipen_token.end.$rc" 1<> "$pipen_bell"
exit "$rc" """
"""Bash that rings at the end of a job. The pipe is opened for reading too, so that this does
not wait for somebody to listen (fifo(7)); it cannot be full, as it takes the rings of some
hundred jobs (pipe(7)) and no job is started while nobody listens."""


class SshScheduler(BatchScheduler, XquteSshScheduler):
    """Runs jobs on some machines.

    Parameters
    ----------
    workdir
        Directory of the job directories.
    servers
        The machines.
    access
        How they are reached.
    warn
        Called with a line for the user.
    """

    starts_at_once = True
    jid_expression: ClassVar[str] = '"$$@$pipen_server"'
    wrapper_arguments = ("pipen_server", "pipen_bell")
    final_exit: ClassVar[str] = _RING
    kills_wrapper_only = True
    kill_chunk = sys.maxsize  # each machine is asked once for all of its jobs
    query_ceiling = 5.0
    loss_grace = 1.0
    own_resources = frozenset({"pipen_server"})

    def __init__(
        self,
        workdir: Path,
        servers: Sequence[Server],
        access: Access,
        warn: Callable[[str], None],
    ) -> None:
        # Not xqute's own __init__: it makes clients of the command ssh.
        super(XquteSshScheduler, self).__init__(workdir)
        self._told: asyncio.Queue[str] = asyncio.Queue()
        self.placed: dict[Job, Host] = {}
        self._sessions = RemoteSessions(
            self.host_of,
            lambda job: self.seen(job.directory.path),
            f"job.wrapped.{self.name}",
        )
        self._warn = warn
        self._access = access
        self._stocks = Stocks()
        self._fleet = Fleet(map(self._make_host, servers), self._make_host, warn)

    def _make_host(self, server: Server) -> Host:
        host = Host(
            server,
            self._access,
            self._stocks,
            self.tree(server),
            self.seen(self.events_directory()),
            on_event=lambda event: self.hear(host, event),
            on_change=lambda: self.room_changed(),
            warn=self._warn,
        )
        return host

    def tree(self, server: Server) -> str:
        """Return where the files of the workflow begin on a machine."""
        return "/"

    # -- before anything is submitted ----------------------------------------------

    def check(self, spec: JobSpec) -> None:
        """Check that some machine is large enough, as far as their sizes are known."""
        self._fleet.check_size(spec)

    async def start(self) -> None:
        """Connect to all machines."""
        await super().start()
        await self._fleet.open()

    async def stop(self) -> None:
        """Close the connections."""
        await self._fleet.close()

    # -- placement -------------------------------------------------------------------

    def admit(self, queued: Sequence[Job], limit: int) -> Sequence[Job]:
        """Give jobs a machine each, as long as there is room; the others wait.

        A job that no machine can ever run is admitted without one, to be refused.
        """
        self.placed = {j: h for j, h in self.placed.items() if j.state in OCCUPYING}
        room = Room(self._fleet.hosts, self.placed)
        admitted: list[Job] = []
        for job in queued:
            if len(admitted) >= limit or (room.is_full and self.placed):
                break
            best = room.find(job, self._fleet.able(job.spec), self.held)
            if best is not None:
                self.placed[job] = best
            if best is not None or self._fleet.is_hopeless(job.spec):
                admitted.append(job)
        return admitted

    def held(self, host: Host, job: Job) -> int:
        """Return how many bytes of a job's inputs are known to lie on a machine alone."""
        return 0

    def host_of(self, job: Job) -> Host:
        """Return the machine that a job was submitted to.

        Raises
        ------
        SchedulerError
            If there is none of that name.
        """
        return self._fleet.named(server_of(job))

    # -- calls ---------------------------------------------------------------------------

    async def submit_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, str | SchedulerError]:
        """Start one job on the machine that it was given."""
        (job,) = jobs
        host = self.placed.get(job)
        if host is None:
            why = self._fleet.trouble(job.spec)
            return {job: SchedulerError(f"no server is left that could run it: {why}")}
        try:
            return {job: await self.submit_to(host, job)}
        except TransientError:
            raise
        except SchedulerError as error:
            return {job: error}

    async def submit_to(self, host: Host, job: Job) -> str | TransientError:
        """Start a job on a machine; return its id, or why it may be given another machine.

        A start on a machine that goes away meanwhile may have come through. Who claims the
        submission first decides, see :meth:`JobDir.claim`.

        Raises
        ------
        SchedulerError
            If it cannot be started there.
        TransientError
            If this machine is to be asked again.
        """
        try:
            return await self._sessions.start(host, job)
        except TransientError as error:
            if job.directory.claim(job.token):
                return self.elsewhere(error)
        return job.directory.info(job.token).get("jid") or f"0@{host.name}"

    def elsewhere(self, error: TransientError) -> TransientError:
        """Let a job that has not started be placed anew, and soon."""
        asyncio.get_running_loop().call_soon(self.room_changed)
        return error

    async def query_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, Report]:
        """Ask each machine for its jobs; those of one that is away go on, until it is lost."""
        reports = await self._sessions.query(jobs)
        for job, report in reports.items():
            if report.presence is Presence.RUNNING:
                self.placed.setdefault(job, self.host_of(job))  # taken up
        return reports

    async def explain_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, Outcome]:
        """Say what the machine's kernel says: a signal, or its out-of-memory killer."""
        return await self._sessions.explain(jobs)

    def judge(self, job: Job, outcome: Outcome) -> Outcome:
        """Say which rule needs Snakemake on the machine, and why, where that is missing."""
        return ends.of_command(job, outcome, server_of(job))

    async def kill_jobs(self, jobs: Sequence[Job]) -> None:
        """End whole sessions: TERM, and KILL after the grace time.

        On a machine that does not answer they are ended if it comes back during this run.
        """
        await self._sessions.kill(jobs, self.kill_grace)

    # -- ends ----------------------------------------------------------------------------

    def hear(self, host: Host, event: str) -> None:
        """Take in an event that a machine tells."""
        self._told.put_nowait(event)

    @contextlib.asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[Sequence[str]]]:
        """Yield what the agents tell."""
        yield self._names()

    async def _names(self) -> AsyncIterator[Sequence[str]]:
        while True:
            names = [await self._told.get()]
            while not self._told.empty():
                names.append(self._told.get_nowait())
            yield names

    def forget(self, job: Job) -> None:
        """Drop what is known of a job that has ended."""
        self.placed.pop(job, None)
        self._sessions.forget(job)
