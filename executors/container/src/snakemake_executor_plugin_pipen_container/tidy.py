"""Removal of containers that have ended: those of the same moment in one call."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from pipen_executors.exceptions import SchedulerError

from .commands import Containers

_PAUSE: Final = 1.0
"""Seconds in which containers gather before they are removed."""


class Tidier:
    """Removes containers in the background.

    Nothing depends on it: what could not be removed is found again by its label when the
    run ends, or when the next one begins.

    Parameters
    ----------
    containers
        Of which runtime.
    label
        One that all of them have; no others are removed.
    wanted
        Whether any are to be removed.
    """

    def __init__(self, containers: Containers, label: str, *, wanted: bool) -> None:
        self._containers = containers
        self._label = label
        self._wanted = wanted
        self._names: set[str] = set()
        self._closing = asyncio.Event()
        self._work: asyncio.Task[None] | None = None

    def discard(self, *names: str) -> None:
        """Have containers removed soon; an empty name is none."""
        if not self._wanted:
            return
        self._names.update(filter(None, names))
        if self._names and (self._work is None or self._work.done()):
            self._work = asyncio.create_task(self._tidy())

    async def sweep(self, label: str) -> None:
        """Have all containers with a label removed that have ended.

        Raises
        ------
        SchedulerError
            If the runtime does not answer.
        """
        there = await self._containers.running(label)
        self.discard(*(name for name, runs in there.items() if not runs))

    async def close(self, label: str) -> None:
        """Remove now what is left, and all containers with a label that have ended."""
        self._closing.set()
        with contextlib.suppress(SchedulerError):
            await self.sweep(label)
        if self._work is not None:
            await self._work

    async def _tidy(self) -> None:
        while self._names:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _PAUSE)
            names, self._names = sorted(self._names), set()
            with contextlib.suppress(SchedulerError):
                await self._containers.remove(names, self._label)
