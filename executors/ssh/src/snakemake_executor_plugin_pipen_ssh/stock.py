"""What lies in the trees of machines, and who uses it.

Two machines may have one tree: nodes of a cluster with the home directory on a network file
system, or two names of one machine. What is known of it, and who reads it, is theirs together.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterable
from typing import Final

from pipen_executors.job import Job
from pipen_executors.states import JobState

from .answers import Version

OCCUPYING: Final = (JobState.SUBMITTED, JobState.RUNNING, JobState.KILLING)
"""States of a job that has a machine."""


class Stock:
    """What lies in one tree.

    Attributes
    ----------
    files
        What lies there of the workflow's files, by name: the same that lay here.
    sending
        Keeps what is sent there in order.
    """

    def __init__(self) -> None:
        self.files: dict[str, Version] = {}
        self.sending = asyncio.Lock()
        self._used: dict[Job, frozenset[str]] = {}
        self._freed = asyncio.Event()

    def use(self, job: Job, names: Iterable[str]) -> None:
        """Note which files and directories a job may read from now on."""
        self._used[job] = frozenset(names)

    def free(self, job: Job) -> None:
        """Note that a job reads nothing any more."""
        if self._used.pop(job, None) is not None:
            self._freed.set()
            self._freed = asyncio.Event()

    def readers(self, names: Iterable[str], but: Job) -> dict[Job, str]:
        """Return which other jobs may read some of the names, or what is in or around them.

        For each job there is one of the names. A job that waits to be put somewhere once more
        reads nothing.
        """
        wanted = list(names)
        found = {}
        for job, used in self._used.items():
            if job is but or job.state not in OCCUPYING:
                continue
            if (hit := next((n for n in wanted if _meets(n, used)), None)) is not None:
                found[job] = hit
        return found

    async def change(self) -> None:
        """Wait until some job may read nothing any more, or for a second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._freed.wait()


def _meets(name: str, used: frozenset[str]) -> bool:
    """Tell whether a name, something in it, or a directory around it, is among some names."""
    if name in used:
        return True
    head = name
    while head := head.rpartition("/")[0]:
        if head in used:
            return True
    return any(one.startswith(f"{name}/") for one in used)


class Stocks:
    """The trees of all machines, by the name that each tree has of itself.

    Attributes
    ----------
    token
        Of this run, for which the trees give themselves names.
    """

    def __init__(self) -> None:
        self.token = secrets.token_hex(8)
        self._by_name: dict[str, Stock] = {}

    def named(self, name: str) -> Stock:
        """Return what lies in a tree; a tree without a name is nobody else's."""
        if not name.strip("-"):
            return Stock()
        return self._by_name.setdefault(name, Stock())

    def free(self, job: Job) -> None:
        """Note that a job reads nothing any more, anywhere."""
        for stock in self._by_name.values():
            stock.free(job)
