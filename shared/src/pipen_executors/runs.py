"""The runs of a workflow as their history tells them, for all that shows a run."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from .exceptions import UserError
from .history import HISTORY, VERSION
from .jobdir import JOB_DIRECTORIES, JobDir, Record, open_jobs
from .states import ExitReason, Phase, outcome_of


@dataclass(slots=True)
class Attempt:
    """One attempt of a job; times in seconds since the epoch, None where not known.

    Parameters
    ----------
    number
        From 1.
    phase
        Its state.
    queued, submitted, started, ended
        When the engine had it, the scheduler took it, its wrapper began and ended.
    jid, node
        The scheduler's id; where it ran.
    waiting
        The scheduler's reason for which it last waited.
    reason, detail, rc
        Why it ended, and its exit status.
    stderr
        Last lines of a failed attempt.
    cpu
        Seconds of CPU.
    memory, memory_by
        Peak in bytes, and who measured it.
    memory_below
        What the peak stayed under, where no more is known.
    accounted
        Whether accounting has been asked.
    """

    number: int = 1
    phase: Phase = Phase.QUEUED
    queued: float | None = None
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    jid: str = ""
    node: str = ""
    waiting: str = ""
    reason: ExitReason | None = None
    detail: str = ""
    rc: int | None = None
    stderr: tuple[str, ...] = ()
    cpu: float | None = None
    memory: int | None = None
    memory_by: str = ""
    memory_below: int | None = None
    accounted: bool = False

    @property
    def is_sampled(self) -> bool:
        """Whether memory was looked at now and then, so that the peak may have been missed."""
        return "sampled" in self.memory_by

    def add_accounting(self, facts: Mapping[str, Any]) -> None:
        """Add what accounting has, where no more is known already."""
        self.accounted = True
        if self.cpu is None:
            self.cpu = facts.get("cpu")
        if self.memory is None and "memory" in facts:
            self.memory, self.memory_by = facts["memory"], facts["memory_by"]

    @property
    def wall(self) -> float | None:
        """Seconds from start to end."""
        if self.started is None or self.ended is None:
            return None
        return max(0.0, self.ended - self.started)

    @property
    def wait(self) -> float | None:
        """Seconds from the submission to the start."""
        if self.started is None or self.submitted is None:
            return None
        return max(0.0, self.started - self.submitted)

    @property
    def why(self) -> str:
        """One line on how it ended; empty after a success."""
        if self.reason is None:
            return ""
        status = f", exit status {self.rc}" if self.rc is not None else ""
        return f"{self.reason.value}{status}" + (f": {self.detail}" if self.detail else "")


@dataclass(slots=True)
class JobStory:
    """One job of a run: what it is, what it asked for, and its attempts."""

    run: Run
    key: str
    rule: str = ""
    wildcards: Mapping[str, str] = field(default_factory=dict)
    jobid: str = ""
    directory: str = ""
    outputs: tuple[str, ...] = ()
    direct: bool = True
    threads: int = 1
    mem_mb: int | None = None
    runtime: int | None = None
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def last(self) -> Attempt:
        """The latest attempt."""
        return self.attempts[-1]

    @property
    def phase(self) -> Phase:
        """State of the job."""
        return self.last.phase

    @property
    def files(self) -> JobDir:
        """Its directory."""
        return JobDir(str(self.run.root / self.directory))

    @property
    def name(self) -> str:
        """What a person calls it: rule and wildcards."""
        values = ", ".join(f"{key}={value}" for key, value in self.wildcards.items())
        return f"{self.rule} ({values})" if values else self.rule

    def attempt(self, number: int) -> Attempt:
        """Return an attempt, a new one if there is none of that number."""
        for attempt in reversed(self.attempts):
            if attempt.number == number:
                return attempt
        self.attempts.append(Attempt(number))
        return self.attempts[-1]


@dataclass(slots=True)
class Run:
    """One run of Snakemake through one scheduler."""

    id: str
    root: Path
    scheduler: str = ""
    here: bool = False
    pid: int = 0
    born: float = 0.0
    host: str = ""
    cwd: str = ""
    command: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    begun: float = 0.0
    over: float | None = None
    last_sign: float = 0.0
    calls: Mapping[str, int] = field(default_factory=dict)
    jobs: dict[str, JobStory] = field(default_factory=dict)

    @property
    def is_alive(self) -> bool | None:
        """Whether its process is there; None if it was on another host and has not said so."""
        if self.over is not None:
            return False
        if self.host != socket.gethostname():
            return None
        try:
            return abs(psutil.Process(self.pid).create_time() - self.born) < 1.0
        except psutil.Error:
            return False

    @property
    def is_mine(self) -> bool:
        """Whether its history is this user's, and so what it says of commands and settings."""
        return (self.root / HISTORY).stat().st_uid == os.geteuid()

    @property
    def owner(self) -> str:
        """Name of the user whose history it is."""
        return (self.root / HISTORY).owner()

    def counts(self) -> dict[Phase, int]:
        """Return how many jobs are in each state."""
        counts = dict.fromkeys(Phase, 0)
        for job in self.jobs.values():
            counts[job.phase] += 1
        return counts


# -- reading -------------------------------------------------------------------------------


def roots_of(directory: Path) -> list[Path]:
    """Return the directories with histories: those of a workflow, or the one that is given.

    Raises
    ------
    UserError
        If there is none.
    """
    if (directory / HISTORY).exists():
        return [directory]
    found = sorted(path.parent for path in (directory / JOB_DIRECTORIES).glob(f"*/{HISTORY}"))
    # Below an absolute --pipen-…-workdir each workflow has its own (jobdir.root_below).
    found = found or sorted(path.parent for path in directory.glob(f"*/{HISTORY}"))
    if not found:
        raise UserError(
            f"no run of a pipen executor is known in {directory}: neither "
            f"{JOB_DIRECTORIES}/<scheduler>/{HISTORY} nor {HISTORY} is there. Give the working "
            "directory of the workflow, or what --pipen-<scheduler>-workdir was."
        )
    return found


