"""What to look at on a Slurm cluster before a first run (see :mod:`pipen_executors.doctor`)."""

from __future__ import annotations

import os
import pwd
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from pipen_executors.doctor import Entry, Finding, Place, command, failure, ok, warning
from pipen_executors.exceptions import SchedulerError
from pipen_executors.process import run
from pipen_executors.settings import Checked

from . import parse
from .commands import Commands, clean_environment

_COMMANDS = ("sbatch", "squeue", "scancel", "sacct", "scontrol")
_OLDEST = (22, 5)
PARTITIONS = "%R|%a|%l|%c|%m|%D|%P"
"""Format of sinfo(1): name, state, time limit, CPUs and megabytes of a node, number of nodes,
and the name with an asterisk for the default partition."""


@dataclass(frozen=True)
class SeenPartition:
    """A partition as sinfo shows it; the smallest node of it where they differ."""

    name: str
    is_up: bool
    limit: str
    cpus: str
    memory: str
    nodes: int
    is_default: bool

    def describe(self) -> str:
        """Return one line for people."""
        default = ", the default" if self.is_default else ""
        return (
            f"partition {self.name}{default}: {self.nodes} nodes, at least {self.cpus.rstrip('+')} "
            f"CPUs and {self.memory.rstrip('+')} MB each, time limit {self.limit}"
        )


def partitions(text: str) -> list[SeenPartition]:
    """Read what ``sinfo --noheader --format`` prints in the format :data:`PARTITIONS`.

    A partition has a line for each kind of node; the first is kept, the nodes are added up.
    """
    found: dict[str, SeenPartition] = {}
    for line in text.splitlines():
        fields = line.strip().split("|")
        if len(fields) != 7:
            continue
        name, state, limit, cpus, memory, nodes, shown = fields
        before = found[name].nodes if name in found else 0
        first = found.get(name)
        found[name] = SeenPartition(
            name,
            state.startswith("up"),
            limit,
            first.cpus if first else cpus,
            first.memory if first else memory,
            before + int(nodes),
            shown.endswith("*"),
        )
    return list(found.values())


@dataclass(frozen=True)
class Association:
    """An account that the user may use, with its qualities of service."""

    account: str
    partition: str
    qos: str
    default: bool


def associations(text: str) -> list[Association]:
    """Read ``sacctmgr --noheader --parsable2 show … format=Account,Partition,QOS,DefaultAccount``.

    The last field is the same on each line: the user's default account.
    """
    found = []
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) == 4 and fields[0]:
            account, partition, qos, default = fields
            found.append(Association(account, partition, qos, account == default))
    return found


def release(text: str) -> tuple[int, int] | None:
    """Read the release from what ``--version`` prints: ``slurm 24.11.5``, ``slurm-wlm 22.05.8``."""
    numbers = text.split()[-1].split(".") if text.split() else []
    if len(numbers) >= 2 and all(number.isdigit() for number in numbers[:2]):
        return int(numbers[0]), int(numbers[1])
    return None


async def checks(place: Place) -> AsyncIterator[Finding]:
    """Look at commands, controller, accounting, partitions and accounts."""
    missing = False
    for name in ("sbatch", "squeue", "scancel", "scontrol", "sacct"):
        path = place.checked.command(name)
        found, said = await command([path, "--version"], f"--pipen-slurm-{name}")
        yield found
        if name != "sacct":
            missing = missing or not said
        numbers = release(said)
        if name == "sbatch" and numbers is not None and numbers < _OLDEST:
            yield warning(
                f"Slurm {numbers[0]}.{numbers[1]:02d} is older than what is known to work",
                "22.05 and later are tested",
            )
    if missing:
        return
    commands = _commands(place.checked)
    config = await commands.configuration()
    yield ok(
        f"cluster {config.get('ClusterName', '?')} answers; arrays of up to "
        f"{parse.largest_array(config)} jobs"
    )
    yield await _accounting(commands)
    async for finding in _partitions(place):
        yield finding
    async for finding in _accounts(place):
        yield finding


def _commands(checked: Checked) -> Commands:
    sbatch, squeue, scancel, sacct, scontrol = map(checked.command, _COMMANDS)
    return Commands(sbatch, squeue, scancel, sacct, scontrol)


async def _accounting(commands: Commands) -> Finding:
    advice = "ends are still seen at once; only jobs that vanish without a word are known less of"
    if not await commands.has_accounting():
        return warning("Slurm keeps no accounting here", advice)
    try:
        await commands.accounting(["1"])
    except SchedulerError as error:
        return warning(f"accounting cannot be asked: {error}", advice)
    return ok("accounting answers")


async def _said(place: Place, name: str, *arguments: str) -> str:
    """Run a command that lies beside squeue; nothing if it fails."""
    beside = os.path.join(os.path.dirname(place.checked.command("squeue")), name)
    try:
        done = await run([beside, *arguments], env=clean_environment(os.environ), patience=30)
    except SchedulerError:
        return ""
    return done.stdout if done.rc == 0 else ""


async def _seen_partitions(place: Place) -> list[SeenPartition]:
    return partitions(await _said(place, "sinfo", "--noheader", f"--format={PARTITIONS}"))


async def _partitions(place: Place) -> AsyncIterator[Finding]:
    found = await _seen_partitions(place)
    if not found:
        yield failure("sinfo shows no partition", "ask the site which one you may use")
    for partition in found:
        if partition.is_up:
            yield ok(partition.describe())
        else:
            yield warning(f"{partition.describe()}; it is down", "use another one")
    if found and not any(partition.is_default for partition in found):
        yield warning(
            "there is no default partition",
            f"name one: --default-resources slurm_partition={found[0].name}",
        )


async def _seen_accounts(place: Place) -> list[Association]:
    wanted = "format=Account,Partition,QOS,DefaultAccount"
    user = pwd.getpwuid(os.getuid()).pw_name
    words = ("--noheader", "--parsable2", "show", "user", "withassoc", f"name={user}", wanted)
    return associations(await _said(place, "sacctmgr", *words))


async def _accounts(place: Place) -> AsyncIterator[Finding]:
    found = await _seen_accounts(place)
    if not found:
        return  # sites without accounting have none, and need none
    yield ok(f"you may use the accounts {_names(a.account for a in found)}")
    if not any(association.default for association in found):
        yield warning(
            "none of them is your default",
            f"name one: --default-resources slurm_account={found[0].account}",
        )


def _names(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))


async def entries(place: Place) -> AsyncIterator[Entry]:
    """Name partition and account, and how many jobs may be in the queue."""
    commands = _commands(place.checked)
    largest = parse.largest_array(await commands.configuration())
    yield Entry("jobs", min(largest, 500), "jobs in the queue at once; more make larger arrays")
    found = await _seen_partitions(place)
    for partition in sorted(found, key=lambda partition: not partition.is_default):
        yield Entry(
            "default-resources/slurm_partition",
            partition.name,
            partition.describe(),
            certain=not partition.is_default and len(found) == 1,
        )
    accounts = {a.account: a.default for a in await _seen_accounts(place)}
    for account, default in accounts.items():
        yield Entry(
            "default-resources/slurm_account",
            account,
            "your default account" if default else "an account that you may use",
            certain=not any(accounts.values()) and len(accounts) == 1,
        )
