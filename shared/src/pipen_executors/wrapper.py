"""The bash script that runs on the node around the command of one job.

It needs bash (4.2 or later) and coreutils, nothing else; flock(1) of util-linux where it is
there. What it promises:

* The command is a script file, run by its own interpreter; nothing of it is
  expanded by the wrapper.
* It runs at most once for each submission, and never for a submission that a later
  run has given up (see :meth:`JobDir.claim`). A job that the scheduler requeued
  runs again, after the outputs of its first start are removed.
* Whatever ends the job, ``job.rc`` and ``job.status`` are written and the end is
  announced in the events directory; a signal is never written down as success. Only
  SIGKILL to the wrapper and a lost node leave nothing.
* The end carries the exit status in the name of an empty file, so that it is known
  by listing one directory for all jobs, and even when the disk is full.
* No process is started but those of the job, and one flock(1) where the scheduler may
  forget a job. ``job.rc`` and ``job.status`` hold a few
  bytes that are written by one write(2): a reader sees all of them or an empty file,
  which it takes for "not there yet". Renaming them into place would take a process
  each, and is not what makes an end known.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from . import meter
from .find_bash import INTERPRETER
from .jobdir import ALIVE, INFO
from .spec import JobSpec
from .states import JobState


@dataclass(frozen=True, slots=True)
class WrapperContext:
    """What the wrapper must know beside the job itself.

    Parameters
    ----------
    shebang
        First line, with the scheduler's directives below it where it has any.
    directory, events
        Job directory and events directory as the job sees them.
    cwd
        Working directory of the command, likewise.
    key, token
        The job and this submission of it.
    jid
        Bash expression for the scheduler's id of the job (``${SLURM_JOB_ID}``).
    rerun
        Whether outputs of an earlier attempt have to be removed first.
    init, prep, end
        Bash from hooks: before the prescript, before the command, after it.
    end_notes
        Bash that prints further notes on the end, ``name=value``.
    final_exit
        Bash that ends the wrapper, with the exit status in ``$rc``.
    check_inputs
        Whether inputs may become visible on the node later than here.
    kill_grace
        Seconds between TERM and KILL for a command that is cancelled or over its timeout.
    tell_start
        Whether the start is announced too, not only the end.
    guard
        Whether the command has to be ended when the wrapper is killed, because the
        scheduler may reach no further than the wrapper's process group.
    lock
        Whether the wrapper holds a lock as long as it lives, because the scheduler may forget a
        job that still runs.
    sweep
        Whether a killed wrapper looks through all processes for what has left the command's
        process group. On a node with thousands of jobs that takes each of them seconds.
    seen
        From a path of the workflow to the path by which the job sees it.
    umask
        Mode bits that new files are not given, as where Snakemake runs (umask(2)).
    arguments
        Names of the variables that hold what the wrapper is called with.
    """

    shebang: str
    directory: str
    events: str
    cwd: str
    key: str
    token: str
    jid: str
    rerun: bool = False
    init: str = ""
    prep: str = ""
    end: str = ""
    end_notes: str = ""
    final_exit: str = 'exit "$rc"'
    check_inputs: bool = False
    kill_grace: float = 10
    tell_start: bool = True
    guard: bool = False
    lock: bool = False
    sweep: bool = True
    seen: Callable[[str], str] = str
    umask: int = 0o022
    arguments: Sequence[str] = ()


_FIRST_START: Final = 300
"""Seconds that a second start of a job waits for the end of a first one on another node."""
_TELL_START: Final = ': > "$pipen_events/$pipen_key.$pipen_token.start"'

_ALONE: Final = r"""
# What the user has for their own shells is not for this one: functions and options that are
# exported, BASH_ENV, CDPATH (bash(1), -p). All of it goes on to the command.
[[ -o privileged ]] || exec "$BASH" -p "$0" "$@"
# Variables that bash itself heeds, or that have names of this script's, are put aside as well:
# a TMOUT would end each read here that waits longer (bash(1), TMOUT).
pipen_put_aside() {
    local name kept=()
    if [[ $1 == again ]]; then kept=("${pipen_kept[@]}"); fi
    shift
    for name; do
        if [[ -n ${!name+set} ]]; then kept+=("$name=${!name}"); fi
    done
    unset -v "$@"
    pipen_kept=("${kept[@]}")
}
pipen_put_aside first ${!pipen_@} @OWN@
# bash exports what these are now, "privileged" included, if they were in the environment.
pipen_as_env=()
pipen_keep_options() {
    local line
    while IFS= read -r -d '' line; do
        case $line in SHELLOPTS=* | BASHOPTS=*) pipen_as_env+=("$line") ;; esac
    done < /proc/self/environ
    pipen_as_env=(env "${pipen_as_env[@]}")
}
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) && [[ ${SHELLOPTS@a}${BASHOPTS@a} == *x* ]]
then
    pipen_keep_options
