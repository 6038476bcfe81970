"""Jobs on Grid Engine.

What goes over the wire: one ``qsub`` for all ready jobs that ask for the same things (an
array), one ``qstat`` for all jobs, ``qacct`` only for jobs that vanished without a word
of their own, one ``qdel`` for hundreds of jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from math import inf
from typing import Any

from xqute.schedulers.sge_scheduler import SgeScheduler as XquteSgeScheduler

from pipen_executors.exceptions import SchedulerError, SettingError, TransientError
from pipen_executors.job import Job
from pipen_executors.jobdir import tail
from pipen_executors.scheduler import SchedulerPostInit
from pipen_executors.spec import JobSpec
from pipen_executors.states import ExitReason, Outcome, Presence, Report, outcome_of

from . import accounting, parse
from .commands import Commands
from .directives import Site, qsub_options
from .hosts import SilentHosts

_LARGEST_ARRAY = 2000
"""Tasks of an array at most, whatever the site allows: their wrappers' paths go with it."""
_CLOCK_SKEW = 600.0
_ACCOUNTING_GRACE = 3.0
_LOG_NAME = re.compile(r"[\w/.+=@-]+")
_STUB = """#!/bin/bash
pipen_wrappers=(
{wrappers}
)
exec /bin/bash "${{pipen_wrappers[${{SGE_TASK_ID/undefined/1}} - 1]}}"
"""


