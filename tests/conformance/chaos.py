"""Kills at random moments: nothing runs twice, nothing is lost, nothing is left.

``pytest tests/test_slurm.py -k chaos --chaos-kills 100`` kills Snakemake a hundred times and
prints a table; ``--chaos-seed`` with the seed of a failure gives the same moments again.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipen_executors.jobdir import EVENTS, OPEN

from .base import ConformanceBase
from .harness import Process, Workflow

KILLS = 5
"""Kills of one workflow; more are spread over several."""

SNAKEFILE = """
    HERE = workflow.basedir

    def work(name, result, seconds=0.4):
        return (
            f"echo 'S {name}' >> {HERE}/effects; echo half > {{output[0]}}; sleep {seconds}; "
            f"{result} > {{output[0]}}; echo 'E {name}' >> {HERE}/effects"
        )

    rule all:
        input: "final"
    rule first:
        output: temp("chain/{n}.1")
        shell: work("first.{wildcards.n}", "echo first {wildcards.n}")
    rule second:
        input: "chain/{n}.1"
        output: "chain/{n}.2"
        shell: work("second.{wildcards.n}", "cat {input}; echo second")
    rule split:
        output: expand("split/{n}", n=range(3))
        shell: work("split", "echo 0") + "; for n in 1 2; do echo $n > split/$n; done"
    rule scattered:
        input: "split/{n}"
        output: "scattered/{n}"
        shell: work("scattered.{wildcards.n}", "cat {input}")
    rule gathered:
        input: expand("scattered/{n}", n=range(3))
        output: "gathered"
        shell: work("gathered", "cat {input}")
    checkpoint many:
        output: "parts"
        shell: work("many", "seq 0 3")
    rule part:
        input: "parts"
        output: "part/{n}"
        shell: work("part.{wildcards.n}", "echo part {wildcards.n}", 0.8)
    def parts(wildcards):
        with open(checkpoints.many.get().output[0]) as lines:
            return [f"part/{line.strip()}" for line in lines]
    rule behind:
        input: parts
        output: "behind"
        shell: work("behind", "cat {input}")
    rule pair1:
        output: temp("pair/{n}.1")
        group: "pair"
        shell: work("pair1.{wildcards.n}", "echo pair {wildcards.n}")
    rule pair2:
        input: "pair/{n}.1"
        output: "pair/{n}.2"
        group: "pair"
        shell: work("pair2.{wildcards.n}", "cat {input}")
    rule python:
        output: "python"
        params: effects=f"{HERE}/effects"
        script: "work.py"
    rule bash:
        output: "bash"
        params: effects=f"{HERE}/effects"
        script: "work.sh"
    rule run:
        output: "run"
        run:
            import time
            def tell(text):
                with open(f"{HERE}/effects", "a") as stream:
                    stream.write(f"{text} run\\n")
            tell("S")
            with open(output[0], "w") as stream:
                stream.write("half")
            time.sleep(0.4)
            with open(output[0], "w") as stream:
                stream.write("run")
            tell("E")
    rule final:
        input:
            expand("chain/{n}.2", n=range(3)), "gathered", "behind",
            expand("pair/{n}.2", n=range(2)), "python", "bash", "run"
        output: "final"
        shell: work("final", "cat {input}")
    """

PYTHON = """
    import time
    def tell(text):
        with open(snakemake.params.effects, "a") as stream:
            stream.write(f"{text} python\\n")
    tell("S")
    with open(snakemake.output[0], "w") as stream:
        stream.write("half")
    time.sleep(0.6)
    with open(snakemake.output[0], "w") as stream:
        stream.write("python\\n")
    tell("E")
    """

BASH = """
    echo "S bash" >> "${snakemake_params[effects]}"
    echo half > "${snakemake_output[0]}"
    sleep 0.6
    echo bash > "${snakemake_output[0]}"
    echo "E bash" >> "${snakemake_params[effects]}"
    """


@dataclass
class Round:
    """One workflow, killed some times, and what was wrong with it in the end."""

    number: int
    kills: int = 0
    twice: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    COLUMNS = ("round", "kills", "twice", "lost", "wrong", "left", "refused")

    @property
    def row(self) -> str:
        """The numbers, as a line of the table."""
        counts = (len(getattr(self, name)) for name in self.COLUMNS[2:])
        return "".join(f"{n:>8}" for n in (self.number, self.kills, *counts))

    @property
    def is_well(self) -> bool:
        """Whether nothing was wrong."""
        return not any(getattr(self, name) for name in self.COLUMNS[2:])


def table(rounds: list[Round]) -> str:
    """Return the rounds as a table, with their sums."""
    head = "".join(f"{name:>8}" for name in Round.COLUMNS)
    total = Round(len(rounds), sum(one.kills for one in rounds))
    for name in Round.COLUMNS[2:]:
        setattr(total, name, [text for one in rounds for text in getattr(one, name)])
    details = [
        f"round {one.number}: {name}: {text}"
        for one in rounds
        for name in Round.COLUMNS[2:]
        for text in getattr(one, name)
    ]
    return "\n".join([head, *(one.row for one in rounds), "", total.row, *details])


class Chaos(ConformanceBase):
    """SIGKILL of Snakemake at random moments, then ``--unlock`` and the same command."""

    @pytest.fixture
    def kills(self, request: pytest.FixtureRequest) -> int:
        """How often Snakemake is killed."""
        return int(request.config.getoption("--chaos-kills") or KILLS)

    @pytest.fixture
    def seed(self, request: pytest.FixtureRequest) -> int:
        """What the random moments are made from."""
        given = request.config.getoption("--chaos-seed")
        return random.randrange(1_000_000) if given is None else int(given)

    def test_chaos(self, workflow: Workflow, tmp_path: Path, kills: int, seed: int) -> None:
        """The result is that of an uninterrupted run; each job has run once."""
        self.needs_shared_files()
        wanted = self.uninterrupted(workflow)
        rounds: list[Round] = []
        while (left := kills - sum(one.kills for one in rounds)) > 0:
            another = Workflow(tmp_path / f"round-{len(rounds)}", self.backend)
            try:
                rng = random.Random(f"{seed}/{len(rounds)}")
                rounds.append(self.round(another, len(rounds), min(left, KILLS), rng, wanted))
            finally:
                another.close()
            if not rounds[-1].kills:
                raise AssertionError("the workflow ended before it could be killed")
        shown = f"{self.backend.executor}, seed {seed}, {kills} kills\n{table(rounds)}"
        print(shown)
        assert all(one.is_well for one in rounds), (
            f"{shown}\nagain: --chaos-seed {seed} --chaos-kills {kills}"
        )

    def uninterrupted(self, workflow: Workflow) -> dict[str, str]:
        """Return the files that the built-in local executor makes, run without a kill."""
        self.write(workflow)
        workflow.run(executor="local").ok()
        return files_of(workflow)

    def write(self, workflow: Workflow) -> None:
        """Write the workflow and its scripts."""
        workflow.snakefile(SNAKEFILE)
        workflow.file("work.py", PYTHON)
        workflow.file("work.sh", BASH)

    def round(
        self,
        workflow: Workflow,
        number: int,
        kills: int,
        rng: random.Random,
        wanted: dict[str, str],
    ) -> Round:
        """Run a workflow to its end, killed on the way as often as it lasts."""
        found = Round(number)
        self.write(workflow)
        while found.kills < kills:
            process = workflow.start(*self.options(rng), jobs=6)
            if not self.killed(workflow, process, rng):
                self.note_refusal(found, process)
                break
            found.kills += 1
            workflow.run("--unlock").ok()
        last = workflow.start(*self.options(rng), jobs=6)
        self.note_refusal(found, last)
        effects = Counter(workflow.lines("effects"))
        found.twice = sorted(line for line, count in effects.items() if count > 1)
        found.lost = sorted(set(self.effects()) - set(effects))
        made = files_of(workflow)
        found.wrong = sorted(name for name in wanted if made.get(name) != wanted[name])
        found.left = list(left_by(workflow))
        return found

    @staticmethod
    def options(rng: random.Random) -> list[str]:
        return ["--rerun-incomplete"] if rng.random() < 0.5 else []

    def killed(self, workflow: Workflow, process: Process, rng: random.Random) -> bool:
        """Kill Snakemake at a random moment; False if it has ended before."""
        more = rng.choice((0, 1, 1, 2, 3, 5, 8))
        goal = len(workflow.lines("effects")) + more
        delay = rng.uniform(0.5, 4) if not more else rng.uniform(0, 0.6)
        deadline = time.monotonic() + 20 * self.backend.slowness
        while process.is_running and len(workflow.lines("effects")) < goal:
            if time.monotonic() > deadline:  # it waits for jobs that are running already
                break
            time.sleep(0.02)
        time.sleep(delay)  # the moment is the test's
        if not process.is_running:
            return False
        process.kill9()
        return True

    def note_refusal(self, found: Round, process: Process) -> None:
        try:
            result = process.wait(300 * self.backend.slowness)
        except AssertionError as hung:
            found.refused.append(f"hung: {str(hung)[-2000:]}")
            return
        if result.rc != 0 or "Traceback" in result.text:
            found.refused.append(f"exit status {result.rc}: {result.text[-2000:]}")

    @staticmethod
    def effects() -> Iterator[str]:
        """Yield the lines that the jobs leave."""
        names = ["split", "gathered", "many", "behind", "python", "bash", "run", "final"]
        for rule, number in (
            *(("first", 3), ("second", 3), ("scattered", 3)),
            *(("part", 4), ("pair1", 2), ("pair2", 2)),
        ):
            names += [f"{rule}.{n}" for n in range(number)]
        for name in names:
            yield f"S {name}"
            yield f"E {name}"


def files_of(workflow: Workflow) -> dict[str, str]:
    """Return what a workflow has made, by path.

    Not its temp() files: Snakemake leaves one that a consumer had used up at the moment of
    the kill, whichever executor ran it.
    """
    return {
        str(path.relative_to(workflow.dir)): path.read_text()
        for path in sorted(workflow.dir.rglob("*"))
        if path.is_file()
        and ".snakemake" not in path.parts
        and path.name != "effects"
        and path.suffix != ".1"
    }


def left_by(workflow: Workflow) -> Iterator[str]:
    """Yield what should not be there after a run that has ended well."""
    root = workflow.job_root
    for path in root.glob("*/*/job.record"):
        yield f"record {path.relative_to(root)}"
    for directory in (EVENTS, OPEN, ".requests"):
        for path in (root / directory).rglob("*"):
            if not path.name.startswith("."):  # of the connection to a machine (pipen-ssh)
                yield f"{directory} {path.name}"
    for path in (workflow.dir / ".snakemake" / "incomplete").rglob("*"):
        if path.is_file():
            yield f"marker {path.name}"
    try:
        workflow.assert_nothing_runs()
    except AssertionError as left:
        yield str(left)
    result = workflow.run("-n", executor="local")
    if result.rc != 0 or "Nothing to be done" not in result.text:
        yield f"something to be done: {result.text[-1000:]}"
