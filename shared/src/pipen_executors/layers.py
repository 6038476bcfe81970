"""Which members of a group run at the same time, and what the whole group asks for.

Snakemake divides each level of a group into layers that keep within what a run may use at
a time (``snakemake.resources.GroupResources``): what jobs of one layer ask for is added up,
the largest layer counts, and ``runtime`` is added up over the layers. Here the same layers
are what is run together, and what is asked for follows Snakemake's rule wherever that means
something to a scheduler. ``nodes`` and ``tasks`` of three jobs are those of the place where
they run, though, not three times as many.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from snakemake.common.tbdstring import TBDString
from snakemake.exceptions import FileOrDirectoryNotFoundError

from .units import parse_megabytes

Layer = list[Any]
"""Jobs that run at the same time."""

_IN_SERIES: Final = frozenset({"runtime", "time"})
"""What is added up over layers instead: Snakemake's own, and Grid Engine's."""


@dataclass(frozen=True)
class _Unit:
    """Jobs that have to run at the same time: one, or those connected by pipes."""

    jobs: tuple[Any, ...]
    amounts: Mapping[str, int]


def layers(group: Any) -> list[Layer]:
    """Return the jobs of a group, those that run at the same time together, in their order."""
    found: list[Layer] = []
    for level in group.toposorted:
        units = sorted(_units(level), key=lambda unit: [_name(job) for job in unit.jobs])
        found += _packed(units, _limits(group, units))
    return found


def _name(job: Any) -> tuple[str, str]:
    return job.rule.name, str(job.output)


def _units(level: Iterable[Any]) -> list[_Unit]:
    piped: dict[Any, list[Any]] = {}
    for job in sorted(level, key=_name):
        if not job.is_norun:
            piped.setdefault(job.pipe_group or job, []).append(job)
    return [_Unit(tuple(jobs), _added(map(amounts, jobs))) for jobs in piped.values()]


def known(job: Any) -> dict[str, Any]:
    """Return the resources of a job, without those that files yet to be made will tell."""
    try:
        items = list(job.resources.items())
    except (OSError, FileOrDirectoryNotFoundError):  # as Snakemake does
        return {}
    return {
        name: value
        for name, value in items
        if value is not None and not isinstance(value, TBDString) and name != "_nodes"
    }


def amounts(job: Any) -> dict[str, int]:
    """Return the known resources of a job that are numbers."""
    return {name: value for name, value in known(job).items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _added(some: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in some:
        for name, value in one.items():
            most = max(total.get(name, value), value)
            total[name] = most if name in _IN_SERIES else total.get(name, 0) + value
    return total


def _limits(group: Any, units: Sequence[_Unit]) -> dict[str, int]:
    limits = {}
    for name in {name for unit in units for name in unit.amounts} - _IN_SERIES:
        limit = group.global_resources.get(name)
        limit = getattr(limit, "value", limit)
        if isinstance(limit, int) and limit > 0:
            limits[name] = limit
    return limits


def _packed(units: Sequence[_Unit], limits: Mapping[str, int]) -> list[Layer]:
    """Divide units into layers, the longest and largest first."""

    def share(unit: _Unit) -> float:
        return max((unit.amounts.get(n, 0) / limit for n, limit in limits.items()), default=0)

    rows: list[tuple[Layer, dict[str, int]]] = []
    for unit in sorted(
        units, key=lambda unit: (unit.amounts.get("runtime", 0), share(unit)), reverse=True
    ):
        for jobs, used in rows:
            total = _added([used, unit.amounts])
            if all(total.get(name, 0) <= limit for name, limit in limits.items()):
                jobs.extend(unit.jobs)
                used.update(total)
                break
        else:
            rows.append((list(unit.jobs), dict(unit.amounts)))
    return [jobs for jobs, _ in rows]


def asked_for(
    group: Any,
    *,
    defaulted: Callable[[Any], Collection[str]],
    once: Callable[[str], bool],
    counted: Collection[str],
) -> tuple[dict[str, Any], frozenset[str]]:
    """Return what a group asks for, and what of it nothing but defaults ask for.

    Parameters
    ----------
    group
        The group.
    defaulted
        Returns the resources of a rule that only --default-resources asks for.
    once
        Tells whether a resource is not added up (``SchedulerPostInit.asked_once``).
    counted
        Names of resources that are texts with a count (``gpu:a100:2``), which is added up.
    """
    asked: dict[str, Any] = dict(group.resources.items())
    rows = [[_Member(known(job), defaulted(job.rule)) for job in row] for row in layers(group)]
    members = [member for row in rows for member in row]
    for name in asked.keys() - {"_nodes"}:
        values = [member.has[name] for member in members if name in member.has]
        if not all(map(_is_number, values)):
            if name in counted:
                most = max(sum(name in member.has for member in row) for row in rows)
                asked[name] = _times(str(asked[name]), most)
            elif all(isinstance(value, bool) for value in values):
                asked[name] = any(values)
        elif name == "runtime" and 0 in values:
            asked[name] = 0  # no limit
        elif name in _IN_SERIES:
            asked[name] = sum(
                max((member.has.get(name, 0) for member in row), default=0) for row in rows
            )
        elif once(name) and not (name == "tasks" and any("mpi" in m.has for m in members)):
            # Each MPI job starts tasks of its own: those are added up.
            asked[name] = max(values, default=asked[name])
    only = {name for name in asked if all(name in m.defaulted for m in members if name in m.has)}
    ways = {member.counts_per_cpu for member in members if member.asks_for_memory}
    if len(ways) > 1:
        with contextlib.suppress(ValueError):  # which the scheduler refuses by its name
            asked["mem_mb"] = max(sum(member.memory for member in row) for row in rows)
            del asked["mem_mb_per_cpu"]
            only.discard("mem_mb")
    return asked, frozenset(only)


@dataclass(frozen=True)
class _Member:
    """What one job of a group asks for, and what of it only defaults do."""

    has: Mapping[str, Any]
    defaulted: Collection[str]

    @property
    def asks_for_memory(self) -> bool:
        return "mem_mb" in self.has or "mem_mb_per_cpu" in self.has

    @property
    def counts_per_cpu(self) -> bool:
        """Whether its memory is counted for each thread: its own word beats a default."""
        if "mem_mb_per_cpu" not in self.has or "mem_mb" not in self.has:
            return "mem_mb_per_cpu" in self.has
        return "mem_mb" in self.defaulted or "mem_mb_per_cpu" not in self.defaulted

    @property
    def memory(self) -> int:
        if not self.counts_per_cpu:
            return int(self.has.get("mem_mb", 0))
        return parse_megabytes(self.has["mem_mb_per_cpu"]) * max(1, int(self.has.get("_cores", 1)))


def disagreement(group: Any) -> str | None:
    """Return what is wrong with a group whose jobs ask for different texts; None if nothing is.

    A text cannot be added up: Snakemake wants it to be the same for all jobs of a group, and for
    jobs of one level that none of them does without it.
    """
    levels = [[job for job in level if not job.is_norun] for level in group.toposorted]
    asked = {job: known(job) for level in levels for job in level}
    for name in sorted({name for has in asked.values() for name in has}):
        rules: dict[Any, set[str]] = {}
        for level in levels:
            if any(isinstance(asked[job].get(name), str) for job in level):
                for job in level:
                    rules.setdefault(asked[job].get(name), set()).add(job.rule.name)
        if len(rules) > 1:
            found = ", ".join(
                f"{'not set' if value is None else repr(value)} for {', '.join(sorted(some))}"
                for value, some in rules.items()
            )
            return (
                f"Resource {name} is a text and must be the same for all jobs of a group, but in "
                f"group {group.groupid} it is {found}."
            )
    return None


def _times(text: str, count: int) -> str:
    """Return a list of names with counts (``gpu:a100:2,disk:10G``) for several jobs together."""
    items = []
    for item in text.split(","):
        name, colon, last = item.rpartition(":")
        match = re.fullmatch(r"(\d+)([KMGTP]?)", last, re.IGNORECASE)
        if match and colon:
            items.append(f"{name}:{int(match[1]) * count}{match[2]}")
        else:
            items.append(f"{item}:{count}" if count > 1 else item)
    return ",".join(items)
