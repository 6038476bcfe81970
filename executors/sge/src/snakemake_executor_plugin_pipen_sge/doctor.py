"""What to look at on a Grid Engine before a first run (see :mod:`pipen_executors.doctor`)."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipen_executors.doctor import Entry, Finding, Place, command, failure, ok, warning
from pipen_executors.exceptions import SchedulerError
from pipen_executors.process import run
from pipen_executors.settings import Checked

from . import accounting, parse
from .commands import Commands, clean_environment
from .refusals import refusal


@dataclass(frozen=True)
class SeenQueue:
    """A queue: its slots, and what it allows a job (queue_conf(5))."""

    name: str
    total: int
    away: int
    limits: Mapping[str, str]
    pe_list: tuple[str, ...]

    def describe(self) -> str:
        """Return one line for people."""
        limits = ", ".join(f"{name} {value}" for name, value in self.limits.items()) or "no limits"
        return f"queue {self.name}: {self.total} slots, {limits}"


_COMMANDS: Final = ("qsub", "qstat", "qdel", "qacct", "qconf")
_LIMITS: Final = ("h_rt", "s_rt", "h_vmem", "s_vmem", "h_cpu")


def queues(shown: str, loads: str) -> list[SeenQueue]:
    """Read what ``qconf -sq NAME,NAME`` and ``qstat -g c`` print.

    A value may be another on some hosts (``8,[host=16]``): the one of all others counts.
    """
    slots: dict[str, tuple[int, int]] = {}
    for line in loads.splitlines():
        words = line.split()
        # CLUSTER QUEUE, CQLOAD, USED, RES, AVAIL, TOTAL, aoACDS, cdsuE (qstat(1), -g c)
        if len(words) == 8 and words[5].isdigit():
            slots[words[0]] = int(words[5]), int(words[7])
    found = []
    for block in re.split(r"^(?=qname\s)", shown, flags=re.MULTILINE):
        facts = {name: value.partition(",[")[0] for name, value in parse.table(block).items()}
        if "qname" not in facts:
            continue
        total, away = slots.get(facts["qname"], (0, 0))
        limits = {n: facts[n] for n in _LIMITS if facts.get(n, "INFINITY") != "INFINITY"}
        environments = facts.get("pe_list", "NONE").replace(",", " ").split()
        pe_list = tuple(name for name in environments if name != "NONE")
        found.append(SeenQueue(facts["qname"], total, away, limits, pe_list))
    return found


async def checks(place: Place) -> AsyncIterator[Finding]:
    """Look at commands, master, parallel environments, queues and accounting."""
    checked = place.checked
    missing = False
    for name in ("qsub", "qstat", "qdel", "qconf", "qacct"):
        found, said = await command([checked.command(name), "-help"], f"--pipen-sge-{name}")
        yield found
        missing = missing or not said
    if missing:
        return
    configuration = parse.table(await _said(checked.command("qconf"), "-sconf"))
    yield ok(f"the master answers; spool directory {configuration.get('execd_spool_dir', '?')}")
    seen = await _seen_queues(checked)
    for finding in _queues(seen):
        yield finding
    rules = await _commands(checked).environments()
    yield _environments(
        rules, checked.settings.pe, {name for queue in seen for name in queue.pe_list}
    )
    yield await _accounting(checked, configuration)


def _commands(checked: Checked) -> Commands:
    qsub, qstat, qdel, qacct, qconf = map(checked.command, _COMMANDS)
    return Commands(qsub, qstat, qdel, qacct, qconf)


async def _said(*words: str) -> str:
    done = await run(words, env=clean_environment(os.environ), patience=30)
    if done.rc != 0:
        raise refusal(f"{done.stderr}\n{done.stdout}", words[0], done.rc)
    return done.stdout


async def _seen_queues(checked: Checked) -> list[SeenQueue]:
    qconf = checked.command("qconf")
    names = (await _said(qconf, "-sql")).split()
    if not names:
        return []
    shown = await _said(qconf, "-sq", ",".join(names))
    return queues(shown, await _said(checked.command("qstat"), "-g", "c"))


def _queues(found: Sequence[SeenQueue]) -> Iterator[Finding]:
    """Look whether there are queues with slots that can be had."""
    if not found:
        yield failure("there is no queue", "ask the site for one")
    for queue in found:
        if queue.total and queue.away >= queue.total:
            yield warning(
                f"{queue.describe()}; all of them are disabled, or on hosts that are not heard of",
                "see `qstat -f -explain aAcE`, or use another queue",
            )
        else:
            yield ok(queue.describe())


def _environments(rules: Mapping[str, str], chosen: str | None, offered: set[str]) -> Finding:
    """Look which parallel environment jobs with several threads get, and if a queue has it."""
    shown = ", ".join(f"{name} ({rule})" for name, rule in rules.items()) or "none"
    text = f"parallel environments: {shown}"
    used = chosen or parse.obvious_environment(rules)
    if used is not None and used not in rules:
        return failure(f"{text}; there is no {used}", "name another one: --pipen-sge-pe NAME")
    if used is not None and used not in offered:
        return warning(f"{text}; no queue has {used}", "name another one: --pipen-sge-pe NAME")
    if used is not None:
        return ok(f"{text}; jobs with several threads use {used}")
    return warning(
        f"{text}; none is the obvious one for jobs with several threads",
        "name one that keeps all slots on one host: --pipen-sge-pe NAME",
    )


async def _accounting(checked: Checked, configuration: Mapping[str, str]) -> Finding:
    """Look whether qacct has its file, and how late it is."""
    try:
        done = await run([checked.command("qacct")], patience=60)
    except SchedulerError as error:
        return warning(f"accounting cannot be asked: {error}", "ends are still seen at once")
    if done.rc != 0:
        said = (done.stderr or done.stdout).strip().partition("\n")[0]
        return warning(
            f"accounting cannot be read here: {said}",
            "ends are still seen at once; only jobs that vanish without a word are known less of",
        )
    return ok(f"accounting answers, {accounting.delay(configuration):g} s late at most")


async def entries(place: Place) -> AsyncIterator[Entry]:
    """Name the parallel environments, and queues to choose from."""
    yield Entry("jobs", 500, "jobs in the queue at once; more make larger arrays")
    rules = await _commands(place.checked).environments()
    obvious = parse.obvious_environment(rules)
    for name, rule in rules.items():
        yield Entry(
            "pipen-sge-pe",
            name,
            f"parallel environment with allocation rule {rule}",
            certain=name == obvious and name == place.checked.settings.pe,
        )
    for queue in await _seen_queues(place.checked):
        yield Entry("default-resources/sge_queue", queue.name, queue.describe(), certain=False)
