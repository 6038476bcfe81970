"""Copies of a job's files on the disk of its node, made by the job itself.

``--default-storage-provider fs`` with a ``--shared-fs-usage`` that lists neither
``input-output`` nor ``storage-local-copies`` asks for this: jobs work on copies below
``--local-storage-prefix``, and what they make is copied back. A second Snakemake on the node
would do that with rsync; a direct job does it with ``cp``, by a script around its command.
Paths are those of snakemake-storage-plugin-fs, and the copies are made as it makes them:
links are followed, times are kept, modes and owners come from the umask and the directory.

Other than those of a second Snakemake, the copies of one job are in a directory of their own,
so that a job that ends does not remove what another job on the same node reads, and two
workflows with the same file names do not meet. Files that are kept
(``--keep-storage-local-copies``, ``keep_local``) lie where Snakemake would put them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final

from snakemake.io import is_flagged
from snakemake.io.flags import access_patterns
from snakemake_interface_executor_plugins.settings import SharedFSUsage

_SHARED_STORAGE: Final = "snakemake_storage_plugin_fs"
"""Module of the one storage plugin whose storage is a directory that nodes can read."""
_DEFAULT_PREFIX: Final = ".snakemake/storage"
_TOLD_BY: Final = "--remote-job-local-storage-prefix, or --local-storage-prefix,"
_LINK: Final = "local"
"""Name, in the job directory, of the link to a prefix that only the node knows."""
_VARIABLE: Final = re.compile(r"\$(\w+|\{\w+\})", re.ASCII)
"""What ``os.path.expandvars`` replaces, by which Snakemake reads a prefix on the node."""


def copies_are_shared(workflow: Any) -> bool:
    """Tell whether nodes see the local copies of storage files that this process makes."""
    usage = workflow.storage_settings.shared_fs_usage
    return SharedFSUsage.STORAGE_LOCAL_COPIES in usage


def in_storage(files: Iterable[Any]) -> list[Any]:
    """Return the files of a job that Snakemake keeps in storage and copies to work on them."""
    return [file for file in files if file and file.is_storage and file.storage_object.retrieve]


def files_of(job: Any) -> list[Any]:
    """Return all files of a job: inputs, outputs, logs, and its benchmark file."""
    return [*job.input, *job.output, *job.log, *([job.benchmark] if job.benchmark else [])]


def why_not_staged(job: Any, workflow: Any) -> str | None:
    """Return why the files of a job cannot be copied to its node and back by the job itself.

    None also for a job that has nothing to be copied.
    """
    if copies_are_shared(workflow):
        return None
    usage = workflow.storage_settings.shared_fs_usage
    inputs = in_storage(job.input)
    made = in_storage([*job.output, *job.log, job.benchmark])
    for file in chain(inputs, made):
        address = file.storage_object.print_query
        if type(file.storage_object.provider).__module__.split(".")[0] != _SHARED_STORAGE:
            return (
                f"only Snakemake can copy {address} to the node (where the nodes share the "
                "directory of --local-storage-prefix, say so by storage-local-copies in "
                "--shared-fs-usage, and this Snakemake copies it)"
            )
        for flag in ("update", "pipe", "service"):
            if is_flagged(file, flag):
                return f"{address} is {flag}() and in storage"
    if (
        made
        and SharedFSUsage.INPUT_OUTPUT in usage
        and len(made) < len(files_of(job)) - len(job.input)
    ):
        return (
            "some of its outputs and logs are in storage and some are not (list "
            "storage-local-copies in --shared-fs-usage, or leave out input-output)"
        )
    if (inputs or made) and job.is_shadow and job.rule.shadow_depth == "copy-minimal":
        return 'shadow: "copy-minimal" copies inputs that are on the node only'
    return None


@dataclass(frozen=True)
class Staging:
    """What a job copies to its node and back.

    Parameters
    ----------
    name
        Name of the directory of the job's copies below the prefix.
    prefix
        ``--local-storage-prefix`` as the command sees it, absolute.
    target
        What ``prefix`` is a symbolic link to, with variables of the node, where only the node
        knows the path; else empty.
    paths
        From a file's path in the workflow to its copy, as the command sees it.
    stored
        From a file's path in the workflow to its path in storage.
    fetched, kept, linked
        Inputs to be copied, to be copied unless the copy is there and not older, and to be
        linked to: path in storage and path of the copy.
    touched, touched_directories, protected
        Copies of outputs that Snakemake makes if the command does not, and those whose
        files in storage are written protected.
    outputs, logs
        What is copied to storage: path of the copy, path in storage.
    directories
        Copies of directory() outputs.
    """

    name: str
    prefix: str
    target: str = ""
    paths: dict[str, str] = field(default_factory=dict)
    stored: dict[str, str] = field(default_factory=dict)
    fetched: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    linked: dict[str, str] = field(default_factory=dict)
    touched: list[str] = field(default_factory=list)
    touched_directories: list[str] = field(default_factory=list)
    protected: list[str] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)


def node_prefix(workflow: Any) -> str:
    """Return ``--local-storage-prefix`` as it is for jobs; variables may be left in it.

    Snakemake's command line knows no "not given" for ``--remote-job-local-storage-prefix``;
    its default means the other prefix, as it is documented.
    """
    settings = workflow.storage_settings
    remote = settings.remote_job_local_storage_prefix
    if remote is None or str(remote) == _DEFAULT_PREFIX:
        remote = settings.local_storage_prefix
    return str(remote)


def stage(jobs: Sequence[Any], workflow: Any, directory: str, cwd: str) -> Staging | None:
    """Return what the members of one job copy to its node and back; None if nothing.

    Parameters
    ----------
    jobs
        The job, or the members of a group, for which :func:`why_not_staged` answers None.
    workflow
        Its workflow.
    directory
        The job directory as the job sees it.
    cwd
        Working directory of the workflow as the job sees it.
    """
    jobs = [job for job in jobs if not job.is_norun]
    if copies_are_shared(workflow) or not any(in_storage(files_of(job)) for job in jobs):
        return None
    prefix = node_prefix(workflow)
    on_node = bool(_VARIABLE.search(prefix))
    name = _tag(directory)
    above = f"{directory}/{_LINK}" if on_node else os.path.join(cwd, prefix)
    home = f"{above}/{name}"
    staging = Staging(name, above, prefix if on_node else "")
    local = workflow.storage_settings.local_storage_prefix
    mine = {str(file) for job in jobs for file in (*job.output, *job.log)}
    uses: dict[str, list[Any]] = {}
    for job in jobs:
        for file in job.input:
            uses.setdefault(str(file), []).append(file.flags.get(access_patterns.STORE_KEY))

    def copy_of(file: Any) -> tuple[str, str]:
        path = str(file)
        source = os.path.join(cwd, file.storage_object.query)
        staging.paths[path] = f"{above if file.should_keep_local else home}/{_below(path, local)}"
        staging.stored[path] = source
        return source, staging.paths[path]

    for job in jobs:
        for file in in_storage(job.input):
            if str(file) in mine:
                continue
            source, copy = copy_of(file)
            if file.should_keep_local:
                staging.kept[source] = copy
            elif _is_read_once(uses[str(file)]):
                staging.linked[source] = copy
            else:
                staging.fetched[source] = copy
        for file in in_storage(job.output):
            source, copy = copy_of(file)
            staging.outputs[copy] = source
            if is_flagged(file, "directory"):
                staging.directories.append(copy)
            if is_flagged(file, "touch"):
                (staging.touched_directories if file.is_directory else staging.touched).append(copy)
            if is_flagged(file, "protected"):
                staging.protected.append(copy)
        for file in in_storage(job.log):
            source, copy = copy_of(file)
            staging.logs[copy] = source
        for file in in_storage([job.benchmark]):
            copy_of(file)  # which nobody makes: it is written by the main process
    return staging


def _is_read_once(patterns: Sequence[Any]) -> bool:
    """Tell whether an input is read once from its beginning to its end.

    Then snakemake-storage-plugin-fs does not copy it (see ``DAG.retrieve_storage_inputs``).
    """
    return len(patterns) == 1 and patterns[0] is access_patterns.AccessPattern.SEQUENTIAL


def _tag(text: str) -> str:
    return f"pipen-{hashlib.sha256(os.fsencode(text)).hexdigest()[:16]}"


def _below(path: str, prefix: Path) -> str:
    """Return where a copy lies below the prefix, never above it."""
    below = os.path.relpath(path, prefix)
    return "/".join("__up__" if part == ".." else part for part in below.split("/"))


def _evaluated(prefix: str) -> str:
    """Return bash for a prefix: variables are the node's, nothing else is expanded."""
    pieces = []
    end = 0
    for match in _VARIABLE.finditer(prefix):
        name = match[1].strip("{}")
        pieces += [_quoted(prefix[end : match.start()]), f'"${{{name}:?$pipen_unset}}"']
        end = match.end()
    return "".join([*pieces, _quoted(prefix[end:])]) or "''"


