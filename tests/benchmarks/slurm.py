"""pipen-slurm beside what else runs a workflow on Slurm, on the tests' real Slurm."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from tests.services.slurm import SlurmCluster

from . import workflows
from .environments import variables, versions
from .faults import faults
from .runs import Candidate, Places, Run, alternate
from .shims import Shims
from .system import cpu_of, end
from .tables import Table, compare

_STATUS = """#!/bin/bash
state=$(sacct -X --noheader --parsable2 --format=State --jobs="$1" | head -1)
case $state in
    COMPLETED) echo success ;;
    ''|PENDING|CONFIGURING|RUNNING|COMPLETING|SUSPENDED|REQUEUED) echo running ;;
    *) echo failed ;;
esac
"""
_SBATCH = "sbatch --parsable --mem=500 --time=10 --output=/dev/null"
_WAIT = "until [[ $(ls out | wc -l) -eq {count} ]]; do sleep 0.05; done\n"
_LOOP = f"""#!/bin/bash
mkdir -p out
for ((i = 0; i < {{count}}; i++)); do
    {_SBATCH} --wrap "echo $i > out/$i.txt" > /dev/null
done
{_WAIT}"""
_ARRAY = f"""#!/bin/bash
mkdir -p out
{_SBATCH} --array=0-$(({{count}} - 1)) \\
    --wrap 'echo $SLURM_ARRAY_TASK_ID > out/$SLURM_ARRAY_TASK_ID.txt' > /dev/null
{_WAIT}"""
_DEPENDENT = f"""#!/bin/bash
mkdir -p out
after=
for ((i = 0; i < {{count}}; i++)); do
    id=$({_SBATCH} ${{{{after:+--dependency=afterok:$after}}}} --wrap "echo $i > out/$i.txt")
    after=$id
done
{_WAIT}"""
_ONE_BY_ONE = f"""#!/bin/bash
mkdir -p out
for ((i = 0; i < {{count}}; i++)); do
    {_SBATCH} --wrap "echo $i > out/$i.txt" > /dev/null
    until [[ -e out/$i.txt ]]; do sleep 0.01; done
