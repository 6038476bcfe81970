"""A group of jobs as one script: its members in the order of their dependencies.

What Snakemake would start a second time for is done by a few lines of bash: members of
one level run side by side, within the threads that the group asked for, and the next
level begins when they have succeeded. Jobs that are connected by a pipe are of one level
and run at the same time. When one fails, the others are ended and its exit status is the
group's.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from snakemake.io import is_flagged

from .command import NODE_TMPDIR, Command, NotDirect, capture, why_not_direct

_HEAD: Final = """
all_of() {
    local left=$1 rc
    while ((left--)); do
        wait -n
        rc=$?
        if ((rc)); then
            trap '' TERM
            kill -s TERM 0
            wait
            exit "$rc"
        fi
    done
}
"""


@dataclass(frozen=True)
class Script:
    """The script of a group and the files it needs in its job directory."""

    text: str
    files: Mapping[str, bytes]


def why_group_not_direct(group: Any, workflow: Any, *, stages: bool) -> str | None:
    """Return why a group has to be run by a second Snakemake; None if it need not."""
    for job in group.jobs:
        if job.is_norun:
            continue
        why = why_not_direct(job, workflow, stages=stages, piped=True)
        if why is None and job.is_shadow:
            why = "a shadow directory is made when its inputs are there"
        if why is None and job.benchmark is not None:
            why = "benchmark: measures a job that runs by itself"
        if why is None and job.is_service:
            why = "service() needs Snakemake beside the job"
        if why is not None:
            return f"rule {job.rule.name} of the group: {why}"
    return None


def group_script(
    group: Any,
    workflow: Any,
    directory: str,
    seen: Callable[[str], str],
    changes: Callable[..., Mapping[str, str | None]],
) -> Script:
    """Return the script that runs a group.

    Parameters
    ----------
    group
        A group for which :func:`why_group_not_direct` answers None.
    workflow
        Its workflow.
    directory
        The job directory as the job sees it.
    seen
        From a path of the workflow to the path by which the job sees it.
    changes
        Returns how an environment differs from the one that the node will have.

    Raises
    ------
    NotDirect
        If a member's command cannot be told before its inputs are there.
    """
    files: dict[str, bytes] = {}
    lines = [_HEAD]
    number = 0
    for level in group.toposorted:
        piped = any(job.is_pipe for job in level)
        started = cores = 0
        for job in sorted(level, key=lambda job: (job.rule.name, str(job.output))):
            if job.is_norun:
                continue
            command = _member(job, workflow, directory, seen, f"job.{number}")
            if started and not piped and cores + job.threads > group.threads:
                lines.append(f"all_of {started}")
                started = cores = 0
            name = f"job.{number}.script"
            text = (command.text + "\n").encode(errors="surrogateescape")
            env = f"job.{number}.env"
            settings = exports(changes(command.env, command.own)).encode(errors="surrogateescape")
            files |= {name: text, env: settings, **command.files}
            run = shlex.join([command.shell, f"{directory}/{name}"])
            lines.append(f"(\n. {shlex.quote(f'{directory}/{env}')}\nexec {run}\n) &")
            number, started, cores = number + 1, started + 1, cores + job.threads
        if started:
            lines.append(f"all_of {started}")
    return Script("\n".join(lines) + "\n", files)


def _member(
    job: Any, workflow: Any, directory: str, seen: Callable[[str], str], prefix: str
) -> Command:
    try:
        command = capture(job, workflow, directory, seen, prefix)
    except NotDirect as error:
        raise NotDirect(f"rule {job.rule.name} of the group: {error}") from None
    except Exception as error:
        # Its parameters may ask for files that an earlier member has yet to make.
        raise NotDirect(f"rule {job.rule.name} of the group cannot be told yet: {error}") from None
    if NODE_TMPDIR in command.text:
        raise NotDirect(f"rule {job.rule.name} of the group uses tmpdir in its command")
    return command


def exports(env: Mapping[str, str | None]) -> str:
    """Return the bash that sets and removes environment variables."""
    return "\n".join(
        f"unset -v {name}" if value is None else f"export {name}={shlex.quote(value)}"
        for name, value in env.items()
    )


async def prepare_group(group: Any, workflow: Any) -> None:
    """Do for the members what ``prepare()`` of a job does before it waits for its inputs."""
    jobs: Sequence[Any] = [job for job in group.jobs if not job.is_norun]
    for job in jobs:
        await job.check_protected_output()
    for job in jobs:
        await job.remove_existing_output()
        for file in job.output:
            if is_flagged(file, "update") and await file.exists():
                workflow.persistence.backup_output(Path(file))
        for file in chain(job.output, job.log):
            file.prepare()