def _quoted(text: str) -> str:
    return shlex.quote(text) if text else ""


def _within(text: str) -> str:
    """Return a text as it is written within double quotes."""
    return re.sub(r'([\\$`"}])', r"\\\1", text)


# -- the script around the command -----------------------------------------------------------

FILE: Final = "job.staging"
"""Name of the script in the job directory; its arguments are the command."""

# ``command`` passes over functions that the user's shell has exported.
_HEAD: Final = r"""
trap : USR1 USR2   # warnings of a scheduler are the command's business
pipen_caught= pipen_number=0
trap 'pipen_caught=1' TERM INT HUP XCPU
pipen_give_up() {
    echo "pipen: $1 on ${HOSTNAME-}" >&2
    exit 1
}
pipen_discard() { # directories of copies, some of which may be write-protected
    [[ -e $1 ]] || return 0
    command rm -rf -- "$1" 2>/dev/null && return
    command chmod -R u+rwX -- "$1" && command rm -rf -- "$1"
}
pipen_replace() { # by what, which
    if [[ -d $1 || -d $2 ]]; then command rm -rf -- "$2" || return; fi
    command mv -fT -- "$1" "$2"
}
pipen_keep() { # path in storage, copy that may be there
    [[ -e $2 && ! $1 -nt $2 ]] && return
    local new=$pipen_copies/.new.$((pipen_number++))
    command cp -rLT --preserve=timestamps -- "$1" "$new" && pipen_replace "$new" "$2"
}
pipen_store() { # copy, path in storage
    local new=${2%/*}/.$pipen_name.$((pipen_number++))
    [[ -d ${2%/*} ]] || command mkdir -p -- "${2%/*}" || return
    if [[ -d $1 ]]; then
        command cp -rLT --preserve=timestamps -- "$1" "$new" || return
    else
        command cp -LT -- "$1" "$new" || return
    fi
    [[ -z ${3-} ]] || command chmod -R a-w -- "$new" || return
    pipen_replace "$new" "$2"
}
"""

