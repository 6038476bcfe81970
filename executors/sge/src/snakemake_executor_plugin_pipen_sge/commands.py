"""Grid Engine's commands, called."""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pipen_executors.exceptions import SchedulerError, TransientError, UserError
from pipen_executors.process import run

from . import accounting, parse
from .directives import command_line
from .refusals import NoSuitableQueue, refusal

_BY_ID = 3
"""For more jobs than these, qacct is asked once: it reads its whole file each time."""
_TOTALS: Final = {
    "mem_free": "mem_total",
    "swap_free": "swap_total",
    "virtual_free": "virtual_total",
}
"""Load values with what limits them (complex(5))."""


_HIDING: Final = frozenset(["-help", "-j", "-l", "-pe", "-qs"])
"""Options of a file sge_qstat(5) that leave out jobs, or show something else."""
_HOW_TO_REACH: Final = frozenset(
    ["SGE_ROOT", "SGE_CELL", "SGE_CLUSTER_NAME", "SGE_QMASTER_PORT", "SGE_EXECD_PORT"]
)
"""Variables that say where Grid Engine is (sge_intro(1), ENVIRONMENT VARIABLES)."""
_OF_A_JOB: Final = frozenset(
    ["ARC", "ENVIRONMENT", "JOB_ID", "JOB_NAME", "JOB_SCRIPT", "NHOSTS", "NQUEUES", "NSLOTS", "PE",
     "PE_HOSTFILE", "QUEUE", "REQUEST", "REQNAME", "RESTARTED"]
)  # fmt: skip
"""Variables of a job that Grid Engine runs, besides ``SGE_*`` (qsub(1), ENVIRONMENTAL
VARIABLES)."""


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which Grid Engine's commands answer what is asked.

    ``SGE_LONG_QNAMES``, ``SGE_SINGLE_LINE`` and ``SGE_DEBUG_LEVEL`` change what they print. Times
    are UTC, which has no hour twice a year.
    """
    kept = {n: v for n, v in env.items() if not n.startswith("SGE_") or n in _HOW_TO_REACH}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def submission_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for qsub, of which ``-V`` makes that of the job.

    In a job of Grid Engine, what describes that job is nothing to the new one: a job without a
    parallel environment would find the hosts of the surrounding one in ``PE_HOSTFILE``.
    """
    surrounding = _OF_A_JOB if "JOB_ID" in env and "SGE_ROOT" in env else frozenset()
    return {
        name: value
        for name, value in env.items()
        if name in _HOW_TO_REACH or not (name.startswith("SGE_") or name in surrounding)
    }


def default_files(name: str) -> list[str]:
    """Return where Grid Engine looks for a file with default requests, the cell's first."""
    cell = os.path.join(os.environ.get("SGE_ROOT", ""), os.environ.get("SGE_CELL", "default"))
    home = pwd.getpwuid(os.getuid()).pw_dir  # whatever HOME says
    return [os.path.join(cell, "common", name), os.path.join(home, f".{name}")]


