"""Files to and from a machine, as one tar stream each way over its connection.

The stream is POSIX tar (pax), which keeps names of any bytes, modes, and times to the
nanosecond. What arrives here is written beside its place and renamed when the stream is
complete: nothing that looks whole is half.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import stat
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any, Final, Literal

import asyncssh

from pipen_executors.exceptions import SchedulerError, TransientError

from .carrier import Carriers, Verdict

_CHANGED: Final = 1
"""Exit status of GNU tar when a file grew while it was read, as a running job's output does."""

_PARTIAL: Final = ".pipen-partial"


async def send(
    carriers: Carriers,
    files: Mapping[str, str],
    prefix: str,
    stale: Sequence[str],
    directories: Sequence[str] = (),
) -> None:
    """Send files and directories to a machine.

    Parameters
    ----------
    carriers
        Who carries them.
    files
        By name there: their path here. What a link points at is sent; named pipes are made.
    prefix, stale
        What is removed there before: all names that begin with the prefix and a dot, and
        some names.
    directories
        Names of directories that must be there, though no file is sent into them.

    Raises
    ------
    SchedulerError
        If they cannot be read here or written there, with the reason.
    TransientError
        If the connection is lost.
    """
    async with (
        _thread(partial(_pack, files, directories), "wb", "while sending") as (_, reader, _),
        carriers.one() as carrier,
    ):
        verdict = await carrier.put(reader, prefix, stale)
    _judge(verdict, "while sending", accepted=(0,))


def _pack(files: Mapping[str, str], directories: Sequence[str], stream: IO[bytes]) -> None:
    try:
        with _archive(stream, "w|", dereference=True) as archive:
            for name in directories:
                info = tarfile.TarInfo(name)
                info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, int(time.time())
                archive.addfile(info)
            for name, path in files.items():
                _add(archive, path, name)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SchedulerError(f"{error.filename}: {error.strerror}") from None


def _add(archive: tarfile.TarFile, path: str, name: str) -> None:
    found = os.stat(path)
    if not any(kind(found.st_mode) for kind in (stat.S_ISREG, stat.S_ISDIR, stat.S_ISFIFO)):
        return
    info = archive.gettarinfo(path, arcname=name)
    info.uname = info.gname = ""
    info.uid = info.gid = 0
    seconds, nanoseconds = divmod(found.st_mtime_ns, 10**9)
    info.pax_headers = {"mtime": f"{seconds}.{nanoseconds:09d}"}
    if info.isreg():
        with open(path, "rb") as content:
            archive.addfile(info, content)
        return
    archive.addfile(info)
    if info.isdir():
        for entry in sorted(os.listdir(path)):
            with contextlib.suppress(FileNotFoundError):  # a link that points nowhere
                _add(archive, f"{path}/{entry}", f"{name}/{entry}")


@contextlib.asynccontextmanager
async def _thread(
    work: Callable[[IO[bytes]], None], mode: Literal["rb", "wb"], doing: str
) -> AsyncIterator[tuple[asyncio.Task[None], asyncio.StreamReader, asyncio.StreamWriter]]:
    """Let a thread read or write what passes through this loop.

    Parameters
    ----------
    work
        What the thread does, with its end of the stream.
    mode
        Which end that is.
    doing
        What for, in words for a message.

    Raises
    ------
    SchedulerError, OSError
        What went wrong here, before anything that went wrong in the loop because of that.
    TransientError
        If the connection was lost.
    """
    here, there = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=here)

    def run() -> None:
        with there, there.makefile(mode) as stream:
            work(stream)

    thread = asyncio.create_task(asyncio.to_thread(run))
    lost: Exception | None = None
    try:
        yield thread, reader, writer
    except (OSError, asyncssh.Error) as error:
        lost = error
    finally:
        writer.close()  # lets the thread come to its end
        await asyncio.wait([thread])
        problem = thread.exception()  # asyncio reports one that nobody asked for
    if isinstance(problem, SchedulerError | OSError) and not isinstance(problem, BrokenPipeError):
        raise problem
    if lost is not None:
        raise TransientError(f"the connection was lost {doing} ({lost})")


