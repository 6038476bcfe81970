"""Jobs on Slurm.

What goes over the wire: one ``sbatch`` for all ready jobs that ask for the same things
(an array), one ``squeue`` for all jobs, ``sacct`` only for jobs that ended without a word
of their own, one ``scancel`` for hundreds of jobs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

from xqute.schedulers.slurm_scheduler import SlurmScheduler as XquteSlurmScheduler

from pipen_executors import filesystem
from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.job import Job
from pipen_executors.jobdir import tail
from pipen_executors.scheduler import BatchScheduler
from pipen_executors.spec import JobSpec
from pipen_executors.states import ExitReason, Outcome, Report, Tentative

from . import parse
from .commands import Commands, usual_clusters
from .directives import sbatch_options
from .ends import Facts, Standing, forgotten, from_queue, refine, wants_accounting
from .partitions import Partition, choose
from .submission import Submissions, queue_name

_LARGEST_ARRAY = 2000
"""Tasks of an array at most, whatever the site allows: their wrappers' paths go with it."""


_CLOCK_SKEW = 600.0
"""Seconds by which the clocks of this machine and of slurmctld may differ."""


class SlurmScheduler(BatchScheduler, XquteSlurmScheduler):
    """Runs jobs on Slurm through its commands.

    Parameters
    ----------
    sacct, scontrol
        Paths of the commands; ``sbatch``, ``squeue`` and ``scancel`` as in xqute.
    partitions
        Partitions with their limits, to choose from for rules that name none.
    exclude_failed_nodes
        Whether nodes that failed a job are left out in further submissions.
    warn
        Shows a line to the user.
    """

    may_forget = True
    leaves_queue_within = 60.0
    jid_expression = '"${PIPEN_JID:-$SLURM_JOB_ID$PIPEN_SLURM_CLUSTER}"'  # set for arrays
    kills_wrapper_only = True  # unless the site tracks processes by control groups
    # Often enough to hear within ten seconds of a job that was removed while it waited.
    query_ceiling = 7.5
    accounting_lag = 8.0
    counted_resources = frozenset({"gres"})

    def __init__(
        self,
        *args: Any,
        sacct: str = "sacct",
        scontrol: str = "scontrol",
        partitions: Sequence[Partition] = (),
        exclude_failed_nodes: bool = False,
        warn: Callable[[str], None] = lambda text: None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._slurm = Commands(self.sbatch, self.squeue, self.scancel, sacct, scontrol)
        self._partitions = partitions
        self._exclude = exclude_failed_nodes
        self._failed_nodes: set[str] = set()
        self._submissions = Submissions(self._slurm)
        self._room = _LARGEST_ARRAY
        self._hopeless: set[Job] = set()
        self._warn = warn
        self._unknown_states: set[str] = set()
        self._holders: dict[str, str] = {}  # whose token got an id last, of what was submitted here
        self._first_tokens: dict[str, str] = {}

    # -- submission --------------------------------------------------------------------

    def check(self, spec: JobSpec) -> None:
        """Check that sbatch's options follow from what a job asks for."""
        self.options_of(spec)

    def options_of(self, spec: JobSpec) -> dict[str, Any]:
        """Return sbatch's options of a job, with the partition chosen if none is named."""
        options = sbatch_options(spec)
        # Later questions about the job have to name its cluster too.
        if "clusters" not in options and (clusters := usual_clusters(os.environ)):
            options["clusters"] = clusters
        named = "partition" in options or os.environ.get("SBATCH_PARTITION")
        if self._partitions and not named:
            options["partition"] = choose(self._partitions, spec, options)
        if self._failed_nodes:
            given = [options["exclude"]] if "exclude" in options else []
            options["exclude"] = ",".join([*given, *sorted(self._failed_nodes)])
        return options

    def likeness(self, job: Job) -> Hashable:
        """Put jobs of one rule with the same options together; retries go alone."""
        return self.likeness_of(job, self.options_of(job.spec))

    async def start(self) -> None:
        """Make the directory for slurmstepd's messages; ask what Slurm ends with a job."""
        filesystem.repeat(os.makedirs, f"{self.workdir}/.slurm", 0o700, True)
        # Without an answer there is a guard where none may be needed.
        with contextlib.suppress(SchedulerError):
            self.kills_wrapper_only = not parse.tracks_all(await self._slurm.configuration())
        await super().start()

    async def submit_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, str | SchedulerError]:
        """Submit one job, or several as an array.

        Where Slurm takes no more of them, arrays become smaller, and grow again.
        """
        site = await self._slurm.configuration()
        largest = parse.largest_array(site)
        self._submissions.kill_grace = parse.kill_grace(site, self.kill_grace)
        answers: dict[Job, str | SchedulerError] = {}
        rest = list(jobs)
        while rest:
            part = rest[: max(1, min(self._room, largest))]
            try:
                jids = await self._submissions.make(
                    part,
                    [self.wrapper_path(job) for job in part],
                    self.options_of(part[0].spec),
                    self.jobname_prefix,
                    self.seen_root(),
                )
            except parse.LimitReached as error:
                if len(part) == 1:
                    return answers | dict.fromkeys(rest, error)
                self._room = len(part) // 2
                continue
            except TransientError as error:
                if not answers:
                    raise
                return answers | dict.fromkeys(rest, error)
            except SchedulerError as error:
                answers |= dict.fromkeys(part, error)
            else:
                answers |= dict(zip(part, jids, strict=True))
                self._holders |= {jid: job.token for jid, job in zip(jids, part, strict=True)}
                self._first_tokens |= dict.fromkeys((job.token for job in part), part[0].token)
                self._room = min(2 * self._room, _LARGEST_ARRAY)
            rest = rest[len(part) :]
        return answers

    # -- queries -----------------------------------------------------------------------

    async def query_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, Report]:
        """Ask for all jobs with one squeue.

        A job that waits for what will not come is given up when it does so twice in a row.
        """
        entries = await self._own_entries(jobs)
        reports, hopeless = {}, set()
        for job, entry in entries.items():
            self._mind_state(entry)
            outcome = entry.dead_end
            if outcome is not None:
                hopeless.add(job)
                if job not in self._hopeless:
                    outcome = None
            reports[job] = Report(entry.presence, entry.reason, outcome)
        self._hopeless = hopeless
        return reports

    async def _own_entries(
        self, jobs: Sequence[Job], *, ended_too: bool = False
    ) -> dict[Job, parse.QueueEntry]:
        """Return the lines of squeue that are those of jobs, not of others with the same ids."""
        jobs = self._with_ids_of_their_own(jobs)
        found = await self._slurm.queue((job.jid for job in jobs), ended_too=ended_too)
        return {
            job: entry
            for job in jobs
            if (entry := found.get(job.jid)) is not None
            and (
                job.record is None
                or entry.is_of(
                    job.token, partial(self._name, job), self._first_tokens.get(job.token)
                )
            )
        }

    def _with_ids_of_their_own(self, jobs: Sequence[Job]) -> list[Job]:
        """Leave out jobs whose id another one has got since: Slurm has forgotten them.

        So it does with jobs that were submitted in the last seconds before slurmctld was killed.
        """
        return [
            job
            for job in jobs
            if job.record is None or self._holders.get(job.jid, job.token) == job.token
        ]

    def _name(self, job: Job) -> str:
        """Return what a job's name in the queue begins with."""
        name = sbatch_options(job.spec).get("job-name")
        return str(name or queue_name(self.jobname_prefix, job.spec.rule))

    def _mind_state(self, entry: parse.QueueEntry) -> None:
        """Say once of each state that is not known here how it is taken."""
        if not entry.is_known and entry.state not in self._unknown_states:
            self._unknown_states.add(entry.state)
            self._warn(
                f"Slurm has job {entry.jid} in the state {entry.state}, which pipen-slurm does not "
                "know; it is taken for running."
            )

    async def explain_jobs(
        self, jobs: Sequence[Job]
    ) -> Mapping[Job, Outcome | Tentative | TransientError | None]:
        """Say how jobs ended: slurmstepd's words, squeue's memory, then accounting.

        None says that Slurm has requeued the job.
        """
        said = {job: parse.step_message("\n".join(tail(self._step_log(job)))) for job in jobs}
        try:
            entries = await self._own_entries(jobs, ended_too=True)
        except TransientError as error:
            return {
                job: hint if hint is not None and hint.reason in parse.FINAL else error
                for job, hint in said.items()
            }
        facts = {}
        for job in jobs:
            started = bool(job.directory.info(job.token))
            facts[job] = Facts(entries.get(job), said[job], job.directory.rc(), started)
        answers = {job: from_queue(known) for job, known in facts.items()}
        unclear = [job for job in jobs if wants_accounting(answers[job], facts[job])]
        unreached: dict[Job, TransientError] = {}
        lagging: set[Job] = set()
        if unclear and await self._slurm.has_accounting():
            try:
                ends = await self._accounting(unclear)
            except TransientError as error:
                unreached = {job: error for job in unclear if answers[job] is None}
            else:
                answers |= ends
                lagging = set(unclear) - ends.keys()
        else:
            answers |= {job: forgotten(facts[job]) for job in unclear if answers[job] is None}
        known_ends: dict[Job, Outcome | Tentative | TransientError | None] = dict(unreached)
        for job, answer in answers.items():
            if answer is Standing.AGAIN:
                known_ends[job] = None
            elif isinstance(answer, Outcome):
                outcome = refine(answer, facts[job])
                known_ends[job] = Tentative(outcome) if job in lagging else outcome
                self._note_node(job, outcome, facts[job].entry)
        return known_ends

    async def _accounting(self, jobs: Sequence[Job]) -> dict[Job, Outcome]:
        """Ask sacct how jobs ended; records that are older than the submission are others'."""
        jobs = self._with_ids_of_their_own(jobs)
        found = await self._slurm.accounting(job.jid for job in jobs)
        return {
            job: end.outcome
            for job in jobs
            if (end := found.get(job.jid)) is not None
            and end.is_of(job.token, job.record.submitted - _CLOCK_SKEW if job.record else 0.0)
        }

    async def accounted(self, jids: Sequence[str], since: float) -> Mapping[str, Mapping[str, Any]]:
        """Return what sacct has of ended jobs, if the site keeps accounts."""
        if not await self._slurm.has_accounting():
            return {}
        facts: dict[str, dict[str, Any]] = {}
        for jid, used in (await self._slurm.used(jids)).items():
            facts[jid] = {"cpu": used.cpu}
            if used.memory is not None:
                facts[jid] |= {"memory": used.memory, "memory_by": "Slurm, sampled"}
        return facts

    def _note_node(self, job: Job, outcome: Outcome, entry: parse.QueueEntry | None) -> None:
        failures = (ExitReason.NODE_FAILURE, ExitReason.LAUNCH_FAILURE)
        nodes = entry.nodes if entry else job.directory.info(job.token).get("node", "")
        if self._exclude and nodes and outcome.reason in failures:
            self._failed_nodes.add(nodes)

    def _step_log(self, job: Job) -> str:
        """Return the path of a job's output, into which only slurmstepd writes."""
        return f"{self.workdir}/.slurm/{job.jid.partition(';')[0]}.log"

    def forget(self, job: Job) -> None:
        """Remove what slurmstepd may have written."""
        with contextlib.suppress(OSError):
            os.unlink(self._step_log(job))

    # -- cancellation --------------------------------------------------------------------

    async def kill_jobs(self, jobs: Sequence[Job]) -> None:
        """Cancel jobs with one scancel, arrays as arrays.

        Those of earlier runs only if they are still in the queue, by their mark.
        """
        jobs = self._with_ids_of_their_own(jobs)
        earlier = [job for job in jobs if job.jid not in self._holders]
        if earlier:
            own = await self._own_entries(earlier)
            jobs = [job for job in jobs if job in own or job.jid in self._holders]
        if not jobs:
            return
        await self._slurm.cancel((job.jid for job in jobs), self._submissions.array_sizes)

    async def stop(self) -> None:
        """Cancel what came through of submissions that seemed to have failed."""
        await self._submissions.cancel_doubtful()
        await super().stop()
