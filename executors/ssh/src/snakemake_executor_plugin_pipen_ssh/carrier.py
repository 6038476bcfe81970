"""Sessions that carry files as tar archives (``carrier.sh``), kept for the next transfer.

A session costs a login shell, which can take longer than all else about a small job.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .agent import frame, greet, script

_GREETING: Final = b"pipen-carrier "
_PIECE: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a transfer ended on the machine.

    Parameters
    ----------
    status
        Exit status of tar.
    why
        What it wrote to its standard error.
    """

    status: int
    why: str


class Carrier:
    """One session.

    Parameters
    ----------
    process
        The session (``asyncssh.SSHClientProcess`` with bytes).

    Attributes
    ----------
    is_idle
        Whether it waits for a request: no transfer has been broken off.
    """

    def __init__(self, process: Any) -> None:
        self._process = process
        self.is_idle = True

    async def put(
        self, archive: asyncio.StreamReader, prefix: str, stale: Sequence[str]
    ) -> Verdict:
        """Remove what is stale, see ``carrier.sh``, and unpack an archive.

        Raises
        ------
        OSError
            If the connection is lost.
        """
        mark = self._ask("put", prefix, len(stale), *stale)
        while piece := await archive.read(_PIECE):
            self._process.stdin.write(frame(len(piece)) + piece)
            await self._process.stdin.drain()
        self._process.stdin.write(frame(0))
        return await self._answer(mark)

    async def get(self, names: Sequence[str], archive: asyncio.StreamWriter) -> Verdict:
        """Pack files; names of what is not there are left out.

        Raises
        ------
        OSError
            If the connection is lost, or the archive cannot be written.
        """
        return await self._answer(self._ask("get", len(names), *names), archive)

    def close(self) -> None:
        """End the session, whatever it does."""
        self._process.close()

    def _ask(self, operation: str, *fields: object) -> bytes:
        self.is_idle = False
        mark = secrets.token_hex(16)
        self._process.stdin.write(frame(operation, mark, *fields))
        return f"\n{mark} ".encode()

    async def _answer(self, mark: bytes, archive: asyncio.StreamWriter | None = None) -> Verdict:
        """Read what comes before a mark, and the verdict behind it."""
        text = b""
        while (at := text.find(mark)) < 0:
            if archive is not None and len(text) > len(mark):
                archive.write(text[: -len(mark)])
                text = text[-len(mark) :]
                await archive.drain()
            text += await self._read()
        if archive is not None:
            archive.write(text[:at])
        text = text[at + len(mark) :]
        while not text.endswith(b"\0"):
            text += await self._read()
        self.is_idle = True
        status, _, why = text[:-1].decode(errors="replace").partition("\n")
        return Verdict(int(status), why)

    async def _read(self) -> bytes:
        piece: bytes = await self._process.stdout.read(_PIECE)
        if not piece:
            raise ConnectionResetError("the session has ended")
        return piece


class Carriers:
    """The sessions of one connection that carry files; made when one is needed.

    Parameters
    ----------
    connection
        The connection (``asyncssh.SSHClientConnection``).
    tree
        Directory on the machine below which names lie.
    name
        Of the machine, for messages.
    """

    def __init__(self, connection: Any, tree: str, name: str) -> None:
        self._connection = connection
        self._tree = tree
        self._name = name
        self._idle: list[Carrier] = []

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[Carrier]:
        """Yield one that nobody uses.

        Raises
        ------
        SchedulerError
            If bash does not run there.
        OSError, asyncssh.Error
            If no session can be opened.
        """
        carrier = self._idle.pop() if self._idle else await self._open()
        try:
            yield carrier
        finally:
            if carrier.is_idle:
                self._idle.append(carrier)
            else:
                carrier.close()

    async def _open(self) -> Carrier:
        process = await self._connection.create_process("exec /bin/bash", encoding=None)
        await greet(process, script("carrier.sh") + frame(self._tree), _GREETING, self._name)
        return Carrier(process)
