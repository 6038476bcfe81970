"""What is different, and which differences are meant."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Final

from .running import Observed
from .snapshot import Text


@dataclass(frozen=True)
class Difference:
    """Something that is not the same.

    Attributes
    ----------
    where
        What was looked at, such as ``content r1/0``.
    local, other
        What was found after the local executor's run, and after the other's.
    """

    where: str
    local: str
    other: str

    def __str__(self) -> str:
        return f"{self.where}\n    local: {self.local!r}\n    other: {self.other!r}"


@dataclass(frozen=True)
class Allowed:
    """A difference that is meant.

    Attributes
    ----------
    where
        Pattern of :attr:`Difference.where`.
    executors
        For which; empty for all. :data:`APART` stands for all that share no files.
    reason
        Why, as docs/differences.md says it.
    other, local
        Pattern of what the other executor, and the local one, have to have left; empty for
        anything.
    """

    where: str
    executors: tuple[str, ...]
    reason: str
    other: str = ""
    local: str = ""


APART: Final = "apart"
"""What an executor is too whose jobs share no files with Snakemake."""

ALLOWED: Final[Sequence[Allowed]] = (
    Allowed(
        r"place .* variable XQUTE_\w+",
        (),
        "Jobs have the variables `XQUTE_JOB_INDEX`, `XQUTE_METADIR` and `XQUTE_JOB_METADIR`, "
        "which xqute promises to what it runs.",
    ),
    Allowed(
        r"place .* variable (SLURM\w*|HOSTNAME|ENVIRONMENT)",
        ("pipen-slurm",),
        "Slurm sets variables for its jobs: those that begin with `SLURM`, `HOSTNAME` and "
        "`ENVIRONMENT`.",
    ),
    Allowed(
        r"place .* (variable _|descriptor 1[01])",
        (),
        "The command of a rule is a file that its shell has open (bash as descriptor 255, dash as "
        "10), and a shell other than bash has no variable `_`.",
    ),
    Allowed(
        r"(inherited .* (?!FROM_|DECLARED|OMP_)\w+|inherited .* FROM_BASH_ENV)",
        ("pipen-sge", "pipen-ssh", "pipen-container"),
        "Grid Engine, machines that are reached by ssh and containers have an environment of their "
        "own: of the user's, jobs have what `envvars:` names and what the Snakefile sets.",
    ),
    Allowed(
        r"place .* (variable .*|limit .*|cwd|TMPDIR|options|flags|signals|stdin)",
        ("pipen-sge", "pipen-ssh", "pipen-container"),
        "So are limits (`ulimit`), the default of `TMPDIR`, and, where no files are shared, the "
        "directory of a job.",
    ),
    Allowed(
        r"file .*",
        (APART,),
        "Where no files are shared, what a job leaves beside its outputs and logs stays there, "
        "also empty directories: of a relative `tmpdir`, or, where a second Snakemake "
        "failed, those for its outputs, logs and benchmark.",
        other="nothing",
        local="^directory ",
    ),
    Allowed(
        r"inherited .* (SLURM|SQUEUE|SACCT)_\w+",
        ("pipen-slurm",),
        "Variables that change what Slurm's commands print (`SLURM_TIME_FORMAT`, `SQUEUE_*`, "
        "`SACCT_*`) may not reach jobs.",
    ),
    Allowed(
        r"place .* variable _RJEM_MALLOC_CONF",
        (),
        "Variables that a library sets in the process of Snakemake when it is loaded, such as "
        "`_RJEM_MALLOC_CONF` of polars, may reach jobs that start later.",
    ),
    Allowed(
        r"file .*/shadow/@TMP@.*",
        (),
        "The local executor leaves the shadow directory of a job that failed.",
        other="nothing",
    ),
    Allowed(
        r"metadata .* shellcmd",
        (),
        "In the metadata of a job, the command has `<TBD>` for what only the node knows or what "
        "depends on files that the same group makes.",
        other="<TBD>",
    ),
    Allowed(
        r"metadata .* input_checksums",
        (),
        "The metadata has no checksum of a `temp()` file that a group has made and used up.",
    ),
)


def compare(
    local: Observed, other: Observed, executor: str, *, apart: bool = False
) -> list[Difference]:
    """Return the differences that are not meant.

    Parameters
    ----------
    local, other
        What the local executor has left, and the other one.
    executor
        The other's name.
    apart
        Whether its jobs share no files with Snakemake.
    """
    names = {executor, APART} if apart else {executor}
    found = [*_runs(local, other), *_seen(local, other)]
    if local.report != other.report:
        found.append(Difference("report", str(local.report), str(other.report)))
    return [difference for difference in found if not is_allowed(difference, names)]


def is_allowed(difference: Difference, names: Set[str]) -> bool:
    """Tell whether a difference is meant for an executor, by its name and what else it is."""
    return any(
        re.fullmatch(allowed.where, difference.where, re.DOTALL)
        and (not allowed.executors or not names.isdisjoint(allowed.executors))
        and re.search(allowed.other, difference.other)
        and re.search(allowed.local, difference.local)
        for allowed in ALLOWED
    )


def _seen(local: Observed, other: Observed) -> list[Difference]:
    keys = sorted(local.seen.keys() | other.seen.keys())
    return [
        Difference(key, local.seen.get(key, "nothing"), other.seen.get(key, "nothing"))
        for key in keys
        if local.seen.get(key) != other.seen.get(key)
    ]


def _runs(local: Observed, other: Observed) -> list[Difference]:
    found = []
    for name in local.runs.keys() | other.runs.keys():
        mine = other.runs.get(name)
        theirs = local.runs.get(name) or local.runs["dry run by local"]
        if mine is None:
            found.append(Difference(name, "was there", "was not"))
            continue
        for what, one, two in (
            ("exit status", theirs.rc, mine.rc),
            ("jobs", sorted(theirs.started().items()), sorted(mine.started().items())),
            ("failed rules", sorted(theirs.failed()), sorted(_failed(mine, theirs))),
            ("restarts", theirs.restarts(), mine.restarts()),
            ("traceback", "Traceback (" in theirs.text, "Traceback (" in mine.text),
        ):
            if one != two:
                found.append(Difference(f"{name}: {what}", str(one), str(two)))
    return found


def _failed(mine: Text, theirs: Text) -> set[str]:
    """Return the rules that were said to fail, without those that ran again and succeeded.

    The local executor is silent about a job that is tried again.
    """
    return mine.failed() & theirs.failed() if mine.restarts() else mine.failed()
