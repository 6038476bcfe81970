"""Measuring what a command uses while it runs, for ``benchmark:``.

The wrapper runs a few lines of bash beside the command. They walk the command's processes
through proc(5), as often as Snakemake's own benchmarks do, and write down a line for each.
No other process is started but ``sleep``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FILE: Final = "job.usage"
_TICKS: Final = 100
"""Clock ticks in a second of the times in /proc/<pid>/stat: USER_HZ, see time(7)."""
_MIB: Final = 1024 * 1024

_START: Final = r"""pipen_now
echo "begin $REPLY" >> "@FILE@"   # not below: a short command may be over by then
(
    pipen_pause=
    trap '[[ -z $pipen_pause ]] || kill "$pipen_pause"; exit' TERM
    pipen_tree() {
        local pipen_pid pipen_task pipen_children
        for pipen_pid; do
            pipen_tree+=("$pipen_pid")
            for pipen_task in "/proc/$pipen_pid"/task/*/children; do
                pipen_children=
                read -r pipen_children < "$pipen_task"
                pipen_tree $pipen_children
            done
        done
    }
    pipen_sample() {
        local pipen_pid pipen_line pipen_lines pipen_ticks pipen_vms
        local pipen_rss pipen_uss pipen_pss pipen_in pipen_out
        pipen_tree=()
        pipen_tree "$pipen_child"
        pipen_now
        for pipen_pid in "${pipen_tree[@]}"; do
            read -r pipen_line < "/proc/$pipen_pid/stat" || continue
            set -- ${pipen_line##*) }   # from the third field on
            pipen_ticks=$((${12} + ${13})) pipen_vms=${21}
            pipen_rss= pipen_uss=0 pipen_pss=0 pipen_in=0 pipen_out=0
            # Read as a whole: the kernel counts anew for each line that is read by itself.
            mapfile -t pipen_lines < "/proc/$pipen_pid/smaps_rollup"
            for pipen_line in "${pipen_lines[@]}"; do
                set -- $pipen_line
                case $1 in
                    Rss:) pipen_rss=$2 ;;
                    Pss:) pipen_pss=$2 ;;
                    Private_*) pipen_uss=$((pipen_uss + $2)) ;;
                esac
            done
            [[ -n $pipen_rss ]] || continue   # ended, or another user's
            mapfile -t pipen_lines < "/proc/$pipen_pid/io"
            for pipen_line in "${pipen_lines[@]}"; do
                case $pipen_line in
                    read_bytes:*) pipen_in=${pipen_line#*: } ;;
                    write_bytes:*) pipen_out=${pipen_line#*: } ;;
                esac
            done
            echo "$REPLY $pipen_pid $pipen_ticks $pipen_vms $pipen_rss $pipen_uss $pipen_pss" \
                "$pipen_in $pipen_out"
        done
    }
    for ((pipen_count = 0; ; pipen_count++)); do
        pipen_sample
        if ((pipen_count > 30)); then sleep 30 & else sleep 0.5 & fi
        pipen_pause=$!
        wait "$pipen_pause"
    done
) >> "@FILE@" 2>/dev/null &
pipen_meter=$!
"""


def start(file: str) -> str:
    """Return bash that begins to measure the processes of ``$pipen_child``.

    It calls ``pipen_now`` and puts the process that measures into ``$pipen_meter``, which
    ends by SIGTERM.

    Parameters
    ----------
    file
        Path of the file to write, as it stands between double quotes.
    """
    return _START.replace("@FILE@", file)


START: Final = start(f"$pipen_dir/{FILE}")
"""Bash that begins to measure the command of a wrapper."""

END: Final = rf"""
pipen_now
kill -s KILL -- "-$pipen_meter" 2>/dev/null
wait "$pipen_meter" 2>/dev/null   # bash's remark on a killed job is not the job's
echo "end $REPLY" >> "$pipen_dir/{FILE}"
"""
"""Bash for when the command has ended."""


@dataclass(frozen=True)
class Usage:
    """What a command has used.

    Parameters
    ----------
    seconds
        Wall time.
    rss, vms, uss, pss
        Most memory of all processes together, in MiB: resident, virtual, unshared, and
        proportional to sharing.
    read, written
        What the processes of the last sample have had from and given to storage, in MiB.
    cpu
        CPU time of all processes that were seen, in seconds.
    load
        CPU time between samples, in seconds.
    sampled
        Whether there was a sample at all.
    """

    seconds: float
    rss: float
    vms: float
    uss: float
    pss: float
    read: float
    written: float
    cpu: float
    load: float
    sampled: bool


def read_usage(text: str) -> Usage | None:
    """Read what the wrapper wrote down; None if it is not complete."""
    begin = end = None
    samples: dict[str, list[tuple[int, ...]]] = {}
    for line in text.splitlines():
        match line.split():
            case ["begin", time]:  # for the second time if the scheduler requeued the job
                begin, end = float(time), None
                samples.clear()
            case ["end", time]:  # the first one: what follows are copies to storage
                end = end or float(time)
            case [time, *numbers] if len(numbers) == 8 and end is None:
                samples.setdefault(time, []).append(tuple(map(int, numbers)))
    if begin is None or end is None:
        return None
    ticks: dict[int, int] = {}
    load = 0
    rss_most = vms_most = uss_most = pss_most = 0.0
    read = written = 0.0
    for processes in samples.values():
        for pid, used, *_ in processes:
            load += used - ticks[pid] if pid in ticks else 0
            ticks[pid] = used
        _, _, vms, rss, uss, pss, inward, outward = map(sum, zip(*processes, strict=True))
        rss_most = max(rss_most, rss / 1024)
        vms_most = max(vms_most, vms / _MIB)
        uss_most = max(uss_most, uss / 1024)
        pss_most = max(pss_most, pss / 1024)
        read, written = inward / _MIB, outward / _MIB
    return Usage(
        end - begin,
        rss_most,
        vms_most,
        uss_most,
        pss_most,
        read=read,
        written=written,
        cpu=sum(ticks.values()) / _TICKS,
        load=load / _TICKS,
        sampled=bool(samples),
    )