fi
# In the shell that becomes the command.
pipen_bring_back() {
    set -- "${pipen_kept[@]}"
    unset -v ${!pipen_@} OLDPWD
    while (($#)); do
        case $1 in
            *=*) export -- "$1" ;;
            *) unset -v "$1" ;;
        esac
        shift
    done
}
"""
HEEDED: Final = (
    *("TMOUT", "POSIXLY_CORRECT", "POSIX_PEDANTIC", "BASH_COMPAT", "FUNCNEST", "EXECIGNORE"),
    *("CDPATH", "GLOBIGNORE"),
)
"""Variables by which bash changes what it does."""
_OWN: Final = ("rc", "cmd", "REPLY", "OLDPWD", *HEEDED)
"""Variables that are another's in the wrapper than in the command, besides ``pipen_*``."""

_INSIST: Final = 600
"""Seconds for which a wrapper repeats what it must write while its file system fails."""

_HEAD: Final = r"""
pipen_now() {
    if [[ -n ${EPOCHREALTIME-} ]]; then REPLY=${EPOCHREALTIME/,/.}; else REPLY=$(date +%s); fi
}

# A file system may fail for a while (a full disk, a stale handle): repeat what must be done.
pipen_insist() {
    local pipen_until=$((SECONDS + @INSIST@))
    until "$@"; do
        ((SECONDS < pipen_until)) || return 1
        sleep 1
    done
}
@ALIVE@
# Claim this submission. Creating a file that must not exist is atomic, on NFS too. Whether this
# shell has created it is known even where nothing can be written into it yet. A directory that
# may not be written at all (access(2)) will not be so later.
pipen_claim() {
@HOLD@    { exec {pipen_claimed}> "$pipen_info"; } 2>/dev/null || [[ -e $pipen_info ]] ||
        { [[ -d $pipen_dir && ! -w $pipen_dir ]] && pipen_claimed=no; }
}
pipen_note_start() {
    printf 'jid=%s node=%s start=%s\n' "$pipen_jid" "${HOSTNAME-}" "$REPLY" >&"$pipen_claimed"
}
pipen_begin_output() { exec >> "$pipen_dir/job.stdout" 2>> "$pipen_dir/job.stderr" < /dev/null; }
pipen_claimed=
set -o noclobber
pipen_insist pipen_claim || pipen_claimed=no
if [[ $pipen_claimed == no ]]; then
    echo "pipen: the job was not started: $pipen_info cannot be written on ${HOSTNAME-}" >&2
    exit 1
fi
set +o noclobber
pipen_now
if [[ -n $pipen_claimed ]]; then
    pipen_insist pipen_note_start 2>/dev/null
    exec {pipen_claimed}>&-
else
    pipen_owner=
    { read -r pipen_owner _ < "$pipen_info"; } 2>/dev/null
    if [[ $pipen_owner != "jid=$pipen_jid" ]]; then
        echo "pipen: this submission was given up by a later run; nothing to do" >&2
        exit 0
    fi
@ENDED@    pipen_rerun=1   # the scheduler requeued the job: same id, started before
    : > "$pipen_dir/job.rc"
    printf 'node=%s start=%s\n' "${HOSTNAME-}" "$REPLY" >> "$pipen_info"
fi
pipen_insist pipen_begin_output

# The control group of this shell, if it holds nothing else but what started it: then its
# peak of memory, file cache included, is the job's (cgroups(7); memory.peak from Linux 5.19).
pipen_peak=
while IFS=: read -r _ pipen_line pipen_file; do
    case $pipen_line in
        "") pipen_file=/sys/fs/cgroup$pipen_file pipen_line=memory.peak ;;
        memory) pipen_file=/sys/fs/cgroup/memory$pipen_file pipen_line=memory.max_usage_in_bytes ;;
        *) continue ;;
    esac
    [[ -r $pipen_file/$pipen_line && -r $pipen_file/cgroup.procs ]] || continue
    pipen_peak=$pipen_file/$pipen_line
    while read -r pipen_line; do
        [[ $pipen_line == "$$" || $pipen_line == "$PPID" ]] || { pipen_peak=; break; }
    done < "$pipen_file/cgroup.procs"
    break
done 2>/dev/null < /proc/self/cgroup

# How long a cancelled command has: what was submitted may know that the scheduler gives less.
pipen_grace=${PIPEN_KILL_GRACE:-@GRACE@}
unset -v PIPEN_KILL_GRACE PIPEN_SLURM_CLUSTER PIPEN_JID

pipen_stage=start pipen_caught= pipen_theirs= rc=
pipen_child= pipen_watchdog= pipen_meter= pipen_guard_PID=
# End what has left the command's process group, where this shell leads a session of its
# own (proc(5), stat: behind the name in brackets follow state, ppid, pgrp, session).
pipen_end_session() {
    local pipen_stat pipen_line
    for pipen_stat in /proc/[0-9]*/stat; do
        { read -r pipen_line < "$pipen_stat"; } 2>/dev/null || continue
        set -- ${pipen_line##*) }
        [[ ${4-} == "$$" && ${pipen_line%% *} != "$$" ]] || continue
        kill -s KILL "${pipen_line%% *}" 2>/dev/null
    done
}
# What was told to end has its time for that, also where the shell that started it is gone
# at once: a second Snakemake is at that moment removing half an output. With thousands of jobs
# on a node /proc cannot be read for that: a zombie counts as running until init has taken it.
pipen_await_command() {
    local pipen_until=$((SECONDS + pipen_grace)) pipen_pause=0.1
    while kill -0 -- "-$pipen_child" 2>/dev/null && ((SECONDS <= pipen_until)); do
        sleep "$pipen_pause"
        if [[ $pipen_pause == 0.1 ]]; then pipen_pause=0.4; else pipen_pause=1; fi
    done
}
# The name of an event needs no room on a full disk, and has the exit status too.
pipen_tell_end() {
    echo "$rc" > "$pipen_dir/job.rc" || { sleep 1; echo "$rc" > "$pipen_dir/job.rc"; }
    : > "$pipen_events/$pipen_key.$pipen_token.end.$rc"
}
pipen_finish() {
    pipen_last=$?
    trap '' TERM INT HUP XCPU
    rc=${rc:-$pipen_last}
    disown -a   # bash's remarks on what is killed here are not the job's
    [[ -n $pipen_watchdog ]] && kill -s KILL -- "-$pipen_watchdog" 2>/dev/null
    [[ -n $pipen_meter ]] && kill -s KILL -- "-$pipen_meter" 2>/dev/null
    if [[ $pipen_stage == command ]]; then
        # Who tells all processes may have reached the command before this shell, and missed what
        # it was just starting.
        [[ -z $pipen_caught && $rc -eq 143 ]] && kill -s TERM -- "-$pipen_child" 2>/dev/null
        if [[ -n $pipen_caught || $rc -eq 143 || -e $pipen_dir/job.timedout ]]; then
            pipen_await_command
            kill -s KILL -- "-$pipen_child" 2>/dev/null   # what the command left running
            @SWEEP@pipen_end_session
        fi
        [[ -n $pipen_guard_PID ]] && kill -s KILL -- "-$pipen_guard_PID" 2>/dev/null
        # A signal is a failure, whatever the command made of it.
        [[ -n $pipen_caught && $rc -eq 0 ]] && rc=143
        @AFTER@
    elif [[ $rc -eq 0 ]]; then
        rc=1   # ended before the command ran
    fi
    if [[ -n $pipen_theirs ]]; then
        (eval "pipen_theirs=(${pipen_theirs#trap})"; eval "${pipen_theirs[1]}")
    fi
    # On an object store files are there when they are closed: output before the end is told.
    exec > /dev/null 2>&1
    pipen_now
    {
        printf 'end=%s stage=%s signal=%s\n' "$REPLY" "$pipen_stage" "$pipen_caught"
        [[ -n $pipen_peak ]] && read -r REPLY < "$pipen_peak" && printf 'memory=%s\n' "$REPLY"
        times
        @NOTES@
    } >> "$pipen_info"
    if [[ $rc -eq 0 ]]; then echo @FINISHED@; else echo @FAILED@; fi > "$pipen_dir/job.status"
    pipen_insist pipen_tell_end
    trap - EXIT
    @FINAL_EXIT@
}
pipen_on_signal() {
    pipen_caught=$1
    if [[ $pipen_stage != command ]]; then exit 143; fi
    # Told later if the command is just being started.
    [[ -n $pipen_child ]] && pipen_tell_command
}
# What was started this very moment may be told while it is still a copy of this shell, which
# forgets it when it lets go of this shell's traps: such a command is told again.
pipen_tell_command() {
    @PAUSE@kill -s "$pipen_caught" -- "-$pipen_child" 2>/dev/null
    if ((SECONDS - pipen_begun <= 1)); then
        sleep 0.3
        kill -s "$pipen_caught" -- "-$pipen_child" 2>/dev/null
    fi
}
trap pipen_finish EXIT
for pipen_signal in TERM INT HUP XCPU; do trap "pipen_on_signal $pipen_signal" "$pipen_signal"; done
# Warnings that a scheduler sends before the end of a job are the command's business.
for pipen_signal in USR1 USR2; do
    trap "[[ -n \$pipen_child ]] && kill -s $pipen_signal -- -\$pipen_child 2>/dev/null" \
        "$pipen_signal"
done

echo @RUNNING@ > "$pipen_dir/job.status"
@TELL_START@
"""

