"""pipen-local beside Snakemake's own local executor and beside pipen's."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from . import workflows
from .environments import bin_of, variables, versions
from .runs import Candidate, Places, alternate, median
from .tables import Table, compare

_MANY = 2000
_WATCHED = 60.0
_UNLIMITED = ("--max-jobs-per-timespan", "10000/1s")
"""Without Snakemake's limit of 100 jobs a second."""
_UNHINDERED = ("--scheduler", "greedy", *_UNLIMITED)
"""And without its ILP solver, which takes minutes for thousands of jobs."""

_XQUTE = """
import asyncio, sys
from xqute import Xqute

async def main():
    queue = Xqute("local", forks=8, workdir="xqute")
    for i in range(60):
        await queue.feed(["bash", "-c", f"mkdir -p out; echo {i} > out/{i}.txt"])
    await queue.run_until_complete()

asyncio.run(main())
"""

_PROBE = '''
"""Notes what the engine's thread and the whole process have used; hooks run in that thread."""
import json, os, time
from pipen_executors.hooks import hookimpl

@hookimpl
def on_init(scheduler):
    global before
    before = time.thread_time(), time.process_time()

@hookimpl
def on_shutdown(scheduler):
    engine, everything = time.thread_time(), time.process_time()
    with open("probe.json", "w") as stream:
        json.dump({"engine": engine - before[0], "process": everything - before[1]}, stream)
'''


def _snakemake(*arguments: str) -> list[str]:
    return ["snakemake", "--quiet", "all", *arguments]


def _pipen(*arguments: str) -> list[str]:
    return _snakemake("--executor", "pipen-local", *arguments)


def _three(*more: str, respawned_runs: int | None) -> list[Candidate]:
    respawn = ("--pipen-local-execution", "snakemake")
    return [
        Candidate(
            "Snakemake's local executor",
            _snakemake("--cores", "8", *more),
            variables("snakemake"),
        ),
        Candidate("pipen-local", _pipen("--jobs", "8", *more), variables("pipen")),
        Candidate(
            "pipen-local, respawned",
            _pipen("--jobs", "8", *respawn, *more),
            variables("pipen"),
            runs=respawned_runs,
        ),
    ]


def independent(runs: int, places: Places) -> Table:
    """Measure 200 trivial jobs that do not depend on each other."""
    results = alternate(
        _three(respawned_runs=min(runs, 3)),
        workflows.independent(200),
        workflows.outputs(200),
        places,
        runs,
    )
    title = "200 independent trivial jobs, 8 at a time"
    note = "Snakemake starts at most 100 jobs a second, unless it is told otherwise."
    return compare("local-independent", title, results, [note])


def unlimited(runs: int, places: Places) -> Table:
    """Measure the same without Snakemake's limit of 100 jobs a second."""
    results = alternate(
        _three(*_UNLIMITED, respawned_runs=1),
        workflows.independent(200),
        workflows.outputs(200),
        places,
        runs,
    )
    title = f"The same with {' '.join(_UNLIMITED)}"
    return compare("local-unlimited", title, results)


def chained(runs: int, places: Places) -> Table:
    """Measure a chain of 20 trivial jobs."""
    results = alternate(
        _three(respawned_runs=min(runs, 3)),
        workflows.chain(20),
        workflows.outputs(20),
        places,
        runs,
    )
    return compare("local-chain", "A chain of 20 trivial jobs", results)


def beside_xqute(runs: int, places: Places) -> Table:
    """Measure 60 trivial jobs beside the scheduler that pipen itself uses."""
    python = str(bin_of("xqute") / "python")
    candidates = [
        Candidate("pipen-local", _pipen("--jobs", "8"), variables("pipen")),
        Candidate(
            "xqute 2.2.1, local scheduler",
            [python, "run.py"],
            variables("xqute"),
            files={"run.py": _XQUTE},
        ),
    ]
    results = alternate(candidates, workflows.independent(60), workflows.outputs(60), places, runs)
    note = "pipen-local's time includes the start of Snakemake, xqute's only that of its runner."
    return compare("local-xqute", "60 independent trivial jobs, 8 at a time", results, [note])


