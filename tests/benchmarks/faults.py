"""Faults on a real Slurm, and what becomes of a run."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from . import workflows
from .system import end
from .tables import Table

if TYPE_CHECKING:
    from .slurm import Bench

_PATIENCE = 120.0
_AWAY = 30.0
_SLEEPER = "sleep 600; touch {output}"


@dataclass(frozen=True)
class Executor:
    """One column of the table."""

    name: str
    arguments: tuple[str, ...]
    environment: str
    arrays: tuple[str, ...] = ()


EXECUTORS = (
    Executor("pipen-slurm", ("--executor", "pipen-slurm"), "pipen"),
    Executor(
        "slurm plugin", ("--executor", "slurm"), "slurm-plugin", ("--slurm-array-jobs", "all")
    ),
)


@dataclass
class Stage:
    """One fault with one executor: a directory, and runs of Snakemake in it."""

    bench: Bench
    executor: Executor
    place: Path = field(init=False)
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self, workflow: str, *arguments: str) -> None:
        """Start Snakemake in a new directory."""
        self.place = self.bench.places.new({"Snakefile": workflow})
        self.start_again(*arguments)

    def start_again(self, *arguments: str) -> None:
        """Start Snakemake in the same directory."""
        command = ["snakemake", "--quiet", "progress", "--jobs", "50"]
        with (self.place / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *self.executor.arguments, *arguments],
                cwd=self.place,
                env=self.bench.env(self.executor.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def until(self, condition: Callable[[], bool], what: str, patience: float = 180.0) -> None:
        """Wait for what must come before the fault."""
        deadline = time.monotonic() + patience
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(
                    f"{self.executor.name}: waited in vain for {what}: {self._log()}"
                )
            time.sleep(0.2)

    def states(self) -> list[str]:
        """Return the states of all jobs in the queue."""
        answer = self.bench.cluster.run("squeue", "--noheader", "--array", "--format=%T")
        return answer.stdout.split()

    def until_jobs(self, state: str, count: int = 1) -> None:
        """Wait until so many jobs are in a state, and the executor has had time to note it."""
        self.until(lambda: self.states().count(state) >= count, f"{count} jobs {state}")
        time.sleep(2)

    def later(self, action: Callable[[], None]) -> None:
        """Put right later what has been put out of order."""
        self._timer = threading.Timer(_AWAY, action)
        self._timer.start()

    def outcome(self, since: float | None = None) -> str:
        """Wait for the end of the run, and say how it ended and how long that took."""
        since = time.monotonic() if since is None else since
        try:
            rc = self.process.wait(max(0.0, _PATIENCE - (time.monotonic() - since)))
        except subprocess.TimeoutExpired:
            return f"**did not end within {_PATIENCE:g} s**"
        seconds = time.monotonic() - since
        if rc == 0:
            return f"the run succeeds, {seconds:.0f} s"
        return f"the run fails, {seconds:.0f} s: {self._reason()}"

    def _log(self) -> str:
        return (self.place / "log.txt").read_text(errors="replace")[-1500:]

    def _reason(self) -> str:
        log = (self.place / "log.txt").read_text(errors="replace")
        found = re.findall(r"^ *(?:message: *)(.*\S)", log, re.M) or re.findall(
            r"^.*(?:error|Error|failed).*$", log, re.M
        )
        text = re.sub(r"\s+", " ", found[0]) if found else "no reason given"
        text = text.replace(str(self.place), ".")
        return f"“{text[:150]}”" if text else "no reason given"

    def close(self) -> None:
        """Leave nothing behind."""
        timer = getattr(self, "_timer", None)
        if timer is not None:
            timer.join()
        end(self.process)
        self.bench.clear()


def _one(shell: str, more: str = workflows.RESOURCES) -> str:
    return workflows.independent(1, shell, more)


def _cancel_running(stage: Stage) -> str:
    stage.start(_one(_SLEEPER))
    stage.until_jobs("RUNNING")
    stage.bench.cluster.run("scancel", "--user", "root")
    return stage.outcome()


def _cancel_pending(stage: Stage) -> str:
    with stage.bench.drained():
        stage.start(_one(_SLEEPER))
        stage.until_jobs("PENDING")
        stage.bench.cluster.run("scancel", "--user", "root")
        return stage.outcome()


def _time_limit(stage: Stage) -> str:
    stage.start(_one(_SLEEPER, "resources: mem_mb=500, runtime=1"))
    stage.until_jobs("RUNNING")
    # Slurm looks at limits every half minute, and gives a job KillWait to end.
    deadline = time.monotonic() + 240
    while stage.states() and time.monotonic() < deadline:
        time.sleep(0.2)
    return stage.outcome()


def _controller_away(stage: Stage) -> str:
    cluster = stage.bench.cluster
    stage.start(f"""