class Commands:
    """The commands of one cell.

    Every method raises ``TransientError`` if Grid Engine could not be asked, and
    ``SchedulerError`` with the command's own words if it refused.

    Parameters
    ----------
    qsub, qstat, qdel, qacct, qconf
        Paths of the commands.
    """

    def __init__(self, qsub: str, qstat: str, qdel: str, qacct: str, qconf: str) -> None:
        self._qsub = qsub
        self._qstat = qstat
        self._qdel = qdel
        self._qacct = qacct
        self._qconf = qconf
        self._user = pwd.getpwuid(os.getuid()).pw_name
        self._loads: set[str] = set()
        self._delay: float | None = None
        self._all_queues: tuple[str, ...] = ()

    async def _run(self, *words: str, stdin: str = "", env: Mapping[str, str] | None = None) -> str:
        env = clean_environment(os.environ) if env is None else env
        done = await run(words, stdin=stdin, env=env)
        if done.rc != 0:
            name = os.path.basename(words[0])
            raise refusal(f"{done.stderr}\n{done.stdout}", name, done.rc)
        return done.stdout

    def mind_default_requests(self) -> None:
        """See that qstat shows all jobs, whatever files sge_qstat(5) say.

        There is no option that makes qstat leave them unread. Where one chooses among queues,
        the command line can choose all of them.

        Raises
        ------
        UserError
            If one hides jobs in a way that cannot be undone.
        """
        for path in default_files("sge_qstat"):
            with contextlib.suppress(OSError, ValueError):
                words = shlex.split(Path(path).read_text(), comments=True)
                if hiding := sorted(_HIDING & set(words)):
                    raise UserError(
                        f"{path} has {' and '.join(hiding)}, with which qstat does not show all "
                        "jobs (sge_qstat(5)); pipen-sge cannot tell then which of its jobs have "
                        "ended. Take it out of that file."
                    )
                if "-q" in words:
                    self._all_queues = ("-q", "*")

    # -- submission --------------------------------------------------------------------

    async def submit(self, options: Mapping[str, Any], script: str) -> str:
        """Submit a script and return the number of the job, unless it could never run.

        ``-w e`` knows nothing of load values (sge_submit(1), -w), and refuses every job
        that asks for one; so its refusal is looked into.
        """
        requests = options.get("l", {}).keys()
        if not options.keys() & {"w", "ar"}:
            if not requests & self._loads:
                with contextlib.suppress(NoSuitableQueue):
                    return await self._submitted(options, script, "-w", "e")
            await self._verify(options, script)
        return await self._submitted(options, script)

    async def _submitted(self, options: Mapping[str, Any], script: str, *more: str) -> str:
        """Submit; an array that was not asked for does not stay."""
        said = await self._submit(options, script, *more)
        try:
            return parse.submitted_id(said, array="t" in options)
        except parse.UnaskedArray as error:
            await self.delete([error.jid], {})
            raise

    async def _submit(self, options: Mapping[str, Any], script: str, *more: str) -> str:
        # -C: no line of the script is for qsub; the others, against what a file
        # sge_request(5) may say.
        fixed = ("-terse", "-S", "/bin/bash", "-C", "", "-b", "n", "-sync", "n", "-now", "n")
        words = (*fixed, *command_line(options), *more)
        env = submission_environment(os.environ)
        return await self._run(self._qsub, *words, stdin=script, env=env)

    async def _verify(self, options: Mapping[str, Any], script: str) -> None:
        """Refuse a job that could not run if all queues were empty.

        Resources that a queue is only now known to have, with ``-w p``, are load values. The
        most that there can be of some is known, and taken for them; others are left out.
        """
        while True:
            left_out = frozenset(self._loads)
            requests = options.get("l", {}).items()
            fixed = {name: value for name, value in requests if name not in left_out}
            most = {_TOTALS.get(name, ""): value for name, value in requests if name not in fixed}
            most.pop("", None)
            checked = {**options, "l": most | fixed}
            try:
                await self._submit(checked, script, "-w", "v")
                return
            except NoSuitableQueue as refused:
                now = await self._refused_now(checked, script)
                loads = refused.unknown - (now.unknown if now and not now.away else set())
                if not loads:
                    text = f"no queue could ever run it, even if all were empty: {refused.reasons}"
                    raise SchedulerError(text) from None
                if loads <= left_out:
                    return  # asked for by a short name: it stays unknown
                self._loads |= loads

    async def _refused_now(self, options: Mapping[str, Any], script: str) -> NoSuitableQueue | None:
        """Return why no queue can run a job at the moment, if none can."""
        try:
            await self._submit(options, script, "-w", "p")
        except NoSuitableQueue as refused:
            return refused
        return None

    async def environments(self) -> dict[str, str]:
        """Return the allocation rules of all parallel environments by name."""
        rules = {}
        for name in (await self._run(self._qconf, "-spl")).split():
            shown = parse.table(await self._run(self._qconf, "-sp", name))
            rules[name] = shown.get("allocation_rule", "")
        return rules

    # -- the queue -----------------------------------------------------------------------

    async def queue(self) -> dict[str, parse.QueueEntry]:
        """Return all jobs of the user; no refusal of this says anything about any job."""
        # -s: all of them, whatever a file sge_qstat says (sge_qstat(5)).
        return await self._listed("-xml", "-s", "prs", "-u", self._user, *self._all_queues)

    async def on_silent_hosts(self) -> set[str]:
        """Return the user's jobs on hosts that are not heard of (queue state ``u``)."""
        entries = await self._listed("-f", "-xml", "-qs", "u", "-u", self._user)
        return {jid for jid, entry in entries.items() if "q" not in entry.state}

    async def _listed(self, *words: str) -> dict[str, parse.QueueEntry]:
        try:
            return parse.queue(await self._run(self._qstat, *words))
        except TransientError:
            raise
        except SchedulerError as error:
            raise TransientError(str(error)) from None

    async def error_reasons(self, jids: Iterable[str]) -> dict[str, str]:
        """Return why jobs are in the error state."""
        bases = sorted({jid.partition(".")[0] for jid in jids})
        if not bases:
            return {}
        try:
            reasons = parse.error_reasons(await self._run(self._qstat, "-j", ",".join(bases)))
        except TransientError:
            raise
        except SchedulerError:
            return {}  # they have been deleted meanwhile
        return {jid: reasons.get(jid if "." in jid else f"{jid}.1", "") for jid in jids}

    async def delete(self, jids: Iterable[str], array_sizes: Mapping[str, int]) -> None:
        """Delete jobs with one qdel; those that are gone already do not matter."""
        try:
            await self._run(self._qdel, ",".join(parse.compress(jids, array_sizes)))
        except TransientError:
            raise
        except SchedulerError as error:
            if "does not exist" not in str(error):
                raise

    # -- accounting ------------------------------------------------------------------------

    async def records(self, jids: Iterable[str], since: float) -> list[accounting.Record]:
        """Return the records of jobs, oldest first, possibly with those of others.

        Parameters
        ----------
        jids
            The jobs.
        since
            Time before which none of them was submitted, in seconds since the epoch.
        """
        bases = sorted({jid.partition(".")[0] for jid in jids})
        questions: list[Sequence[str]] = [("-j", base) for base in bases]
        if len(bases) > _BY_ID:
            begin = time.strftime("%Y%m%d%H%M", time.gmtime(since))  # see clean_environment
            questions = [("-o", self._user, "-b", begin, "-j")]
        records = []
        for question in questions:
            try:
                records += accounting.read(await self._run(self._qacct, *question))
            except TransientError:
                raise
            except SchedulerError:
                continue  # not found: accounting is late, or not kept here
        return records

    async def accounting_delay(self) -> float:
        """Return after how many seconds an ended job is accounted for."""
        if self._delay is None:
            try:
                configuration = parse.table(await self._run(self._qconf, "-sconf"))
            except TransientError:
                raise
            except SchedulerError:
                configuration = {}  # qconf is not for everybody on every host
            self._delay = accounting.delay(configuration)
        return self._delay
