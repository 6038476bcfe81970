"""pipen-sge beside what else runs a workflow on Grid Engine, on the tests' real Grid Engine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from tests.services.sge import SgeCell

from . import workflows
from .environments import variables, versions
from .runs import Candidate, Places, Run, alternate
from .shims import Shims
from .tables import Table, compare

# qstat knows a job until it ends, and accounting then knows its exit status.
_STATUS = """#!/bin/bash
if qstat -u '*' | awk -v id="$1" '$1 == id { found = 1 } END { exit !found }'; then
    echo running
    exit
fi
case $(qacct -j "$1" 2> /dev/null | awk '$1 == "exit_status" { print $2 }') in
    0) echo success ;;
    '') echo running ;;
    *) echo failed ;;
esac
"""
_QSUB = "qsub -terse -S /bin/bash -j y -o /dev/null -cwd -N bare"
_WAIT = "until [[ $(ls out | wc -l) -eq {count} ]]; do sleep 0.05; done\n"
_LOOP = f"""#!/bin/bash
mkdir -p out
for ((i = 0; i < {{count}}; i++)); do
    {_QSUB} <<< "echo $i > out/$i.txt" > /dev/null
done
{_WAIT}"""
_ARRAY = f"""#!/bin/bash
mkdir -p out
{_QSUB} -t 1-{{count}} <<< 'i=$((SGE_TASK_ID - 1)); echo $i > out/$i.txt' > /dev/null
{_WAIT}"""
_ONE_BY_ONE = f"""#!/bin/bash
mkdir -p out
for ((i = 0; i < {{count}}; i++)); do
    {_QSUB} -sync y <<< "echo $i > out/$i.txt" > /dev/null
done
{_WAIT}"""

PIPEN = ("--executor", "pipen-sge")
PLUGIN = ("--executor", "sge")
_QUICKEST = (
    "--sge-init-seconds-before-status-checks",
    "1",
    "--seconds-between-status-checks",
    "1",
)
_GENERIC = (
    "--executor",
    "cluster-generic",
    "--cluster-generic-submit-cmd",
    "qsub -terse -S /bin/bash -j y -o /dev/null -cwd",
    "--cluster-generic-status-cmd",
    "./status",
    "--seconds-between-status-checks",
    "1",
)


def snakemake(*arguments: str) -> list[str]:
    """Return a command line of Snakemake."""
    return ["snakemake", "--quiet", "all", "--jobs", "200", *arguments]


def _candidates(
    env: Callable[[str], Mapping[str, str]], bare: Mapping[str, str], slow: int
) -> list[Candidate]:
    """Return all ways to run a workflow; `bare` are scripts that do without one."""
    pipen = Candidate("pipen-sge", snakemake(*PIPEN), env("pipen"))
    peers = [
        Candidate("sge plugin, default settings", snakemake(*PLUGIN), env("sge-plugin"), runs=slow),
        Candidate(
            "sge plugin, quickest settings",
            snakemake(*PLUGIN, *_QUICKEST),
            env("sge-plugin"),
            runs=slow,
        ),
        Candidate(
            "cluster-generic with qstat and qacct",
            snakemake(*_GENERIC),
            env("cluster-generic"),
            files={"status": _STATUS},
            runs=slow,
        ),
    ]
    scripts = [
        Candidate(name, ["./run"], env("snakemake"), files={"run": text})
        for name, text in bare.items()
    ]
    start = Candidate(
        "Snakemake's own start-up (dry run)", snakemake("--dry-run"), env("snakemake")
    )
    return [pipen, *peers, *scripts, start]


def independent(bench: Bench, runs: int) -> Table:
    """Measure 60 trivial jobs that do not depend on each other."""
    bare = {
        "qsub in a loop, no Snakemake": _LOOP.format(count=60),
        "qsub -t, no Snakemake": _ARRAY.format(count=60),
    }
    return bench.table(
        "sge-independent",
        "60 independent trivial jobs on Grid Engine",
        workflows.independent(60),
        _candidates(bench.env, bare, slow=1),
        60,
        runs,
    )


def chained(bench: Bench, runs: int) -> Table:
    """Measure a chain of 6 trivial jobs."""
    bare = {"qsub -sync y in a loop, no Snakemake": _ONE_BY_ONE.format(count=6)}
    return bench.table(
        "sge-chain",
        "A chain of 6 trivial jobs on Grid Engine",
        workflows.chain(6),
        _candidates(bench.env, bare, slow=1),
        6,
        runs,
    )


class Bench:
    """The cell, the shims that count commands, and places to run in."""

    def __init__(self, cell: SgeCell, places: Places) -> None:
        self.cell = cell
        self.places = places
        self.shims = Shims(places.base / "shims", places.base / "commands.log", cell.env["PATH"])

    def env(self, name: str) -> dict[str, str]:
        """Return the variables for an environment on this cell."""
        found = variables(name)
        path = f"{self.shims.directory}:{found['PATH']}:{self.cell.env['PATH']}"
        return {**found, **self.cell.env, "PATH": path}

    def counting(self, measure: Callable[[], Run]) -> Run:
        """Measure with an idle cell, and count the scheduler's commands."""
        self.cell.wait_idle()
        before = self.shims.total()
        run = measure()
        commands = self.shims.total() - before
        self.cell.run("qdel", "-u", "root", check=False)
        self.cell.wait_idle()
        return replace(run, commands=commands)

    def table(
        self,
        key: str,
        title: str,
        workflow: str,
        candidates: Sequence[Candidate],
        count: int,
        runs: int,
    ) -> Table:
        """Run all candidates and compare them."""
        outputs = workflows.outputs(count)
        measured = [candidate for candidate in candidates if "dry run" not in candidate.name]
        starts = [candidate for candidate in candidates if "dry run" in candidate.name]
        results = alternate(
            measured, workflow, outputs, self.places, runs, around=self.counting
        ) | alternate(starts, workflow, [], self.places, runs)
        return compare(key, title, results, commands=True)


def measure(runs: int, only: Sequence[str] = ()) -> list[Table]:
    """Make all tables of pipen-sge, or only those named."""
    parts: dict[str, Callable[[Bench], Table]] = {
        "independent": partial(independent, runs=runs),
        "chain": partial(chained, runs=runs),
    }
    tables = []
    with Places() as places, SgeCell() as cell:
        bench = Bench(cell, places)
        for name, part in parts.items():
            if not only or name in only:
                print(f"sge: {name}", file=sys.stderr, flush=True)
                tables.append(part(bench))
    shown = {
        **versions("pipen", "snakemake"),
        **versions("sge-plugin", "snakemake-executor-plugin-sge"),
        **versions("cluster-generic", "snakemake-executor-plugin-cluster-generic"),
    }
    words = ", ".join(f"{name} {version}" for name, version in shown.items())
    note = f"Grid Engine 8.1.9, its daemons and one host with 16 slots on this machine; {words}."
    return [replace(table, notes=[*table.notes, note]) for table in tables]