localrules: all, before
rule all:
    input: "out/0.txt"
rule before:
    output: "before.txt"
    shell: "touch begun; sleep 10; touch {{output}}"
rule one:
    input: "before.txt"
    output: "out/0.txt"
    {workflows.RESOURCES}
    shell: "touch {{output}}"
""")
    stage.until((stage.place / "begun").exists, "the first rule")
    cluster.stop_controller()
    since = time.monotonic()
    stage.later(cluster.start_controller)
    return stage.outcome(since)


def _dbd_away(stage: Stage) -> str:
    cluster = stage.bench.cluster
    stage.start(_one("sleep 10; touch {output}"))
    stage.until_jobs("RUNNING")
    cluster.stop_dbd()
    since = time.monotonic()
    stage.later(cluster.start_dbd)
    return stage.outcome(since)


def _killed(stage: Stage) -> str:
    shell = "echo {wildcards.i} >> ran.txt; sleep 25; touch {output}"
    stage.start(workflows.independent(3, shell, workflows.RESOURCES))
    stage.until_jobs("RUNNING", 3)
    stage.process.kill()
    stage.process.wait()
    stage.start_again("--unlock")
    stage.process.wait(60)
    since = time.monotonic()
    stage.start_again("--rerun-incomplete")
    said = stage.outcome(since)
    lines = (stage.place / "ran.txt").read_text().split()
    times = sorted({lines.count(line) for line in lines})
    return f"{said}; each job ran {' or '.join(map(str, times))} times".replace("1 times", "once")


def _no_memory(stage: Stage) -> str:
    stage.start(workflows.independent(10), *stage.executor.arrays)
    said = stage.outcome()
    made = len(list((stage.place / "out").glob("*")))
    return f"{said}; {made} of 10 outputs are there"


FAULTS: dict[str, Callable[[Stage], str]] = {
    "scancel of a running job": _cancel_running,
    "scancel of a waiting job": _cancel_pending,
    "time limit": _time_limit,
    f"slurmctld away for {_AWAY:g} s while submitting": _controller_away,
    f"slurmdbd away for {_AWAY:g} s while a job ends": _dbd_away,
    "kill -9 of Snakemake, --unlock, then the same command": _killed,
    "arrays of jobs without mem_mb": _no_memory,
}


def faults(bench: Bench) -> Table:
    """Make the table."""
    rows = []
    for title, fault in FAULTS.items():
        row = [title]
        for executor in EXECUTORS:
            stage = Stage(bench, executor)
            try:
                row.append(fault(stage))
            except RuntimeError as error:
                row.append(f"not measured: {error}"[:200])
            finally:
                stage.close()
            print(f"  {title}: {executor.name}: {row[-1]}", flush=True)
        rows.append(row)
    return Table(
        "slurm-faults",
        "Faults",
        ["fault", *(executor.name for executor in EXECUTORS)],
        rows,
        [
            "Default settings, but --slurm-array-jobs all for the last row of the slurm plugin, "
            "whose default is no arrays; one run each. Times are from the fault (time limit: from "
            "the end of the job) to the end of the run; in quotes, what the user reads."
        ],
    )
