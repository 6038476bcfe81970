"""How jobs ended that left no exit status of their own, or died of a signal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pipen_executors.exceptions import TransientError
from pipen_executors.job import Job
from pipen_executors.jobdir import tail
from pipen_executors.states import ExitReason, Outcome, Presence, outcome_of

from . import accounting
from .commands import Commands
from .parse import QueueEntry
from .submission import is_of

CLOCK_SKEW: Final = 600.0
_ACCOUNTING_GRACE: Final = 3.0
_ACCOUNTING_PATIENCE: Final = 900.0
"""Seconds after which a job is given up whose records cannot be read."""
_UNTIL_REQUEUED: Final = 10.0
"""Seconds in which a job leaves the queue, or is put back, after its script has ended."""
_WARNINGS: Final = ("SIGUSR1", "SIGUSR2")
"""What Grid Engine sends before it ends a job (sge_submit(1), -notify)."""


class Endings:
    """Asks the queue, and then accounting.

    Parameters
    ----------
    commands
        Grid Engine.
    limits_of
        Returns what a job asks for (``-l``).
    log_of
        Returns the path of what was written before a job's wrapper took over.
    """

    def __init__(
        self,
        commands: Commands,
        limits_of: Callable[[Job], Mapping[str, Any]],
        log_of: Callable[[Job], str],
    ) -> None:
        self._sge = commands
        self._limits_of = limits_of
        self._log_of = log_of
        self._asked: dict[Job, float] = {}

    async def explain(self, jobs: Sequence[Job]) -> dict[Job, Outcome | TransientError | None]:
        """Say how jobs ended; None for one that Grid Engine runs again.

        Jobs that it has yet to say something of are left out.
        """
        for job in jobs:
            self._asked.setdefault(job, time.monotonic())
        queue = await self._sge.queue()
        known: dict[Job, Outcome | TransientError | None] = {}
        lost = []
        for job in jobs:
            entry = queue.get(job.jid)
            if entry is not None and not is_of(entry.name, job):
                entry = None
            rc = job.directory.rc()
            if entry is not None and entry.presence is Presence.PENDING:
                known[job] = None
            elif rc is not None:
                if entry is None or entry.is_deleted or not self._may_be_requeued(job, rc):
                    known[job] = self._signal(job, rc, entry)
            elif entry is not None and entry.is_requeued:
                known[job] = None
            else:
                lost.append(job)
        if lost:
            known |= await self._accounted(lost)
        for job, end in known.items():
            if not isinstance(end, TransientError):
                del self._asked[job]
        return known

    def _may_be_requeued(self, job: Job, rc: int) -> bool:
        """Tell whether a signal may be Grid Engine's way to put a job back into the queue."""
        sent = job.directory.info(job.token).get("signal") or outcome_of(rc).detail in _WARNINGS
        return bool(sent) and time.monotonic() - self._asked[job] < _UNTIL_REQUEUED

    def _signal(self, job: Job, rc: int, entry: QueueEntry | None) -> Outcome:
        """Say what a signal means that the wrapper has written down."""
        outcome = outcome_of(rc)
        if entry is not None and entry.is_deleted:
            return Outcome(ExitReason.CANCELLED, rc, f"{outcome.detail}: deleted (qdel)")
        limits = self._limits_of(job)
        for name, reason in accounting.LIMIT_SIGNALS.get(outcome.detail, {}).items():
            if name in limits:
                return Outcome(reason, rc, f"{outcome.detail}: over {name}={limits[name]}")
        if job.directory.info(job.token).get("signal"):
            return Outcome(outcome.reason, rc, f"{outcome.detail}, from outside of the job")
        return outcome

    async def _accounted(self, jobs: Sequence[Job]) -> dict[Job, Outcome | TransientError]:
        """Ask accounting how jobs ended; what it does not know yet is left out for a while."""
        now = time.monotonic()
        begun = min(job.record.submitted for job in jobs if job.record) - CLOCK_SKEW
        patience = await self._sge.accounting_delay() + _ACCOUNTING_GRACE
        known: dict[Job, Outcome | TransientError] = {}
        try:
            records = await self._sge.records([job.jid for job in jobs], begun)
        except TransientError as error:
            records, patience = [], _ACCOUNTING_PATIENCE
            known = dict.fromkeys(jobs, error)
        for job in jobs:
            matching = [record for record in records if _is_record_of(record, job)]
            if matching:
                outcome = accounting.ending(matching[-1], self._limits_of(job))
                known[job] = self._with_log(job, outcome)
            elif now - self._asked[job] >= patience:
                started = bool(job.directory.info(job.token))
                known[job] = self._with_log(job, accounting.unrecorded(started=started))
        return known

    def _with_log(self, job: Job, outcome: Outcome) -> Outcome:
        """Add what was said before the wrapper took over."""
        said = " ".join(tail(self._log_of(job), 2)).strip()
        detail = f"{outcome.detail}; {said}" if said else outcome.detail
        return Outcome(outcome.reason, outcome.rc, detail)


def _is_record_of(record: accounting.Record, job: Job) -> bool:
    """Tell a job's record from that of an older one whose number is used again."""
    if record.jid != job.jid or not is_of(record.name, job):
        return False
    since = job.record.submitted if job.record is not None else 0.0
    return record.submitted is None or record.submitted >= since - CLOCK_SKEW
