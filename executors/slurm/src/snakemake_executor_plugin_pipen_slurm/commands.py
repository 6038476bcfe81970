"""Slurm's commands, each as a call: what is asked, and the answer read.

Every call raises :class:`~pipen_executors.exceptions.TransientError` when Slurm could not
be reached, and :class:`~pipen_executors.exceptions.SchedulerError` with the command's own
words when it refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.process import run

from . import parse
from .directives import Options, command_line

_IDS_PER_QUERY = 200
"""Job ids on one command line; more are asked for as all of this user's."""


@dataclass(slots=True)
class Commands:
    """The commands by their paths, and what never changes once it was asked."""

    sbatch: str = "sbatch"
    squeue: str = "squeue"
    scancel: str = "scancel"
    sacct: str = "sacct"
    scontrol: str = "scontrol"
    _config: dict[str, str] = field(default_factory=dict)

    async def configuration(self) -> Mapping[str, str]:
        """Return slurmctld's configuration, asked for once."""
        if not self._config:
            self._config = parse.configuration(await _said([self.scontrol, "show", "config"]))
        return self._config

    async def submit(self, options: Options, script: str) -> tuple[str, str]:
        """Submit a script; return the job's id, and its cluster where one was named."""
        words = [self.sbatch, "--parsable", *command_line(options)]
        env = submission_environment(os.environ, options)
        return parse.submitted_id(await _said(words, stdin=script, env=env))

    async def queue(
        self, jids: Iterable[str], *, ended_too: bool = False
    ) -> dict[str, parse.QueueEntry]:
        """Ask squeue for jobs; those that it does not know are left out."""
        found: dict[str, parse.QueueEntry] = {}
        for cluster, members in by_cluster(jids).items():
            words = [self.squeue, "--noheader", "--array", f"--format={parse.SQUEUE_FORMAT}"]
            words += cluster_option(cluster)
            if ended_too:
                words.append("--states=all")
            bases = sorted({jid.partition("_")[0] for jid in members})
            words.append(f"--jobs={','.join(bases)}" if len(bases) <= _IDS_PER_QUERY else "--me")
            try:
                entries = parse.queue(await _said(words))
            except TransientError:
                raise
            except SchedulerError as error:
                if "invalid job id" not in str(error).lower():
                    raise TransientError(str(error)) from None
                entries = {}  # it has forgotten all of them
            found |= {full: entries[jid] for jid, full in members.items() if jid in entries}
        return found

    async def marked(self, mark: str, clusters: str = "") -> dict[str, str]:
        """Return the jobs of this user whose comment holds a mark: id and comment."""
        words = [self.squeue, "--me", "--noheader", "--format=%F|%k", *cluster_option(clusters)]
        pairs = (line.partition("|") for line in (await _said(words)).splitlines())
        return {jid: comment for jid, _, comment in pairs if mark in comment}

    async def accounting(self, jids: Iterable[str]) -> dict[str, parse.Ended]:
        """Ask sacct how jobs ended; those of which it has not heard are left out."""
        found: dict[str, parse.Ended] = {}
        for cluster, members in by_cluster(jids).items():
            words = [self.sacct, "--allocations", "--noheader", "--parsable2"]
            words += cluster_option(cluster)
            words.append(f"--format={parse.SACCT_FORMAT}")
            for chunk in _in_chunks(sorted(members), _IDS_PER_QUERY):
                try:
                    ends = parse.accounting(await _said([*words, f"--jobs={','.join(chunk)}"]))
                except SchedulerError as error:
                    raise TransientError(str(error)) from None
                found |= {members[jid]: end for jid, end in ends.items() if jid in members}
        return found

    async def used(self, jids: Iterable[str]) -> dict[str, parse.Used]:
        """Ask sacct what ended jobs used; those of which it has not heard are left out."""
        found: dict[str, parse.Used] = {}
        for cluster, members in by_cluster(jids).items():
            words = [self.sacct, "--noheader", "--parsable2", *cluster_option(cluster)]
            words.append(f"--format={parse.SACCT_USED_FORMAT}")
            for chunk in _in_chunks(sorted(members), _IDS_PER_QUERY):
                used = parse.used(await _said([*words, f"--jobs={','.join(chunk)}"]))
                found |= {members[jid]: what for jid, what in used.items() if jid in members}
        return found

    async def has_accounting(self) -> bool:
        """Tell whether sacct has anything to say at this site."""
        kind = (await self.configuration()).get("AccountingStorageType", "")
        return bool(kind) and not kind.endswith("none")

    async def cancel(self, jids: Iterable[str], whole: Mapping[str, int]) -> None:
        """Cancel jobs, arrays as arrays (``whole``: number of tasks by id)."""
        for cluster, members in by_cluster(jids).items():
            ids = parse.compress(members, whole)
            await _said([self.scancel, "--quiet", *cluster_option(cluster), *ids])