_FREE: Final = r"""
pipen_need=$(command du -scLB1 --apparent-size -- @SOURCES@ | command tail -n 1)
pipen_need=${pipen_need%%[^0-9]*}
for ((pipen_left = @WAIT@; ; pipen_left -= 5)); do
    pipen_free=$(command df -B1 --output=avail -- "$pipen_copies" | command tail -n 1)
    ((${pipen_need:-0} <= ${pipen_free:-0})) && break
    ((pipen_left > 0)) || pipen_give_up "no room for the inputs' $pipen_need bytes in \
$pipen_copies, where $pipen_free are free (--wait-for-free-local-storage)"
    sleep 5
    [[ -z $pipen_caught ]] || exit 143
done
"""

# A remark of bash on a command that was killed is not the command's.
_RUN: Final = r"""
[[ -z $pipen_caught ]] || exit 143
@BEGIN@exec {pipen_err}>&2 2>/dev/null
"$@" 2>&"$pipen_err" {pipen_err}>&-
pipen_rc=$?
exec 2>&"$pipen_err" {pipen_err}>&-
@END@[[ -n $pipen_caught && $pipen_rc -eq 0 ]] && pipen_rc=143
"""

_NOW: Final = r"""
pipen_now() {
    if [[ -n ${EPOCHREALTIME-} ]]; then REPLY=${EPOCHREALTIME/,/.}; else REPLY=$(date +%s); fi
}
"""


