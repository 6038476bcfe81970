"""One machine and the connection to it, which is made again whenever it is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import chain
from typing import Any, Final

import tenacity

from pipen_executors.exceptions import SchedulerError, TransientError

from .access import Access, log_in
from .agent import Agent
from .carrier import Carriers
from .servers import Server

Version = tuple[int, int]
"""Size and time of modification (in nanoseconds) of a file."""

_SESSIONS: Final = 4
"""Sessions for fetching at a time: sshd allows ten on a connection (MaxSessions)."""


class Host:
    """A machine that runs jobs.

    Attributes
    ----------
    slots, mem_mb
        Its size; None as long as it is not known.
    oom_kills
        How many processes its kernel had killed for want of memory when a job started.
    tree
        Directory where its files begin, absolute, once it has been reached.
    files
        What lies there of the workflow's files, by name: the same that lay here.
    sending, fetching
        Keep transfers in order, and within the sessions that a server allows.
    given_up
        Process ids and wrappers of jobs that may still run on it, and must not when it
        comes back.

    Parameters
    ----------
    server
        What the user says of it.
    access
        How it is reached.
    tree
        Directory on it where its files begin, or where its agent works.
    events
        Its events directory, absolute or below the tree.
    on_event
        Called with the name of each event that it tells.
    on_change
        Called when it has become reachable, or is so no longer.
    warn
        Called with a line for the user.
    """

    def __init__(
        self,
        server: Server,
        access: Access,
        tree: str,
        events: str,
        *,
        on_event: Callable[[str], None],
        on_change: Callable[[], None],
        warn: Callable[[str], None],
    ) -> None:
        self.server = server
        self.name = server.name
        self._access = access
        self._tree = tree
        self._events = events
        self._on_event = on_event
        self._on_change = on_change
        self._warn = warn
        self._agent: Agent | None = None
        self._connection: Any = None
        self._carriers: Carriers | None = None
        self._task: asyncio.Task[None] | None = None
        self._away_since = time.monotonic()
        self._why = "not connected yet"
        self._away_told = False
        self.slots = server.slots
        self.mem_mb = server.mem_mb
        self.oom_kills = 0
        self.tree = ""
        self.files: dict[str, Version] = {}
        self.sending = asyncio.Lock()
        self.fetching = asyncio.Semaphore(_SESSIONS)
        self.given_up: list[tuple[str, str]] = []

    # -- what it is like -------------------------------------------------------------

    @property
    def is_here(self) -> bool:
        """Whether it can be asked now."""
        return self._agent is not None

    @property
    def is_lost(self) -> bool:
        """Whether it has not answered for so long that nothing is expected of it."""
        away = time.monotonic() - self._away_since
        return not self.is_here and away >= self._access.host_timeout

    @property
    def trouble(self) -> str:
        """Why it cannot be asked, and for how long, in one line."""
        away = time.monotonic() - self._away_since
        return f"{self.name} has not been reachable for {away:.0f} s ({self._why})"

    @property
    def carriers(self) -> Carriers:
        """Who carries files.

        Raises
        ------
        TransientError
            If the machine is away.
        """
        if self._carriers is None:
            raise TransientError(self.trouble)
        return self._carriers

    async def come_back(self) -> None:
        """Wait until it can be asked, or is lost."""
        while not self.is_here and not self.is_lost:
            await asyncio.sleep(0.2)

    async def ask(self, operation: str, *fields: object) -> str:
        """Ask the agent (see :meth:`Agent.ask`).

        Raises
        ------
        SchedulerError
            If it refuses.
        TransientError
            If the machine is away, or goes away meanwhile.
        """
        if self._agent is None:
            raise TransientError(self.trouble)
        return await self._agent.ask(operation, *fields)

    # -- its connection ----------------------------------------------------------------

    async def open(self) -> None:
        """Connect for the first time, and keep the connection up from then on.

        Raises
        ------
        SchedulerError
            If it refuses the login, its key is not known, or it cannot run jobs at all.
        TransientError
            If it does not answer; it is tried again in the background.
        """
        try:
            await self._connect()
        except SchedulerError as error:
            if not isinstance(error, TransientError):
                raise
            self._away_told = True
            self._task = asyncio.create_task(self._keep())
            raise
        self._task = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Let go of the connection; jobs go on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self.is_here:
            self._connection.close()
            await self._connection.wait_closed()

    async def _keep(self) -> None:
        """Serve the connection, and make it again with back-off (with jitter) when it is lost."""
        while True:
            if self._agent is not None:
                await self._listening
                self._let_go()
            async for attempt in tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception_type(SchedulerError),
                wait=tenacity.wait_random_exponential(multiplier=0.5, max=30, min=0.2),
            ):
                with attempt:
                    await self._connect()

    def _let_go(self) -> None:
        self._agent = self._carriers = None
        self._away_since = time.monotonic()
        self._why = "the connection was lost"
        self._connection.abort()
        self._away_told = True
        self._warn(f"The connection to {self.name} was lost; its jobs go on, connecting again.")
        self._on_change()
        asyncio.get_running_loop().call_later(self._access.host_timeout, self._on_change)

    async def _connect(self) -> None:
        connection = None
        try:
            async with asyncio.timeout(self._access.connect_timeout):
                connection = await log_in(self.server, self._access)
                agent = await self._start_agent(connection)
        except BaseException as error:
            if connection is not None:
                connection.abort()
            problem = self._problem(error)
            self._why = str(problem).removeprefix(f"{self.name}: ")
            raise problem from None
        if self._away_told:
            self._away_told = False
            self._warn(f"{self.name} is reachable again.")
        self._connection, self._agent = connection, agent
        self._carriers = Carriers(connection, self.tree, self.name)
        self._on_change()

    def _problem(self, error: BaseException) -> BaseException:
        """Return what an error means: to be tried again, or not."""
        if isinstance(error, TimeoutError):
            seconds = self._access.connect_timeout
            return TransientError(f"{self.name}: no answer within {seconds:g} s")
        if isinstance(error, Exception) and not isinstance(error, SchedulerError):
            words = getattr(error, "reason", None) or str(error) or repr(error)
            return TransientError(f"{self.name}: {words}")
        return error

    async def _start_agent(self, connection: Any) -> Agent:
        # One word for the user's login shell, whichever that is; all else goes by stdin.
        process = await connection.create_process("exec /bin/bash", encoding=None)
        agent = Agent(process, self.name, self._on_event)
        await agent.greet()
        self._listening = asyncio.create_task(agent.listen())
        answer = await agent.ask(
            "hello", f".bell-{self.name}", self._tree, self._events, self.server.tmpdir or ""
        )
        cores, memory, oom_kills, self.tree = answer.split(" ", 3)
        self.slots = self.server.slots or int(cores)
        self.mem_mb = self.server.mem_mb or int(memory)
        self.oom_kills = int(oom_kills)
        if self.given_up:
            fields = chain.from_iterable(self.given_up)
            await agent.ask("kill", 0, len(self.given_up), *fields)
            self.given_up.clear()
        return agent