done
"""

PIPEN = ("--executor", "pipen-slurm")
PLUGIN = ("--executor", "slurm")
_QUICKEST = (
    "--slurm-init-seconds-before-status-checks",
    "1",
    "--seconds-between-status-checks",
    "1",
)
_GENERIC = (
    "--executor",
    "cluster-generic",
    "--cluster-generic-submit-cmd",
    "sbatch --parsable --mem={resources.mem_mb} --time={resources.runtime} --output=/dev/null",
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
    respawn = ("--pipen-slurm-execution", "snakemake")
    peers = [
        Candidate("pipen-slurm", snakemake(*PIPEN), env("pipen")),
        Candidate("pipen-slurm, respawned", snakemake(*PIPEN, *respawn), env("pipen"), runs=3),
        Candidate(
            "slurm plugin, default settings", snakemake(*PLUGIN), env("slurm-plugin"), runs=slow
        ),
        Candidate(
            "slurm plugin, quickest settings",
            snakemake(*PLUGIN, *_QUICKEST),
            env("slurm-plugin"),
            runs=slow,
        ),
        Candidate(
            "cluster-generic with sacct",
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
    return [*peers, *scripts]


def independent(bench: Bench, runs: int) -> Table:
    """Measure 60 trivial jobs that do not depend on each other."""
    bare = {
        "sbatch in a loop, no Snakemake": _LOOP.format(count=60),
        "sbatch --array, no Snakemake": _ARRAY.format(count=60),
    }
    results = alternate(
        _candidates(bench.env, bare, slow=1),
        workflows.independent(60, more=workflows.RESOURCES),
        workflows.outputs(60),
        bench.places,
        runs,
        around=bench.counting,
    )
    return compare("slurm-independent", "60 independent trivial jobs", results, commands=True)


def copied(bench: Bench, runs: int) -> Table:
    """Measure 60 jobs with the profile of the slurm plugin's documentation, and without it.

    Only the executor's name is another. Jobs have an input and a log, so that there is
    something to copy.
    """
    name = "profile/config.yaml"
    files = {"in.txt": "text\n", name: workflows.PROFILE_WITH_COPIES}
    plain = snakemake(*PIPEN)
    profile = ["snakemake", "--quiet", "all", "--jobs", "200", "--profile", "profile"]
    respawned = [*profile, "--pipen-slurm-execution", "snakemake"]
    env = bench.env("pipen")
    results = alternate(
        [
            Candidate("without the profile", plain, env, files=files),
            Candidate("with it", profile, env, files=files),
            Candidate("with it, by a second Snakemake", respawned, env, files=files, runs=1),
        ],
        workflows.with_inputs(60, more=workflows.RESOURCES),
        workflows.outputs(60),
        bench.places,
        runs,
        around=bench.counting,
    )
    return compare(
        "slurm-copied", "60 jobs with copies on the node (fs storage)", results, commands=True
    )


def chained(bench: Bench, runs: int) -> Table:
    """Measure a chain of 6 trivial jobs.

    A job of sbatch starts when slurmctld next looks at its queue: its main scheduler once in
    a second, backfill every ``bf_interval`` seconds (slurm.conf(5), SchedulerParameters).
    """
    bare = {
        "sbatch --dependency, no Snakemake": _DEPENDENT.format(count=6),
        "sbatch one after the other, no Snakemake": _ONE_BY_ONE.format(count=6),
    }
    results = alternate(
        _candidates(bench.env, bare, slow=1),
        workflows.chain(6, more=workflows.RESOURCES),
        workflows.outputs(6),
        bench.places,
        runs,
        around=bench.counting,
    )
    interval = bench.cluster.settings.bf_interval
    return compare(
        f"slurm-chain-{interval}",
        f"A chain of 6 trivial jobs, bf_interval={interval}",
        results,
        commands=True,
    )


def held(bench: Bench) -> Table:
    """Measure what 1,000 waiting jobs cost in a minute."""
    rows, data = [], {}
    for name, executor, environment in (
        ("pipen-slurm", PIPEN, "pipen"),
        ("slurm plugin, default settings", PLUGIN, "slurm-plugin"),
    ):
        cpu, commands, submitted = _hold(bench, executor, environment)
        shown = ", ".join(f"{count} {command}" for command, count in sorted(commands.items()))
        total = str(sum(commands.values()))
        rows.append([name, total, shown or "–", f"{cpu:.1f} % of a core", f"{submitted:.0f} s"])
        data[name] = {"cpu_percent": cpu, "commands": commands, "submitted_after_s": submitted}
    return Table(
        "slurm-held",
        "1,000 jobs waiting for a minute (all nodes drained)",
        ["", "commands in 60 s", "which", "CPU", "all submitted after"],
        rows,
        ["CPU of Snakemake and of the commands that it ran. Runs: 1."],
        data,
    )


def _hold(
    bench: Bench, executor: Sequence[str], environment: str
) -> tuple[float, dict[str, int], float]:
    count = 1000
    workflow = workflows.independent(count, more=workflows.RESOURCES)
    place = bench.places.new({"Snakefile": workflow})
    with bench.drained():
        begin = time.monotonic()
        with (place / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                ["snakemake", "--quiet", "all", "--jobs", str(count), *executor],
                cwd=place,
                env=bench.env(environment),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            while bench.queued() < count:
                if process.poll() is not None or time.monotonic() - begin > 600:
                    raise RuntimeError(f"1,000 jobs were not submitted: {place / 'log.txt'}")
                time.sleep(1)
            submitted = time.monotonic() - begin
            time.sleep(20)
            before, used = bench.shims.counts(), cpu_of(process.pid)
            time.sleep(60)
            cpu = 100 * (cpu_of(process.pid) - used) / 60
            after = bench.shims.counts()
        finally:
            end(process)
            bench.clear()
    commands = {name: n - before.get(name, 0) for name, n in after.items()}
    return cpu, {name: n for name, n in commands.items() if n}, submitted


class Bench:
    """The cluster, the shims that count commands, and places to run in."""

    def __init__(self, cluster: SlurmCluster, places: Places) -> None:
        self.cluster = cluster
        self.places = places
        self.shims = Shims(places.base / "shims", places.base / "commands.log")

    def env(self, name: str) -> dict[str, str]:
        """Return the variables for an environment on this cluster."""
        found = variables(name)
        path = f"{self.shims.directory}:{found['PATH']}"
        return {**found, "SLURM_CONF": str(self.cluster.conf), "PATH": path}

    def counting(self, measure: Callable[[], Run]) -> Run:
        """Measure with an idle cluster, and count the scheduler's commands."""
        self.cluster.wait_idle()
        before = self.shims.total()
        run = measure()
        commands = self.shims.total() - before
        self.clear()
        return replace(run, commands=commands)

    def queued(self) -> int:
        """Return how many jobs and array tasks wait or run."""
        return len(self.cluster.run("squeue", "--noheader", "--array").stdout.splitlines())

    def clear(self) -> None:
        """Leave no job behind."""
        self.cluster.run("scancel", "--user", "root", check=False)
        self.cluster.wait_idle()

    @contextlib.contextmanager
    def drained(self) -> Iterator[None]:
        """Start no job meanwhile."""
        nodes = self.cluster.settings.node_names
        for node in nodes:
            self.cluster.drain(node)
        try:
            yield
        finally:
            for node in nodes:
                self.cluster.node_resume(node)


def measure(runs: int, only: Sequence[str] = ()) -> list[Table]:
    """Make all tables of pipen-slurm, or only those named."""
    parts: dict[str, Callable[[Bench], Table]] = {
        "independent": partial(independent, runs=runs),
        "copied": partial(copied, runs=runs),
        "chain": partial(chained, runs=runs),
        "held": held,
        "faults": faults,
    }
    # The shortest interval there is shows what of a chain's time is the scheduler's.
    clusters: dict[int, Sequence[str]] = {5: list(parts), 1: ["chain"]}
    tables = []
    for bf_interval, names in clusters.items():
        chosen = [name for name in names if not only or name in only]
        if not chosen:
            continue
        cluster = SlurmCluster(default_location=True, bf_interval=bf_interval)
        with Places() as places, cluster:
            bench = Bench(cluster, places)
            release = "{}.{:02}".format(*cluster.release())
            for name in chosen:
                print(f"slurm: {name}, bf_interval={bf_interval}", file=sys.stderr, flush=True)
                tables.append(parts[name](bench))
    shown = {
        **versions("pipen", "snakemake"),
        **versions("slurm-plugin", "snakemake-executor-plugin-slurm"),
        **versions("cluster-generic", "snakemake-executor-plugin-cluster-generic"),
    }
    words = ", ".join(f"{name} {version}" for name, version in shown.items())
    note = (
        f"Slurm {release} with accounting, all its daemons and two nodes on this machine; {words}."
    )
    return [replace(table, notes=[*table.notes, note]) for table in tables]
