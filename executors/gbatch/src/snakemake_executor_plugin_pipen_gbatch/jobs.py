"""Ids of jobs and tasks, and the script that each task of a job starts with."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Final, NamedTuple

from .transfer import KILL

_LONGEST_ID: Final = 63
"""RFC 1035 as Batch has it: small letters, digits and hyphens, a letter first
(CreateJobRequest.job_id)."""
_LONGEST_LABEL: Final = 63

_KILL_INTERVAL: Final = 5
SCRATCH: Final = "/tmp/pipen"
"""Where tasks have working directories of their own, on the machine's disk."""


class Jid(NamedTuple):
    """What identifies one of our jobs: a task of a job of Batch.

    Written ``<id>`` where the job of Batch has one task, ``<id>/<number>`` where it has more.
    """

    job: str
    task: int
    alone: bool

    @classmethod
    def parse(cls, text: str) -> Jid:
        """Read what :meth:`__str__` writes."""
        job, slash, task = text.partition("/")
        return cls(job, int(task or 0), not slash)

    def __str__(self) -> str:
        """Return it as it is kept and shown."""
        return self.job if self.alone else f"{self.job}/{self.task}"

    @property
    def run(self) -> str:
        """The run that submitted it, by which it is labelled."""
        return self.job.split("-")[-2]


def job_id(prefix: str, rule: str, run: str, token: str) -> str:
    """Return the id of a job of Batch.

    It is told by the submission alone, so that a submission whose answer was lost is found
    again, and no other can have had it: the token is random.

    Parameters
    ----------
    prefix, rule
        What a person tells it by; shortened and cleaned.
    run, token
        Random names, hexadecimal, of the run and of the submission.
    """
    tail = f"-{run}-{token}"
    name = re.sub(r"[^a-z0-9]+", "-", f"{prefix}-{rule}".lower()).strip("-")
    if not name[:1].isalpha():
        name = f"job-{name}"
    return name[: _LONGEST_ID - len(tail)].rstrip("-") + tail


def label(text: str) -> str:
    """Return a text as a label's value: small letters, digits, hyphens, underscores."""
    return re.sub(r"[^a-z0-9_-]", "_", text.lower())[:_LONGEST_LABEL]


def scratch(place: str) -> str:
    """Return the working directory on the machine for the job directory of a name."""
    return f"{SCRATCH}/{place}"


_STUB: Final = r"""#!/bin/bash
# The first thing that each task of a job runs: its own wrapper, told by its number.
wrappers=(
@WRAPPERS@
)
export PIPEN_GBATCH_JOB=@JOB@
wrapper=${wrappers[${BATCH_TASK_INDEX:-0}]}
directory=${wrapper%/*}
scratch=@SCRATCH@/${directory##*/}
mkdir -p -- "$scratch"
"$BASH" -p "$wrapper" < /dev/null &
child=$!
trap 'kill -s TERM "$child" 2>/dev/null' TERM INT
@WATCH@while :; do
    wait "$child"
    rc=$?
    kill -0 "$child" 2>/dev/null || break
done
rm -rf -- "$scratch"
exit "$rc"
"""

_WATCH: Final = r"""(
    while sleep @INTERVAL@ && kill -0 "$child"; do
        [[ -e $directory/@KILL@.@JOB@ ]] && kill -s TERM "$child"
    done
) > /dev/null 2>&1 &
"""


def stub(job: str, wrappers: Sequence[str]) -> str:
    """Return the script that each task of a job starts with.

    Parameters
    ----------
    job
        Id of the job of Batch.
    wrappers
        Paths of the wrappers as jobs see them, in the order of the tasks.
    """
    watch = _WATCH if len(wrappers) > 1 else ""
    watch = watch.replace("@INTERVAL@", str(_KILL_INTERVAL)).replace("@KILL@", KILL)
    text = _STUB.replace("@WATCH@", watch).replace("@SCRATCH@", SCRATCH)
    return text.replace("@JOB@", job).replace("@WRAPPERS@", "\n".join(map(shlex.quote, wrappers)))
