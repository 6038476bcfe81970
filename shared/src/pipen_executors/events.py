"""Hearing of starts and ends of jobs by looking at one directory for the whole run.

Wrappers create empty files there, named ``<key>.<token>.start`` and
``<key>.<token>.end.<exit status>``. Where the kernel of this machine sees every
change (a local file system, or jobs that run here), inotify tells at once and
nothing is polled. On a network file system it does not tell of other nodes' files;
there the directory is listed at an interval that grows while nothing happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import psutil

from .jobdir import exit_status

_SHORTEST: Final = 0.1
_LONGEST: Final = 3.0
_GROWTH: Final = 1.3
_SAFETY_NET: Final = 30.0
"""Seconds between listings where inotify works: its queue can overflow (inotify(7))."""

_NETWORK_TYPES: Final = frozenset(
    [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fhgfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "ocfs2",
        "panfs",
        "pvfs2",
        "smb3",
        "wekafs",
    ]
)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing a wrapper tells.

    Parameters
    ----------
    key, token
        Which submission of which job.
    rc
        Exit status for an end, None for a start.
    """

    key: str
    token: str
    rc: int | None


def parse_event(name: str) -> Event | None:
    """Read the name of an event; None for a name that is not one."""
    match name.split("."):
        case [key, token, "start"]:
            return Event(key, token, None)
        case [key, token, "end", rc] if (status := exit_status(rc)) is not None:
            return Event(key, token, status)
    return None


def is_network_filesystem(path: str) -> bool:
    """Tell whether other machines may write below a path without this kernel's seeing it.

    Types mounted through FUSE count as such: most are network file systems.
    """
    best, kind = "", ""
    for partition in psutil.disk_partitions(all=True):
        mount = partition.mountpoint.rstrip("/")
        if (path == mount or path.startswith(mount + "/")) and len(mount) >= len(best):
            best, kind = mount, partition.fstype
    return kind in _NETWORK_TYPES or kind.startswith("fuse")


class DirectoryEvents:
    """The events directory, watched.

    Parameters
    ----------
    directory
        The directory; it must exist.
    local
        Whether all events are written by processes of this machine.
    """

    def __init__(self, directory: str, *, local: bool) -> None:
        self._directory = directory
        self._told = asyncio.Event()
        self._notifies = sys.platform == "linux" and (
            local or not is_network_filesystem(os.path.realpath(directory))
        )
        self._inotify: Any = None

    async def __aenter__(self) -> Self:
        if self._notifies:
            from inotify_simple import INotify, flags

            try:
                self._inotify = INotify()
                self._inotify.add_watch(self._directory, flags.CREATE | flags.MOVED_TO)
            except OSError:
                # The user's instances or watches are used up (inotify(7)); listing works.
                self._inotify = None
            else:
                asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._on_readable)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fileno())
            self._inotify.close()

    def _on_readable(self) -> None:
        self._inotify.read(timeout=0)
        self._told.set()

    async def names(self) -> AsyncIterator[Sequence[str]]:
        """Yield the names that were not there at the last look, as soon as there are any.

        Events that nobody takes in (of another run in the same directory) stay, and do
        not keep this one looking. While the directory cannot be listed nothing is new.
        """
        interval = _SHORTEST
        seen: set[str] = set()
        while True:
            self._told.clear()
            listed = self._list()
            there = seen if listed is None else listed
            if new := sorted(there - seen):
                interval = _SHORTEST
                yield new
            else:
                interval = min(interval * _GROWTH, _LONGEST)
            seen = there
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SAFETY_NET if self._inotify else interval):
                    await self._told.wait()

    def _list(self) -> set[str] | None:
        try:
            return set(os.listdir(self._directory))
        except OSError:
            # Whether jobs are still there the scheduler is asked all the same.
            return None

    @staticmethod
    def remove(directory: str, names: Sequence[str]) -> None:
        """Remove events that have been dealt with.

        Raises
        ------
        OSError
            If some cannot be removed; the others have been. It may be called again with all.
        """
        failure = None
        for name in names:
            try:
                os.unlink(f"{directory}/{name}")
            except FileNotFoundError:
                pass
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure
