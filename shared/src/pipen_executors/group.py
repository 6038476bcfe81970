"""A group of jobs as one script: its members in the order of their dependencies.

What Snakemake would start a second time for is done by a few lines of bash. Members of one
layer (see :mod:`pipen_executors.layers`) run side by side, the next layer begins when they
have succeeded. When one fails, the others are ended and its exit status is the group's.

What the local executor does around each job is done around each member, at its own moment:
its outputs of before are removed and its directories made right before it starts; when it
has ended, its touch() outputs and logs are created, its outputs are looked for, checked
(ensure()), touched and protected; and temp() outputs go when the last member that needs
them has ended. The main process does all of that once more at the end of the group, where
Snakemake expects it, and whatever needs Snakemake itself.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from snakemake.io import get_flag_value, is_callable, is_flagged

from . import meter, shadow
from .command import Command, NotDirect, capture, why_not_direct
from .find_bash import INTERPRETER
from .layers import layers
from .settled import why_no_sum_yet, why_unsettled
from .shadow import why_no_shadow
from .wrapper import HEEDED

SHELL: Final = ("/bin/bash", "-p")
"""What runs the script: a bash that takes nothing of the user's for itself (bash(1), -p)."""

_HEAD: Final = r"""
# What changes how bash works is the members' alone.
pipen_kept=()
for pipen_name in @HEEDED@; do
    [[ -z ${!pipen_name+set} ]] || pipen_kept+=("$pipen_name=${!pipen_name}")
    unset -v "$pipen_name"
done
# Warnings that a scheduler sends before the end of a job are its members' business. A trap here
# would interrupt wait, and bash may then have lost the exit status that it was to tell.
trap '' USR1 USR2
declare -A pipen_running=()
pipen_fail() { # the member, exit status
    echo "pipen: $1 failed with exit status $2; its group ends" >&2
    trap '' TERM
    kill -s TERM 0
    wait
    pipen_leave_shadows
    exit "$2"
}
# Wait for all that run. wait -n (from bash 4.3) only wakes this shell: it does not say which.
pipen_wait() {
    local pid rc ended
    while ((${#pipen_running[@]})); do
        if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 403)); then
            wait -n
        else
            for pid in "${!pipen_running[@]}"; do wait "$pid"; break; done
        fi
        rc=$? ended=
        for pid in "${!pipen_running[@]}"; do
            kill -0 "$pid" 2>/dev/null || ended+=" $pid"
        done
        # With 127 wait says that no process is left: then all have ended.
        [[ -n $ended || $rc -ne 127 ]] || ended="${!pipen_running[*]}"
        for pid in $ended; do
            wait "$pid"
            rc=$?
            pipen_ended "${pipen_running[$pid]}" "$rc"
            unset "pipen_running[$pid]"
        done
    done
}
# A member is started from a subshell, in which signals are as they were for this shell: bash
# ignores SIGINT and SIGQUIT in what it runs in the background.
pipen_enter() {
    trap - INT QUIT
    trap : USR1 USR2
}
pipen_remove() { # outputs and logs of an earlier run, as Snakemake removes them
    local path
    for path; do
        if [[ $path == /dev/null ]]; then
            continue
        elif [[ -d $path && ! -L $path ]]; then
            rmdir -- "$path" 2>/dev/null
        elif [[ -e $path || -L $path ]]; then
            rm -f -- "$path" || return
        fi
    done
}
pipen_remove_directories() {
    local path
    for path; do
        [[ -e $path || -L $path ]] || continue
        [[ -L $path ]] || chmod -R u+w -- "$path" 2>/dev/null
        rm -rf -- "$path" || return
    done
}
pipen_make_parents() {
    local path
    for path; do
        [[ -d $path ]] || mkdir -p -- "$path" || return
    done
}
pipen_create() { # files that Snakemake makes if the job does not
    local path
    for path; do
        [[ -e $path || -L $path ]] && continue
        [[ $path != */* || -d ${path%/*} ]] || mkdir -p -- "${path%/*}" || return
        : > "$path" || return
    done
}
pipen_is_missing() { # outputs that are there and are no directories
    local path
    for path; do
        if [[ ! -e $path && ! -L $path ]]; then
            echo "pipen: output is missing: $path" >&2
            return 0
        elif [[ -d $path ]]; then
            echo "pipen: output is a directory, without directory() in its rule: $path" >&2
            return 0
        fi
    done
    return 1
}
pipen_is_no_directory() {
    local path
    for path; do
        if [[ ! -d $path ]]; then
            echo "pipen: output is missing, or no directory: $path" >&2
            return 0
        fi
        [[ -L $path || -e $path/.snakemake_timestamp ]] || : > "$path/.snakemake_timestamp"
    done
    return 1
}
pipen_is_empty() {
    local path
    for path; do
        if [[ ! -s $path ]]; then
            echo "pipen: output is empty, and ensure() wants some: $path" >&2
            return 0
        fi
    done
    return 1
}
pipen_differs() { # command, checksum, file
    local sum
    sum=$("$1" < "$3") && [[ ${sum%% *} == "$2" ]] && return 1
    echo "pipen: output has another checksum than ensure() wants: $3" >&2
}
"""
_BRING_BACK: Final = '((${#pipen_kept[@]} == 0)) || export -- "${pipen_kept[@]}"'
_QUIETLY: Final = " 2>/dev/null"
"""What the main process does once more is no failure on a file system without times or modes."""

_SUMS: Final = {
    "md5": "md5sum", "sha1": "sha1sum", "sha224": "sha224sum", "sha256": "sha256sum",
    "sha384": "sha384sum", "sha512": "sha512sum",
}  # fmt: skip
"""Commands of coreutils that print the checksums that hashlib knows by these names."""


@dataclass(frozen=True)
class Script:
    """The script of a group and the files it needs in its job directory."""

    text: str
    files: Mapping[str, bytes]


def why_group_not_direct(group: Any, workflow: Any, *, stages: bool) -> str | None:
    """Return why a group has to be run by a second Snakemake; None if it need not.

    Whether what its members run is known before they do is told by :func:`group_script`.
    """
    measured = {job.benchmark for job in group.jobs if job.benchmark}
    for job in group.jobs:
        if job.is_norun:
            continue
        why = why_not_direct(job, workflow, stages=stages, piped=True)
        if why is None and job.is_shadow:
            why = "no files are shared for its shadow directory" if stages else why_no_shadow(job)
        if why is None and job.benchmark is not None and stages:
            why = "its benchmark is measured where no files are shared"
        if why is None and not measured.isdisjoint(job.input):
            why = "it reads a benchmark file, which is written when the group has ended"
        if why is None and job.is_service:
            why = "service() needs Snakemake beside the job"
        if why is None:
            why = _why_no_checksum(job)
        if why is not None:
            return f"rule {job.rule.name} of the group: {why}"
    return None


def _why_no_checksum(job: Any) -> str | None:
    for file in job.output:
        algorithm = (get_flag_value(file, "ensure") or {}).get("checksum_algorithm")
        if algorithm and algorithm not in _SUMS:
            return f"coreutils has no command for the checksum {algorithm} of ensure()"
    return None


def usage_file(job: Any) -> str:
    """Return the name of the file in which the benchmark of a member is measured."""
    return f"job.{job.uuid()}.usage"


def group_script(
    group: Any,
    workflow: Any,
    directory: str,
    seen: Callable[[str], str],
    changes: Callable[[Mapping[str, str], Sequence[str]], Mapping[str, str | None]],
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
        From the environment of a member's command, and the names of what is set for that command
        alone, to the variables that the member sets: those that the script does not have already.

    Raises
    ------
    NotDirect
        If what a member runs cannot be told before those ahead of it have run.
    """
    q = shlex.quote
    rows = layers(group)
    ahead = {job for level in group.toposorted[1:] for job in level}
    made = {str(file) for job in group.jobs for file in job.output}
    files: dict[str, bytes] = {}
    functions: list[str] = []
    steps: list[str] = []
    number = 0
    shadows = shadow.root(workflow)
    for row, temporary in zip(rows, _used_up(group, workflow, rows), strict=True):
        for job in row:
            command = _member(job, workflow, directory, seen, f"job.{number}")
            why = why_no_sum_yet(job)
            if why is None and job in ahead:
                why = why_unsettled(job, command, made)
            if why is not None:
                raise NotDirect(f"rule {job.rule.name} of the group: {why}")
            script, env = f"job.{number}.script", f"job.{number}.env"
            placing, path = command.place(directory, script)
            settings = f"{exports(changes(command.env, command.own))}\n{placing}"
            files |= {
                script: (command.text + "\n").encode(errors="surrogateescape"),
                env: settings.encode(errors="surrogateescape"),
                **command.files,
            }
            run = [
                f"pipen_interpreter {q(command.shell)}",
                _BRING_BACK,  # FUNCNEST too, which may forbid to call functions
                f". {q(f'{directory}/{env}')}",
                f'exec "$pipen_program" {q(path)}',
            ]
            functions += _functions(job, number, run, seen, shadows)
            if job.is_shadow:
                steps.append(
                    f"pipen_new_shadow {number} {q(shadows)} || pipen_fail {q(_called(job))} 1"
                )
            steps.append(f"(pipen_start_{number}) & pipen_running[$!]={number}")
            if job.benchmark is not None:
                steps.append(f"pipen_measure {number} {q(f'{directory}/{usage_file(job)}')}")
            number += 1
        steps.append("pipen_wait")
        if temporary:
            steps.append(f"rm -rf -- {shlex.join(map(seen, temporary))}")
    measured = any(job.benchmark is not None for row in rows for job in row)
    shadowed = any(job.is_shadow for row in rows for job in row)
    keeps = workflow.execution_settings.keep_incomplete
    text = [
        _HEAD.replace("@HEEDED@", " ".join(HEEDED)),
        INTERPRETER,
        _MEASURE if measured else _UNMEASURED,
        shadow.FUNCTIONS.replace("@KEEP@", shadow.KEEP if keeps else "")
        if shadowed
        else _UNSHADOWED,
        *functions,
        *steps,
        "exit 0",
    ]
    return Script("\n".join(text) + "\n", files)


def _functions(
    job: Any, number: int, run: Sequence[str], seen: Callable[[str], str], shadows: str
) -> list[str]:
    """Return the functions that start a member and look after it when it has ended."""

    def word(path: str) -> str:
        return shadow.inside(path) if job.is_shadow else shlex.quote(seen(path))

    name = shlex.quote(_called(job))
    enter, leave, saved = [], [], []
    if job.is_shadow:
        enter = [
            *(f"{line} || exit" for line in shadow.fill(job, shadows)),
            'cd -- "$pipen_shadow" || exit',
        ]
        leave = [
            *(
                f"{line} || pipen_fail {name} 1"
                for line in shadow.move_out([*_files(job), *job.log])
            ),
            f"pipen_leave_shadow {number}",
        ]
        saved = [
            f"pipen_save_logs_{number}() {{",
            *(_call("pipen_create", job.log, word) or [":"]),
            *shadow.move_out(job.log),
            "}",
        ]
    return [
        f"pipen_start_{number}() {{",
        "pipen_enter",
        *_before(job, seen),
        *enter,
        *run,
        "}",
        *saved,
        f"pipen_end_{number}() {{",
        *([f"local pipen_shadow=${{pipen_shadows[{number}]}}"] if job.is_shadow else []),
        f'(($1 == 0)) || pipen_fail {name} "$1"',
        *(f"{line} && pipen_fail {name} 1" for line in _checks(job, word)),
        *leave,
        *_after(job, seen),
        "}",
    ]


_UNSHADOWED: Final = "pipen_leave_shadows() { :; }"
_UNMEASURED: Final = 'pipen_ended() { "pipen_end_$1" "$2"; }'

_MEASURE: Final = rf"""
declare -A pipen_meters=() pipen_usage=()
pipen_now() {{
    if [[ -n ${{EPOCHREALTIME-}} ]]; then REPLY=${{EPOCHREALTIME/,/.}}; else REPLY=$(date +%s); fi
}}
pipen_measure() {{ # the member that has just been started, file
    local pipen_child=$! pipen_file=$2 pipen_meter REPLY
    {meter.start("$pipen_file")}
    pipen_meters[$1]=$pipen_meter pipen_usage[$1]=$2
}}
pipen_ended() {{
    if [[ -n ${{pipen_meters[$1]-}} ]]; then
        local pipen_meter=${{pipen_meters[$1]}} pipen_file=${{pipen_usage[$1]}} REPLY
        kill -s TERM "$pipen_meter" && wait "$pipen_meter" 2>/dev/null
        pipen_now
        echo "end $REPLY" >> "$pipen_file"
    fi
    "pipen_end_$1" "$2"
}}
"""


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
    return command


def _called(job: Any) -> str:
    """Return what a person calls a member."""
    wildcards = ", ".join(f"{name}={value}" for name, value in job.wildcards.items())
    return f"rule {job.rule.name} ({wildcards})" if wildcards else f"rule {job.rule.name}"


def _files(job: Any) -> list[Any]:
    """Return the outputs of a job that are files or directories."""
    return [
        file
        for file in job.output
        if not (is_flagged(file, "pipe") or is_flagged(file, "service") or file == "/dev/null")
    ]


def _call(function: str, paths: Iterable[Any], word: Callable[[str], str]) -> list[str]:
    """Return the line that calls a function of the script with paths, if there are any."""
    words = [word(str(path)) for path in paths]
    return [f"{function} {' '.join(words)}"] if words else []


def _before(job: Any, seen: Callable[[str], str]) -> list[str]:
    """Return what is done right before a member starts: the part of ``Job.prepare()`` for it."""
    old = [file for file in _files(job) if not is_flagged(file, "update")]
    logs = [*job.log, job.benchmark] if job.benchmark else list(job.log)
    parents = {seen(str(file)).rpartition("/")[0] for file in (*_files(job), *logs)} - {""}

    def word(path: str) -> str:
        return shlex.quote(seen(path))

    lines = [
        *_call("pipen_remove", [f for f in old if not f.is_directory] + list(job.log), word),
        *_call("pipen_remove_directories", [f for f in old if f.is_directory], word),
        *_call("pipen_make_parents", sorted(parents), shlex.quote),
    ]
    return [f"{line} || exit" for line in lines]


def _checks(job: Any, word: Callable[[str], str]) -> list[str]:
    """Return what tells, when a member has ended, that it has not done what it should."""
    made, touched = _files(job), job.touch_output
    files = [file for file in made if not file.is_directory]
    directories = [file for file in made if file.is_directory]
    lines = [
        *_call("! pipen_create", [f for f in files if f in touched] + list(job.log), word),
        *_call("! mkdir -p --", [f for f in directories if f in touched], word),
        *_call("pipen_is_missing", files, word),
        *_call("pipen_is_no_directory", directories, word),
    ]
    for file in made:
        ensured = get_flag_value(file, "ensure") or {}
        if ensured.get("non_empty"):
            lines += _call("pipen_is_empty", [file], word)
        if algorithm := ensured.get("checksum_algorithm"):
            checksum = ensured["checksum"]
            if is_callable(checksum):
                checksum = checksum(job.wildcards)
            sum_of = f"pipen_differs {_SUMS[algorithm]} {shlex.quote(str(checksum))}"
            lines += _call(sum_of, [file], word)
    return lines


def _after(job: Any, seen: Callable[[str], str]) -> list[str]:
    """Return what is done with the outputs of a member that has succeeded."""
    made = _files(job)
    touched = [seen(str(file)) for file in made]
    touched += [f"{seen(str(file))}/.snakemake_timestamp" for file in made if file.is_directory]
    lines = [f"touch -hc -- {shlex.join(touched)}{_QUIETLY}"] if touched else []
    for file in job.protected_output:
        path = shlex.quote(seen(str(file)))
        lines.append(f"chmod a-w -- {path}{_QUIETLY}")
        if file.is_directory:  # all that is in it gets its mode
            lines.append(f"chmod -R --reference={path} -- {path}{_QUIETLY}")
    return lines


def dispensable(group: Any, workflow: Any) -> set[Any]:
    """Return the outputs that need not be there when a group has succeeded.

    They stay on the node, or are temp() and nothing outside of the group asks for them
    (``GroupJob.postprocess`` does not miss them). With --notemp these are kept, and wanted.
    """
    notemp = workflow.storage_settings.notemp
    return {
        file
        for job in group.jobs
        for file in job.output
        if is_flagged(file, "nodelocal")
        or (not notemp and _is_temporary(group, workflow, job, file))
    }


def _is_temporary(group: Any, workflow: Any, job: Any, file: Any) -> bool:
    """Tell whether Snakemake removes an output at the end of its group (``DAG.handle_temp``)."""
    dag = workflow.dag
    if not is_flagged(file, "temp") or file in dag.derived_targetfiles:
        return False
    readers = [
        other
        for other, files in dag.depending[job].items()
        if file in files and dag.needrun(other) and not dag.finished(other)
    ]
    if not readers and job in dag.targetjobs and job.rule.name != workflow.default_target:
        return False
    return all(reader in group.jobs for reader in readers)


def _used_up(group: Any, workflow: Any, rows: Sequence[Sequence[Any]]) -> list[list[str]]:
    """Return the temp() outputs that go after each layer: no job behind it reads them."""
    gone: list[list[str]] = [[] for _ in rows]
    if workflow.storage_settings.notemp:
        return gone
    place = {job: number for number, row in enumerate(rows) for job in row}
    for job in place:
        for file in job.output:
            if job.is_checkpoint or not _is_temporary(group, workflow, job, file):
                continue
            readers = [o for o, files in workflow.dag.depending[job].items() if file in files]
            readers = [reader for reader in readers if reader in group.jobs]
            if all(reader in place for reader in readers):
                gone[max(place[one] for one in (job, *readers))].append(str(file))
    return gone


def unprotect(group: Any) -> None:
    """Make outputs writable again that the script of a group has protected before it failed.

    They are removed, or made once more, with those of the other members.
    """
    for job in group.jobs:
        for file in job.protected_output:
            if os.path.islink(file) or not os.path.exists(file):
                continue
            os.chmod(file, os.stat(file).st_mode | stat.S_IWUSR)
            for folder, names, _ in os.walk(file):
                for name in names:
                    path = os.path.join(folder, name)
                    if not os.path.islink(path):
                        os.chmod(path, os.stat(path).st_mode | stat.S_IRWXU)


def exports(env: Mapping[str, str | None]) -> str:
    """Return the bash that sets and removes environment variables."""
    return "\n".join(
        f"unset -v {name}" if value is None else f"export {name}={shlex.quote(value)}"
        for name, value in env.items()
    )


async def prepare_group(group: Any, workflow: Any, *, removes: bool) -> None:
    """Do for the members what only this process can do before they start.

    Parameters
    ----------
    group, workflow
        The group and its workflow.
    removes
        Whether old outputs are removed here too: where the nodes share no files, those here
        are others than those that the script removes.
    """
    jobs: Sequence[Any] = [job for job in group.jobs if not job.is_norun]
    for job in jobs:
        if job.protected_output and await workflow.persistence.incomplete(job):
            unprotect(group)  # the script of an earlier run has, and was killed
        await job.check_protected_output()
    for job in jobs:
        if removes:
            await job.remove_existing_output()
        for file in job.output:
            if is_flagged(file, "update") and await file.exists():
                workflow.persistence.backup_output(Path(file))
            if is_flagged(file, "pipe"):
                await file.remove()
                file.prepare()
        if removes:
            for file in chain(job.output, job.log):
                if not is_flagged(file, "pipe"):
                    file.prepare()
