"""The jobs on their machines: started, asked about and ended by the agents.

A job is a session there. Its id is ``<pid>@<server>``: the process id of its wrapper, which is
the session's too.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.job import Job
from pipen_executors.states import ExitReason, Outcome, Presence, Report

from . import answers, ends
from .agent import PATIENCE
from .host import Host

_KILL_PATIENCE: Final = 30.0
"""Seconds for which a machine that is away is asked again to end jobs: somebody has pressed
Ctrl-C and waits."""
_AT_A_TIME: Final = 200
"""Jobs that are asked about at a time: the answer is one line of less than 4 KiB, which no other
process of the agent can write into (pipe(7), PIPE_BUF)."""


def server_of(job: Job) -> str:
    """Return the name of the machine that a job was submitted to."""
    return job.jid.partition("@")[2]


def _pid(job: Job) -> str:
    return job.jid.partition("@")[0]


class RemoteSessions:
    """The sessions of all jobs.

    Parameters
    ----------
    host_of
        Returns the machine of a job; raises :class:`SchedulerError` if it has none.
    directory
        Returns the job directory as its machine knows it.
    wrapper
        Name of the wrapper there.
    """

    def __init__(
        self,
        host_of: Callable[[Job], Host],
        directory: Callable[[Job], str],
        wrapper: str,
    ) -> None:
        self._host_of = host_of
        self._directory = directory
        self._wrapper_name = wrapper
        self._statuses: dict[Job, int] = {}
        self._unheard: dict[Host, float] = {}

    def _wrapper(self, job: Job) -> str:
        return f"{self._directory(job)}/{self._wrapper_name}"

    async def start(self, host: Host, job: Job) -> str:
        """Start a job on a machine; return its id.

        Raises
        ------
        SchedulerError
            If it cannot be started there.
        TransientError
            If the machine is away, or goes away meanwhile: it may have been started.
        """
        self._statuses.pop(job, None)
        pid, host.oom_kills = await host.ask(
            "start",
            host.name,
            self._wrapper(job),
            f"{self._directory(job)}/job.stderr",
            read=answers.started,
        )
        return f"{pid}@{host.name}"

    async def query(self, jobs: Sequence[Job]) -> Mapping[Job, Report]:
        """Ask each machine for its jobs; those of one that is away go on, until it is lost."""
        reports: dict[Job, Report] = {}
        by_host = self._by_host(jobs)
        found = await asyncio.gather(*(self._query(h, some) for h, some in by_host.items()))
        for some in found:
            reports |= some
        return reports

    async def _query(self, host: Host, jobs: Sequence[Job]) -> dict[Job, Report]:
        words: list[str] = []
        try:
            for start in range(0, len(jobs), _AT_A_TIME):
                some = jobs[start : start + _AT_A_TIME]
                fields = [len(some), *_named(some, self._wrapper)]
                _, more = await host.ask(
                    "query", *fields, read=partial(answers.states, count=len(some))
                )
                words += more
        except TransientError:
            lost = None
            if host.is_lost:
                lost = Outcome(ExitReason.NODE_FAILURE, detail=f"host lost: {host.trouble}")
            return dict.fromkeys(jobs, Report(Presence.RUNNING, outcome=lost))
        reports = {}
        for job, word in zip(jobs, words, strict=True):
            reports[job] = Report(Presence.RUNNING if word == "running" else Presence.GONE)
            if word not in ("running", "gone"):
                self._statuses[job] = int(word)
        return reports

    async def explain(self, jobs: Sequence[Job]) -> Mapping[Job, Outcome]:
        """Say what the machine's kernel says: a signal, or its out-of-memory killer."""
        outcomes = {}
        for job in jobs:
            outcome = ends.of_signal(job, self._statuses.get(job))
            if outcome is None:
                continue
            host = self._host_of(job)
            if ends.may_be_memory(outcome) and host.is_here and await _oom_kills_grew(host):
                outcome = ends.out_of_memory(outcome, host.name)
            outcomes[job] = outcome
        return outcomes

    async def kill(self, jobs: Sequence[Job], grace: float) -> None:
        """End sessions: TERM, and KILL after the grace time in seconds.

        On a machine that is lost, or not waited for any longer, they are ended if it comes back.

        Raises
        ------
        SchedulerError
            If some are left: on a machine that does not answer, or that do not end.
        TransientError
            If a machine is away, and may come back.
        """
        by_host = self._by_host(jobs)
        told = await asyncio.gather(
            *(self._kill(host, some, grace) for host, some in by_host.items()),
            return_exceptions=True,
        )
        errors = [answer for answer in told if answer is not None]
        for error in sorted(errors, key=lambda error: not isinstance(error, TransientError)):
            raise error

    async def _kill(self, host: Host, jobs: Sequence[Job], grace: float) -> None:
        fields = _named(jobs, self._wrapper)
        if host.is_lost:
            host.give_up(fields)
            return
        try:
            patience = grace + PATIENCE
            await host.ask("kill", round(grace), len(jobs), *fields, read=str, patience=patience)
        except TransientError:
            since = self._unheard.setdefault(host, time.monotonic())
            if time.monotonic() - since < _KILL_PATIENCE:
                raise
            host.give_up(fields)
            raise SchedulerError(f"{host.trouble}; what runs there goes on") from None
        self._unheard.pop(host, None)

    def forget(self, job: Job) -> None:
        """Drop what is known of a job that has ended."""
        self._statuses.pop(job, None)

    def _by_host(self, jobs: Sequence[Job]) -> dict[Host, list[Job]]:
        """Divide jobs by their machines; what has an id that is none is left out."""
        found: dict[Host, list[Job]] = {}
        for job in jobs:
            with contextlib.suppress(SchedulerError):
                found.setdefault(self._host_of(job), []).append(job)
        return found


def _named(jobs: Sequence[Job], wrapper: Callable[[Job], str]) -> list[str]:
    """Return the fields that name jobs to an agent."""
    return [field for job in jobs for field in (_pid(job), wrapper(job))]


async def _oom_kills_grew(host: Host) -> bool:
    try:
        kills, _ = await host.ask("query", 0, read=lambda text: answers.states(text, 0))
    except TransientError:
        return False
    return kills > host.oom_kills
