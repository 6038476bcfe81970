"""How jobs stand: what is asked of Batch, and how seldom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set

from google.cloud import batch_v1

from pipen_executors.job import Job
from pipen_executors.states import Presence, Report

from . import ends
from .calls import Calls
from .jobs import Jid
from .transfer import Transfer


class Queries:
    """The queries of a run.

    Tasks are asked for only where a job says, twice in a row and with no event in between,
    that more of them have ended than have told so themselves, and where one is in doubt.

    Parameters
    ----------
    calls
        Of the Batch API.
    files
        Tells whether jobs have been heard of.
    in_doubt
        Jobs of Batch some of whose tasks were asked to end while others go on; grows.
    """

    def __init__(self, calls: Calls, files: Transfer, in_doubt: Set[str]) -> None:
        self._calls = calls
        self._files = files
        self._behind: set[str] = set()
        self._in_doubt = in_doubt

    async def ask(self, jobs: Sequence[Job]) -> Mapping[Job, Report]:
        """Return how jobs stand; those that Batch does not know are left out."""
        jids = {job: Jid.parse(job.jid) for job in jobs}
        known = {}
        for run in {jid.run for jid in jids.values()}:
            for found in await self._calls.jobs("pipen-run", run):
                known[found.name.rpartition("/")[2]] = found
        tasks = await self._doubtful_tasks(Counter(jid.job for jid in jids.values()), known)
        return {
            job: _report(jid, known[jid.job], tasks.get(jid.job, {}).get(jid.task))
            for job, jid in jids.items()
            if jid.job in known
        }

    async def _doubtful_tasks(
        self, active: Mapping[str, int], known: Mapping[str, batch_v1.Job]
    ) -> dict[str, dict[int, batch_v1.TaskStatus]]:
        """Return the tasks of jobs of Batch of which the job itself does not say enough.

        Parameters
        ----------
        active
            How many tasks of each have not told their end.
        known
            What Batch says of each.
        """
        behind = {
            base
            for base, count in active.items()
            if base in known and ends.is_behind(known[base], count)
        }
        doubtful = set(self._in_doubt & active.keys())
        if not self._files.heard:
            doubtful |= behind & self._behind
        self._files.heard = False
        tasks = {base: await self._calls.tasks(base) for base in doubtful}
        self._behind = behind - tasks.keys()
        return tasks


def _report(jid: Jid, found: batch_v1.Job, task: batch_v1.TaskStatus | None) -> Report:
    report = ends.report_of(found.status)
    if task is not None and ends.ended_badly(task):
        return Report(Presence.GONE)
    if report.presence is Presence.RUNNING and not jid.alone:
        return Report(Presence.PENDING)  # each task tells its start by an event
    return report