def read_runs(root: Path) -> list[Run]:
    """Return all runs of one scheduler, the oldest first, as their history tells them."""
    with open(root / HISTORY, encoding="utf-8", errors="replace") as stream:
        return list(runs_in(stream, root))


def runs_in(lines: Iterable[str], root: Path) -> Iterator[Run]:
    """Read a history; what is no line of one is passed over."""
    runs: dict[str, Run] = {}
    for line in lines:
        try:
            facts = json.loads(line)
            event, run_id = facts["event"], facts["run"]
        except (ValueError, KeyError, TypeError):
            continue
        if event == "run" and facts.get("version") == VERSION:
            runs[run_id] = _begin(facts, root)
        elif run_id in runs:
            _take(runs[run_id], event, facts)
    yield from runs.values()


def _begin(facts: Mapping[str, Any], root: Path) -> Run:
    names = ("scheduler", "here", "pid", "born", "host", "cwd", "settings")
    with contextlib.suppress(OSError):  # what the jobs call it, if it is the same place
        if root.samefile(facts["root"]):
            root = Path(facts["root"])
    run = Run(facts["run"], root.absolute(), **{name: facts[name] for name in names})
    run.command = tuple(facts["command"])
    run.begun = run.last_sign = facts["time"]
    return run


def _take(run: Run, event: str, facts: Mapping[str, Any]) -> None:
    """Take one line into its run."""
    if event == "accounted":  # is no sign of life
        if job := run.jobs.get(facts["key"]):
            job.attempt(facts["attempt"]).add_accounting(facts)
        return
    run.last_sign = max(run.last_sign, facts["time"])
    if event == "over":
        run.over, run.calls = facts["time"], facts["calls"]
        return
    job = run.jobs.setdefault(facts["key"], JobStory(run, facts["key"]))
    if event == "job":
        for name in (
            *("rule", "wildcards", "jobid", "directory", "direct"),
            *("threads", "mem_mb", "runtime"),
        ):
            setattr(job, name, facts[name])
        job.outputs = tuple(facts["outputs"])
        job.attempt(1)
        return
    attempt = job.attempt(facts["attempt"])
    attempt.jid = facts.get("id", attempt.jid)
    if event == "queued":
        attempt.queued = facts["time"]
    elif event in ("pending", "running"):
        attempt.phase = Phase(event)
        attempt.waiting = facts.get("reason", attempt.waiting)
        attempt.started = facts.get("start", attempt.started)
        attempt.node = facts.get("node", attempt.node)
        if attempt.submitted is None:
            attempt.submitted = facts["time"]
    elif event == "ended":
        _end(attempt, facts)


def _end(attempt: Attempt, facts: Mapping[str, Any]) -> None:
    attempt.phase = Phase(facts["state"])
    attempt.started = facts.get("start", attempt.started)
    attempt.ended = facts.get("end", facts["time"])
    attempt.rc = facts.get("rc")
    attempt.stderr = tuple(facts.get("stderr", ()))
    attempt.detail = facts.get("detail", "")
    if "reason" in facts:
        attempt.reason = ExitReason[facts["reason"]]
    for name in ("node", "cpu", "memory", "memory_by", "memory_below"):
        if name in facts:
            setattr(attempt, name, facts[name])


# -- what the job directories know more ------------------------------------------------------


def look(run: Run) -> None:
    """Bring jobs that have not ended up to date from their directories.

    The run may have been killed, and its jobs have gone on; what it had not written down
    yet when it was killed is found by the records that it left.
    """
    if run.is_alive is False:
        for directory, record in open_jobs(str(run.root)).values():
            _find(run, Path(directory.path), record)
    for job in run.jobs.values():
        if not job.phase.is_final:
            _look_at(job, here=run.here and run.host == socket.gethostname())


def _find(run: Run, path: Path, record: Record) -> None:
    key = path.name.rpartition("-")[2]
    if key in run.jobs or record.submitted < run.begun:
        return
    job = JobStory(run, key, record.rule, jobid=record.jobid, outputs=record.products)
    job.directory = f"{path.parent.name}/{path.name}"
    attempt = job.attempt(record.attempt)
    attempt.submitted = record.submitted
    attempt.phase = Phase.PENDING
    run.jobs[key] = job


def _look_at(job: JobStory, *, here: bool) -> None:
    files, attempt = job.files, job.last
    record = files.record()
    if record is None:
        return
    notes = files.info(record.token)
    attempt.jid = attempt.jid or files.jid(record.token)
    attempt.node = notes.get("node", attempt.node)
    with contextlib.suppress(KeyError, ValueError):
        attempt.started = float(notes["start"])
        attempt.phase = Phase.RUNNING
    rc = files.rc()
    if rc is not None:
        attempt.rc = rc
        attempt.phase = Phase.DONE if rc == 0 else Phase.FAILED
        attempt.reason = None if rc == 0 else outcome_of(rc).reason
        attempt.ended = float(notes.get("end") or os.stat(files.file("job.rc")).st_mtime)
    elif here and attempt.jid.isdecimal() and not psutil.pid_exists(int(attempt.jid)):
        # An id that is no number is a container's name: only its runtime knows of it.
        attempt.phase = Phase.FAILED
        attempt.reason = ExitReason.LOST