# Whoever signals all processes of a job has told the command already. A Snakemake that is told
# once more while it deals with the first SIGTERM blocks for good: its handler takes a lock that
# is not reentrant.
_PAUSE: Final = "sleep 0.5; "

_RUN: Final = r"""
# The command gets its own process group, to be ended as a whole. Job control also
# keeps SIGINT and SIGQUIT at their defaults, which bash ignores in background jobs.
pipen_stage=command
set -m
@GUARD@pipen_begun=$SECONDS
if [[ $cmd == "$pipen_cmd" ]]; then
    { @GO@set -- "${pipen_as_env[@]}" "${pipen_argv[@]}"; pipen_bring_back; exec "$@"; } &
else
    { @GO@set -- "$cmd"; pipen_bring_back; eval "$1"; } &
fi
pipen_child=$!
@GUARDED@[[ -n $pipen_caught ]] && pipen_tell_command
@METER@@WATCHDOG@@ALL_GUARDED@set +m
while :; do
    pipen_before=$pipen_caught
    wait "$pipen_child" 2>/dev/null   # bash's remark on a killed job is not the job's
    rc=$?
    [[ $pipen_caught == "$pipen_before" && $rc -le 128 ]] && break
    if ! kill -0 "$pipen_child" 2>/dev/null; then
        # Ended while a trap ran: bash remembers the status, unless wait had told it (127).
        # But bash loses it where the signal comes as waitpid(2) returns: it then takes the
        # child for running, and another wait would last as long as any other child does.
        pipen_running=$'\n'$(jobs -rp)$'\n'
        if [[ $pipen_running != *$'\n'"$pipen_child"$'\n'* ]]; then
            wait "$pipen_child" 2>/dev/null
            pipen_again=$?
            [[ $pipen_again -ge 0 && $pipen_again -ne 127 ]] && rc=$pipen_again
        fi
        break
    fi
done
@METERED@[[ -e $pipen_dir/job.timedout ]] && rc=124
exit "$rc"
"""