def engine_time(runs: int, places: Places) -> Table:
    """Measure the CPU time of the engine's thread beside that of Snakemake."""
    candidate = Candidate(
        "2,000 trivial jobs",
        _pipen("--cores", "50", *_UNHINDERED, "--pipen-local-plugins", "probe"),
        {**variables("pipen"), "PYTHONPATH": "."},
        files={"probe.py": _PROBE},
    )
    engines, others = [], []
    for _ in range(runs):
        results = alternate(
            [candidate], workflows.independent(_MANY), workflows.outputs(_MANY), places, 1
        )
        (run,) = results[candidate.name]
        if run.problem:
            raise RuntimeError(run.problem)
        probe = json.loads((places.latest / "probe.json").read_text())
        engines.append(1000 * probe["engine"] / _MANY)
        others.append(1000 * (probe["process"] - probe["engine"]) / _MANY)
    rows = [
        [name, f"{median(values):.2f} ms", f"{min(values):.2f} ms", f"{max(values):.2f} ms"]
        for name, values in (("the engine", engines), ("Snakemake's own threads", others))
    ]
    return Table(
        "local-engine",
        "CPU time per job, 2,000 trivial jobs, 50 at a time",
        ["", "median", "lowest", "highest"],
        rows,
        [
            "Greedy scheduler, no job rate limit. The engine's thread, by time.thread_time() in "
            f"a hook; Snakemake's: the rest of the process since its first job. Runs: {runs}."
        ],
        {"engine_ms": engines, "snakemake_ms": others},
    )


def history(runs: int, places: Places) -> Table:
    """Measure what the history and all that is drawn from it cost a run."""
    more = ("--jobs", "8", *_UNHINDERED, "--pipen-local-history")
    results = alternate(
        [
            Candidate("without a history", _pipen(*more, "no"), variables("pipen")),
            Candidate("with a history", _pipen(*more, "yes"), variables("pipen")),
        ],
        workflows.independent(1000),
        workflows.outputs(1000),
        places,
        runs,
    )
    return compare("local-history", "1,000 trivial jobs with and without a history", results)


def held(places: Places) -> Table:
    """Measure what 2,000 running jobs cost while nothing happens."""
    workflow = workflows.independent(_MANY, "echo >> started; exec sleep 900")
    place = places.new({"Snakefile": workflow})
    command = _pipen("--cores", str(_MANY), *_UNHINDERED)
    with (place / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=place, env=variables("pipen"), stdout=log, stderr=log
        )
    try:
        begin = time.monotonic()
        while _lines(place / "started") < _MANY:
            if process.poll() is not None or time.monotonic() - begin > 600:
                raise RuntimeError(f"2,000 jobs did not start: {place / 'log.txt'}")
            time.sleep(0.5)
        until_started = time.monotonic() - begin
        time.sleep(15)  # until queries have become as rare as they get
        used, load = _cpu(process.pid), os.getloadavg()[0]
        time.sleep(_WATCHED)
        share = 100 * (_cpu(process.pid) - used) / _WATCHED
        calls = _system_calls(process.pid, 30.0)
    finally:
        end = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(300)
        ended = time.monotonic() - end
    rows = [
        ["CPU of the whole Snakemake process", f"{share:.2f} % of a core"],
        ["the same per job", f"{1e4 * share / _MANY:.1f} µs a second"],
        *([f"{name} calls", f"{rate:.1f} a second"] for name, rate in calls),
        ["from the start of Snakemake to 2,000 running jobs", f"{until_started:.0f} s"],
        ["from Ctrl-C to the end of all of them", f"{ended:.1f} s"],
    ]
    return Table(
        "local-held",
        "2,000 jobs that sleep, all running",
        ["", ""],
        rows,
        [f"CPU over {_WATCHED:g} s, system calls (strace) over 30 s. Load: {load:.1f}. Runs: 1."],
        {"share_percent": share, "calls_per_second": dict(calls), "ctrl_c_s": ended},
    )


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def _system_calls(pid: int, seconds: float) -> Sequence[tuple[str, float]]:
    """Count the system calls of a process; empty if strace is not here or may not."""
    strace = shutil.which("strace")
    if strace is None:
        return []
    watcher = subprocess.Popen(
        [strace, "-f", "-c", "-S", "calls", "-U", "calls,name", "-p", str(pid)],
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(seconds)
    watcher.send_signal(signal.SIGINT)
    _, text = watcher.communicate()
    counts = [(m[2], int(m[1]) / seconds) for m in re.finditer(r"^ *(\d+) (\w+)$", text, re.M)]
    total = [("all system", sum(rate for name, rate in counts if name != "total"))]
    return [*total, *[(name, rate) for name, rate in counts if name != "total"][:4]]


def measure(runs: int, only: Sequence[str] = ()) -> list[Table]:
    """Make all tables of pipen-local, or only those named."""
    parts = {
        "independent": lambda places: independent(runs, places),
        "unlimited": lambda places: unlimited(runs, places),
        "chain": lambda places: chained(runs, places),
        "xqute": lambda places: beside_xqute(runs, places),
        "history": lambda places: history(runs, places),
        "engine": lambda places: engine_time(runs, places),
        "held": held,
    }
    tables = []
    with Places() as places:
        for name, part in parts.items():
            if not only or name in only:
                print(f"local: {name}", file=sys.stderr, flush=True)
                tables.append(part(places))
    shown = versions("pipen", "snakemake", "xqute")
    words = ", ".join(f"{name} {version}" for name, version in shown.items())
    return [replace(table, notes=[*table.notes, f"Versions: {words}."]) for table in tables]
