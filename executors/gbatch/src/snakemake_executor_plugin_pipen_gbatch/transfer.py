"""Job directories in the bucket: put up at submission, fetched at the end, removed after it.

While a job runs, its directory lies in the bucket, where its machine has it mounted. Events of
all jobs are heard of by one listing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from pipen_executors.events import parse_event
from pipen_executors.exceptions import SchedulerError
from pipen_executors.job import Job
from pipen_executors.jobdir import EVENTS, INFO
from pipen_executors.meter import FILE as USAGE
from pipen_executors.states import JobState

from .bucket import Place

_STUBS: Final = ".stubs"
_DIRECTORY: Final = f"{EVENTS}/.directory"
"""A bucket has no empty directories: without an object in it, jobs could not write events."""
_SHORTEST: Final = 0.5
_LONGEST: Final = 5.0
_GROWTH: Final = 1.3
_UPLOAD_LAG: Final = 10.0
"""Seconds for which files of a job that told its end may still be on their way."""
_WRITTEN: Final = ("job.stdout", "job.stderr")
_OF_FAILURES: Final = ("job.rc", "job.status", "job.timedout")
_FINISHED: Final = f"{JobState.FINISHED.value}\n".encode()
_NOT_SENT: Final = ("job.record", "job.jid", "job.settled", "job.retry")
KILL: Final = "job.kill"
"""File in a job directory, ``job.kill.<id of the job>``, that asks one task among others to
end: Batch can only cancel all of them."""


class Transfer:
    """The job directories of a run, here and in the bucket.

    Parameters
    ----------
    place
        Where they lie in the bucket.
    workdir
        Where they lie here.

    Attributes
    ----------
    heard
        Whether an event has been heard since somebody set this to False.
    """

    def __init__(self, place: Place, workdir: str) -> None:
        self._place = place
        self._workdir = workdir
        self._left: set[str] = set()
        self._sent: set[str] = set()
        self._told: dict[str, int] = {}
        self._sweeps: dict[str, asyncio.Task[None]] = {}
        self._tidying: set[asyncio.Task[None]] = set()
        self.heard = False

    async def start(self) -> None:
        """See what an earlier run has left in the bucket."""
        self._left = {name.rpartition("/")[0] for name in await self._place.names()}
        await self._place.put({_DIRECTORY: b""})

    async def stop(self) -> None:
        """Wait until what is no longer needed has been removed."""
        await asyncio.gather(*self._sweeps.values(), *self._tidying, return_exceptions=True)
        with contextlib.suppress(SchedulerError):
            left = await self._place.names()
            if all(name.startswith((f"{EVENTS}/", f"{_STUBS}/")) for name in left):
                await self._place.delete(left)  # no job goes on
        self._place.close()

    def _tidy(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do in the background what nobody waits for and nothing hangs on."""

        async def quietly() -> None:
            with contextlib.suppress(SchedulerError):
                await work

        task = asyncio.get_running_loop().create_task(quietly())
        self._tidying.add(task)
        task.add_done_callback(self._tidying.discard)
        return task

    def _below(self, job: Job) -> str:
        """Return where the directory of a job lies below the place."""
        return os.path.relpath(job.directory.path, self._workdir)

    # -- up ----------------------------------------------------------------------------------

    async def send(self, jobs: Sequence[Job], base: str, stub: str) -> str:
        """Put the files of jobs up, and the script that their job of Batch starts with.

        Parameters
        ----------
        jobs
            The jobs.
        base
            Id of their job of Batch.
        stub
            The script.

        Returns
        -------
        str
            Where the script lies below the place.
        """
        await asyncio.gather(*(self._send(job) for job in jobs))
        await self._place.put({f"{_STUBS}/{base}": stub.encode()})
        return f"{_STUBS}/{base}"

    async def _send(self, job: Job) -> None:
        """Put the files of a job up once, to where no earlier ones are."""
        if job.token in self._sent:  # its submission is repeated; it may be running
            return
        below = self._below(job)
        if sweep := self._sweeps.pop(below, None):
            await sweep
        if job.trial_count or below in self._left:
            await self._place.delete(await self._place.names(f"{below}/"))
            self._left.discard(below)
        files = {
            f"{below}/{entry.name}": Path(entry.path).read_bytes()
            for entry in os.scandir(job.directory.path)
            if entry.is_file() and entry.name not in _NOT_SENT
        }
        await self._place.put(files)
        self._sent.add(job.token)

    async def claim(self, job: Job) -> bool:
        """Claim a submission in the bucket; False if its wrapper was first."""
        return await self._place.put_new(f"{self._below(job)}/{INFO}.{job.token}")

    async def ask_to_end(self, jobs: Sequence[Job], base: str) -> None:
        """Ask single tasks of a job of Batch to end; those that wait will not begin."""
        await self._place.put({f"{self._below(job)}/{KILL}.{base}": b"" for job in jobs})
        await asyncio.gather(*map(self.claim, jobs))

    # -- down --------------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[Sequence[str]]:
        """Yield the names of events that were not there at the last look."""
        interval = _SHORTEST
        seen: set[str] = set()
        while True:
            try:
                there = set(await self._place.names(f"{EVENTS}/"))
            except SchedulerError:  # of the bucket's absence other calls tell
                there, interval = seen, _LONGEST
            new = sorted(name.rpartition("/")[2] for name in there - seen)
            if new:
                interval = _SHORTEST
                self.heard = True
                for event in filter(None, map(parse_event, new)):
                    if event.rc is not None:
                        self._told[f"{event.key}.{event.token}"] = event.rc
                yield new
            else:
                interval = min(interval * _GROWTH, _LONGEST)
            seen = there
            await asyncio.sleep(interval)

    def take_in_events(self, names: Iterable[str]) -> None:
        """Remove events that have been dealt with."""
        self._tidy(self._place.delete([f"{EVENTS}/{name}" for name in names]))

    async def fetch(self, job: Job) -> None:
        """Bring what a job wrote into its directory here.

        Of a job that told its end, files may still be on their way.
        """
        below = self._below(job)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _UPLOAD_LAG
        rc = self._told.get(job.event_key)
        names = [*_WRITTEN, f"{INFO}.{job.token}", *(_OF_FAILURES if rc != 0 else ())]
        if job.spec.measured:
            names.append(USAGE)
        while True:
            found = await self._place.get(f"{below}/{name}" for name in names)
            whole = found.keys() >= {f"{below}/{name}" for name in _WRITTEN}
            if rc is None or whole or loop.time() > deadline:
                break
            await asyncio.sleep(0.3)
        if rc == 0:  # known without asking for more files
            found |= {f"{below}/job.rc": b"0\n", f"{below}/job.status": _FINISHED}
        for name, content in found.items():
            job.directory.write(name.rpartition("/")[2], content)

    async def missing(self, addresses: Sequence[str]) -> list[str]:
        """Look for outputs in Cloud Storage; while it does not answer, none is missing."""
        with contextlib.suppress(SchedulerError):
            return await self._place.missing(addresses)
        return []

    def forget(self, job: Job, stub_of: str | None) -> None:
        """Remove the files of a job that has ended: they lie here now.

        Parameters
        ----------
        job
            The job.
        stub_of
            Id of its job of Batch, if it was the last of that.
        """
        below = self._below(job)
        if job.record is not None:
            self._told.pop(job.event_key, None)
            self._sent.discard(job.token)
        if not job.jid and below not in self._left:
            return
        self._left.discard(below)
        stubs = [f"{_STUBS}/{stub_of}"] if stub_of else []

        async def sweep() -> None:
            await self._place.delete([*await self._place.names(f"{below}/"), *stubs])

        self._sweeps[below] = self._tidy(sweep())