class SgeScheduler(SchedulerPostInit, XquteSgeScheduler):
    """Runs jobs on Grid Engine through its commands.

    Parameters
    ----------
    qacct, qconf
        Paths of the commands; ``qsub``, ``qstat`` and ``qdel`` as in xqute.
    site
        How the site counts what jobs ask for.
    host_timeout
        Seconds after which a job is given up whose host is not heard of.
    """

    jid_expression = '"$JOB_ID.$SGE_TASK_ID"; pipen_jid=${pipen_jid%.undefined}'
    # 99 and 100 would be taken for "requeue" and "error" (sge_submit(1), EXIT STATUS).
    final_exit = 'if [[ $rc -eq 99 || $rc -eq 100 ]]; then exit 1; fi\n    exit "$rc"'
    # Other processes end with the job only where ENABLE_ADDGRP_KILL is on (sge_conf(5)), and
    # never those of root.
    kills_wrapper_only = True
    # Often enough to hear within ten seconds of a job that was removed while it waited.
    query_ceiling = 7.5
    accounting_lag = inf  # how long to wait follows from the cell's configuration

    def __init__(
        self,
        *args: Any,
        qacct: str = "qacct",
        qconf: str = "qconf",
        site: Site | None = None,
        host_timeout: float = 600.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._sge = Commands(self.qsub, self.qstat, self.qdel, qacct, qconf)
        self._site = site or Site()
        self._hosts = SilentHosts(self._sge, host_timeout)
        self._most_tasks = _LARGEST_ARRAY
        self._array_sizes: dict[str, int] = {}
        self._doubtful: set[str] = set()
        self._asked: dict[Job, float] = {}

    # -- submission --------------------------------------------------------------------

    def check(self, spec: JobSpec) -> None:
        """Check that qsub's options follow from what a job asks for."""
        if self._wants_environment(spec):
            # Without an answer now the submission asks again.
            with contextlib.suppress(TransientError):
                asyncio.run(self._find_environment())

    def options_of(self, spec: JobSpec) -> dict[str, Any]:
        """Return qsub's options of a job."""
        return qsub_options(spec, self._site)

    def _wants_environment(self, spec: JobSpec) -> bool:
        return spec.resources.threads > 1 and "pe" not in self.options_of(spec)

    async def _find_environment(self) -> None:
        """Ask for the parallel environments, and take the one that is obvious.

        Raises
        ------
        SettingError
            If none is, with what there is.
        """
        rules = await self._sge.environments()
        environment = parse.obvious_environment(rules)
        if environment is None:
            there = ", ".join(f"{name} ({rule})" for name, rule in sorted(rules.items()))
            raise SettingError(
                "--pipen-sge-pe (or resource sge_pe)",
                None,
                "the parallel environment for jobs with several threads, because there is not "
                f"exactly one that keeps all slots on one host; there is {there or 'none'}",
            )
        self._site = replace(self._site, environment=environment)

    def batches(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Put jobs of one rule that ask for the same things together; retries go alone."""
        batches = [[job] for job in jobs if job.trial_count]

        def likeness(job: Job) -> tuple[str, str, str]:
            return job.spec.rule, job.spec.cwd, repr(self.options_of(job.spec))

        fresh = sorted((job for job in jobs if not job.trial_count), key=likeness)
        for _, alike in groupby(fresh, likeness):
            batches.append(list(alike))
        return batches

    async def start(self) -> None:
        """Make the directory for what Grid Engine itself has to say of a job."""
        os.makedirs(f"{self.workdir}/.sge", mode=0o700, exist_ok=True)
        await super().start()

    async def submit_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, str | SchedulerError]:
        """Submit one job, or several as an array."""
        answers: dict[Job, str | SchedulerError] = {}
        rest = list(jobs)
        while rest:
            part = rest[: self._most_tasks]
            try:
                jids = await self._submit(part)
            except parse.TooManyTasks as error:
                if len(part) > error.most > 0:
                    self._most_tasks = error.most
                    continue
                answers |= dict.fromkeys(part, error)
            except TransientError as error:
                if not answers and not isinstance(error, parse.LimitReached):
                    raise
                return answers | dict.fromkeys(rest, error)
            except SchedulerError as error:
                answers |= dict.fromkeys(part, error)
            else:
                answers |= dict(zip(part, jids, strict=True))
            rest = rest[len(part) :]
        return answers

    async def _submit(self, jobs: Sequence[Job]) -> list[str]:
        first = jobs[0]
        if self._wants_environment(first.spec):
            try:
                await self._find_environment()
            except SettingError as error:
                raise SchedulerError(str(error)) from None
        name = f"{self._name(first.spec, len(jobs) > 1)}.{first.token}"
        log = f"{self.workdir.mounted}/.sge/$JOB_ID" + (".$TASK_ID" if len(jobs) > 1 else "")
        options = {
            "N": name,
            "wd": shlex.quote(first.spec.cwd),
            "j": "y",
            # The wrapper has its own files; this one is for what comes before it. qsub
            # takes "," ":" and "$" in a path for its own (sge_submit(1), -o).
            "o": shlex.quote(log) if _LOG_NAME.fullmatch(str(self.workdir)) else "/dev/null",
            **({"t": f"1-{len(jobs)}"} if len(jobs) > 1 else {}),
            **self.options_of(first.spec),
        }
        wrappers = (f"{job.directory.mounted}/job.wrapped.{self.name}" for job in jobs)
        stub = _STUB.format(wrappers="\n".join(map(shlex.quote, wrappers)))
        base = await self._came_through(name) or await self._submit_once(name, options, stub)
        if len(jobs) == 1:
            return [base]
        self._array_sizes[base] = len(jobs)
        return [f"{base}.{task}" for task in range(1, len(jobs) + 1)]

    async def _submit_once(self, name: str, options: Mapping[str, Any], stub: str) -> str:
        try:
            return await self._sge.submit(options, stub)
        except parse.LimitReached:
            raise
        except TransientError:
            self._doubtful.add(name)
            raise

    async def _came_through(self, name: str) -> str:
        """Return the number of a submission that had no answer, if it is in the queue."""
        if name not in self._doubtful:
            return ""
        queue = await self._sge.queue()
        found = (jid for jid, entry in queue.items() if entry.name == name)
        return next(found, "").partition(".")[0]

    def _name(self, spec: JobSpec, in_array: bool) -> str:
        """Return the name in the queue; qsub -N allows few characters, and no leading digit."""
        name = f"{self.jobname_prefix}-{spec.rule}"
        if spec.wildcards and not in_array:
            name += f"-{spec.label}"
        name = re.sub(r"[^\w.+=-]", "_", name, flags=re.ASCII)[:120]
        return f"j{name}" if name[0].isdigit() else name

    # -- queries -----------------------------------------------------------------------

    async def query_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, Report]:
        """Ask for all jobs with one qstat, of which only the run's own are looked at."""
        queue = await self._sge.queue()
        own = {job.jid: queue[job.jid] for job in jobs if job.jid in queue}
        errors = [jid for jid, entry in own.items() if entry.is_error]
        reasons = await self._sge.error_reasons(errors)
        await self._hosts.look(own)
        reports = {}
        for job in jobs:
            entry = own.get(job.jid)
            if entry is None:
                continue
            presence, outcome = entry.presence, None
            if entry.is_error:
                detail = f"Grid Engine says {entry.state}: {reasons.get(job.jid, '')}"
                outcome = Outcome(ExitReason.LAUNCH_FAILURE, None, detail.rstrip(": "))
            elif self._hosts.keeps_deleted(job.jid):
                presence = Presence.GONE
            elif silence := self._hosts.too_silent(job.jid):
                detail = f"nothing was heard of {entry.queue} for {silence:.0f} s"
                outcome = Outcome(ExitReason.NODE_FAILURE, None, detail)
            reports[job] = Report(presence, "held" if entry.is_held else "", outcome)
        return reports

    # -- ends ------------------------------------------------------------------------------

    async def explain_jobs(
        self, jobs: Sequence[Job]
    ) -> Mapping[Job, Outcome | TransientError | None]:
        """Say how jobs ended that left no exit status or died of a signal.

        None says that Grid Engine has requeued the job.
        """
        queue = await self._sge.queue()
        known: dict[Job, Outcome | TransientError | None] = {}
        lost = []
        for job in jobs:
            entry = queue.get(job.jid)
            rc = job.directory.rc()
            if entry is not None and entry.presence is Presence.PENDING:
                known[job] = None
            elif rc is not None:
                known[job] = self._signal(job, rc)
            elif entry is not None and entry.is_requeued:
                known[job] = None
            else:
                lost.append(job)
        if lost:
            known |= await self._accounted(lost)
        return known

    def _signal(self, job: Job, rc: int) -> Outcome:
        """Say what a signal means that the wrapper has written down."""
        outcome = outcome_of(rc)
        limits = self.options_of(job.spec).get("l", {})
        for name, reason in accounting.LIMIT_SIGNALS.get(outcome.detail, {}).items():
            if name in limits:
                return Outcome(reason, rc, f"{outcome.detail}: over {name}={limits[name]}")
        if job.directory.info(job.token).get("signal"):
            return Outcome(outcome.reason, rc, f"{outcome.detail}, from outside of the job")
        return outcome

    async def _accounted(self, jobs: Sequence[Job]) -> dict[Job, Outcome]:
        """Ask accounting how jobs ended; what it does not know yet is left out for a while."""
        now = time.monotonic()
        for job in jobs:
            self._asked.setdefault(job, now)
        begun = min(job.record.submitted for job in jobs if job.record) - _CLOCK_SKEW
        records = await self._sge.records([job.jid for job in jobs], begun)
        patience = await self._sge.accounting_delay() + _ACCOUNTING_GRACE
        known: dict[Job, Outcome] = {}
        for job in jobs:
            started = bool(job.directory.info(job.token))
            matching = [record for record in records if self._is_of(record, job)]
            if matching:
                known[job] = self._with_log(job, accounting.ending(matching[-1]))
            elif now - self._asked[job] >= patience:
                known[job] = self._with_log(job, accounting.unrecorded(started=started))
        return known

    def _is_of(self, record: accounting.Record, job: Job) -> bool:
        """Tell a job's record from that of an older one whose number is used again."""
        name = self._name(job.spec, "." in job.jid)
        if record.jid != job.jid or not record.name.startswith(name):
            return False
        since = job.record.submitted if job.record is not None else 0.0
        return record.submitted is None or record.submitted >= since - _CLOCK_SKEW

    def _with_log(self, job: Job, outcome: Outcome) -> Outcome:
        """Add what was said before the wrapper took over."""
        said = " ".join(tail(self._log(job), 2)).strip()
        detail = f"{outcome.detail}; {said}" if said else outcome.detail
        return Outcome(outcome.reason, outcome.rc, detail)

    def judge(self, job: Job, outcome: Outcome) -> Outcome:
        """Know a command that got no memory within its limit from any other failure."""
        limits = self.options_of(job.spec).get("l", {})
        for name in ("h_vmem", "s_vmem"):
            if name in limits and (said := accounting.no_memory(job.directory.tail("job.stderr"))):
                detail = f"{name} is {limits[name]}, and it said: {said}"
                return Outcome(ExitReason.OUT_OF_MEMORY, outcome.rc, detail)
        return outcome

    def _log(self, job: Job) -> str:
        """Return the path of what was written before the wrapper took over."""
        return f"{self.workdir}/.sge/{job.jid}"

    def forget(self, job: Job) -> None:
        """Remove what only this run needed of a job that has ended."""
        with contextlib.suppress(OSError):
            os.unlink(self._log(job))
        self._asked.pop(job, None)
        self._hosts.forget(job.jid)

    # -- cancellation --------------------------------------------------------------------

    async def kill_jobs(self, jobs: Sequence[Job]) -> None:
        """Delete jobs with one qdel, arrays as arrays."""
        await self._sge.delete((job.jid for job in jobs), self._array_sizes)

    async def stop(self) -> None:
        """Delete what came through of submissions that seemed to have failed."""
        if self._doubtful:
            with contextlib.suppress(SchedulerError):
                queue = await self._sge.queue()
                left = [jid for jid, entry in queue.items() if entry.name in self._doubtful]
                if left:
                    await self._sge.delete(left, {})
        await super().stop()
