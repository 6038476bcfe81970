"""How the job in a container ended, from what its wrapper and its runtime have left."""

from __future__ import annotations

import os
import re
from typing import Final

from pipen_executors.exceptions import SchedulerError
from pipen_executors.job import Job
from pipen_executors.jobdir import INFO
from pipen_executors.states import ExitReason, Outcome, outcome_of

from .config import BASH
from .parse import Ended

OOM_KILLS: Final = r"""
if [[ $rc -ne 0 && $pipen_jid == *[!0-9]* ]]; then   # not of the whole machine
    for pipen_file in memory.events memory/memory.oom_control; do
        { while read -r pipen_name pipen_value; do
            [[ $pipen_name == oom_kill ]] && echo "oom_kill=$pipen_value"
        done < "/sys/fs/cgroup/$pipen_file"; } 2>/dev/null
    done
fi"""
"""Bash that notes how many processes the kernel has killed in the container for want of
memory (cgroups(7): ``memory.events`` of version 2, ``memory.oom_control`` of version 1).
Podman's ``OOMKilled`` tells only of the first process."""
_NOT_STARTED: Final = "pipen: the job was not started"


def has_claimed(job: Job) -> bool:
    """Tell whether the wrapper of a job has come as far as to claim its submission."""
    return os.path.lexists(job.directory.file(f"{INFO}.{job.token}"))


def of_command(job: Job, outcome: Outcome) -> Outcome:
    """Return how a command failed whose exit status is known: maybe for want of memory."""
    if int(job.directory.info(job.token).get("oom_kill", "0")) > 0:
        return Outcome(ExitReason.OUT_OF_MEMORY, outcome.rc, _limit(job))
    return outcome


def of_container(job: Job, end: Ended) -> Outcome:
    """Return how a container ended whose wrapper ran and has left no word."""
    outcome = outcome_of(end.rc)
    if end.out_of_memory:
        return Outcome(ExitReason.OUT_OF_MEMORY, end.rc, _limit(job))
    if outcome.reason is ExitReason.SIGNAL:
        detail = f"{outcome.detail} to the container, not from this run"
        return Outcome(ExitReason.SIGNAL, end.rc, detail)
    detail = f"its container ended with exit status {end.rc} {end.error}".strip()
    return Outcome(ExitReason.LOST, None, detail)


def names_program(error: SchedulerError, program: str) -> bool:
    """Tell whether a runtime cannot start a program, which they quote, save crun."""
    return re.search(rf"""(?:["`']|exec ){re.escape(program)}["`':]""", str(error)) is not None


def of_refusal(error: SchedulerError, image: str, entrypoint: str, setting: str) -> SchedulerError:
    """Name the image of which a runtime says only that it cannot start a program in it.

    Parameters
    ----------
    error
        What the runtime said.
    image, entrypoint
        The image, and the program.
    setting
        Where another program can be given.
    """
    if error.reason is ExitReason.LAUNCH_FAILURE and names_program(error, entrypoint):
        if entrypoint == BASH:
            hint = f"image {image} has neither /bin/sh nor bash in its PATH ({setting})"
            return SchedulerError(f"{hint}: {error}", error.reason)
        hint = f"image {image} cannot run {entrypoint} ({setting})"
        return SchedulerError(f"{hint}: {error}", error.reason)
    return error


def of_start(end: Ended, words: str, user: str | None) -> Outcome:
    """Return why the wrapper in a container has not come to run.

    Parameters
    ----------
    end
        How the container ended.
    words
        What its first command has written.
    user
        Who it was in the container, if that was set.
    """
    if end.rc == 1 and _NOT_STARTED in words:
        who = user or f"{os.getuid()}:{os.getgid()}"
        words = f"the job directory cannot be written in the container as user {who}"
    return Outcome(ExitReason.LAUNCH_FAILURE, end.rc or None, words or end.error)


def _limit(job: Job) -> str:
    asked = job.spec.resources.mem_mb
    return f"more than mem_mb={asked}" if asked is not None else "the kernel killed a process"
