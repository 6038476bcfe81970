"""A scheduler made of processes of this machine that can be told to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xqute.schedulers.local_scheduler import LocalScheduler as XquteLocalScheduler

from pipen_executors.client import Limits
from pipen_executors.engine import Engine
from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.hooks import Hooks
from pipen_executors.job import Job
from pipen_executors.jobdir import prepare_root
from pipen_executors.scheduler import SchedulerPostInit
from pipen_executors.spec import JobSpec
from pipen_executors.states import Presence, Report

from .specs import job_spec


class FakeScheduler(SchedulerPostInit, XquteLocalScheduler):
    """Counts the calls; ``refuse`` and ``absent`` make the next ones fail."""

    runs_here = True
    loss_grace = 0.2

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.submissions: list[list[str]] = []
        self.queries: list[int] = []
        self.kills: list[int] = []
        self.wait_for_the_end = False
        self.answer_after_the_end = False
        self.asked_for_room = 0
        self.room: int | None = None
        self.absent = 0
        self.refuse: dict[str, str] = {}
        self.stays_in_queue = ""
        self.bug: BaseException | None = None

    async def start(self) -> None:
        await super().start()
        self.end_heard = asyncio.Event()

    def admit(self, queued: Sequence[Job], limit: int) -> Sequence[Job]:
        self.asked_for_room += 1
        return queued[: limit if self.room is None else min(limit, self.room)]

    @contextlib.asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[Sequence[str]]]:
        async with super().events() as source:
            yield self._noting_ends(source)

    async def _noting_ends(
        self, source: AsyncIterator[Sequence[str]]
    ) -> AsyncIterator[Sequence[str]]:
        async for names in source:
            yield names
            if any(".end." in name for name in names):
                self.end_heard.set()

    def likeness(self, job: Job) -> Hashable:
        return None

    async def submit_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, str | SchedulerError]:
        self.submissions.append([job.spec.rule for job in jobs])
        if self.bug is not None:
            raise self.bug
        if self.absent:
            self.absent -= 1
            raise TransientError("the scheduler is away")
        answers: dict[Job, str | SchedulerError] = {}
        for job in jobs:
            if job.spec.rule in self.refuse:
                answers[job] = SchedulerError(self.refuse[job.spec.rule])
                continue
            process = subprocess.Popen(
                ["/bin/bash", job.directory.file(f"job.wrapped.{self.name}")],
                start_new_session=True,
            )
            if self.wait_for_the_end:
                process.wait()
            if self.answer_after_the_end:
                await self.end_heard.wait()
            answers[job] = str(process.pid)
            self.processes[str(process.pid)] = process
        return answers

    async def query_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, Report]:
        self.queries.append(len(jobs))
        if self.absent:
            self.absent -= 1
            raise TransientError("the scheduler is away")
        return {
            job: Report(
                Presence.RUNNING
                if self.processes[job.jid].poll() is None or job.spec.rule == self.stays_in_queue
                else Presence.GONE
            )
            for job in jobs
            if job.jid
        }

    async def kill_jobs(self, jobs: Sequence[Job]) -> None:
        self.kills.append(len(jobs))
        for job in jobs:
            os.killpg(int(job.jid), 9)


class Run:
    """An engine with a fake scheduler, or another one, and what it told its client."""

    def __init__(
        self,
        root: Path,
        plugins: Sequence[object] = (),
        make: Callable[[Path], Any] | None = None,
        **limits: object,
    ) -> None:
        prepare_root(root)
        self.root = root
        self.scheduler: FakeScheduler = FakeScheduler(root) if make is None else make(root)
        self.messages: list[str] = []
        self.ended: dict[str, Job] = {}
        self.halted: list[str] = []
        self.cancelled = False
        self.broken: list[BaseException] = []
        self._changed = threading.Condition()
        hooks = Hooks((), self.messages.append)
        for plugin in plugins:
            hooks.add(plugin)
        self.scheduler.hooks = hooks
        self.engine = Engine(
            self.scheduler,
            str(root),
            Limits(**limits),  # type: ignore[arg-type]
            hooks,
            self,
        )
        self.engine.start()

    def spec(self, rule: str, script: str, **more: object) -> JobSpec:
        """Return the specification of a job that runs a script with bash."""
        return job_spec(rule, cwd=str(self.root), products=(rule,), script=script, **more)

    def submit(self, *specs: JobSpec) -> list[Job]:
        """Hand jobs to the engine."""
        jobs = [self.engine.make_job(spec) for spec in specs]
        self.engine.submit(jobs)
        return jobs

    def wait(self, count: int, timeout: float = 30) -> dict[str, Job]:
        """Wait until so many jobs have ended."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: len(self.ended) >= count or bool(self.broken), timeout
            ), (self.ended, self.messages)
        assert not self.broken
        return self.ended

    def close(self) -> None:
        """End all jobs and stop the engine, in bounded time."""

        def work() -> None:
            self.engine.cancel()
            self.engine.stop()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), "the engine does not let itself be cancelled"

    # -- engine.Client -------------------------------------------------------------------

    def on_submitted(self, job: Job) -> None: ...

    def on_ended(self, jobs: Sequence[Job]) -> None:
        with self._changed:
            self.ended |= {job.spec.rule: job for job in jobs}
            self._changed.notify_all()

    def on_halt(self, job: Job) -> None:
        self.halted.append(job.spec.rule)

    def on_cancelled(self) -> None:
        self.cancelled = True

    def on_broken(self, error: BaseException) -> None:
        with self._changed:
            self.broken.append(error)
            self._changed.notify_all()

    def on_message(self, text: str, *, warning: bool = False) -> None:
        self.messages.append(text)

    def prepare(self, job: Job) -> None: ...
