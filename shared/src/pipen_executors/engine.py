"""The engine: one asyncio loop in one thread that takes jobs through a scheduler.

It submits what is ready in few calls, hears of ends by events, asks the scheduler
about all jobs at once now and then, and cancels in chunks. It knows nothing of
Snakemake and nothing of the scheduler but its contract.

Two witnesses tell that a job has ended: its own wrapper (an event), and the scheduler
(a query). A job that the scheduler no longer knows and that left no exit status is
lost only after a grace time, a second look at its files and a look at accounting. A
query that fails says nothing about any job.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, TypeVar

from aiolimiter import AsyncLimiter

from . import filesystem, requests
from .client import Client, Limits
from .events import DirectoryEvents, parse_event
from .exceptions import SchedulerError, TransientError
from .explainer import NOTHING, Explainer
from .hooks import Hooks
from .job import Job
from .jobdir import EVENTS, JobDir, is_open, open_jobs
from .loops import new_loop
from .patience import persist, repeat
from .scheduler import SchedulerPostInit
from .spec import JobSpec
from .states import ExitReason, JobState, Outcome, Presence, Report, outcome_of

_FIRST_QUERY: Final = 2.0
_QUERY_GROWTH: Final = 2.0
_REPORT_BATCH: Final = 0.03
_KILL_PATIENCE: Final = 300.0
_UNKNOWN_PATIENCE: Final = 10.0
"""Seconds for which a cancelled job is waited for that the scheduler says nothing of."""
_FETCH_PATIENCE: Final = 600.0
_FORGOTTEN: Final = 600.0
"""Seconds for which a lock alone says that a job runs which the scheduler does not know: that of a
node that is gone may stay. Then accounting is asked too."""
_MANY: Final = 20
_LIMIT_PAUSE: Final = (4.0, 8.0)
_NOT_SUBMITTED: Final = "before it was submitted"
_FILES_PAUSES: Final = (0.0, 0.02, 5.0)
"""A stale handle is right at the next call already; a full disk may take long."""
T = TypeVar("T")
_ACTIVE: Final = (JobState.SUBMITTED, JobState.RUNNING, JobState.KILLING)


class Engine:
    """Runs jobs on one scheduler.

    Parameters
    ----------
    scheduler
        The scheduler; used only from the engine's thread.
    root
        Directory of the job directories of this scheduler.
    limits
        How fast to be.
    hooks
        Plugins.
    client
        Who is told what happens.
    run
        Name of the run, by which it is asked to cancel jobs (:mod:`pipen_executors.requests`).
    """

    def __init__(
        self,
        scheduler: SchedulerPostInit,
        root: str,
        limits: Limits,
        hooks: Hooks,
        client: Client,
        run: str = "run",
    ) -> None:
        self.scheduler = scheduler
        self.root = root
        self._run_name = run
        self._limits = limits
        self._hooks = hooks
        self._client = client
        self._jobs: dict[str, Job] = {}
        self._queue: list[Job] = []
        self._ended: list[Job] = []
        self._leaving: deque[tuple[float, Job]] = deque()
        self._told: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sought: set[Job] = set()
        self._given_up: set[Job] = set()
        self._forgotten: set[Job] = set()
        self._submitting: dict[Job, list[str]] = {}
        self._untaken: list[str] = []
        self._count = 0
        self._halted = False
        self.cancelling = False
        self._ready = threading.Event()
        self._start_error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="pipen-engine", daemon=True)

    # -- called from the client's threads ------------------------------------------

    def start(self) -> None:
        """Start the thread and wait until the scheduler is ready.

        Raises
        ------
        SchedulerError
            If it cannot be used.
        """
        # Not before: a loop that has never run complains when it is collected.
        self._loop = self.scheduler.made_in_loop or new_loop()
        self._thread.start()
        self._ready.wait()
        if self._start_error is not None:
            self._thread.join()
            raise self._start_error

    def make_job(self, spec: JobSpec) -> Job:
        """Return the engine's handle for a job; nothing is written yet."""
        directory = JobDir.of(self.root, spec, self.scheduler.seen_root())
        job = Job(self._count, spec, directory)
        self._count += 1
        job.envs = {
            "XQUTE_JOB_INDEX": str(job.index),
            "XQUTE_METADIR": os.path.dirname(directory.mounted),
            "XQUTE_JOB_METADIR": directory.mounted,
        }
        job.fingerprint = spec.fingerprint()
        job.record = filesystem.repeat(job.directory.record)
        return job

    def earlier_job(self, directory: JobDir) -> Job:
        """Return the engine's handle for a job of an earlier run that this run has not.

        It can be asked about and ended.
        """
        record = directory.record()
        assert record is not None
        here = os.getcwd()
        spec = JobSpec(record.rule, {}, record.products, record.jobid, (), "", here, here)
        job = Job(-1, spec, directory)
        job.record = record
        return job

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs that are ready to run.

        A job with a record of an earlier submission is taken up, replaced or begun
        anew, as its state demands.
        """
        self._loop.call_soon_threadsafe(self._take, list(jobs))

    def cancel(self) -> None:
        """End every job and wait until the scheduler agrees that none is left."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop).result()

    def cancel_some(self, jobs: Sequence[Job]) -> Future[None]:
        """End jobs; the future is done when the scheduler agrees that they are gone."""
        return self.call(self._cancel(jobs))

    def call(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Do something with the scheduler, in the loop that it belongs to."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def abandon(self) -> None:
        """Let :meth:`cancel` return without waiting longer for what has been asked to end."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._abandoned.set)

    def stop(self) -> None:
        """Stop the thread; jobs that still run go on."""
        if self._thread.is_alive():
            self._ready.wait()
            if self._start_error is None:
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        elif self.scheduler.made_in_loop is not None:  # of a lane that no job has asked for
            self.scheduler.made_in_loop.close()

    # -- the loop --------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        except BaseException as error:
            if self._ready.is_set():
                self._client.on_broken(error)
            else:
                self._start_error = error
                self._ready.set()
        finally:
            # xqute's ssh scheduler puts its own end there.
            with contextlib.suppress(Exception):
                self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        self._wake_dispatcher = asyncio.Event()
        self._wake_reporter = asyncio.Event()
        self._wake_reconciler = asyncio.Event()
        self._cancel_asked = asyncio.Event()
        self._abandoned = asyncio.Event()
        self._submitters = asyncio.Semaphore(self._limits.submitters)
        rate = self._limits.submit_rate
        self._limiter = AsyncLimiter(*rate) if rate else None
        self._explainer = Explainer(self.scheduler, self._warn_once)
        self.scheduler.room_changed = self._wake_dispatcher.set
        try:
            await self.scheduler.start()
        except BaseException:
            with contextlib.suppress(Exception):  # what it has begun ends before this loop does
                await self.scheduler.stop()
            raise
        self._tell_run("on_init")
        self._ready.set()
        for work in (
            self._dispatch,
            self._listen,
            self._reconcile,
            self._explainer.run,
            self._report,
            self._obey,
        ):
            self._spawn(work())
        await self._stop.wait()
        self._flush()
        self._take_in(())
        # What is left has nobody to tell: questions about jobs that have been ended.
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._sweep_events()
        requests.close(self.root, self._run_name)
        self._tell_run("on_shutdown")
        await self.scheduler.stop()

    def _tell_run(self, name: str) -> None:
        self._hooks.call(name, scheduler=self.scheduler)
        run = SimpleNamespace(scheduler=self.scheduler, jobs=list(self._jobs.values()))
        more = (None,) if name == "on_shutdown" else ()
        self._hooks.call_xqute(name, run, *more)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = self._loop.create_task(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, work: Awaitable[None]) -> None:
        """Keep the loop alive when one piece of work breaks, so that jobs can be ended."""
        try:
            await work
        except Exception as error:
            self._client.on_broken(error)

    # -- files of jobs -----------------------------------------------------------------

    async def _when_readable(self, work: Callable[[], Awaitable[T]], patience: float) -> T:
        """Do what needs the files of a job, again with back-off while their file system fails.

        Parameters
        ----------
        work
            What is done; it may be done in part and begun again.
        patience
            Seconds after which it is given up.

        Raises
        ------
        TransientError
            If the file system still fails then, or all jobs are cancelled meanwhile.
        OSError
            If the error is not one that passes.
        """

        async def attempt() -> T:
            with filesystem.passing_as_transient():
                return await work()

        return await repeat(
            attempt,
            patience,
            warn=self._warn_of_files,
            unless=self._cancel_asked,
            pauses=_FILES_PAUSES,
        )

    async def _advance(self, job: Job, step: Callable[[], Awaitable[None]]) -> None:
        """Take one ended job a step further; if its files stay unreadable, only it fails."""
        try:
            await self._when_readable(step, self._limits.files_patience)
        except (TransientError, OSError) as error:
            detail = filesystem.describe(error)
            reason = ExitReason.UNREADABLE
            if job.state is JobState.KILLING:
                reason, detail = ExitReason.CANCELLED, "by this run"
            self._end(job, Outcome(reason, detail=detail))

    def _warn_of_files(self, text: str) -> None:
        """Say once for each error that the file system fails; its files are many."""
        _, _, why = text.removesuffix("; trying again").rpartition(": ")
        self._warn_once(f"The file system of {self.root} fails ({why}); trying again")

    def _take_in(self, names: Sequence[str]) -> None:
        """Remove events; those that cannot be removed now, with the next ones."""
        names, self._untaken = [*self._untaken, *names], []
        try:
            self.scheduler.take_in_events(names)
        except OSError as error:
            self._warn_of_files(filesystem.describe(error))
            self._untaken = names

    # -- submission ------------------------------------------------------------------

    def _take(self, jobs: list[Job]) -> None:
        fresh = [job for job in jobs if job.record is None and not job.displaces]
        known = [job for job in jobs if job.record is not None]
        for job in jobs:
            if job.displaces:
                self._spawn(self._advance(job, partial(self._displace, job)))
        for job in jobs:
            self._jobs[job.spec.key] = job
        for job in known:
            with contextlib.suppress(OSError):  # it is read again
                job._jid = job.directory.jid(job.token) or None
            job.set_state(JobState.SUBMITTED)
        if known:
            self._spawn(self._take_up(known))
        if fresh:
            self._spawn(self._enqueue(fresh))

    async def _enqueue(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            await self._hooks.fire("on_job_init", self.scheduler, job)
            await self._to_queue(job)

    async def _to_queue(self, job: Job) -> None:
        job.set_state(JobState.QUEUED)
        await self._hooks.fire("on_job_queued", self.scheduler, job)
        if self.cancelling:  # Snakemake has not heard of it yet, and hands over more
            job.set_state(JobState.KILLING)
            self._end(job, Outcome(ExitReason.CANCELLED, detail=_NOT_SUBMITTED))
            return
        self._queue.append(job)
        self._wake_dispatcher.set()

    def _active(self) -> list[Job]:
        return [job for job in self._jobs.values() if job.state in _ACTIVE]

    async def _dispatch(self) -> None:
        while True:
            await self._wake_dispatcher.wait()
            self._wake_dispatcher.clear()
            free = len(self._queue)
            if self._limits.forks is not None:
                free = min(free, self._limits.forks - len(self._active()))
            if free <= 0:
                continue
            ready = list(self.scheduler.admit(self._queue, free))
            for job in ready:
                job.set_state(JobState.SUBMITTED)
            self._queue = [job for job in self._queue if job.state is JobState.QUEUED]
            ready = [job for job in ready if await self._may_submit(job)]
            for batch in self.scheduler.batches(ready):
                self._spawn(self._submit(batch))

    async def _may_submit(self, job: Job) -> bool:
        if await self._hooks.fire("on_job_submitting", self.scheduler, job):
            return True
        self._end(job, Outcome(ExitReason.SUBMIT_FAILURE, detail="refused by a hook"))
        return False

    async def _submit(self, batch: list[Job]) -> None:
        try:
            await self._submit_batch(batch)
        except Exception as error:  # a defect: the run ends, and must not wait for these
            for job in batch:
                if not job.jid:
                    self._end(job, Outcome(ExitReason.SUBMIT_FAILURE, detail=repr(error)))
            raise

    async def _submit_batch(self, batch: list[Job]) -> None:
        async with self._submitters:
            ready = []
            for job in batch:
                if job.state is not JobState.SUBMITTED:  # cancelled while it waited
                    self._end(job, Outcome(ExitReason.CANCELLED, detail=_NOT_SUBMITTED))
                    continue
                if self._limiter is not None:
                    await self._limiter.acquire()
                if await self._write(job):
                    ready.append(job)
            if not ready:
                return
            self._submitting.update((job, []) for job in ready)
            try:
                answers = dict(
                    await persist(
                        self.scheduler.submit_jobs,
                        ready,
                        self._limits.submit_patience,
                        warn=self._warn,
                        unless=self._cancel_asked,
                    )
                )
            except Exception as error:  # a third-party class raises whatever it likes
                answers = {job: SchedulerError(str(error) or repr(error)) for job in ready}
        late = []  # asked to end while they were being submitted
        for job, answer in answers.items():
            early = self._submitting.pop(job)
            if isinstance(answer, TransientError):
                self._submit_later(job, answer)
                continue
            if isinstance(answer, SchedulerError):
                killed = job.state is JobState.KILLING
                reason = ExitReason.CANCELLED if killed else answer.reason
                self._end(job, Outcome(reason, detail=str(answer)))
                continue
            job.take_jid(answer)
            self._write_jid(job)
            job.seen = time.monotonic()
            self._client.on_submitted(job)
            await self._hooks.fire("on_job_submitted", self.scheduler, job)
            if self.scheduler.starts_at_once:
                await self._started(job)
            if job.state is JobState.KILLING:
                late.append(job)
            await self._hear(early)
        self._wake_reconciler.set()
        if late:
            try:
                await persist(self.scheduler.kill_jobs, late, _KILL_PATIENCE, warn=self._warn)
            except SchedulerError as error:
                shown = ", ".join(job.jid for job in late)
                self._warn(f"{len(late)} jobs may still be there ({error}): {shown}")

    async def _write(self, job: Job) -> bool:
        """Write the files of a submission; False if that cannot be, and the job has ended."""

        async def write() -> None:
            job.record = job.directory.open_attempt(job.spec, job.trial_count + 1, job.fingerprint)
            self.scheduler.write_wrapper(job)

        try:
            await self._when_readable(write, self._limits.submit_patience)
        except (SchedulerError, OSError) as error:
            killed = job.state is JobState.KILLING
            reason = ExitReason.CANCELLED if killed else ExitReason.SUBMIT_FAILURE
            detail = filesystem.describe(error)
            self._end(job, Outcome(reason, detail=_NOT_SUBMITTED if killed else detail))
            return False
        return True

    def _write_jid(self, job: Job) -> None:
        """Write down a job's id, later if that cannot be now: the job runs all the same."""

        async def write() -> None:
            if job.jid:
                job.write_jid()

        async def write_later() -> None:
            with contextlib.suppress(TransientError, OSError):
                await self._when_readable(write, self._limits.files_patience)

        try:
            job.write_jid()
        except OSError as error:
            self._warn_of_files(filesystem.describe(error))
            self._spawn(write_later())

    def _submit_later(self, job: Job, why: TransientError) -> None:
        """Put a job back that the scheduler does not take for now (a limit of its own)."""
        self._warn_once(f"{why}; waiting until it takes more")
        if job.state is JobState.SUBMITTED:
            job.set_state(JobState.QUEUED)
            self._queue.append(job)
            pause = random.uniform(*_LIMIT_PAUSE)
            asyncio.get_running_loop().call_later(pause, self._wake_dispatcher.set)
        else:
            self._end(job, Outcome(ExitReason.CANCELLED, detail=_NOT_SUBMITTED))

    # -- taking up what an earlier run has left -----------------------------------------

    async def _take_up(self, jobs: Sequence[Job]) -> None:
        """Attach to jobs that still run, collect those that ended, begin the others anew."""
        undecided: list[Job] = []
        anew: list[Job] = []
        replace: list[Job] = []
        if not self.scheduler.fs_shared:
            await asyncio.gather(*(self._fetch(job, outputs=False) for job in jobs))
        for job in jobs:
            fate: list[Job] | None = None

            async def look(job: Job = job) -> None:
                nonlocal fate
                fate = await self._look_at_earlier(job, undecided, anew, replace)

            await self._advance(job, look)
            if fate is not None:
                fate.append(job)
        present = await self._present([*undecided, *replace])
        alive = [job for job in replace if job in present]
        if alive:
            self._client.on_message(
                f"{len(alive)} jobs of the earlier run have changed since; they are removed and "
                "begun anew."
            )
            if (why := await self._end_superseded(alive)) is not None:
                for job in alive:
                    self._end(job, Outcome(ExitReason.SUBMIT_FAILURE, detail=why))
                replace = [job for job in replace if job not in alive]
        anew += replace
        for job in undecided:
            if _has_ended(job):
                continue  # its end was heard of meanwhile
            if job in present:
                self._adopt(job, present[job])
            else:

                async def settle(job: Job = job) -> None:
                    if self._is_forgotten(job):
                        self._adopt(job, Presence.RUNNING)
                        return
                    if self._collect(job):
                        return
                    # Should it turn up after all. Where files are brought, it may have ended
                    # after they were: then its claim has brought them once more.
                    has_run = not await self.scheduler.claim(job)
                    if not (has_run and self._collect(job)):
                        anew.append(job)

                await self._advance(job, settle)
        for job in anew:
            await self._begin_anew(job)

    async def _look_at_earlier(
        self, job: Job, undecided: list[Job], anew: list[Job], replace: list[Job]
    ) -> list[Job] | None:
        """Return to which of the lists a job of an earlier run belongs; None if it is settled."""
        assert job.record is not None
        if _has_ended(job):
            return None  # its end was heard of at once
        changed = job.fingerprint != job.record.fingerprint
        job._jid = job.directory.jid(job.token) or None
        if changed or (job.directory.rc() is None and not job.jid):
            # Another command or other inputs, or cut off while it was being submitted:
            # if nothing of it has run, nothing of it will after the claim.
            claimed = await self.scheduler.claim(job)
            job._jid = await self._earlier_jid(job, claimed_by_job=not claimed)
            if _has_ended(job):
                return None
            if changed or claimed:
                return replace if job.jid else anew
            if not job.jid and "start" in job.directory.info(job.token):
                # It runs, and nobody knows its id: only a job that cannot tell it itself.
                self._adopt(job, Presence.RUNNING)
                return None
        if job.directory.rc() is None:
            return undecided
        return None if self._collect(job) else anew

    async def _earlier_jid(self, job: Job, *, claimed_by_job: bool) -> str | None:
        """Return the id of the earlier submission, as the submitter or the job wrote it."""
        deadline = time.monotonic() + 5
        while claimed_by_job and not job.directory.info(job.token):
            # The job is between claiming its submission and writing its id.
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.05)
        return job.directory.jid(job.token) or None

    async def _present(self, jobs: Sequence[Job]) -> dict[Job, Presence]:
        if not jobs:
            return {}
        reports = await persist(
            self.scheduler.query_jobs,
            [job for job in jobs if job.jid],
            self._limits.submit_patience,
            warn=self._warn,
        )
        return {
            job: report.presence
            for job, report in reports.items()
            if report.presence is not Presence.GONE
        }

    def _adopt(self, job: Job, presence: Presence) -> None:
        does = "waits" if presence is Presence.PENDING else "runs"
        known = job.jid or "its id is not known"
        self._client.on_message(f"Job {job.spec.rule} ({known}) still {does}; taken up again.")
        job.trial_count = 0
        job.seen = time.monotonic()
        self._client.on_submitted(job)
        self._hooks.call("on_job_taken_up", scheduler=self.scheduler, job=job)
        self._wake_reconciler.set()

    def _collect(self, job: Job) -> bool:
        """Take in the result of a job that ended well while nobody looked."""
        if job.directory.rc() != 0:
            return False
        self._client.on_message(f"Job {job.spec.rule} ({job.jid}) ended meanwhile; collected.")
        self._client.on_submitted(job)
        self._hooks.call("on_job_taken_up", scheduler=self.scheduler, job=job)
        self._take_in([f"{job.event_key}.start", f"{job.event_key}.end.0"])
        job.settling = True
        if self.scheduler.fs_shared:
            again = self._begin_anew
            self._spawn(
                self._advance(job, lambda: self._await_outputs(job, outcome_of(0), otherwise=again))
            )
        else:
            self._finish_soon(job, outcome_of(0))
        return True

    async def _end_superseded(self, jobs: Sequence[Job]) -> str | None:
        """End jobs of an earlier run; return why they are still there, if so."""
        try:
            await persist(self.scheduler.kill_jobs, jobs, _KILL_PATIENCE, warn=self._warn)
        except SchedulerError as error:
            return f"the job of the earlier run could not be ended: {error}"
        deadline = time.monotonic() + _KILL_PATIENCE
        pause = 0.2
        while await self._present(jobs):
            if time.monotonic() >= deadline:
                return f"the job of the earlier run is still there after {_KILL_PATIENCE:g} s"
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 5.0)
        return None

    async def _displace(self, job: Job) -> None:
        """End the jobs of earlier runs that write the outputs of a new one, then begin it."""
        for old in job.displaces:
            claimed = await self.scheduler.claim(old)
            old._jid = await self._earlier_jid(old, claimed_by_job=not claimed)
        present = await self._present(job.displaces)
        if present:
            shown = ", ".join(f"{old.spec.rule} ({old.jid})" for old in present)
            self._client.on_message(
                f"Jobs of the earlier run write the same files as {job.spec.rule}, which is run "
                f"in their place; they are removed: {shown}."
            )
            if (why := await self._end_superseded(list(present))) is not None:
                self._end(job, Outcome(ExitReason.SUBMIT_FAILURE, detail=why))
                return
        for old in job.displaces:
            old.directory.settle()
        await self._begin_anew(job)

    async def _begin_anew(self, job: Job) -> None:
        job._jid = None
        job.settling = False
        try:
            await asyncio.to_thread(self._client.prepare, job)
        except Exception as error:
            self._end(job, Outcome(ExitReason.SUBMIT_FAILURE, detail=str(error)))
        else:
            await self._enqueue([job])

    # -- completion ------------------------------------------------------------------

    async def _listen(self) -> None:
        async with self.scheduler.events() as source:
            async for names in source:
                await self._hear(names)

    async def _hear(self, names: Sequence[str]) -> None:
        """Take in events; those of a job that is being submitted when its id is known."""
        done = []
        for name in names:
            event = parse_event(name)
            job = self._jobs.get(event.key) if event else None
            if event is None or job is None or job.record is None:
                continue  # of another run in this directory, or of one before
            if job in self._submitting:
                self._submitting[job].append(name)
                continue
            done.append(name)
            if event.token != job.token or job.fingerprint != job.record.fingerprint:
                continue  # of a submission that is not this work
            if event.rc is None:
                await self._started(job)
            elif not _has_ended(job):
                self._ended_with(job, event.rc)
        self._take_in(done)

    def _sweep_events(self) -> None:
        """Remove events of submissions that have been settled: nobody will take them in."""
        filesystem.at_once(self._sweep_events_once, None)

    def _sweep_events_once(self) -> None:
        found = [(name, parse_event(name)) for name in os.listdir(f"{self.root}/{EVENTS}")]
        records = open_jobs(self.root) if found else {}
        settled = []
        for name, event in found:
            if event is None:
                continue
            known = records.get(event.key)
            given_up = known is not None and known[1].token != event.token
            if given_up or not is_open(self.root, event.key):
                settled.append(name)
        DirectoryEvents.remove(f"{self.root}/{EVENTS}", settled)

    async def _started(self, job: Job) -> None:
        if job.state is JobState.SUBMITTED:
            job.set_state(JobState.RUNNING)
            job.reason = ""
        if not job.started_told:
            job.started_told = True
            await self._hooks.fire("on_job_started", self.scheduler, job)

    def _ended_with(self, job: Job, rc: int) -> None:
        """Take in the exit status that the wrapper gave."""
        job.settling = True
        if rc == 0:
            self._finish_soon(job, outcome_of(0))
        else:
            self._spawn(self._advance(job, lambda: self._explain(job, rc)))

    def _finish_soon(self, job: Job, outcome: Outcome) -> None:
        if not self.scheduler.fs_shared:
            self._spawn(self._advance(job, lambda: self._fetch_and_finish(job, outcome)))
        elif self._outputs_are_there(job):
            self._end(job, outcome)
        else:
            self._spawn(self._advance(job, lambda: self._await_outputs(job, outcome)))

    async def _fetch_and_finish(self, job: Job, outcome: Outcome) -> None:
        failure = await self._fetch(job, outputs=True)
        if failure is not None:
            self._end(job, Outcome(ExitReason.NOT_FETCHED, outcome.rc, failure))
        else:
            await self._await_outputs(job, outcome)

    async def _fetch(self, job: Job, *, outputs: bool) -> str | None:
        """Bring the files of a job here; return why they do not come, if so."""

        async def fetch(_: Sequence[Job]) -> None:
            with filesystem.passing_as_transient():
                await self.scheduler.fetch(job, outputs=outputs)

        try:
            await persist(fetch, [job], _FETCH_PATIENCE, warn=self._warn, unless=self._cancel_asked)
        except (SchedulerError, OSError) as error:
            return filesystem.describe(error)
        return None

    def _expected(self, job: Job) -> Iterable[str]:
        """Return the outputs to look for here, and not in storage."""
        base = job.spec.shadow_dir or job.spec.base
        elsewhere = job.spec.addresses if not self.scheduler.fs_shared else {}
        here = [path for path in job.spec.outputs if path not in elsewhere]
        return (f"{base}/{path}" if not path.startswith("/") else path for path in here)

    def _outputs_are_there(self, job: Job) -> bool:
        try:
            return all(map(filesystem.exists, self._expected(job)))
        except OSError:
            return False  # they are looked for again

    async def _missing(self, job: Job) -> list[str]:
        """Return outputs that are not there; of those in storage, their addresses."""
        missing = [path for path in self._expected(job) if not filesystem.exists(path)]
        if not self.scheduler.fs_shared:
            addresses = [job.spec.addresses.get(path) for path in job.spec.outputs]
            missing += await self.scheduler.missing([one for one in addresses if one])
        return missing

    async def _await_outputs(
        self,
        job: Job,
        outcome: Outcome,
        *,
        otherwise: Callable[[Job], Awaitable[None]] | None = None,
    ) -> None:
        """Wait for outputs to become visible here, without holding anything else up.

        Parameters
        ----------
        job
            The job.
        outcome
            How it has ended.
        otherwise
            What is done with a job whose outputs are missing; by default it has failed.
        """
        deadline = time.monotonic() + job.spec.latency_wait
        pause = 0.05
        while missing := await self._missing(job):
            if time.monotonic() >= deadline:
                shown = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
                if otherwise is not None:
                    self._client.on_message(
                        f"Outputs of job {job.spec.rule} ({job.jid}) are not there any more: "
                        f"{shown}; it is run again."
                    )
                    await otherwise(job)
                    return
                detail = f"after {job.spec.latency_wait:g} s (--latency-wait): {shown}"
                outcome = Outcome(ExitReason.MISSING_OUTPUT, 0, detail)
                break
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 1.0)
        self._end(job, outcome)

    async def _explain(self, job: Job, rc: int | None) -> None:
        """Find out why a job failed: its own notes first, then the scheduler's."""
        if not self.scheduler.fs_shared:
            await self._fetch(job, outputs=False)
        stage = job.directory.info(job.token).get("stage", "")
        outcome = outcome_of(rc) if rc is not None else Outcome(ExitReason.LOST)
        if job.state is JobState.KILLING:
            outcome = Outcome(ExitReason.CANCELLED, rc, "by this run")
        elif filesystem.exists(job.directory.file("job.timedout")):
            outcome = Outcome(ExitReason.TIMEOUT, rc, f"more than {job.spec.timeout:g} s")
        elif stage == "prescript":
            outcome = Outcome(ExitReason.PRESCRIPT, rc)
        elif stage == "input":
            outcome = Outcome(ExitReason.MISSING_INPUT, rc)
        elif outcome.reason in (ExitReason.SIGNAL, ExitReason.LOST):
            answer = await self._explainer.ask(job, lost=rc is None)
            if answer is None:
                job.settling = False
                job.set_state(JobState.SUBMITTED)
                job.seen = time.monotonic()
                self._warn(f"Job {job.spec.rule} ({job.jid}) was requeued by the scheduler.")
                return
            if answer is NOTHING and rc is None and self._is_forgotten(job):
                job.settling = False
                job.seen = time.monotonic()
                return
            if answer is not NOTHING:
                outcome = answer
        elif outcome.reason is ExitReason.NONZERO_EXIT:
            outcome = self.scheduler.judge(job, outcome)
        if outcome.ok:  # the scheduler knows what the job itself could not tell
            self._finish_soon(job, outcome)
        else:
            self._end(job, outcome)

    def _end(self, job: Job, outcome: Outcome) -> None:
        """Settle an attempt: retry, halt, or hand the result to the client."""
        if job.state.is_final:
            return
        job.outcome = outcome
        if not outcome.ok and self._wants_retry(job):
            self._spawn(self._retry(job))
            return
        killed = job.state is JobState.KILLING
        job.set_state(JobState.FINISHED if outcome.ok else JobState.FAILED)
        self._spawn(self._tell_end(job, killed))

    def _wants_retry(self, job: Job) -> bool:
        return (
            job.spec.error_strategy == "retry"
            and job.trial_count < job.spec.num_retries
            and job.state is not JobState.KILLING
            and not self._halted
        )

    async def _retry(self, job: Job) -> None:
        assert job.outcome is not None
        job.trial_count += 1
        job.set_state(JobState.QUEUED)
        await self._tell_started_late(job)
        await self._hooks.fire("on_job_failed", self.scheduler, job)
        self._client.on_message(
            f"Job {job.spec.rule} ({job.jid or 'not submitted'}): {job.outcome.describe()}; "
            f"retry {job.trial_count} of {job.spec.num_retries}.",
            warning=True,
        )
        job._jid = None
        job.started_told = False
        try:
            await asyncio.to_thread(self._client.prepare, job)
        except Exception as error:
            self._end(job, Outcome(ExitReason.SUBMIT_FAILURE, detail=str(error)))
        else:
            # A late word of the attempt that has ended is not about the next one.
            job.record = None
            job.settling = False
            await self._to_queue(job)

    async def _tell_started_late(self, job: Job) -> None:
        """Keep the order of hooks for a job that ended before it was seen to run."""
        if job.jid and not job.started_told:
            job.started_told = True
            await self._hooks.fire("on_job_started", self.scheduler, job)

    async def _tell_end(self, job: Job, killed: bool) -> None:
        assert job.outcome is not None
        if killed:
            await self._hooks.fire("on_job_killed", self.scheduler, job)
        else:
            await self._tell_started_late(job)
            name = "on_job_succeeded" if job.outcome.ok else "on_job_failed"
            await self._hooks.fire(name, self.scheduler, job)
        self._ended.append(job)
        self._wake_reporter.set()
        self._wake_dispatcher.set()
        if not job.outcome.ok and job.spec.error_strategy == "halt" and not self._halted:
            self._halted = True
            await self._cancel_all()
            self._flush()
            self._client.on_halt(job)

    async def _report(self) -> None:
        """Hand over results in batches: the client pays for each hand-over, not each job.

        Snakemake runs its ILP solver, some 30 ms, before it starts the next jobs. A job
        after which nothing else is under way waits for no other.
        """
        while True:
            await self._wake_reporter.wait()
            if any(job.state in _ACTIVE for job in self._jobs.values()):
                await asyncio.sleep(_REPORT_BATCH)
            self._wake_reporter.clear()
            self._flush()

    def _flush(self) -> None:
        ended, self._ended = self._ended, []
        if ended:
            for job in ended:
                self._jobs.pop(job.spec.key, None)
                self._forgotten.discard(job)
                self.scheduler.forget(job)
                if job.settling and self.scheduler.leaves_queue_within:
                    self._leaving.append((time.monotonic(), job))
            self._client.on_ended(ended)

    # -- the second witness ------------------------------------------------------------

    async def _reconcile(self) -> None:
        """Ask the scheduler for all jobs at once, ever more seldom while none is missed.

        Starts and ends that jobs tell of themselves are no reason to ask.
        """
        interval, counter = _FIRST_QUERY, 0
        while True:
            if not self._active():
                self._wake_reconciler.clear()
                await self._wake_reconciler.wait()
                interval = _FIRST_QUERY
            await asyncio.sleep(interval)
            jobs = [job for job in self._active() if job.jid and not job.settling]
            if not jobs:
                continue
            asked = {job: job.jid for job in jobs}
            leaving = self._should_have_left()
            try:
                reports = await self.scheduler.query_jobs([*jobs, *leaving])
            except TransientError as error:
                self._warn(f"{error}; no job is affected, asking again")
                self._leaving.extendleft((0.0, job) for job in leaving)
                interval = min(interval * _QUERY_GROWTH, self._limits.query_ceiling)
                continue
            counter += 1
            gone = []
            for job in jobs:
                report = reports.get(job)
                if _has_ended(job) or job.jid != asked[job]:
                    continue  # of an attempt that has ended meanwhile
                if report is None or report.presence is Presence.GONE:
                    gone.append(job)
                    continue
                if report.presence is Presence.UNKNOWN:
                    self._warn_once(
                        f"Scheduler {self.scheduler.name} could not be asked about some jobs "
                        f"({report.reason}); no job is affected, asking again"
                    )
                    continue
                job.seen = time.monotonic()
                before, job.reason = job.reason, report.reason
                if report.presence is Presence.PENDING and job.reason != before:
                    self._hooks.call("on_job_waiting", scheduler=self.scheduler, job=job)
                if report.outcome is not None and job.state is not JobState.KILLING:
                    self._spawn(self._give_up(job, report.outcome))
                elif report.presence is Presence.RUNNING:
                    await self._started(job)
                    await self._hooks.fire("on_job_polling", self.scheduler, job, counter=counter)
            for job in gone:
                self._spawn(self._look_for(job))
            self._tell_waiting(jobs)
            self._tell_left_behind([job for job in leaving if job in reports], reports)
            missed = not self._forgotten.issuperset(gone)
            interval = _FIRST_QUERY if missed else interval * _QUERY_GROWTH
            interval = min(interval, self._limits.query_ceiling)

    def _should_have_left(self) -> list[Job]:
        """Return jobs that told their end so long ago that they are in no queue any more.

        Each is returned once.
        """
        due = time.monotonic() - self.scheduler.leaves_queue_within
        jobs = []
        while self._leaving and self._leaving[0][0] < due:
            jobs.append(self._leaving.popleft()[1])
        return jobs

    def _tell_left_behind(self, jobs: Sequence[Job], reports: Mapping[Job, Report]) -> None:
        """Say of which jobs the scheduler has not noticed the end.

        So it is on Slurm after slurmstepd was killed: nothing looks after the job any more, which
        holds its CPUs and memory until its time is over or it is cancelled.
        """
        for job in jobs:
            if reports[job].presence is Presence.RUNNING:
                self._warn_once(
                    f"Job {job.spec.rule} ({job.jid}) has ended, and after "
                    f"{self.scheduler.leaves_queue_within:g} s scheduler {self.scheduler.name} "
                    "still has it as running: the result is not affected, but what the job asked "
                    "for stays taken until it is cancelled there"
                )

    def _tell_waiting(self, jobs: Sequence[Job]) -> None:
        """Say why jobs wait in the queue, once for each reason."""
        waiting: dict[str, list[Job]] = {}
        for job in jobs:
            if job.reason and job.state is JobState.SUBMITTED:
                waiting.setdefault(job.reason, []).append(job)
        for reason in waiting.keys() - self._told:
            self._told.add(reason)
            first, *others = waiting[reason]
            more = f" and {len(others)} more" if others else ""
            self._client.on_message(f"Waiting: {first.spec.rule} ({first.jid}){more}: {reason}")

    async def _give_up(self, job: Job, outcome: Outcome) -> None:
        """End a job of which the scheduler says that it can never run."""
        if job in self._given_up:
            return
        self._given_up.add(job)
        jid = job.jid
        try:
            await persist(self.scheduler.kill_jobs, [job], _KILL_PATIENCE, warn=self._warn)
        except SchedulerError as error:
            self._warn_once(
                f"Job {jid} can never run ({outcome.detail or outcome.reason.value}) and could not "
                f"be removed from the queue: {error}"
            )
        else:
            if job.jid == jid:
                self._end(job, outcome)
        finally:
            self._given_up.discard(job)

    async def _look_for(self, job: Job) -> None:
        """Settle a job that the scheduler no longer knows."""
        if job in self._sought:
            return
        self._sought.add(job)
        jid = job.jid
        try:
            if not self.scheduler.fs_shared:
                await self._fetch(job, outputs=False)
            await self._advance(job, lambda: self._settle_gone(job, jid))
        finally:
            self._sought.remove(job)

    async def _settle_gone(self, job: Job, jid: str) -> None:
        """Settle an attempt, by its id, that the scheduler no longer knows."""
        if _has_ended(job) or not jid or job.jid != jid:
            return
        rc = job.directory.rc()
        claimed_by = job.directory.info(job.token).get("jid") or job.jid
        if rc is not None:
            self._ended_with(job, rc)
        elif claimed_by != job.jid:
            # A submission that seemed to fail had come through; it was first to run,
            # and the one that was made in its stead has ended without doing anything.
            job.take_jid(claimed_by)
            self._write_jid(job)
            job.seen = time.monotonic()
        elif time.monotonic() - job.seen >= self.scheduler.loss_grace:
            if self._is_forgotten(job) and time.monotonic() - job.seen < _FORGOTTEN:
                return
            job.settling = True
            self._spawn(self._advance(job, lambda: self._explain(job, None)))

    def _is_forgotten(self, job: Job) -> bool:
        """Tell whether a job still runs that the scheduler does not know any more.

        It is waited for: to run it again would be a second copy at the same time. Its wrapper
        tells its end as always.
        """
        if not self.scheduler.may_forget or not job.directory.is_held():
            self._forgotten.discard(job)
            return False
        if job not in self._forgotten:
            self._forgotten.add(job)
            node = job.directory.info(job.token).get("node", "its node")
            self._warn(
                f"Job {job.spec.rule} ({job.jid}) is not known to {self.scheduler.name} any more, "
                f"but still runs on {node}; its end is waited for."
            )
        return True

    # -- cancellation ------------------------------------------------------------------

    async def _obey(self) -> None:
        """Cancel what is asked for from elsewhere (see :mod:`pipen_executors.requests`)."""
        while True:
            await asyncio.sleep(requests.INTERVAL)
            keys = set(requests.take_cancellations(self.root, self._run_name))
            if requests.ALL in keys:
                await self._cancel_all()
                self._flush()
                self._client.on_cancelled()
            elif keys:
                self._spawn(self._cancel([self._jobs[key] for key in keys & self._jobs.keys()]))

    async def _cancel_all(self) -> None:
        self.cancelling = True
        self._cancel_asked.set()
        await self._cancel(list(self._jobs.values()))

    async def _cancel(self, chosen: Sequence[Job]) -> None:
        wanted = set(chosen)
        queued = [job for job in self._queue if job in wanted]
        self._queue = [job for job in self._queue if job not in wanted]
        for job in queued:
            job.set_state(JobState.KILLING)
            self._end(job, Outcome(ExitReason.CANCELLED, detail=_NOT_SUBMITTED))
        jobs = [job for job in chosen if job.state in _ACTIVE and not _has_ended(job)]
        if len(jobs) > _MANY:
            self._client.on_message(f"Cancelling {len(jobs)} jobs …")
        chunk = self.scheduler.kill_chunk
        why: SchedulerError | None = None
        waiting: list[Job] = []
        deadline = time.monotonic() + _KILL_PATIENCE
        for start in range(0, len(jobs), chunk):
            some = jobs[start : start + chunk]
            try:
                await self._kill(some, max(1.0, deadline - time.monotonic()))
                waiting += some
            except SchedulerError as error:
                why = error  # of some of them, perhaps: all are looked for once
                await self._look_at_killed(some, {})
        await self._until_killed([job for job in waiting if job.state is JobState.KILLING])
        left = [job for job in jobs if job.state is JobState.KILLING and job.jid]
        if left:
            shown = ", ".join(job.jid for job in left[:20]) + (" …" if len(left) > 20 else "")
            reason = str(why or f"no end of them in {_KILL_PATIENCE:g} s")
            if self._abandoned.is_set():
                reason = "they have been asked to end, and nobody waits for it"
            self._warn(f"{len(left)} jobs may still be there ({reason}): {shown}")

    async def _until_killed(self, waiting: list[Job]) -> None:
        """Wait until jobs that were killed have ended, by their own word or the scheduler's."""
        deadline = time.monotonic() + _KILL_PATIENCE
        pause = 0.05
        silent_since: dict[Job, float] = {}
        while waiting and time.monotonic() < deadline and not self._abandoned.is_set():
            await self._look_at_killed(waiting, silent_since)
            waiting = [job for job in waiting if job.state is JobState.KILLING]
            if waiting:
                await self._unless_abandoned(asyncio.sleep(pause))
                pause = min(pause * 1.6, 2.0)

    async def _look_at_killed(self, jobs: Sequence[Job], silent_since: dict[Job, float]) -> None:
        """Ask once which jobs that were killed are gone, and note which cannot be asked about."""
        asked = [job for job in jobs if job.jid and job.state is JobState.KILLING]
        with contextlib.suppress(TransientError):
            present = await self.scheduler.query_jobs(asked)
            for job in asked:
                report = present.get(job)
                if report is not None and report.presence is Presence.UNKNOWN:
                    now = time.monotonic()
                    if now - silent_since.setdefault(job, now) < _UNKNOWN_PATIENCE:
                        continue
                    self._warn(
                        f"Job {job.jid} was told to end; whether it has, scheduler "
                        f"{self.scheduler.name} does not say: {report.reason}"
                    )
                    report = None
                if report is None or report.presence is Presence.GONE:
                    self._end(job, Outcome(ExitReason.CANCELLED, detail="by this run"))

    async def _unless_abandoned(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for something, or until nobody waits for the end of jobs any more."""
        task = asyncio.ensure_future(work)
        abandoned = asyncio.ensure_future(self._abandoned.wait())
        await asyncio.wait({task, abandoned}, return_when=asyncio.FIRST_COMPLETED)
        abandoned.cancel()
        if task.done():
            task.result()
        else:
            self._tasks.add(task)  # it ends with the others

    async def _kill(self, jobs: Sequence[Job], patience: float) -> None:
        chosen = []
        for job in jobs:
            if await self._hooks.fire("on_job_killing", self.scheduler, job):
                job.set_state(JobState.KILLING)
                chosen.append(job)
        submitted = [job for job in chosen if job.jid]
        if submitted:
            await self._unless_abandoned(
                persist(self.scheduler.kill_jobs, submitted, patience, warn=self._warn)
            )

    def _warn_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._warn(text)

    def _warn(self, text: str) -> None:
        self._client.on_message(text, warning=True)


def _has_ended(job: Job) -> bool:
    """Tell whether the end of a job has been heard of."""
    return job.settling or job.state.is_final
