"""Files of a workflow on machines that share none with this one.

On each machine a tree mirrors the working directory of the workflow: jobs run in it, find
their inputs by the same relative paths, and leave their outputs there. So what one job has
made, or was sent for it, need not be sent for the next. A file lies there unchanged if its
size and time of modification are those of the file here, since both travel with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import socket
import stat
from collections.abc import Iterable, Mapping
from typing import Final

from pipen_executors import meter
from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.job import Job
from pipen_executors.jobdir import INFO

from .host import Host, Version
from .servers import Server
from .transfer import nanoseconds, receive, send

DEFAULT_WORKDIR: Final = "~/.pipen-ssh"
_OUTSIDE: Final = ".pipen-outside"
"""Where in the tree files lie that are not below the working directory here."""
_OF_JOB: Final = ("job.rc", "job.status", "job.stdout", "job.stderr", "job.timedout", meter.FILE)


class Staging:
    """Where files lie on machines, and how they get there and back.

    Parameters
    ----------
    base
        Working directory of the workflow.
    events
        Its events directory.
    """

    def __init__(self, base: str, events: str) -> None:
        self._base = base
        self._events = self.name(events)

    def tree(self, server: Server) -> str:
        """Return the directory of this workflow on a machine; it is the same in the next run."""
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", os.path.basename(self._base))[:40].lstrip(".-")
        whole = f"{socket.gethostname()}:{self._base}".encode(errors="surrogateescape")
        return (
            f"{(server.workdir or DEFAULT_WORKDIR).rstrip('/')}/"
            f"{name or 'workflow'}-{hashlib.sha256(whole).hexdigest()[:12]}"
        )

    def name(self, path: str) -> str:
        """Return the name of a file below the tree.

        Parameters
        ----------
        path
            Its path here, absolute or relative to the working directory.
        """
        absolute = os.path.normpath(os.path.join(self._base, path))
        if absolute == self._base:
            return "."
        if absolute.startswith(f"{self._base}/"):
            return absolute[len(self._base) + 1 :]
        return _OUTSIDE + absolute

    # -- there -------------------------------------------------------------------------

    async def put(self, host: Host, job: Job) -> None:
        """Bring to a machine what a job needs, and remove what an earlier start has left.

        Raises
        ------
        SchedulerError
            If it cannot be read here or written there.
        TransientError
            If the machine goes away.
        """
        own = self._own_files(job)
        wanted = await asyncio.to_thread(self._wanted, job)
        removed = (*job.spec.removable, *job.spec.removable_dirs, *job.spec.logs)
        stale = [self._there(job, path) for path in removed]
        shadow = job.spec.shadow_dir
        try:
            async with host.sending:
                unsent = await self._unsent(host, wanted)
                directories = [name for name in unsent if os.path.isdir(wanted[name])]
                for name in [*stale, *unsent]:
                    host.files.pop(name, None)
                await send(
                    host.carriers,
                    {**{name: wanted[name] for name in unsent}, **own},
                    prefix=f"{self._events}/{job.spec.key}",
                    stale=[self.name(job.directory.path), *stale, *directories],
                    directories=[] if shadow is None else [self.name(shadow)],
                )
                host.files |= unsent
        except (SchedulerError, OSError) as error:
            kind = TransientError if isinstance(error, TransientError) else SchedulerError
            raise kind(f"{host.name}: the files of the job were not sent: {error}") from None

    def _own_files(self, job: Job) -> dict[str, str]:
        """Return the files of the job directory that the job needs, and its named pipes."""
        directory = self.name(job.directory.path)
        names = ["job.script", *job.spec.files]
        names += [n for n in os.listdir(job.directory.path) if n.startswith("job.wrapped.")]
        files = {f"{directory}/{name}": job.directory.file(name) for name in names}
        here = ((path, self._here(job, path)) for path in job.spec.products)
        return files | {self._there(job, path): one for path, one in here if _is_pipe(one)}

    def _wanted(self, job: Job) -> dict[str, str]:
        """Return all inputs of a job, files and directories, by their names there."""
        removed = {*job.spec.removable, *job.spec.removable_dirs}
        updated = [path for path in job.spec.outputs if path not in removed]
        found = {}
        for path in (*job.spec.inputs, *updated):
            here, there = self._here(job, path), self._there(job, path)
            if os.path.isfile(here) or os.path.isdir(here):
                found[there] = here
        return found

    async def _unsent(self, host: Host, wanted: Mapping[str, str]) -> dict[str, Version]:
        """Return which files a machine does not have as they are here, with what they are."""
        here = await asyncio.to_thread(
            lambda: {name: _version(path) for name, path in wanted.items()}
        )
        unknown = [name for name in here if name not in host.files]
        if unknown:
            answer = (await host.ask("stat", len(unknown), *unknown)).split()
            marks, sizes = answer[: len(unknown)], iter(answer[len(unknown) :])
            for name, mark in zip(unknown, marks, strict=True):
                if mark == "+":
                    host.files[name] = _parse_version(next(sizes))
        return {name: version for name, version in here.items() if host.files.get(name) != version}

    def held(self, host: Host, job: Job) -> int:
        """Return how many bytes of a job's inputs are known to lie on a machine."""
        names = (self._there(job, path) for path in job.spec.inputs)
        return sum(host.files[name][0] for name in names if name in host.files)

    # -- and back ------------------------------------------------------------------------

    async def get(self, host: Host, job: Job, *, outputs: bool) -> None:
        """Bring the files of a job here.

        Raises
        ------
        SchedulerError
            If they cannot be read there.
        OSError
            If they cannot be written here.
        TransientError
            If the machine goes away.
        """
        directory = self.name(job.directory.path)
        notes = [*_OF_JOB, f"{INFO}.{job.token}"]
        files = {f"{directory}/{name}": job.directory.file(name) for name in notes}
        made = job.spec.outputs if outputs else ()
        for path in (*job.spec.logs, *made):
            files[self._there(job, path)] = self._here(job, path)
        async with host.fetching:
            try:
                await receive(host.carriers, files)
            except SchedulerError as error:
                raise type(error)(f"{host.name}: {error}") from None
        self._remember(host, job, made)

    def _remember(self, host: Host, job: Job, paths: Iterable[str]) -> None:
        """Note that the machine has the files that were fetched from it."""
        for path in paths:
            here, there = self._here(job, path), self._there(job, path)
            if os.path.exists(here):
                host.files[there] = _version(here)

    # -- names -----------------------------------------------------------------------------

    def _here(self, job: Job, path: str) -> str:
        return os.path.join(job.spec.shadow_dir or self._base, path)

    def _there(self, job: Job, path: str) -> str:
        name = self.name(path)
        shadow = job.spec.shadow_dir
        if shadow is None or name.startswith(_OUTSIDE):
            return name
        return f"{self.name(shadow)}/{name}"

    def cwd(self, host: Host, job: Job) -> str:
        """Return the working directory of a job on a machine."""
        local = os.path.abspath(job.spec.shadow_dir or self._base)
        if job.spec.cwd != local:
            return job.spec.cwd
        return os.path.normpath(f"{host.tree}/{self.name(local)}")


def _is_pipe(path: str) -> bool:
    return os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode)


def _version(path: str) -> Version:
    """Return what tells whether a file is the same; for a directory, all files in it."""
    if not os.path.isdir(path):
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns
    total, digest = 0, hashlib.sha256()
    for parent, directories, names in os.walk(path, followlinks=True):
        directories.sort()
        for name in (*directories, *sorted(names)):
            file = os.path.join(parent, name)
            found = os.stat(file) if os.path.exists(file) else os.lstat(file)
            size = found.st_size if stat.S_ISREG(found.st_mode) else 0
            digest.update(f"{file}\0{size}\0{found.st_mtime_ns}\0".encode(errors="surrogateescape"))
            total += size
    return total, int.from_bytes(digest.digest()[:8])


def _parse_version(text: str) -> Version:
    size, _, time = text.partition(":")
    return int(size), nanoseconds(time)
