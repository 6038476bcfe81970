"""All machines of a run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from pipen_executors.exceptions import SchedulerError, SettingError, TransientError
from pipen_executors.spec import JobSpec

from .host import Host
from .placement import fits
from .servers import chosen, parse_servers


class Fleet:
    """The machines that jobs are put on, and those that an earlier run had.

    Parameters
    ----------
    hosts
        Where jobs are put.
    make_host
        Makes another one from a server.
    warn
        Called with a line for the user.
    """

    def __init__(
        self,
        hosts: Iterable[Host],
        make_host: Callable[..., Host],
        warn: Callable[[str], None],
    ) -> None:
        self.hosts = list(hosts)
        self._make_host = make_host
        self._warn = warn
        self._by_name = {host.name: host for host in self.hosts}
        self._reaching: set[asyncio.Task[None]] = set()

    # -- connections -----------------------------------------------------------------

    async def open(self) -> None:
        """Connect to all machines; one that does not answer is tried again later.

        Raises
        ------
        SchedulerError
            If one can never be used, or none answers.
        """
        answers = await asyncio.gather(
            *(host.open() for host in self.hosts), return_exceptions=True
        )
        errors = [error for error in answers if error is not None]
        fatal = [error for error in errors if not isinstance(error, TransientError)]
        if fatal or len(errors) == len(self.hosts):
            await self.close()
            if fatal and not isinstance(fatal[0], SchedulerError):
                raise fatal[0]
            raise SchedulerError("; ".join(map(str, fatal or errors)))
        for error in errors:
            self._warn(f"{error}; it is set aside and tried again")

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(host.close() for host in self._by_name.values()))

    # -- which is which ----------------------------------------------------------------

    def named(self, name: str) -> Host:
        """Return the machine of a job by its name.

        One that is no longer among the servers is connected to in the background, for what
        an earlier run has left on it; it gets no new jobs.

        Raises
        ------
        SchedulerError
            If there can be none of that name.
        """
        if name not in self._by_name:
            try:
                (server,) = parse_servers([name])
            except ValueError:
                raise SchedulerError(f"there is no server {name!r}") from None
            host = self._by_name[name] = self._make_host(replace(server, slots=1))
            task = asyncio.create_task(self._reach(host))
            self._reaching.add(task)
            task.add_done_callback(self._reaching.discard)
        return self._by_name[name]

    async def _reach(self, host: Host) -> None:
        self._warn(f"{host.name} is not among the servers, but has jobs of an earlier run")
        with contextlib.suppress(SchedulerError):  # lost in the end, if it stays so
            await host.open()

    def able(self, spec: JobSpec) -> list[Host]:
        """Return the machines where a job may be put (resource ``pipen_server``).

        Raises
        ------
        SettingError
            If the rule names one that there is not.
        """
        wanted = spec.resources.extra.get("pipen_server")
        if wanted is None:
            return self.hosts
        try:
            names = {s.name for s in chosen([host.server for host in self.hosts], str(wanted))}
        except ValueError as error:
            where = f"resource pipen_server of rule {spec.rule}"
            raise SettingError(where, wanted, str(error)) from None
        return [host for host in self.hosts if host.name in names]

    def check_size(self, spec: JobSpec) -> None:
        """Check that some machine is large enough, as far as their sizes are known.

        Raises
        ------
        SettingError
            If a rule asks for more than any of its machines has.
        """
        hosts = self.able(spec)
        for name, value, sizes in (
            ("threads", spec.resources.threads, [host.slots for host in hosts]),
            ("mem_mb", spec.resources.mem_mb or 0, [host.mem_mb for host in hosts]),
        ):
            known = [size for size in sizes if size is not None]
            if len(known) == len(sizes) and value > max(known):
                where = ", ".join(host.name for host in hosts)
                raise SettingError(
                    f"resource {name} of rule {spec.rule}",
                    value,
                    f"the largest of the servers ({where}) has {max(known)}",
                )

    def is_hopeless(self, spec: JobSpec) -> bool:
        """Tell whether no machine can run a job, now or later."""
        return all(
            host.is_lost or not fits(spec.resources, host.slots, host.mem_mb)
            for host in self.able(spec)
        )

    def trouble(self, spec: JobSpec) -> str:
        """Say why a job's machines cannot be used."""
        lost: Sequence[Host] = [host for host in self.able(spec) if host.is_lost]
        return "; ".join(host.trouble for host in lost)
