"""Jobs on Grid Engine.

What goes over the wire: one ``qsub`` for all ready jobs that ask for the same things (an
array), one ``qstat`` for all jobs, ``qacct`` only for jobs that vanished without a word
of their own, one ``qdel`` for hundreds of jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

from xqute.schedulers.sge_scheduler import SgeScheduler as XquteSgeScheduler

from pipen_executors import filesystem
from pipen_executors.exceptions import SchedulerError, SettingError, TransientError
from pipen_executors.job import Job
from pipen_executors.scheduler import BatchScheduler
from pipen_executors.spec import JobSpec
from pipen_executors.states import ExitReason, Outcome, Presence, Report

from . import accounting, parse
from .commands import Commands
from .directives import Site, command_line, qsub_options
from .endings import CLOCK_SKEW, Endings
from .hosts import SilentHosts
from .submission import Submitter, is_of, is_ours


class SgeScheduler(BatchScheduler, XquteSgeScheduler):
    """Runs jobs on Grid Engine through its commands.

    Parameters
    ----------
    qacct, qconf
        Paths of the commands; ``qsub``, ``qstat`` and ``qdel`` as in xqute.
    site
        How the site counts what jobs ask for.
    host_timeout
        Seconds after which a job is given up whose host is not heard of.
    warn
        Shows a line to the user.
    """

    may_forget = True
    leaves_queue_within = 60.0
    jid_expression = '"${PIPEN_JID:-$JOB_ID}"'  # set for arrays
    # 99 and 100 would be taken for "requeue" and "error" (sge_submit(1), EXIT STATUS).
    final_exit = 'if [[ $rc -eq 99 || $rc -eq 100 ]]; then exit 1; fi\n    exit "$rc"'
    # Other processes end with the job only where ENABLE_ADDGRP_KILL is on (sge_conf(5)), and
    # never those of root.
    kills_wrapper_only = True
    # Often enough to hear within ten seconds of a job that was removed while it waited.
    query_ceiling = 7.5
    accounting_lag = inf  # how long to wait follows from the cell's configuration
    environment_setting: str = "--pipen-sge-pe"
    """What the setting of the parallel environment is called in messages."""

    def __init__(
        self,
        *args: Any,
        qacct: str = "qacct",
        qconf: str = "qconf",
        site: Site | None = None,
        host_timeout: float = 600.0,
        warn: Callable[[str], None] = lambda text: None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._sge = Commands(self.qsub, self.qstat, self.qdel, qacct, qconf)
        self._site = site or Site()
        self._without_answer = False
        self._warn = warn
        self._unknown_states: set[str] = set()
        self._submitter = Submitter(
            self._sge, self.jobname_prefix, f"{self.workdir.mounted}/.sge", self._wrapper
        )
        self._hosts = SilentHosts(self._sge, host_timeout)
        self._endings = Endings(self._sge, self._limits_of, self._log)

    # -- submission --------------------------------------------------------------------

    @classmethod
    def asked_once(cls, resource: str) -> bool:
        """Tell whether a group asks for the most of it, such as for the highest priority."""
        return super().asked_once(resource) or resource.startswith("sge_")

    def check(self, spec: JobSpec) -> None:
        """Check that qsub's options follow from what a job asks for.

        Raises
        ------
        SettingError
            If they do not.
        """
        options = self.options_of(spec)
        try:
            command_line(options)
        except ValueError as error:
            where = f"an option of rule {spec.rule}"
            raise SettingError(
                where, options, f"expected values quoted as for a shell ({error})"
            ) from None
        if self._wants_environment(spec) and not self._without_answer:
            try:
                asyncio.run(self._find_environment())
            except TransientError:
                self._without_answer = True  # the submission asks again

    def options_of(self, spec: JobSpec) -> dict[str, Any]:
        """Return qsub's options of a job."""
        return qsub_options(spec, self._site)

    def _limits_of(self, job: Job) -> Mapping[str, Any]:
        limits: Mapping[str, Any] = self.options_of(job.spec).get("l", {})
        return limits

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
                f"{self.environment_setting} (or resource sge_pe)",
                None,
                "jobs with several threads need a parallel environment, and there is not exactly "
                f"one that keeps all slots on one host; there are: {there or 'none'}",
            )
        self._site = replace(self._site, environment=environment)

    def likeness(self, job: Job) -> Hashable:
        """Put jobs of one rule with the same options together; retries go alone."""
        return self.likeness_of(job, self.options_of(job.spec))

    async def start(self) -> None:
        """Make the directory for what Grid Engine itself has to say of a job."""
        self._sge.mind_default_requests()
        filesystem.repeat(os.makedirs, f"{self.workdir}/.sge", 0o700, True)
        await super().start()

    async def submit_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, str | SchedulerError]:
        """Submit one job, or several as an array."""
        spec = jobs[0].spec
        if self._wants_environment(spec):
            try:
                await self._find_environment()
            except SettingError as error:
                return dict.fromkeys(jobs, SchedulerError(str(error)))
        return await self._submitter.submit(jobs, self.options_of(spec))

    def _wrapper(self, job: Job) -> str:
        return f"{job.directory.mounted}/job.wrapped.{self.name}"

    # -- queries -----------------------------------------------------------------------

    async def query_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, Report]:
        """Ask for all jobs with one qstat, of which only the run's own are looked at."""
        queue = await self._sge.queue()
        found = ((job, queue.get(job.jid)) for job in jobs)
        own = {job.jid: entry for job, entry in found if entry and is_of(entry.name, job)}
        errors = [jid for jid, entry in own.items() if entry.is_error]
        reasons = await self._sge.error_reasons(errors)
        await self._hosts.look(own)
        reports = {}
        for job in jobs:
            entry = own.get(job.jid)
            if entry is None:
                continue
            self._mind_state(job.jid, entry)
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

    def _mind_state(self, jid: str, entry: parse.QueueEntry) -> None:
        """Say once of each state that is not known here how it is taken."""
        if not entry.is_known and entry.state not in self._unknown_states:
            self._unknown_states.add(entry.state)
            self._warn(
                f"Grid Engine has job {jid} in the state {entry.state}, which pipen-sge does not "
                f"know; it is taken for {entry.presence.name.lower()}."
            )

    # -- ends ------------------------------------------------------------------------------

    async def explain_jobs(
        self, jobs: Sequence[Job]
    ) -> Mapping[Job, Outcome | TransientError | None]:
        """Say how jobs ended that left no exit status or died of a signal.

        None says that Grid Engine has requeued the job.
        """
        return await self._endings.explain(jobs)

    async def accounted(self, jids: Sequence[str], since: float) -> Mapping[str, Mapping[str, Any]]:
        """Return what qacct has of ended jobs; the last record, where one was requeued."""
        virtual = not {"h_vmem", "s_vmem"}.isdisjoint(self._site.memory)
        wanted = set(jids)
        return {
            record.jid: accounting.used(record, virtual=virtual)
            for record in await self._sge.records(jids, since - CLOCK_SKEW)
            if record.jid in wanted
            and is_ours(record.name)
            and (record.submitted is None or record.submitted >= since - CLOCK_SKEW)
        }

    def judge(self, job: Job, outcome: Outcome) -> Outcome:
        """Know a command that got no memory within its limit from any other failure."""
        limits = self._limits_of(job)
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
        self._hosts.forget(job.jid)

    # -- cancellation --------------------------------------------------------------------

    async def kill_jobs(self, jobs: Sequence[Job]) -> None:
        """Delete jobs with one qdel, arrays as arrays."""
        await self._sge.delete((job.jid for job in jobs), self._submitter.array_sizes)

    async def stop(self) -> None:
        """Delete what came through of submissions that seemed to have failed."""
        with contextlib.suppress(SchedulerError):
            await self._submitter.remove_strays()
        await super().stop()
