"""Jobs on Slurm.

What goes over the wire: one ``sbatch`` for all ready jobs that ask for the same things
(an array), one ``squeue`` for all jobs, ``sacct`` only for jobs that ended without a word
of their own, one ``scancel`` for hundreds of jobs.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from xqute.schedulers.slurm_scheduler import SlurmScheduler as XquteSlurmScheduler

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.job import Job
from pipen_executors.jobdir import tail
from pipen_executors.process import run
from pipen_executors.scheduler import SchedulerPostInit
from pipen_executors.spec import JobSpec
from pipen_executors.states import ExitReason, Outcome, Report

from . import parse
from .directives import command_line, sbatch_options
from .ends import Facts, Standing, from_queue, refine, wants_accounting
from .partitions import Partition, choose

_IDS_PER_QUERY = 200
_DEFAULT_ARRAY = 1001
_STUB = """#!/bin/bash
pipen_wrappers=(
{wrappers}
)
exec /bin/bash "${{pipen_wrappers[${{SLURM_ARRAY_TASK_ID:-0}}]}}"
"""


class SlurmScheduler(SchedulerPostInit, XquteSlurmScheduler):
    """Runs jobs on Slurm through its commands.

    Parameters
    ----------
    sacct, scontrol
        Paths of the commands; ``sbatch``, ``squeue`` and ``scancel`` as in xqute.
    partitions
        Partitions with their limits, to choose from for rules that name none.
    exclude_failed_nodes
        Whether nodes that failed a job are left out in further submissions.
    """

    jid_expression = (
        '"${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"; '
        "pipen_jid=${pipen_jid:-$SLURM_JOB_ID}"
    )
    # Often enough to hear within ten seconds of a job that was removed while it waited.
    query_ceiling = 7.5
    accounting_lag = 8.0

    def __init__(
        self,
        *args: Any,
        sacct: str = "sacct",
        scontrol: str = "scontrol",
        partitions: Sequence[Partition] = (),
        exclude_failed_nodes: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.sacct = sacct
        self.scontrol = scontrol
        self._partitions = partitions
        self._exclude = exclude_failed_nodes
        self._failed_nodes: set[str] = set()
        self._config: dict[str, str] = {}
        self._array_sizes: dict[str, int] = {}

    # -- commands --------------------------------------------------------------------

    async def _command(self, *words: str, stdin: str = "") -> str:
        """Run one of Slurm's commands; return what it prints.

        Raises
        ------
        TransientError, SchedulerError
            With the command's own words.
        """
        done = await run(words, stdin=stdin, env=clean_environment(os.environ))
        if done.rc != 0:
            raise parse.refusal(done.stderr, os.path.basename(words[0]))
        return done.stdout

    async def _configuration(self) -> dict[str, str]:
        if not self._config:
            self._config = parse.configuration(await self._command(self.scontrol, "show", "config"))
        return self._config

    # -- submission --------------------------------------------------------------------

    def check(self, spec: JobSpec) -> None:
        """Check that sbatch's options follow from what a job asks for."""
        self.options_of(spec)

    def options_of(self, spec: JobSpec) -> dict[str, Any]:
        """Return sbatch's options of a job, with the partition chosen if none is named."""
        options = sbatch_options(spec)
        if self._partitions and "partition" not in options:
            options["partition"] = choose(self._partitions, spec, options)
        if self._failed_nodes:
            given = [options["exclude"]] if "exclude" in options else []
            options["exclude"] = ",".join([*given, *sorted(self._failed_nodes)])
        return options

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
        """Make the directory for slurmstepd's messages."""
        os.makedirs(f"{self.workdir}/.slurm", mode=0o700, exist_ok=True)
        await super().start()

    async def submit_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, str | SchedulerError]:
        """Submit one job, or several as an array."""
        config = await self._configuration()
        largest = int(config.get("MaxArraySize", _DEFAULT_ARRAY)) - 1
        answers: dict[Job, str | SchedulerError] = {}
        rest = list(jobs)
        size = max(1, min(len(rest), largest))
        while rest:
            part = rest[:size]
            try:
                jids = await self._sbatch(part)
            except parse.LimitReached as error:
                if size > 1:
                    size //= 2  # what is left of the limit may hold fewer
                    continue
                return answers | dict.fromkeys(rest, error)
            except TransientError as error:
                if not answers:
                    raise
                return answers | dict.fromkeys(rest, error)
            except SchedulerError as error:
                answers |= dict.fromkeys(part, error)
            else:
                answers |= dict(zip(part, jids, strict=True))
            rest = rest[len(part) :]
        return answers

    async def _sbatch(self, jobs: Sequence[Job]) -> list[str]:
        first = jobs[0].spec
        name = f"{self.jobname_prefix}-{first.rule}"
        if len(jobs) == 1 and first.wildcards:
            name += f"-{first.label}"
        options = {
            "parsable": True,
            "job-name": name,
            "comment": f"snakemake job {','.join(job.spec.jobid for job in jobs[:20])}",
            "chdir": first.cwd,
            # The wrapper has its own files; this one is for what slurmstepd has to say.
            "output": f"{self.workdir.mounted}/.slurm/{'%A_%a' if len(jobs) > 1 else '%j'}.log",
            **self.options_of(first),
        }
        if len(jobs) > 1:
            options["array"] = f"0-{len(jobs) - 1}"
        wrappers = (f"{job.directory.mounted}/job.wrapped.{self.name}" for job in jobs)
        stub = _STUB.format(wrappers="\n".join(map(shlex.quote, wrappers)))
        said = await self._command(self.sbatch, *command_line(options), stdin=stub)
        base, cluster = parse.submitted_id(said)
        suffix = f";{cluster}" if cluster else ""
        if len(jobs) == 1:
            return [base + suffix]
        self._array_sizes[base] = len(jobs)
        return [f"{base}_{task}{suffix}" for task in range(len(jobs))]

    # -- queries -----------------------------------------------------------------------

    async def _queue(
        self, jobs: Iterable[Job], *, ended_too: bool = False
    ) -> dict[Job, parse.QueueEntry]:
        """Ask squeue for jobs; those that it does not know are left out."""
        found: dict[Job, parse.QueueEntry] = {}
        for cluster, members in by_cluster(jobs).items():
            words = [self.squeue, "--noheader", "--array", f"--format={parse.SQUEUE_FORMAT}"]
            if cluster:
                words.append(f"--clusters={cluster}")
            if ended_too:
                words.append("--states=all")
            bases = sorted({jid.partition("_")[0] for jid in members.values()})
            words.append(f"--jobs={','.join(bases)}" if len(bases) <= _IDS_PER_QUERY else "--me")
            try:
                entries = parse.queue(await self._command(*words))
            except TransientError:
                raise
            except SchedulerError as error:
                if "invalid job id" not in str(error).lower():
                    raise TransientError(str(error)) from None
                entries = {}  # it has forgotten all of them
            found |= {job: entries[jid] for job, jid in members.items() if jid in entries}
        return found

    async def query_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, Report]:
        """Ask for all jobs with one squeue."""
        entries = await self._queue(jobs)
        reports = {}
        for job, entry in entries.items():
            outcome = None
            if entry.can_never_run:
                outcome = Outcome(ExitReason.UNSCHEDULABLE, detail=f"Slurm says {entry.reason}")
            reports[job] = Report(entry.presence, entry.reason, outcome)
        return reports

    async def explain_jobs(
        self, jobs: Sequence[Job]
    ) -> Mapping[Job, Outcome | TransientError | None]:
        """Say how jobs ended: slurmstepd's words, squeue's memory, then accounting.

        None says that Slurm has requeued the job.
        """
        said = {job: parse.step_message(self._step_log(job)) for job in jobs}
        try:
            entries = await self._queue(jobs, ended_too=True)
        except TransientError as error:
            return {
                job: hint if hint is not None and hint.reason in parse.FINAL else error
                for job, hint in said.items()
            }
        facts, answers, nodes = {}, {}, {}
        for job in jobs:
            info = job.directory.info(job.token)
            facts[job] = Facts(entries.get(job), said[job], job.directory.rc(), bool(info))
            answers[job] = from_queue(facts[job])
            nodes[job] = entries[job].nodes if job in entries else info.get("node", "")
        unclear = [
            job
            for job, answer in answers.items()
            if not isinstance(answer, Standing) and wants_accounting(answer, facts[job])
        ]
        unreached: dict[Job, TransientError] = {}
        if unclear and await self._has_accounting():
            try:
                answers |= await self._accounting(unclear)
            except TransientError as error:
                unreached = {job: error for job in unclear if answers[job] is None}
        known: dict[Job, Outcome | TransientError | None] = dict(unreached)
        for job, answer in answers.items():
            if answer is Standing.AGAIN:
                known[job] = None
            elif isinstance(answer, Outcome):
                known[job] = refine(answer, facts[job])
                self._note_nodes(answer, nodes[job])
        return known

    async def _accounting(self, jobs: Sequence[Job]) -> dict[Job, Outcome]:
        """Ask sacct how jobs ended; those of which it has not heard are left out."""
        known: dict[Job, Outcome] = {}
        for cluster, members in by_cluster(jobs).items():
            words = [self.sacct, "-X", "--noheader", "--parsable2"]
            words += [f"--format={parse.SACCT_FORMAT}"]
            if cluster:
                words.append(f"--clusters={cluster}")
            for ids in in_chunks(sorted(members.values()), _IDS_PER_QUERY):
                try:
                    said = await self._command(*words, f"--jobs={','.join(ids)}")
                except SchedulerError as error:
                    raise TransientError(str(error)) from None
                ends = parse.accounting(said)
                known |= {job: ends[jid] for job, jid in members.items() if jid in ends}
        return known

    def _step_log(self, job: Job) -> str:
        """Return what slurmstepd wrote into the output of a job."""
        return "\n".join(tail(self._step_log_path(job)))

    def _step_log_path(self, job: Job) -> str:
        return f"{self.workdir}/.slurm/{job.jid.partition(';')[0]}.log"

    def forget(self, job: Job) -> None:
        """Remove the output that only slurmstepd may have written to."""
        with contextlib.suppress(OSError):
            os.unlink(self._step_log_path(job))

    async def _has_accounting(self) -> bool:
        kind = (await self._configuration()).get("AccountingStorageType", "")
        return not kind.endswith("none") and bool(kind)

    def _note_nodes(self, outcome: Outcome, nodes: str) -> None:
        failures = (ExitReason.NODE_FAILURE, ExitReason.LAUNCH_FAILURE)
        if self._exclude and nodes and outcome.reason in failures:
            self._failed_nodes.add(nodes)

    # -- cancellation --------------------------------------------------------------------

    async def kill_jobs(self, jobs: Sequence[Job]) -> None:
        """Cancel jobs with one scancel, arrays as arrays."""
        for cluster, members in by_cluster(jobs).items():
            words = [self.scancel, "--quiet"]
            if cluster:
                words.append(f"--clusters={cluster}")
            await self._command(*words, *parse.compress(members.values(), self._array_sizes))


def by_cluster(jobs: Iterable[Job]) -> dict[str, dict[Job, str]]:
    """Sort jobs by their cluster; "" for the one that the commands mean by default."""
    sorted_: dict[str, dict[Job, str]] = {}
    for job in jobs:
        jid, _, cluster = job.jid.partition(";")
        sorted_.setdefault(cluster, {})[job] = jid
    return sorted_


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for Slurm's commands that works inside an allocation.

    There, SLURM_* variables describe the surrounding job, and sbatch would take them for
    options (sbatch(1), INPUT ENVIRONMENT VARIABLES). SBATCH_* are the user's defaults.
    """
    kept = ("SLURM_CONF", "SLURM_TIME_FORMAT")
    return {k: v for k, v in env.items() if not k.startswith("SLURM_") or k in kept}


def in_chunks(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    """Divide a sequence, so that no command line becomes too long."""
    return (items[start : start + size] for start in range(0, len(items), size))
