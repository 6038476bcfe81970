"""Which machine runs which job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from pipen_executors.job import Job
from pipen_executors.spec import Resources

from .host import Host


class Room:
    """What is free on each machine.

    Parameters
    ----------
    hosts
        All machines.
    placed
        The jobs that take up room, with their machine.
    """

    def __init__(self, hosts: Iterable[Host], placed: Mapping[Job, Host]) -> None:
        self._free = {
            host: [host.slots, host.mem_mb]
            for host in hosts
            if host.is_here and host.slots is not None and host.mem_mb is not None
        }
        for job, host in placed.items():
            if host in self._free:
                self._take(host, job.spec.resources)

    def _take(self, host: Host, resources: Resources) -> None:
        free = self._free[host]
        free[0] -= resources.threads
        free[1] -= resources.mem_mb or 0

    def find(
        self, job: Job, hosts: Sequence[Host], held: Callable[[Host, Job], int]
    ) -> Host | None:
        """Return the best of some machines for a job, and count it in; None if it must wait.

        The best is the one that holds most of the inputs, then the one with most free
        slots. Where a job has to wait, the machine that
        could run it first is kept for it: small jobs that come later shall not keep a large
        one waiting for ever.

        Parameters
        ----------
        job
            The job.
        hosts
            Where it may run.
        held
            Returns how many bytes of its inputs a machine has.
        """
        wanted = job.spec.resources
        able = [
            host for host in hosts if host in self._free and fits(wanted, host.slots, host.mem_mb)
        ]
        free = [host for host in able if fits(wanted, *self._free[host])]
        if free:
            best = max(free, key=lambda host: (held(host, job), self._free[host][0]))
            self._take(best, wanted)
            return best
        if able:
            del self._free[max(able, key=lambda host: self._free[host][0])]
        return None

    @property
    def is_full(self) -> bool:
        """Whether no machine has a free slot."""
        return not any(slots > 0 for slots, _ in self._free.values())


def fits(wanted: Resources, slots: int | None, mem_mb: int | None) -> bool:
    """Tell whether a job fits into some slots and memory; None is not known, and enough."""
    return (slots is None or wanted.threads <= slots) and (
        mem_mb is None or (wanted.mem_mb or 0) <= mem_mb
    )
