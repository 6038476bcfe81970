"""One machine and the connection to it, which is made again whenever it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import tenacity

from pipen_executors.exceptions import SchedulerError, TransientError

from . import answers
from .agent import PATIENCE, Agent, NoShellError
from .answers import Nonsense, Silence
from .carrier import Carriers
from .client import Access, Client
from .servers import Server
from .stock import Stock, Stocks

T = TypeVar("T")

_SESSIONS: Final = 4
"""Sessions for fetching at a time: sshd allows ten on a connection (MaxSessions)."""
_BROKEN_SESSIONS: Final = 3
"""How many sessions in a row may end because of what a machine sent."""
_SOUND: Final = 600.0
"""Seconds after which a session that is still there has been a sound one."""
_LETTING_GO: Final = 5.0
"""Seconds for which the end of a connection is waited for that could not be made use of."""
_SKEW: Final = 2.0
"""Seconds by which clocks may differ before the user is told."""


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
    stock
        What lies in its tree; the same object for machines that have the same tree.
    fetching
        Keeps fetches within the sessions that a server allows.

    Parameters
    ----------
    server
        What the user says of it.
    access
        How it is reached.
    stocks
        What lies in the trees of all machines.
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
        stocks: Stocks,
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
        self._stocks = stocks
        self._tree = tree
        self._events = events
        self._on_event = on_event
        self._on_change = on_change
        self._warn = warn
        self._agent: Agent | None = None
        self._client: Client | None = None
        self._carriers: Carriers | None = None
        self._task: asyncio.Task[None] | None = None
        self._away_since = time.monotonic()
        self._why = "not connected yet"
        self._away_told = False
        self._opened = 0.0
        self._listening: asyncio.Task[None] | None = None
        self._broken = 0
        self._set_aside = False
        self._skew_told = False
        self.slots = server.slots
        self.mem_mb = server.mem_mb
        self.oom_kills = 0
        self.tree = ""
        self.stock = Stock()
        self.fetching = asyncio.Semaphore(_SESSIONS)
        self._given_up: list[str] = []
        self._ending: asyncio.Task[None] | None = None

    # -- what it is like -------------------------------------------------------------

    @property
    def is_here(self) -> bool:
        """Whether it can be asked now."""
        return self._agent is not None

    @property
    def is_lost(self) -> bool:
        """Whether it has not answered for so long that nothing is expected of it."""
        away = time.monotonic() - self._away_since
        return not self.is_here and (self._set_aside or away >= self._access.host_timeout)

    @property
    def trouble(self) -> str:
        """Why it cannot be asked, and for how long, in one line."""
        if self._set_aside:
            return f"{self.name} is not asked any more: {self._why}"
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

    def give_up(self, jobs: Sequence[str]) -> None:
        """Note jobs that may still run, and must not when the machine comes back.

        Parameters
        ----------
        jobs
            Process id and wrapper of each.
        """
        self._given_up = [*self._given_up, *jobs]

    async def come_back(self) -> None:
        """Wait until it can be asked, or is lost."""
        while not self.is_here and not self.is_lost:
            await asyncio.sleep(0.2)

    async def ask(
        self,
        operation: str,
        *fields: object,
        read: Callable[[str], T],
        patience: float = PATIENCE,
    ) -> T:
        """Ask the agent (see :meth:`Agent.ask`).

        Parameters
        ----------
        operation, *fields
            What for.
        read
            Reads the answer; raises :class:`Nonsense` if it cannot be right.
        patience
            Seconds that an answer may take.

        Raises
        ------
        SchedulerError
            If it refuses.
        TransientError
            If the machine is away, or goes away meanwhile.
        """
        agent = self._agent
        if agent is None:
            raise TransientError(self.trouble)
        try:
            return read(await agent.ask(operation, *fields, patience=patience))
        except (Nonsense, Silence) as error:
            self.distrust(error, agent)
            raise TransientError(f"{self.name}: {error}") from None

    def distrust(self, error: Nonsense | Silence, of: Agent | Carriers) -> None:
        """Break a connection off in which the machine has sent what cannot be right, or nothing.

        Parameters
        ----------
        error
            What was wrong.
        of
            The end of the connection that it came from: a later connection is left alone.
        """
        if self._agent is not None and (of is self._agent or of is self._carriers):
            assert self._client is not None
            self._agent.failure = error
            self._client.abort()

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
        tasks = [task for task in (self._task, self._ending) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    async def _keep(self) -> None:
        """Serve the connection, and make it again with back-off (with jitter) when it is lost."""
        while True:
            if self._agent is not None:
                assert self._listening is not None
                await self._listening
                await self._let_go(self._agent.failure)
            if self._set_aside:
                return
            async for attempt in tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception_type(SchedulerError),
                wait=tenacity.wait_random_exponential(multiplier=0.5, max=30, min=0.2),
            ):
                with attempt:
                    await self._connect()

    async def _let_go(self, failure: Nonsense | Silence | None) -> None:
        assert self._client is not None
        self._client.abort()
        self._agent = self._carriers = None
        self._away_since = time.monotonic()
        self._away_told = True
        if self._away_since - self._opened > _SOUND:
            self._broken = 0
        if failure is None:
            self._why = "the connection was lost"
            told = f"The connection to {self.name} was lost; its jobs go on, connecting again."
        elif isinstance(failure, Silence):
            self._why = str(failure)
            told = f"{self.name} is silent: {failure}; its jobs go on, connecting again."
        else:
            self._why = str(failure)
            self._broken += 1
            self._set_aside = self._broken >= _BROKEN_SESSIONS
            told = f"{self.name} does not answer as it should: {failure}; " + (
                f"it is set aside for this run, after {self._broken} sessions like that."
                if self._set_aside
                else "its jobs go on, connecting again."
            )
        self._warn(told)
        self._on_change()
        asyncio.get_running_loop().call_later(self._access.host_timeout, self._on_change)
        await self._client.close()

    async def _connect(self) -> None:
        client = Client(self.server, self._access)
        try:
            async with asyncio.timeout(self._access.connect_timeout):
                agent = await self._start_agent(client)
        except BaseException as error:
            client.abort()
            with contextlib.suppress(Exception):  # its processes and tasks end before their loop
                async with asyncio.timeout(_LETTING_GO):
                    await client.close()
                    if self._listening is not None:
                        await asyncio.wait([self._listening])
            problem = self._problem(error)
            self._why = str(problem).removeprefix(f"{self.name}: ")
            raise problem from None
        if self._away_told:
            self._away_told = False
            self._warn(f"{self.name} is reachable again.")
        self._opened = time.monotonic()
        self._client, self._agent = client, agent
        self._carriers = Carriers(client, self.tree, self.name, self._access.connect_timeout)
        self._on_change()

    def _problem(self, error: BaseException) -> BaseException:
        """Return what an error means: to be tried again, or not."""
        if isinstance(error, TimeoutError):
            seconds = self._access.connect_timeout
            return TransientError(f"{self.name}: no answer within {seconds:g} s")
        if isinstance(error, OSError | Nonsense | Silence):
            return TransientError(f"{self.name}: {error}")
        return error

    async def _start_agent(self, client: Client) -> Agent:
        session = await client.open()
        agent = Agent(session, self.name, self._on_event)
        try:
            await agent.greet()
        except NoShellError as error:
            if session.is_refused:
                raise client.problem(str(error)) from None
            why = str(error) or "no reason"
            raise SchedulerError(f"{self.name} does not run /bin/bash: {why}") from None
        self._listening = asyncio.create_task(agent.listen())
        before = time.time_ns()
        hello = answers.hello(
            await agent.ask(
                "hello",
                f".bell-{self.name}",
                self._tree,
                self._events,
                self.server.tmpdir or "",
                self._stocks.token,
            )
        )
        self._check_clock(hello.time, before, time.time_ns())
        self.tree, self.stock = hello.tree, self._stocks.named(hello.stock)
        self.slots = self.server.slots or hello.cores
        self.mem_mb = self.server.mem_mb or hello.mem_mb
        self.oom_kills = hello.oom_kills
        if self._given_up:
            self._ending = asyncio.create_task(self._end_given_up(agent))
        return agent

    async def _end_given_up(self, agent: Agent) -> None:
        """End what must not run any more; asked again by the next connection if this is lost."""
        jobs = self._given_up
        try:
            await agent.ask("kill", 0, len(jobs) // 2, *jobs)
        except TransientError:
            return
        except SchedulerError as error:
            self._warn(f"{error}: they were given up, and go on")
        self._given_up = self._given_up[len(jobs) :]

    def _check_clock(self, there: int, before: int, after: int) -> None:
        """Say once that the clock of a machine differs: files get their times from it."""
        skew = (min(there - before, 0) or max(there - after, 0)) / 1e9
        if abs(skew) > _SKEW and not self._skew_told:
            self._skew_told = True
            self._warn(
                f"The clock of {self.name} is {abs(skew):.0f} s "
                f"{'ahead of' if skew > 0 else 'behind'} that of this machine: files made there "
                "may look older or newer than they are, and their rules run once more."
            )
