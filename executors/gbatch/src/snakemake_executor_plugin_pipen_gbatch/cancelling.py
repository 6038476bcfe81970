"""Cancelling: jobs of Batch, or some tasks of one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.job import Job

from . import ends
from .calls import Calls
from .jobs import Jid
from .transfer import Transfer


class Cancelling:
    """Knows how many tasks of each job of Batch go on, and ends some or all of them.

    Parameters
    ----------
    calls
        Of the Batch API, which cancels whole jobs only.
    files
        By which tasks are asked to end.

    Attributes
    ----------
    in_doubt
        Jobs of Batch some of whose tasks were asked to end while others go on.
    """

    def __init__(self, calls: Calls, files: Transfer) -> None:
        self._calls = calls
        self._files = files
        self._open: dict[str, int] = {}
        self.in_doubt: set[str] = set()

    def has_begun(self, base: str, tasks: int) -> None:
        """Count the tasks of a job of Batch that this run has submitted."""
        self._open[base] = tasks

    def has_ended(self, base: str) -> bool:
        """Count a task off; tell whether it was the last of those that this run submitted."""
        if base not in self._open:
            return False
        self._open[base] -= 1
        return self._open[base] == 0

    async def cancel(self, jobs: Sequence[Job]) -> None:
        """Cancel jobs of Batch; where some of its tasks go on, ask the others to end.

        Raises
        ------
        SchedulerError
            Naming those that Batch did not cancel, and why.
        TransientError
            If Batch could not be asked.
        """
        wanted: dict[str, list[Job]] = {}
        for job in jobs:
            wanted.setdefault(Jid.parse(job.jid).job, []).append(job)
        results = await asyncio.gather(
            *(self._cancel(base, members) for base, members in wanted.items()),
            return_exceptions=True,
        )
        refused = []
        for base, error in zip(wanted, results, strict=True):
            if isinstance(error, SchedulerError) and not isinstance(error, TransientError):
                refused.append(f"{base}: {error}")
            elif error is not None:
                raise error
        if refused:
            raise SchedulerError("; ".join(refused))

    async def _cancel(self, base: str, members: Sequence[Job]) -> None:
        if len(members) >= await self._going_on(base, members):
            await self._calls.cancel(base)
            return
        self.in_doubt.add(base)
        await self._files.ask_to_end(members, base)

    async def _going_on(self, base: str, members: Sequence[Job]) -> int:
        """Return how many tasks of a job may be going on."""
        if Jid.parse(members[0].jid).alone:
            return 1
        if base in self._open:
            return self._open[base]
        return sum(map(ends.goes_on, (await self._calls.tasks(base)).values()))  # of another run
