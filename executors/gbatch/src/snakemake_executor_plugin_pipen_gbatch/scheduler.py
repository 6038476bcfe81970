"""Jobs on Google Cloud Batch.

What goes over the wire: one call for all ready jobs that ask for the same things (a task
group), one listing of jobs for the whole run, one listing of events, and the files of each
job, up when it is submitted and down when it ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xqute.schedulers.gbatch_scheduler import GbatchScheduler as XquteGbatchScheduler

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.job import Job
from pipen_executors.jobdir import EVENTS
from pipen_executors.scheduler import BatchScheduler
from pipen_executors.spec import JobSpec
from pipen_executors.states import Outcome, Report

from . import endings, jobs, message
from .bucket import Place
from .calls import Calls
from .cancelling import Cancelling
from .mounts import Mounts
from .options import check_mounts, job_table, request_of
from .queries import Queries
from .request import Request
from .transfer import Transfer


class GbatchScheduler(BatchScheduler, XquteGbatchScheduler):
    """Runs jobs on Google Cloud Batch.

    Parameters
    ----------
    workdir
        Directory of the job directories on this machine.
    place
        Where they lie in Cloud Storage, ``gs://…``.
    request
        What all jobs of the run ask for.
    mounts
        Where jobs see which objects.
    shared
        Whether jobs see the files of this machine at the same paths, but for the job
        directories.
    cwd_on_node
        Working directory of all jobs; None for one of its own for each.
    secret_variables
        Environment variables that come from Secret Manager: name and reference.
    """

    fs_shared = False
    stages = True
    jid_expression = (
        '"$PIPEN_GBATCH_JOB"; ((BATCH_TASK_COUNT > 1)) && pipen_jid=$pipen_jid/$BATCH_TASK_INDEX'
    )
    # Batch shows an exit code that it then acts on (see options.py); ours is in job.rc.
    final_exit = 'exit "$((rc != 0))"'
    loss_grace = 10.0
    accounting_lag = 10.0
    query_ceiling = 30.0
    # A job of Batch takes 10,000 tasks, but runs 1,000 at a time (Batch, "Quotas and limits").
    largest_batch = 1000
    kill_chunk = 100_000
    has_own_paths = True

    def __init__(
        self,
        workdir: Path,
        *,
        place: str,
        request: Request,
        mounts: Mounts,
        shared: bool = False,
        cwd_on_node: str | None = None,
        secret_variables: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(workdir, **kwargs)
        self._address = place
        self._request = request
        self._mounts = mounts
        self._shared = shared
        self.needs_storage = not shared
        self._cwd_on_node = cwd_on_node
        self._secrets = dict(secret_variables or {})
        self.given_by_node = frozenset(self._secrets)
        self._run = secrets.token_hex(4)
        self._label = hashlib.sha256(f"{workdir} {place}".encode()).hexdigest()[:16]
        self._root = mounts.path(place)

    # -- life ------------------------------------------------------------------------------

    @classmethod
    def asked_once(cls, resource: str) -> bool:
        """Tell whether a group asks for the most of it: fields of a job are not added up."""
        if resource in ("googlebatch_cpu_milli", "googlebatch_memory"):
            return False
        return super().asked_once(resource) or resource.startswith(("gbatch_", "googlebatch_"))

    async def start(self) -> None:
        """Connect, and see what an earlier run has left in the bucket."""
        self._post_init_called = True  # xqute's sets up its own use of the bucket
        self._calls = Calls(self.project, self.location)
        self._files = Transfer(Place(self._address, self.project), str(self.workdir))
        self._cancelling = Cancelling(self._calls, self._files)
        self._queries = Queries(self._calls, self._files, self._cancelling.in_doubt)
        await self._files.start()
        await self._calls.jobs("pipen-run", self._run)

    async def stop(self) -> None:
        """Wait until what is no longer needed has been removed."""
        await self._files.stop()
        await self._calls.close()

    # -- where jobs see their files ----------------------------------------------------------

    def seen(self, path: str, address: str = "") -> str:
        """Return the mounted path of an object; all else is where it is, or on the machine."""
        return self._mounts.path(address) if address else path

    def working_directory(self, spec: JobSpec) -> str:
        """Return a directory of the job's own, unless there is one for all."""
        if self._shared:
            return spec.base
        return self._cwd_on_node or jobs.scratch(f"{spec.label}-{spec.key}")

    def seen_root(self) -> str:
        """Return the mounted path of all job directories."""
        return self._root

    def events_directory(self) -> str:
        """Return the mounted path of the events."""
        return f"{self._root}/{EVENTS}"

    # -- submission --------------------------------------------------------------------------

    def check(self, spec: JobSpec) -> None:
        """Check that a job of Batch follows from what a job asks for."""
        check_mounts(spec.rule, request_of(spec, self._request), self._mounts)

    def likeness(self, job: Job) -> Hashable:
        """Put jobs of one rule that ask for the same things together."""
        request = request_of(job.spec, self._request)
        return job.spec.rule, json.dumps([request.table, repr(request)], sort_keys=True)

    async def submit_jobs(self, jobs_: Sequence[Job]) -> Mapping[Job, str | SchedulerError]:
        """Put the files of jobs up and make one job of Batch of them.

        Its id is kept before the call is made: whatever becomes of the answer, this run and
        the next one know what to ask for.
        """
        first = jobs_[0]
        base = jobs.job_id(self.jobname_prefix, first.spec.rule, self._run, first.token)
        alone = len(jobs_) == 1
        jids = {job: str(jobs.Jid(base, task, alone)) for task, job in enumerate(jobs_)}
        wrappers = [f"{job.directory.mounted}/job.wrapped.{self.name}" for job in jobs_]
        stub = await self._files.send(jobs_, base, jobs.stub(base, wrappers))
        table = job_table(
            request_of(first.spec, self._request),
            self._mounts,
            script=f"{self._root}/{stub}",
            count=len(jobs_),
            secret_variables=self._secrets,
            labels={
                "pipen-run": self._run,
                "pipen-directory": self._label,
                "pipen-rule": jobs.label(first.spec.rule),
            },
        )
        for job, jid in jids.items():
            job.directory.write("job.jid", jid)
        await self._calls.create(base, message.job_message(table))
        self._cancelling.has_begun(base, len(jobs_))
        return jids

    async def claim(self, job: Job) -> bool:
        """Give up a submission where its wrapper would claim it: in the bucket."""
        return await self._files.claim(job)

    # -- completion --------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[Sequence[str]]]:
        """Yield the names of events, by one listing for all jobs."""
        yield self._files.events()

    def take_in_events(self, names: Sequence[str]) -> None:
        """Remove events that have been dealt with."""
        self._files.take_in_events(names)

    async def fetch(self, job: Job, *, outputs: bool) -> None:
        """Bring what a job wrote into its directory here; outputs are in the bucket."""
        await self._files.fetch(job)

    async def missing(self, addresses: Sequence[str]) -> list[str]:
        """Look for outputs in Cloud Storage."""
        return await self._files.missing(addresses)

    def forget(self, job: Job) -> None:
        """Remove the files of a job that has ended from the bucket."""
        base = jobs.Jid.parse(job.jid).job if job.jid else ""
        self._files.forget(job, base if self._cancelling.has_ended(base) else None)

    # -- queries -----------------------------------------------------------------------------

    async def query_jobs(self, jobs_: Sequence[Job]) -> Mapping[Job, Report]:
        """Ask for all jobs with one listing for each run that submitted some of them."""
        return await self._queries.ask(jobs_)

    async def explain_jobs(
        self, jobs_: Sequence[Job]
    ) -> Mapping[Job, Outcome | TransientError | None]:
        """Say how tasks ended, by their events; None for one that Batch runs again."""
        return await endings.explain(jobs_, self._calls, self.project)

    # -- cancellation --------------------------------------------------------------------------

    async def kill_jobs(self, jobs_: Sequence[Job]) -> None:
        """Cancel jobs of Batch; where some of its tasks go on, ask the others to end."""
        await self._cancelling.cancel(jobs_)

    # -- the wrapper -----------------------------------------------------------------------------

    def jobcmd_init(self, job: Job) -> str:
        """Let a task that Batch runs again take back what its first start left."""
        again = "((BATCH_TASK_RETRY_ATTEMPT > 0)) && pipen_rerun=1"
        return "\n".join([again, self._from_hooks("on_jobcmd_init", job)])