_WATCHDOG: Final = r"""(
    sleep @TIMEOUT@
    : > "$pipen_dir/job.timedout"
    kill -s TERM -- "-$pipen_child"
    sleep @GRACE@
    kill -s KILL -- "-$pipen_child"
) 2>/dev/null &
pipen_watchdog=$!
"""

# A pipe that only the wrapper can write to: it is at its end when the wrapper is gone. The
# command begins when the guard has heard of it, so that at no moment it runs unguarded.
_GUARD: Final = r"""coproc pipen_guard {
    trap '' TERM INT HUP
    pipen_guarded=()
    while read -r; do
        pipen_guarded+=("-$REPLY")
        echo
    done
    kill -s KILL -- "${pipen_guarded[@]}"
} 2>/dev/null
exec {pipen_go}<&"${pipen_guard[0]}"
pipen_let_guard() {
    trap '' PIPE
    echo "$1" >&"${pipen_guard[1]}"
    trap - PIPE
} 2>/dev/null
"""
# A lock that goes with this shell, so that a job can be told to be running which its scheduler
# has forgotten. Where such a scheduler starts it again, the second start waits for the end of the
# first; that of another node may be gone, and its lock with it later than the node.
# Without flock(1), or on a file system without locks, nothing is told.
_ALIVE: Final = rf"""
pipen_alive=
pipen_hold() {{
    local pipen_line= pipen_wait=(-w {_FIRST_START})
    [[ -z $pipen_alive ]] || return
    {{ exec {{pipen_alive}}>> "$pipen_dir/{ALIVE}"; }} 2>/dev/null || return
    {{ read -r pipen_line < "$pipen_info"; }} 2>/dev/null
    [[ "$pipen_line " == *" node=${{HOSTNAME-}} "* ]] && pipen_wait=()
    flock "${{pipen_wait[@]}}" "$pipen_alive" 2>/dev/null && return
    exec {{pipen_alive}}>&-
    pipen_alive=
}}
"""
_HOLD: Final = "    pipen_hold\n"
_ENDED: Final = """    pipen_line=
    { read -r pipen_line < "$pipen_dir/job.rc"; } 2>/dev/null
    if [[ $pipen_line == 0 ]]; then
        echo "pipen: the first start of this job has come to its end; nothing to do" >&2
        exit 0
    fi
"""
_WITHOUT_LOCK: Final = "[[ -z $pipen_alive ]] || exec {pipen_alive}>&-; "
_GO: Final = 'read -r <&"$pipen_go" || exit 143; exec {pipen_go}<&-; '
_GUARDED: Final = '[[ -z $pipen_caught ]] && pipen_let_guard "$pipen_child"\n'
_ALL_GUARDED: Final = (
    'for pipen_pid in $pipen_watchdog $pipen_meter; do pipen_let_guard "$pipen_pid"; done\n'
)