async def _said(words: Sequence[str], stdin: str = "", env: Mapping[str, str] | None = None) -> str:
    """Run a command; return what it prints."""
    env = clean_environment(os.environ) if env is None else env
    done = await run(words, stdin=stdin, env=env)
    if done.rc != 0:
        raise parse.refusal(done.stderr, os.path.basename(words[0]))
    return done.stdout


def by_cluster(jids: Iterable[str]) -> dict[str, dict[str, str]]:
    """Sort ids by cluster ("" for the default one): the id there, and as it was given.

    >>> by_cluster(["7", "8_1;big"])
    {'': {'7': '7'}, 'big': {'8_1': '8_1;big'}}
    """
    sorted_: dict[str, dict[str, str]] = {}
    for full in jids:
        jid, _, cluster = full.partition(";")
        sorted_.setdefault(cluster, {})[jid] = full
    return sorted_


def cluster_option(cluster: str) -> list[str]:
    """Return the option that names a cluster, if one is named."""
    return [f"--clusters={cluster}"] if cluster else []


_HOW_TO_REACH: Final = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")
"""Variables that say where Slurm is, and who asks (sbatch(1), slurm.conf(5), jwt)."""
_OF_COMMANDS: Final = ("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_")
_CLUSTERS: Final = ("SBATCH_CLUSTERS", "SLURM_CLUSTERS")
_NEVER_FOR_SBATCH: Final = (*_CLUSTERS, "SBATCH_ARRAY_INX", "SBATCH_WAIT", "SLURM_TIME_FORMAT")
"""What would make of a submission something else than was asked for: an array, a command that
waits for the job."""


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which Slurm's commands answer what is asked, and nothing else.

    A user's variables change the format, choose among the jobs, or ask back (squeue(1),
    sacct(1), scancel(1), scontrol(1) and sinfo(1), each under ENVIRONMENT VARIABLES). Times
    come as seconds since the epoch.
    """
    kept = {
        name: value
        for name, value in env.items()
        if not name.startswith(_OF_COMMANDS) or name in _HOW_TO_REACH
    }
    return {**kept, "LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}


def submission_environment(env: Mapping[str, str], options: Options) -> dict[str, str]:
    """Return the environment for sbatch, which the job will have too.

    ``SBATCH_*`` are the user's own defaults, and mean what they mean to sbatch: options of the
    command line win (sbatch(1), INPUT ENVIRONMENT VARIABLES). Inside an allocation, ``SLURM_*``
    variables describe the surrounding job, and sbatch would take some for options of the new
    one.
    """
    left_out = set(_NEVER_FOR_SBATCH)
    if "cpus-per-task" in options:  # sbatch does not let the command line win here
        left_out.add("SBATCH_CPUS_PER_GPU")
    theirs: tuple[str, ...] = ("SLURM_ARRAY_",)
    if "SLURM_JOB_ID" in env or "SLURM_JOBID" in env:
        theirs = ("SLURM_", "SBATCH_MEM_BIND", "SBATCH_CPU_BIND")
    return {
        name: value
        for name, value in env.items()
        if name in _HOW_TO_REACH or not (name in left_out or name.startswith(theirs))
    }


def usual_clusters(env: Mapping[str, str]) -> str:
    """Return the clusters that the user's environment names; empty if it names none."""
    return next((env[name] for name in _CLUSTERS if env.get(name)), "")


def _in_chunks(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))
