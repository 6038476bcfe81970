"""Files to and from a machine, as one tar stream each way over its connection.

The stream is POSIX tar (pax), which keeps names of any bytes, modes, and times to the
nanosecond. What arrives here is written beside its place and renamed when the stream is
complete (:mod:`.arrival`): nothing that looks whole is half.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import IO, Any, Final, Literal

from pipen_executors.exceptions import SchedulerError, TransientError

from .answers import seconds
from .arrival import Arrival
from .carrier import Carriers, SessionEnded, Verdict
from .contents import Entry, entries

_CHANGED: Final = 1
"""Exit status of GNU tar when a file grew while it was read, as a running job's output does."""


async def send(
    carriers: Carriers,
    files: Mapping[str, str],
    prefix: str,
    stale: Sequence[str],
    directories: Sequence[str] = (),
    pairs: Sequence[tuple[str, str]] = (),
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
    pairs
        What takes the place of what when all has come, by names there.

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
        verdict = await carrier.put(reader, prefix, stale, pairs)
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
        where = f"{error.filename}: " if error.filename else ""
        raise SchedulerError(f"{where}{error.strerror or error}") from None


def _add(archive: tarfile.TarFile, path: str, name: str) -> None:
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        for entry in entries(path):
            _add_one(archive, entry, f"{name}/{entry.name}" if entry.name else name)
    else:
        _add_one(archive, Entry("", path, found), name)


def _add_one(archive: tarfile.TarFile, entry: Entry, name: str) -> None:
    """Write a file, a directory, a link or a named pipe; anything else is not sent."""
    info = tarfile.TarInfo(name)
    info.mode = stat.S_IMODE(entry.found.st_mode)
    info.pax_headers = {"mtime": seconds(entry.found.st_mtime_ns)}
    if entry.link:
        info.type, info.linkname = tarfile.SYMTYPE, entry.link
    elif stat.S_ISDIR(entry.found.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISFIFO(entry.found.st_mode):
        info.type = tarfile.FIFOTYPE
    elif stat.S_ISREG(entry.found.st_mode):
        with open(entry.path, "rb") as content:
            info.size = os.fstat(content.fileno()).st_size
            try:
                archive.addfile(info, content)
            except OSError as error:
                if error.errno is None:  # tarfile's own words
                    raise SchedulerError(f"{entry.path}: it grows smaller") from None
                raise
        return
    else:
        return
    archive.addfile(info)


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
    except OSError as error:
        lost = error
    finally:
        writer.close()  # lets the thread come to its end
        await asyncio.wait([thread])
        problem = thread.exception()  # asyncio reports one that nobody asked for
    if isinstance(problem, SchedulerError | OSError) and not isinstance(problem, BrokenPipeError):
        raise problem
    if isinstance(problem, Exception) and not isinstance(lost, SessionEnded | TimeoutError | None):
        raise _no_archive(problem)  # the thread was first, and what it did not read went nowhere
    if lost is not None:
        raise TransientError(f"the connection was lost {doing} ({lost})")


async def receive(carriers: Carriers, arrival: Arrival) -> None:
    """Bring files and directories from a machine; what is not there is left out.

    Parameters
    ----------
    carriers
        Who carries them.
    arrival
        What is wanted, and where it goes.

    Raises
    ------
    SchedulerError
        If they cannot be read there, or are not taken here, with the reason.
    OSError
        If they cannot be written here.
    TransientError
        If the connection is lost.
    """
    await asyncio.to_thread(arrival.clear)
    try:
        await _receive(carriers, arrival, list(arrival.files), [])
        if arrival.followed:
            await _receive(carriers, arrival, [], list(arrival.followed))
        arrival.settle()
    finally:
        arrival.clear()


async def _receive(
    carriers: Carriers, arrival: Arrival, names: Sequence[str], followed: Sequence[str]
) -> None:
    async with (
        _thread(partial(_unpack, arrival), "rb", "while fetching") as (thread, _, writer),
        carriers.one() as carrier,
    ):
        verdict = await carrier.get(names, followed, writer)
    _judge(verdict, "while fetching", accepted=(0, _CHANGED))
    if (problem := thread.exception()) is not None:
        raise _no_archive(problem)


def _no_archive(problem: BaseException) -> SchedulerError:
    return SchedulerError(f"what arrived is no archive: {problem}")


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


def _unpack(arrival: Arrival, stream: IO[bytes]) -> None:
    with _archive(stream, "r|") as archive:
        for member in archive:
            arrival.take(archive, member)
    while stream.read(1 << 16):  # what pads the last block
        pass
