"""Files of a workflow on machines that share none with this one.

On each machine a tree mirrors the working directory of the workflow: jobs run in it, find
their inputs by the same relative paths, and leave their outputs there. So what one job has
made, or was sent for it, need not be sent for the next. A file lies there unchanged if its
size and time of modification are those of the file here, since both travel with it; a directory,
if that is so of all files in it.

What has changed here is sent again only when no job that may read it runs there, and a directory
takes the place of the old one in one step.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import socket
import stat
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from pipen_executors import meter
from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.job import Job
from pipen_executors.jobdir import INFO

from . import answers
from .answers import Nonsense, Version
from .arrival import Arrival
from .carrier import Carriers
from .contents import version
from .host import Host
from .servers import Server
from .transfer import receive, send

DEFAULT_WORKDIR: Final = "~/.pipen-ssh"
_OUTSIDE: Final = ".pipen-outside"
"""Where in the tree files lie that are not below the working directory here."""
_NEW: Final = ".pipen-new"
"""Where in the tree directories are unpacked that then take their places."""
_AT_A_TIME: Final = 50
"""Names that are asked about at a time: the answer is one line of less than 4 KiB, which no other
process of the agent can write into (pipe(7), PIPE_BUF)."""
_SOMETHING_ELSE: Final[Version] = (0, -1)
"""What is no version of any file or directory here."""
_STAT_PATIENCE: Final = 3600.0
"""Seconds that a look at what lies there may take: of a directory, at each file in it."""
_OF_JOB: Final = ("job.rc", "job.status", "job.stdout", "job.stderr", "job.timedout", meter.FILE)


class Staging:
    """Where files lie on machines, and how they get there and back.

    Parameters
    ----------
    base
        Working directory of the workflow.
    events
        Its events directory.
    warn
        Called with a line for the user.
    """

    def __init__(self, base: str, events: str, warn: Callable[[str], None]) -> None:
        self._base = base
        self._warn = warn
        self._events = self.name(events)

    def tree(self, server: Server) -> str:
        """Return the directory of this workflow on a machine; it is the same in the next run.

        It is called as the working directory here, since workflows use that name. Only a name
        with control characters, in which a machine could not answer, is another there.
        """
        own = os.path.basename(self._base)
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", own)[:40].lstrip(".-") or "workflow"
        whole = f"{socket.gethostname()}:{self._base}".encode(errors="surrogateescape")
        return (
            f"{(server.workdir or DEFAULT_WORKDIR).rstrip('/')}/"
            f"{name}-{hashlib.sha256(whole).hexdigest()[:12]}/"
            f"{own if own and own.isprintable() else name}"
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
        wanted = await asyncio.to_thread(self._wanted, job)
        here = await self._versions_here(host, wanted)
        told: set[str] = set()
        while True:
            stock = host.stock
            async with stock.sending:
                unsent = await self._unsent(host, here)
                in_use = stock.readers([name for name in unsent if name in stock.files], job)
                if not in_use:
                    stock.use(job, wanted)
                    await self._send(host, job, wanted, unsent)
                    return
            for reader, name in in_use.items():
                if name not in told:
                    told.add(name)
                    self._warn(
                        f"{name} has changed since it was sent to {host.name} for a job that may "
                        f"still read it ({reader.spec.rule}): {job.spec.rule} waits for its end"
                    )
            await stock.change()

    async def _versions_here(self, host: Host, wanted: Mapping[str, str]) -> dict[str, Version]:
        try:
            return await asyncio.to_thread(
                lambda: {name: version(path) for name, path in wanted.items()}
            )
        except OSError as error:
            raise SchedulerError(_not_sent(host, error)) from None

    async def _send(
        self, host: Host, job: Job, wanted: Mapping[str, str], unsent: Mapping[str, Version]
    ) -> None:
        removed = (*job.spec.removable, *job.spec.removable_dirs, *job.spec.logs)
        stale = [self._there(job, path) for path in removed]
        shadow = job.spec.shadow_dir
        for name in [*stale, *unsent]:
            host.stock.files.pop(name, None)
        files = {name: wanted[name] for name in unsent}
        new = f"{_NEW}/{secrets.token_hex(8)}"
        pairs = []
        for number, name in enumerate(name for name in unsent if os.path.isdir(wanted[name])):
            pairs.append((f"{new}/{number}", name))
            files[f"{new}/{number}"] = files.pop(name)
        carriers = host.carriers
        try:
            await send(
                carriers,
                {**files, **self._own_files(job)},
                prefix=f"{self._events}/{job.spec.key}",
                stale=[self.name(job.directory.path), *stale],
                directories=[] if shadow is None else [self.name(shadow)],
                pairs=pairs,
            )
        except Nonsense as error:
            host.distrust(error, carriers)
            raise TransientError(_not_sent(host, error)) from None
        except (SchedulerError, OSError) as error:
            kind = TransientError if isinstance(error, TransientError) else SchedulerError
            raise kind(_not_sent(host, error)) from None
        host.stock.files |= unsent

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

    async def _unsent(self, host: Host, here: Mapping[str, Version]) -> dict[str, Version]:
        """Return which files a machine does not have as they are here, with what they are."""
        files = host.stock.files
        unknown = [name for name in here if name not in files]
        for start in range(0, len(unknown), _AT_A_TIME):
            some = unknown[start : start + _AT_A_TIME]
            read = partial(answers.versions, count=len(some))
            found = await host.ask("stat", len(some), *some, read=read, patience=_STAT_PATIENCE)
            for name, there in zip(some, found, strict=True):
                if there == f"{here[name][1]:064x}":
                    files[name] = here[name]  # a directory with just that in it
                elif there is not None:
                    files[name] = there if isinstance(there, tuple) else _SOMETHING_ELSE
        return {name: version for name, version in here.items() if files.get(name) != version}

    def held(self, host: Host, job: Job) -> int:
        """Return how many bytes of a job's inputs are known to lie on a machine."""
        files = host.stock.files
        names = (self._there(job, path) for path in job.spec.inputs)
        return sum(files[name][0] for name in names if name in files)

    def use(self, host: Host, job: Job) -> None:
        """Note that a job of an earlier run may still read its inputs."""
        host.stock.use(job, [self._there(job, path) for path in job.spec.inputs])

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
        made = (*job.spec.outputs, *job.spec.touched) if outputs else ()
        for path in (*job.spec.logs, *made):
            files[self._there(job, path)] = self._here(job, path)
        known = [self._here(job, path) for path in (*job.spec.inputs, *job.spec.outputs)]
        async with host.fetching:
            carriers = host.carriers
            try:
                await receive(carriers, Arrival(files, known, host.tree, self._base))
            except Nonsense as error:
                host.distrust(error, carriers)
                raise TransientError(f"{host.name}: {error}") from None
            except SchedulerError as error:
                kind = TransientError if isinstance(error, TransientError) else SchedulerError
                raise kind(f"{host.name}: {error}") from None
            if outputs and job.spec.shadow_dir is not None:
                await self._discard(host, carriers, self.name(job.spec.shadow_dir))
                return
        await asyncio.to_thread(self._remember, host, job, made)

    async def _discard(self, host: Host, carriers: Carriers, shadow: str) -> None:
        """Remove a shadow directory when all has come, as Snakemake does here."""
        for name in [name for name in host.stock.files if name.startswith(f"{shadow}/")]:
            del host.stock.files[name]
        # If it stays it takes room, and nothing else.
        with contextlib.suppress(OSError, SchedulerError):
            async with carriers.one() as carrier:
                await carrier.discard(shadow)

    def _remember(self, host: Host, job: Job, paths: Iterable[str]) -> None:
        """Note that the machine has the files that were fetched from it."""
        for path in paths:
            here, there = self._here(job, path), self._there(job, path)
            if os.path.exists(here):
                host.stock.files[there] = version(here)

    # -- names -----------------------------------------------------------------------------

    def _here(self, job: Job, path: str) -> str:
        return os.path.join(job.spec.shadow_dir or self._base, path)

    def _there(self, job: Job, path: str) -> str:
        name = self.name(path)
        shadow = job.spec.shadow_dir
        return name if shadow is None else f"{self.name(shadow)}/{name}"

    def cwd(self, host: Host, job: Job) -> str:
        """Return the working directory of a job on a machine."""
        local = os.path.abspath(job.spec.shadow_dir or self._base)
        if job.spec.cwd != local:
            return job.spec.cwd
        return os.path.normpath(f"{host.tree}/{self.name(local)}")


def _not_sent(host: Host, error: Exception) -> str:
    return f"{host.name}: the files of the job were not sent: {error}"


def _is_pipe(path: str) -> bool:
    return os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode)