def script(staging: Staging, directory: str, cwd: str, *, wait: int = 0, usage: str = "") -> str:
    """Return the bash script that runs its arguments as a command between its copies.

    Its exit status is the command's, or not 0 where a copy failed.

    Parameters
    ----------
    staging
        What it copies.
    directory, cwd
        The job directory, and the working directory of the workflow, as the job sees them.
    wait
        Seconds that it waits for free space (``--wait-for-free-local-storage``).
    usage
        File in which what the command uses is measured: it is told when the command begins
        and ends, apart from the copies. Empty if nothing is.
    """
    q = shlex.quote
    copies = f"{staging.prefix}/{staging.name}"
    lines = ["#!/bin/bash", f"pipen_name={staging.name} pipen_copies={q(copies)}", _HEAD]
    if staging.target:
        lines += [
            f"pipen_unset={q(f'it is not set on this node, but {_TOLD_BY} is {staging.target}')}",
            f"pipen_prefix={_evaluated(staging.target)}",
            f"[[ $pipen_prefix == /* ]] || pipen_prefix={q(cwd)}/$pipen_prefix",
            'command mkdir -p -- "$pipen_prefix" && '
            f'command ln -sfn -- "$pipen_prefix" {q(staging.prefix)} || '
            'pipen_give_up "$pipen_prefix (--local-storage-prefix) cannot be used"',
        ]
    lines.append(
        'pipen_discard "$pipen_copies" && command mkdir -p -- "$pipen_copies" || '
        'pipen_give_up "$pipen_copies (below --local-storage-prefix) cannot be used"'
    )
    parents = sorted({os.path.dirname(path) for path in staging.paths.values()})
    lines += [f"command mkdir -p -- {names} || exit" for names in _some(parents)]
    if wait and staging.fetched:
        free = _FREE.replace("@WAIT@", str(wait))
        lines.append(free.replace("@SOURCES@", shlex.join(staging.fetched)))
    lines += [
        f'{line} || pipen_give_up "inputs could not be copied to {_within(staging.prefix)}"'
        for line in _fetching(staging)
    ]
    run = _RUN
    for word in ("begin", "end"):
        note = f'pipen_now; echo "{word} $REPLY" >> {q(usage)}\n' if usage else ""
        run = run.replace(f"@{word.upper()}@", note)
    lines += [_NOW if usage else "", run, *_storing(staging), 'exit "$pipen_rc"']
    return "\n".join(line for line in lines if line) + "\n"


def _fetching(staging: Staging) -> list[str]:
    """Return the commands that bring the inputs to the node."""
    together: dict[str, list[str]] = {}
    lines = []
    for source, copy in staging.fetched.items():
        parent, _, name = copy.rpartition("/")
        if os.path.basename(source) == name:
            together.setdefault(parent, []).append(source)
        else:
            words = shlex.join([source, copy])
            lines.append(f"command cp -rLT --preserve=timestamps -- {words}")
    for parent, sources in together.items():
        into = f"command cp -rL --preserve=timestamps -t {shlex.quote(parent)} --"
        lines += [f"{into} {names}" for names in _some(sources)]
    lines += [f"pipen_keep {shlex.join(pair)}" for pair in staging.kept.items()]
    lines += [f"command ln -s -- {shlex.join(pair)}" for pair in staging.linked.items()]
    return lines


def _some(names: Sequence[str]) -> Iterable[str]:
    """Return names as arguments of commands, none of which gets more than it can take."""
    for start in range(0, len(names), 200):
        yield shlex.join(names[start : start + 200])


def _storing(staging: Staging) -> list[str]:
    """Return the lines that bring outputs of a command that succeeded, and logs, to storage."""
    q = shlex.quote

    def store(copy: str, target: str, *options: str) -> str:
        words = shlex.join([copy, target, *options])
        problem = _within(f"{target} could not be stored, on")
        return f'pipen_store {words} || {{ echo "pipen: {problem} $HOSTNAME" >&2; pipen_rc=1; }}'

    lines = ["if ((pipen_rc == 0)); then"]
    lines += [f"[[ -e {name} ]] || : > {name}" for name in map(q, staging.touched)]
    if staging.touched_directories:
        lines.append(f"command mkdir -p -- {shlex.join(staging.touched_directories)}")
    for copy, target in staging.outputs.items():
        condition = f"[[ -e {q(copy)} ]]"
        if copy in staging.directories:  # its time is that of a file in it, as everywhere
            stamp = q(f"{copy}/.snakemake_timestamp")
            condition = f"[[ -d {q(copy)} ]] && command touch -- {stamp}"
        options = ["protected"] if copy in staging.protected else []
        lines.append(f"if {condition}; then {store(copy, target, *options)}; fi")
    lines += [":", "fi"]
    for copy, target in staging.logs.items():
        lines += [f"[[ -e {q(copy)} ]] || : > {q(copy)}", store(copy, target)]
    return lines


def removal(staging: Staging, directory: str) -> str:
    """Return bash that removes all copies of a job, and halves of files in storage.

    The wrapper runs it when the command has ended in whatever way. It removes nothing but
    what has this job's own name.
    """
    q = shlex.quote
    stored = (*staging.outputs.values(), *staging.logs.values())
    targets = {os.path.dirname(path) for path in stored}
    halves = " ".join(f"{q(target)}/.{staging.name}.*" for target in sorted(targets))
    copies = q(f"{staging.prefix}/{staging.name}")
    names = f"{copies} {halves}".rstrip()
    code = f"command rm -rf -- {names} 2>/dev/null || {{ command chmod -R u+rwX -- {names}; "
    code += f"command rm -rf -- {names}; }} 2>/dev/null"
    if staging.target:
        code += f"\ncommand rm -f -- {q(f'{directory}/{_LINK}')}"
    return code