# What a bash of the user's own would have, for the code of the user's that runs in this one.
_USERS_SHELL: Final = r"""
pipen_functions=()
pipen_like_users_shell() {
    local pipen_line pipen_name
    while IFS= read -r -d '' pipen_line; do
        [[ $pipen_line =~ ^BASH_FUNC_([A-Za-z_][A-Za-z0-9_:.-]*)%%=(\(\)\ \{.*)$ ]] || continue
        pipen_name=${BASH_REMATCH[1]}
        if eval "$pipen_name ${BASH_REMATCH[2]}"; then pipen_functions+=("$pipen_name"); fi
    done < /proc/self/environ
    if [[ -n ${BASH_ENV-} && -r $BASH_ENV ]]; then . "$BASH_ENV"; fi
}
"""

# What the prescript changed in the shell and the wrapper relies on: an EXIT trap of its own
# is kept for the end.
_AFTER_PRESCRIPT: Final = r"""
set +eufC
IFS=$' \t\n'
if ((${#pipen_functions[@]})); then unset -f "${pipen_functions[@]}"; fi
pipen_put_aside again @HEEDED@
if [[ $(trap -p EXIT) != "trap -- 'pipen_finish' EXIT" ]]; then
    pipen_theirs=$(trap -p EXIT)
    trap pipen_finish EXIT
fi
"""

