"""Slurm's ids are used again: what belongs to which job."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipen_executors.job import Job
from pipen_executors.jobdir import JobDir, prepare_root
from pipen_executors.states import ExitReason, Outcome, Presence
from snakemake_executor_plugin_pipen_slurm import parse
from snakemake_executor_plugin_pipen_slurm.scheduler import SlurmScheduler

from .specs import job_spec


class Slurm:
    """Answers what a test says."""

    def __init__(self) -> None:
        self.next_ids: list[str] = []
        self.comments: list[str] = []
        self.entries: dict[str, parse.QueueEntry] = {}
        self.ends: dict[str, parse.Ended] = {}
        self.cancelled: list[str] = []

    async def configuration(self) -> Mapping[str, str]:
        return {}

    async def submit(self, options: Mapping[str, Any], script: str) -> tuple[str, str]:
        jid = self.next_ids.pop(0)
        count = 2 if "array" in options else 1
        for full in [f"{jid}_0", f"{jid}_1"] if count == 2 else [jid]:
            self.is_there(full, options["job-name"], options["comment"])
        return jid, ""

    def is_there(self, jid: str, name: str, comment: str) -> None:
        self.entries[jid] = parse.QueueEntry(jid, "RUNNING", "n1", "", name, comment)

    async def queue(
        self, jids: Iterable[str], *, ended_too: bool = False
    ) -> dict[str, parse.QueueEntry]:
        return {jid: self.entries[jid] for jid in jids if jid in self.entries}

    async def has_accounting(self) -> bool:
        return True

    async def accounting(self, jids: Iterable[str]) -> dict[str, parse.Ended]:
        return {jid: self.ends[jid] for jid in jids if jid in self.ends}

    async def cancel(self, jids: Iterable[str], whole: Mapping[str, int]) -> None:
        self.cancelled += jids


class Queue:
    """A scheduler on a :class:`Slurm` of a test's own."""

    def __init__(self, root: Path) -> None:
        prepare_root(root)
        self.root = root
        self.slurm = Slurm()
        self.warnings: list[str] = []
        self.scheduler = SlurmScheduler(root, warn=self.warnings.append)
        self.scheduler._slurm = self.scheduler._submissions._slurm = self.slurm  # type: ignore[assignment]

    def job(self, name: str, jid: str = "") -> Job:
        """Return a job, which an earlier run has submitted if it has an id."""
        spec = job_spec("a", products=(name,))
        job = Job(0, spec, JobDir.of(str(self.root), spec))
        job.record = job.directory.open_attempt(spec, 1, "")
        if jid:
            job.take_jid(jid)
        return job

    def submit(self, jobs: Sequence[Job], jid: str) -> None:
        self.slurm.next_ids.append(jid)
        answers = asyncio.run(self.scheduler.submit_jobs(jobs))
        for job, answer in answers.items():
            assert isinstance(answer, str), answer
            job.take_jid(answer)

    def seen(self, *jobs: Job) -> dict[Job, Presence]:
        reports = asyncio.run(self.scheduler.query_jobs(jobs))
        return {job: report.presence for job, report in reports.items()}

    def cancel(self, *jobs: Job) -> list[str]:
        asyncio.run(self.scheduler.kill_jobs(jobs))
        return self.slurm.cancelled


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "jobs")


class TestOfEarlierRuns:
    def test_its_own(self, queue: Queue) -> None:
        job = queue.job("x", "7")
        queue.slurm.is_there("7", "slurm-a", f"jobid 1 (pipen 0a.{job.token}.1)")
        assert queue.seen(job) == {job: Presence.RUNNING}
        assert queue.cancel(job) == ["7"]

    @pytest.mark.parametrize(
        ("name", "comment"),
        [("bash", ""), ("slurm-a", "jobid 1 (pipen 0a.another.1)"), ("interactive", "my work")],
    )
    def test_somebody_elses(self, queue: Queue, name: str, comment: str) -> None:
        """Neither waited for nor cancelled."""
        job = queue.job("x", "7")
        queue.slurm.is_there("7", name, comment)
        assert queue.seen(job) == {}
        assert queue.cancel(job) == []

    def test_an_old_record_of_accounting(self, queue: Queue) -> None:
        """Until sacct has heard of a job, it answers with an older one of the same id."""
        job = queue.job("x", "7")
        outcome = Outcome(ExitReason.CANCELLED, None, "by root")
        queue.slurm.ends["7"] = parse.Ended(outcome, 1_000_000_000.0, "")
        assert asyncio.run(queue.scheduler.explain_jobs([job])) == {}, "asked again a little later"


class TestOfTheSameRun:
    """A slurmctld that was killed has forgotten the last seconds, and their ids with them."""

    def test_a_job_that_is_forgotten(self, queue: Queue) -> None:
        first, second = queue.job("x"), queue.job("y")
        queue.submit([first], "7")
        assert queue.seen(first) == {first: Presence.RUNNING}
        queue.submit([second], "7")
        assert queue.seen(first, second) == {second: Presence.RUNNING}
        assert queue.cancel(first) == [], "it would be the second one"
        assert queue.cancel(first, second) == ["7"]

    def test_an_id_that_went_to_somebody_else(self, queue: Queue) -> None:
        job = queue.job("x")
        queue.submit([job], "7")
        queue.slurm.is_there("7", "bash", "")
        assert queue.seen(job) == {}

    def test_an_array_that_went_to_another_run(self, queue: Queue) -> None:
        jobs = [queue.job("x"), queue.job("y")]
        queue.submit(jobs, "8")
        assert queue.seen(*jobs) == dict.fromkeys(jobs, Presence.RUNNING)
        queue.slurm.is_there("8_0", "slurm-a", "jobid 1,2 (pipen 0b.another.2)")
        assert queue.seen(*jobs) == {jobs[1]: Presence.RUNNING}


def test_a_state_that_is_not_known_is_told_once(queue: Queue) -> None:
    job = queue.job("x")
    queue.submit([job], "7")
    entry = queue.slurm.entries["7"]
    queue.slurm.entries["7"] = parse.QueueEntry(
        "7", "TELEPORTING", "n1", "", entry.name, entry.comment
    )
    assert queue.seen(job) == queue.seen(job) == {job: Presence.RUNNING}
    (line,) = queue.warnings
    assert "TELEPORTING" in line
    assert "taken for running" in line
