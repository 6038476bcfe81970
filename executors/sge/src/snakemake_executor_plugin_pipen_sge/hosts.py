"""Jobs on hosts whose execution daemon is not heard of.

Grid Engine shows such a job as running for as long as its host is away, and as being
deleted (``dr``) after a qdel, for ever if the host does not come back. Which hosts these
are is only in the state of their queues (``u``), which is asked for now and then.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from pipen_executors.states import Presence

from .commands import Commands
from .parse import QueueEntry

_PAUSE = 60.0
_PAUSE_WHILE_DELETING = 5.0
_DELETION = 45.0
"""Seconds for which a deleted job on a silent host is waited for. After a restart of qmaster all
hosts are silent, and an execution daemon takes some 25 s to come back to it."""


class SilentHosts:
    """Keeps the times for which jobs have been on silent hosts.

    Parameters
    ----------
    commands
        Grid Engine.
    timeout
        Seconds of silence after which a job is to be given up.
    """

    def __init__(self, commands: Commands, timeout: float) -> None:
        self._commands = commands
        self._timeout = timeout
        self._silent_since: dict[str, float] = {}
        self._deleted_since: dict[str, float] = {}
        self._looked = 0.0

    async def look(self, entries: Mapping[str, QueueEntry]) -> None:
        """Take in how the queue looks; ask for silent hosts if it is time.

        Raises
        ------
        TransientError
            If Grid Engine could not be asked.
        """
        now = time.monotonic()
        self._looked = self._looked or now
        for jid, entry in entries.items():
            if entry.is_deleted:
                self._deleted_since.setdefault(jid, now)
        running = any(entry.presence is Presence.RUNNING for entry in entries.values())
        stuck = any(now - since > _PAUSE_WHILE_DELETING for since in self._deleted_since.values())
        pause = _PAUSE_WHILE_DELETING if stuck else min(_PAUSE, self._timeout / 3)
        if running and now - self._looked >= pause:
            self._looked = now
            silent = await self._commands.on_silent_hosts()
            self._silent_since = {jid: self._silent_since.get(jid, now) for jid in silent}

    def keeps_deleted(self, jid: str) -> bool:
        """Tell whether a job stays in the queue only because its host does not answer."""
        deleted = time.monotonic() - self._deleted_since.get(jid, time.monotonic())
        return jid in self._silent_since and deleted >= _DELETION

    def too_silent(self, jid: str) -> float:
        """Return for how many seconds nothing was heard of a job's host, if that is too long."""
        silence = time.monotonic() - self._silent_since.get(jid, time.monotonic())
        return silence if jid in self._silent_since and silence >= self._timeout else 0.0

    def forget(self, jid: str) -> None:
        """Forget a job that has ended."""
        self._silent_since.pop(jid, None)
        self._deleted_since.pop(jid, None)