_INPUTS: Final = r"""
pipen_stage=input
pipen_deadline=$((SECONDS + @LATENCY@))
for pipen_file in "${pipen_inputs[@]}"; do
    until [[ -e $pipen_file ]]; do
        if ((SECONDS >= pipen_deadline)); then
            printf 'pipen: input not visible on %s after @LATENCY@ s: %s\n' \
                "${HOSTNAME-}" "$pipen_file" >&2
            exit 1
        fi
        sleep 0.5
        ls -- "${pipen_file%/*}" > /dev/null 2>&1   # makes NFS look again
    done
done
"""

# A prescript sees the temporary directory, and may choose another.
_TMPDIR: Final = r"""pipen_tmpdir_given=${TMPDIR-}
pipen_place_tmpdir() {
@CODE@
}
pipen_place_tmpdir
pipen_tmpdir=$TMPDIR
"""
_TMPDIR_AFTER: Final = r"""[[ $TMPDIR != "$pipen_tmpdir" ]] || TMPDIR=$pipen_tmpdir_given
pipen_place_tmpdir
"""


_HERE: Final = r"""
pipen_interpreter "${pipen_argv[0]}"
if [[ $pipen_program != "${pipen_argv[0]}" ]]; then
    pipen_argv[0]=$pipen_program
    printf -v cmd '%q ' "${pipen_argv[@]}"
fi
"""


def export(name: str, value: str | None) -> str:
    """Return the line of a wrapper that sets or (None) removes a variable of the command."""
    if name in _OWN or name.startswith("pipen_"):
        word = name if value is None else f"{name}={value}"
        return f"pipen_kept+=({shlex.quote(word)})"
    if value is None:
        return f"unset -v {shlex.quote(name)}"
    return f"export {name}={shlex.quote(value)}"


def _array(name: str, values: Iterable[str]) -> str:
    items = "\n".join(f"    {shlex.quote(value)}" for value in values)
    return f"{name}=(\n{items}\n)"


def _after(*parts: str) -> str:
    """Return bash for what follows the command; an exit in it ends only itself."""
    code = "\n".join(part for part in parts if part)
    return f"(\npipen_like_users_shell\n{code}\n)" if code else ":"


def _one_line(text: str) -> str:
    """Return text for a comment, which ends with its line."""
    return "".join(char if char.isprintable() else "?" for char in text)