async def receive(carriers: Carriers, files: Mapping[str, str]) -> None:
    """Bring files and directories from a machine; what is not there is left out.

    Parameters
    ----------
    carriers
        Who carries them.
    files
        By name there: their path here.

    Raises
    ------
    SchedulerError
        If they cannot be read there, with the reason.
    OSError
        If they cannot be written here.
    TransientError
        If the connection is lost.
    """
    arrival = _Arrival(files)
    try:
        async with (
            _thread(partial(_unpack, arrival), "rb", "while fetching") as (thread, _, writer),
            carriers.one() as carrier,
        ):
            verdict = await carrier.get(list(files), writer)
        _judge(verdict, "while fetching", accepted=(0, _CHANGED))
        if (problem := thread.exception()) is not None:
            raise SchedulerError(f"what arrived is no archive: {problem}")
        arrival.settle()
    finally:
        arrival.clear()


def _judge(verdict: Verdict, doing: str, accepted: Sequence[int]) -> None:
    if verdict.status not in accepted:
        why = "; ".join(verdict.why.splitlines()[:3])
        raise SchedulerError(f"{doing}: {why or f'exit status {verdict.status}'}")


def _archive(stream: IO[bytes], mode: Any, **options: Any) -> tarfile.TarFile:
    return tarfile.open(
        fileobj=stream,
        mode=mode,
        format=tarfile.PAX_FORMAT,
        encoding="utf-8",
        errors="surrogateescape",
        **options,
    )


@dataclass
class _Arrival:
    """Files on their way to their places.

    Parameters
    ----------
    files
        Their places here, by their names in the archive.
    """

    files: Mapping[str, str]
    times: list[tuple[str, int, int]] = field(default_factory=list)
    directories: set[str] = field(default_factory=set)

    def partial(self, name: str) -> str:
        """Return where a file is written until it is complete: beside its place."""
        head, _, tail = self.files[name].rpartition("/")
        return f"{head}/.{tail[:200]}{_PARTIAL}"

    def split(self, member: str) -> tuple[str, str]:
        """Return which of the files a member of the archive belongs to, and its path in there.

        Raises
        ------
        tarfile.TarError
            If it belongs to none.
        """
        name, rest = member, ""
        while name not in self.files:
            name, slash, last = name.rpartition("/")
            if not slash or last in ("", ".", ".."):
                raise tarfile.TarError(f"{member!r} was not asked for")
            rest = f"/{last}{rest}"
        return name, rest

    def settle(self) -> None:
        """Rename all that has come to its place."""
        for path, mode, nanoseconds in reversed(self.times):  # directories after their contents
            os.chmod(path, mode)
            os.utime(path, ns=(nanoseconds, nanoseconds))
        for name, place in self.files.items():
            partial = self.partial(name)
            if not os.path.lexists(partial):
                continue
            if os.path.isdir(place) and not os.path.islink(place):
                shutil.rmtree(place)
            os.replace(partial, place)

    def clear(self) -> None:
        """Remove what has not got to its place."""
        for name in self.files:
            _remove(self.partial(name))


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _unpack(arrival: _Arrival, stream: IO[bytes]) -> None:
    arrival.clear()
    with _archive(stream, "r|") as archive:
        for member in archive:
            _extract(archive, member, arrival)
    while stream.read(1 << 16):  # what pads the last block
        pass


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, arrival: _Arrival) -> None:
    """Write one member of an archive, and nothing outside of where it belongs."""
    name, rest = arrival.split(member.name)
    path = arrival.partial(name) + rest
    parent = os.path.dirname(path)
    if not rest:
        os.makedirs(parent, exist_ok=True)
    elif parent not in arrival.directories:  # a link, perhaps to another place
        raise tarfile.TarError(f"{member.name!r} is in no directory of the archive")
    if member.isdir():
        os.mkdir(path, 0o700)
        arrival.directories.add(path)
    elif member.isreg():
        content = archive.extractfile(member)
        assert content is not None
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            shutil.copyfileobj(content, stream, 1 << 20)
    elif member.issym():
        os.symlink(member.linkname, path)
        return
    elif member.islnk():
        other, inside = arrival.split(member.linkname)
        os.link(arrival.partial(other) + inside, path)
        return
    else:
        return  # a device or a named pipe
    changed = nanoseconds(member.pax_headers.get("mtime", str(int(member.mtime))))
    arrival.times.append((path, stat.S_IMODE(member.mode), changed))


def nanoseconds(seconds: str) -> int:
    """Read a time in seconds as exactly as it is written: a float holds no nanoseconds."""
    whole, _, fraction = seconds.partition(".")
    return int(whole) * 10**9 + int(fraction.ljust(9, "0")[:9])
