"""Sessions that carry files as tar archives (``carrier.sh``), kept for the next transfer.

A session costs a login shell, which can take longer than all else about a small job.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.plain_text import plain

from .agent import NoShellError, frame, greet, script
from .answers import Nonsense
from .client import Client, Session

_GREETING: Final = b"pipen-carrier "
_PIECE: Final = 1 << 18
_PATIENCE: Final = 600.0
"""Seconds without a byte, in either direction, after which a transfer is broken off."""
_LONGEST_VERDICT: Final = 1 << 20
_VERDICT: Final = re.compile(rb"([0-9]{1,3})\n(.*)\0", re.DOTALL)


class SessionEnded(ConnectionResetError):
    """A session has ended during a transfer."""


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
    session
        The session.

    Attributes
    ----------
    is_idle
        Whether it waits for a request: no transfer has been broken off.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.is_idle = True

    async def put(
        self,
        archive: asyncio.StreamReader,
        prefix: str,
        stale: Sequence[str],
        pairs: Sequence[tuple[str, str]],
    ) -> Verdict:
        """Remove what is stale, unpack an archive, put each first of a pair in a second's place.

        Raises
        ------
        OSError
            If the connection is lost.
        """
        mark = self._ask(
            "put",
            prefix,
            len(stale),
            *stale,
            len(pairs),
            *(name for pair in pairs for name in pair),
        )
        while piece := await archive.read(_PIECE):
            self._session.stdin.write(frame(len(piece)) + piece)
            async with asyncio.timeout(_PATIENCE):
                await self._session.stdin.drain()
        self._session.stdin.write(frame(0))
        return await self._answer(mark)

    async def get(
        self, names: Sequence[str], followed: Sequence[str], archive: asyncio.StreamWriter
    ) -> Verdict:
        """Pack files, some followed where they are links; what is not there is left out.

        Raises
        ------
        OSError
            If the connection is lost, or the archive cannot be written.
        """
        mark = self._ask("get", len(names), *names, len(followed), *followed)
        return await self._answer(mark, archive)

    async def discard(self, name: str) -> Verdict:
        """Remove a directory, if it is there; nobody ever finds half of it.

        Raises
        ------
        OSError
            If the connection is lost.
        """
        return await self._answer(self._ask("discard", name))

    def close(self) -> None:
        """End the session, whatever it does."""
        self._session.close()

    def _ask(self, operation: str, *fields: object) -> bytes:
        self.is_idle = False
        mark = secrets.token_hex(16)
        self._session.stdin.write(frame(operation, mark, *fields))
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
            if len(text) > _LONGEST_VERDICT:
                raise Nonsense("it sent an endless answer to a transfer")
            text += await self._read()
        match = _VERDICT.fullmatch(text)
        if match is None:
            raise Nonsense(f"it answered a transfer with {text[:80]!r}")
        self.is_idle = True
        return Verdict(int(match[1]), plain(match[2].decode(errors="replace")))

    async def _read(self) -> bytes:
        async with asyncio.timeout(_PATIENCE):
            piece = await self._session.stdout.read(_PIECE)
        if not piece:
            raise SessionEnded("the session has ended")
        return piece


class Carriers:
    """The sessions of one connection that carry files; made when one is needed.

    Parameters
    ----------
    client
        The connection.
    tree
        Directory on the machine below which names lie.
    name
        Of the machine, for messages.
    patience
        Seconds that a new session may take.
    """

    def __init__(self, client: Client, tree: str, name: str, patience: float) -> None:
        self._client = client
        self._tree = tree
        self._name = name
        self._patience = patience
        self._idle: list[Carrier] = []

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[Carrier]:
        """Yield one that nobody uses.

        Raises
        ------
        SchedulerError
            If bash does not run there.
        TransientError
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
        session = await self._client.session()
        text = script("tree.sh") + script("carrier.sh") + frame(self._tree)
        try:
            async with asyncio.timeout(self._patience):
                await greet(session, text, _GREETING)
        except BaseException as error:
            session.close()
            if isinstance(error, TimeoutError):
                why = f"{self._name}: no answer within {self._patience:g} s"
                raise TransientError(why) from None
            if isinstance(error, NoShellError):
                raise self._problem(session, str(error)) from None
            raise
        return Carrier(session)

    def _problem(self, session: Session, why: str) -> SchedulerError:
        if session.is_refused:
            return self._client.problem(why)
        return SchedulerError(f"{self._name} does not run /bin/bash: {why or 'no reason'}")