def render(spec: JobSpec, context: WrapperContext, env_code: str) -> str:
    """Return the text of the wrapper script.

    Parameters
    ----------
    spec
        The job.
    context
        What its scheduler and this submission add.
    env_code
        Bash that exports the job's environment.
    """
    q = shlex.quote
    argv = list(spec.argv)
    if spec.script_file:
        argv.append(f"{context.directory}/{spec.script_file}")
    users = any((context.init, spec.prescript, context.prep))
    afterwards = any((spec.postscript, context.end))
    lines = [
        f"#!{context.shebang}",
        f"# {_one_line(f'{spec.rule} {spec.label}')}: written by pipen-executors; the command is "
        f"{_one_line(q(argv[-1]))}",
        _ALONE.replace("@OWN@", " ".join(_OWN)),
        f"umask {context.umask:04o}",
        *(f"{name}=${{{number}-}}" for number, name in enumerate(context.arguments, 1)),
        f"pipen_dir={q(context.directory)}",
        f"pipen_events={q(context.events)}",
        f"pipen_key={q(context.key)}",
        f"pipen_token={q(context.token)}",
        f"pipen_info=$pipen_dir/{INFO}.$pipen_token",
        f"pipen_jid={context.jid}",
        f"pipen_rerun={'1' if context.rerun else ''}",
        _HEAD.replace("@RUNNING@", str(JobState.RUNNING.value))
        .replace("@FINISHED@", str(JobState.FINISHED.value))
        .replace("@FAILED@", str(JobState.FAILED.value))
        .replace("@AFTER@", _after(spec.postscript, context.end))
        .replace("@GRACE@", str(math.ceil(context.kill_grace)))
        .replace("@INSIST@", str(_INSIST))
        .replace("@PAUSE@", "" if spec.direct else _PAUSE)
        .replace("@SWEEP@", "" if context.sweep else "[[ -z $pipen_caught ]] && ")
        .replace("@TELL_START@", _TELL_START if context.tell_start else "")
        .replace("@NOTES@", context.end_notes)
        .replace("@ALIVE@", _ALIVE if context.lock else "")
        .replace("@HOLD@", _HOLD if context.lock else "")
        .replace("@ENDED@", _ENDED if context.lock else "")
        .replace("@FINAL_EXIT@", context.final_exit),
        # Without a change PWD stays as it was, links in it included.
        f"[[ . -ef {q(context.cwd)} ]] || cd -- {q(context.cwd)} || exit 1",
        "pipen_stage=environment",
        env_code,
        _TMPDIR.replace("@CODE@", spec.tmpdir_code) if spec.tmpdir_code and users else "",
        _USERS_SHELL if users or afterwards else "",
        "pipen_like_users_shell" if users else "",
        context.init,
    ]
    if context.check_inputs and spec.inputs:
        lines += [
            _array("pipen_inputs", map(context.seen, spec.inputs)),
            _INPUTS.replace("@LATENCY@", str(max(1, round(spec.latency_wait)))),
        ]
    if spec.direct:
        lines.append(_clean_and_make_directories(spec, context))
    lines += [
        "pipen_stage=prescript",
        spec.prescript,
        _AFTER_PRESCRIPT.replace("@HEEDED@", " ".join(HEEDED)) if users else "",
        "pipen_stage=environment",
        "" if not spec.tmpdir_code else _TMPDIR_AFTER if users else spec.tmpdir_code,
        _array("pipen_argv", argv),
        f"cmd={q(shlex.join(argv))}",
        INTERPRETER,
        _HERE,
        "pipen_cmd=$cmd",
        "pipen_stage=prepare",
        context.prep,
    ]
    watchdog = ""
    if spec.timeout:
        watchdog = _WATCHDOG.replace("@TIMEOUT@", f"{spec.timeout:g}")
        watchdog = watchdog.replace("@GRACE@", f"{context.kill_grace:g}")
    lines.append(
        _RUN.replace("@METER@", meter.START if spec.measured else "")
        .replace("@METERED@", meter.END if spec.measured else "")
        .replace("@WATCHDOG@", watchdog)
        .replace("@GUARD@", _GUARD if context.guard else "")
        .replace("@GO@", (_WITHOUT_LOCK if context.lock else "") + (_GO if context.guard else ""))
        .replace("@GUARDED@", _GUARDED if context.guard else "")
        .replace("@ALL_GUARDED@", _ALL_GUARDED if context.guard else "")
    )
    return "\n".join(line for line in lines if line) + "\n"


def _clean_and_make_directories(spec: JobSpec, context: WrapperContext) -> str:
    """Return bash that removes outputs of an earlier start and makes directories."""
    files, directories, logs = (
        [context.seen(path) for path in paths]
        for paths in (spec.removable, spec.removable_dirs, spec.logs)
    )
    remove = []
    if files:
        remove.append(f"rm -f -- {shlex.join(files)}")
    if directories:
        remove.append(f"rm -rf -- {shlex.join(directories)}")
    code = []
    if remove:
        code.append("if [[ -n $pipen_rerun ]]; then\n" + "\n".join(remove) + "\nfi")
    if context.check_inputs or context.rerun or remove:
        parents = {path.rpartition("/")[0] for path in (*files, *directories, *logs)}
        made = sorted(parents - {""})
        if made:
            names = shlex.join(made)
            code.append(
                f"for pipen_file in {names}; do\n"
                '[[ -d $pipen_file ]] || mkdir -p -- "$pipen_file"\ndone'
            )
    return "\n".join(code)
