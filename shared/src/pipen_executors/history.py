"""The history of the runs of one scheduler: a line of JSON for each change of a job's state.

``<root>/history.jsonl`` is the one home of the facts of a run. Everything that shows a run
is drawn from it: the live line, ``pipen-executors status`` and ``report``, the lines of
the efficiency report, and the records for Snakemake's logger plugins.

Lines are written in the engine's thread, all of a tenth of a second in one write(2) to a
file opened with O_APPEND: two runs in one directory do not mix their lines, and a run that
is killed loses no more than that tenth (what it lost is in the job directories). The file
is the user's only (mode 0600).

Each line has ``event``, ``time`` (seconds since the epoch) and ``run``. The events:

``run``
    A run begins: ``version``, ``scheduler``, ``here`` (jobs run on the machine of the
    run), ``pid``, ``born`` (start of that process), ``host``, ``cwd``, ``root`` of the job
    directories, ``command``, ``settings`` of the executor that are not defaults.
``job``
    The run has a job: ``key``, ``rule``, ``wildcards``, ``jobid``, ``directory`` (below
    the root), ``outputs``, ``direct``, and what it asks for: ``threads``, ``mem_mb``,
    ``runtime`` (minutes).
``queued``, ``pending``, ``running``, ``ended``
    States of a job, with ``key`` and ``attempt``; see :class:`History` for what they
    carry.
``over``
    The run has ended: ``calls`` to the scheduler by name.
``accounted``
    What accounting has of an attempt, with ``key`` and ``attempt``: ``cpu``, ``memory`` and
    ``memory_by`` as an end carries them. Written by ``pipen-executors report``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import secrets
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psutil

from .hooks import hookimpl
from .process import count_calls_in
from .states import ExitReason, Phase

if TYPE_CHECKING:
    from .job import Job
    from .scheduler import SchedulerPostInit

HISTORY: Final = "history.jsonl"
VERSION: Final = 1
_BATCH: Final = 0.1
_MOST_OUTPUTS: Final = 20
_PAUSE: Final = 3.0
"""Seconds after which lines are written again that could not be written."""
_LAST_TRIES: Final = 3
_MEASURING: Final = 1.0
"""Seconds for which the line of an end waits for what is still to be measured."""


@dataclass(frozen=True, slots=True)
class Change:
    """A job has come into another state.

    Parameters
    ----------
    job
        The job.
    phase
        The state.
    facts
        What the history says of it.
    """

    job: Job
    phase: Phase
    facts: Mapping[str, Any]


class History:
    """Writes the history of one run; a plugin like any other (:mod:`pipen_executors.hooks`).

    Parameters
    ----------
    root
        Directory of the job directories.
    settings
        Settings of the executor that are not defaults, for the line of the run.
    warn
        Called with a line for the user when the history cannot be written.
    listeners
        Called with each change of a job's state, in the engine's thread.
    """

    def __init__(
        self,
        root: str,
        settings: Mapping[str, Any],
        warn: Callable[[str], None],
        listeners: Sequence[Callable[[Change], None]] = (),
    ) -> None:
        self.run: Final = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        self._root = root
        self._path = f"{root}/{HISTORY}"
        self._settings = settings
        self._warn = warn
        self._listeners = listeners
        self._descriptor: int | None = None
        self._cut = False
        self._failing = False
        self._lines: list[str] = []
        self._finished: list[tuple[SchedulerPostInit, float, Job]] = []
        self._known: set[str] = set()
        self._calls: Counter[str] = Counter()
        self._due: asyncio.TimerHandle | None = None

    # -- hooks -----------------------------------------------------------------------

    @hookimpl
    def on_init(self, scheduler: SchedulerPostInit) -> None:
        """Open the file and write down that a run begins."""
        count_calls_in(self._calls)
        self._add(
            "run",
            version=VERSION,
            scheduler=scheduler.name,
            here=scheduler.runs_here,
            pid=os.getpid(),
            born=psutil.Process().create_time(),
            host=socket.gethostname(),
            cwd=os.getcwd(),
            root=self._root,
            command=sys.argv,
            settings=self._settings,
        )
        self.flush()

    @hookimpl
    def on_shutdown(self, scheduler: SchedulerPostInit) -> None:
        """Write down that the run has ended, and how often the scheduler was called."""
        self.flush(last=True)
        self._add("over", calls=dict(self._calls))
        for _ in range(_LAST_TRIES):
            self.flush()
            if not self._lines:
                break
        else:
            self._warn(f"{self._path} is not complete: {len(self._lines)} lines were not written")
        self._close()

    @hookimpl
    def on_job_taken_up(self, scheduler: SchedulerPostInit, job: Job) -> None:
        """Note a job of an earlier run: it was submitted then."""
        assert job.record is not None
        self._introduce(job)
        self._note(job, _after_submission(scheduler), id=job.jid, time=job.record.submitted)

    @hookimpl
    def on_job_queued(self, job: Job) -> None:
        """Note a job that waits for its submission."""
        self._introduce(job)
        self._note(job, Phase.QUEUED)

    @hookimpl
    def on_job_submitted(self, scheduler: SchedulerPostInit, job: Job) -> None:
        """Note the scheduler's id, as ``id``."""
        self._note(job, _after_submission(scheduler), id=job.jid)

    @hookimpl
    def on_job_waiting(self, job: Job) -> None:
        """Note why a job waits in the scheduler's queue, as ``reason``."""
        self._note(job, Phase.PENDING, id=job.jid, reason=job.reason)

    @hookimpl
    def on_job_started(self, scheduler: SchedulerPostInit, job: Job) -> None:
        """Note ``node`` and ``start``, unless it was noted with the submission."""
        if not scheduler.starts_at_once and job.outcome is None:
            self._note(job, Phase.RUNNING, id=job.jid, **_measured(job))

    @hookimpl
    def on_job_succeeded(self, scheduler: SchedulerPostInit, job: Job) -> None:
        """Take in a success; its line is written a moment later, when all is measured."""
        self._finished.append((scheduler, time.time(), job))
        self._write_soon()

    @hookimpl
    def on_job_failed(self, scheduler: SchedulerPostInit, job: Job) -> None:
        """Note a failed attempt, with ``reason`` and the last lines of ``stderr``."""
        self._end(scheduler, job, time.time())

    @hookimpl
    def on_job_killed(self, scheduler: SchedulerPostInit, job: Job) -> None:
        """Note a job that was cancelled."""
        self._end(scheduler, job, time.time())

    # -- lines -----------------------------------------------------------------------

    def _introduce(self, job: Job) -> None:
        """Write what does not change about a job, when it is first heard of."""
        key = job.spec.key
        if key in self._known:
            return
        self._known.add(key)
        resources = job.spec.resources
        self._add(
            "job",
            key=key,
            rule=job.spec.rule,
            wildcards=dict(job.spec.wildcards),
            jobid=job.spec.jobid,
            directory="/".join(job.directory.path.split("/")[-2:]),
            outputs=job.spec.products[:_MOST_OUTPUTS],
            direct=job.spec.direct,
            threads=resources.threads,
            mem_mb=resources.mem_mb,
            runtime=resources.runtime,
        )

    def _end(self, scheduler: SchedulerPostInit, job: Job, now: float) -> None:
        """Note the end of an attempt.

        ``state`` is done, failed or cancelled; ``reason`` and ``detail`` say why, ``rc`` is
        the exit status; ``node``, ``start``, ``end`` and ``cpu`` (seconds) are the wrapper's
        notes; ``memory`` is the peak in bytes and ``memory_by`` who measured it, or
        ``memory_below`` what it stayed under.
        """
        outcome = job.outcome
        assert outcome is not None
        phase = Phase.DONE if outcome.ok else Phase.FAILED
        if outcome.reason is ExitReason.CANCELLED:
            phase = Phase.CANCELLED
        facts: dict[str, Any] = {"rc": outcome.rc, **_measured(job)}
        if not outcome.ok:
            facts |= {"reason": outcome.reason.name, "detail": outcome.detail}
            facts["stderr"] = job.directory.tail("job.stderr")
        if job.jid:
            facts |= {"id": job.jid, **(scheduler.measured(job) or {}), **facts}
        self._note(job, phase, **{"time": now, **facts})

    def _note(self, job: Job, phase: Phase, **facts: Any) -> None:
        facts = {"time": time.time(), "key": job.spec.key, "attempt": job.trial_count + 1, **facts}
        if phase.is_final:
            # The engine has counted on already where it is going to try again.
            facts["attempt"] = job.record.attempt if job.record else facts["attempt"]
            self._add("ended", state=phase.value, **facts)
        else:
            self._add(phase.value, **facts)
        for listener in self._listeners:
            listener(Change(job, phase, facts))

    def _add(self, event: str, **facts: Any) -> None:
        line = {"event": event, "time": time.time(), "run": self.run, **facts}
        self._lines.append(json.dumps(line, separators=(",", ":"), default=str))
        self._write_soon()

    def _write_soon(self, pause: float = _BATCH) -> None:
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(pause, self.flush)

    def flush(self, *, last: bool = False) -> None:
        """Write all lines that wait for it; if that fails they wait on, and the run goes on.

        Parameters
        ----------
        last
            Whether there will be no further call for what is still being measured.
        """
        finished, self._finished = self._finished, []
        for scheduler, now, job in finished:
            wait = not last and time.time() - now < _MEASURING
            if wait and scheduler.measured(job) is None:
                self._finished.append((scheduler, now, job))
            else:
                self._end(scheduler, job, now)
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._finished:
            self._write_soon()
        if self._lines:
            try:
                self._write()
            except OSError as error:
                self._close()  # a stale handle stays stale
                if not self._failing:
                    self._warn(f"{self._path} cannot be written ({error.strerror}); trying again")
                self._failing = True
                self._write_soon(_PAUSE)
            else:
                self._failing = False

    def _write(self) -> None:
        """Write the lines that wait, and keep those that could not be written.

        Raises
        ------
        OSError
            If not all could be written.
        """
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o600)
            # A full disk may have cut the last line off.
            self._cut = os.fstat(self._descriptor).st_size > 0
        begin = b"\n" if self._cut else b""
        data = begin + "".join(f"{line}\n" for line in self._lines).encode()
        written = os.write(self._descriptor, data)
        if written == len(data):
            self._cut = False
            self._lines.clear()
            return
        # What was cut off in the middle of a line is written again, whole, on a line of its own.
        self._cut = True
        del self._lines[: data[len(begin) : written].count(b"\n")]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def write_cancelled(root: str, run: str, key: str, attempt: int) -> None:
    """Add to the history of a run that is no more that a job of it was cancelled.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    facts = {"reason": ExitReason.CANCELLED.name, "detail": "by pipen-executors cancel"}
    state = {"state": Phase.CANCELLED.value, "key": key, "attempt": attempt}
    _append(root, [{"event": "ended", "time": time.time(), "run": run, **state, **facts}])


def write_accounted(
    root: str, run: str, known: Iterable[tuple[str, int, Mapping[str, Any]]]
) -> None:
    """Add to the history of a run what accounting has: key, attempt and facts of each.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    head = {"event": "accounted", "time": time.time(), "run": run}
    _append(root, [{**head, "key": key, "attempt": n, **facts} for key, n, facts in known])


def _append(root: str, lines: Iterable[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    descriptor = os.open(f"{root}/{HISTORY}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(descriptor, f"\n{text}".encode())  # in one piece: a run may be writing too
    finally:
        os.close(descriptor)


def _after_submission(scheduler: SchedulerPostInit) -> Phase:
    """Return the state of a job that has been submitted: it may run at once."""
    return Phase.RUNNING if scheduler.starts_at_once else Phase.PENDING


def _measured(job: Job) -> dict[str, Any]:
    """Return the wrapper's notes about an attempt, numbers as numbers."""
    if job.record is None:
        return {}
    try:
        notes = job.directory.info(job.token)
    except OSError:
        return {}
    facts: dict[str, Any] = {"node": notes["node"]} if notes.get("node") else {}
    for name, read in (("start", float), ("end", float), ("cpu", float), ("memory", int)):
        with contextlib.suppress(KeyError, ValueError):
            facts[name] = read(notes[name])
    if "memory" in facts:
        facts["memory_by"] = "control group"
    return facts
