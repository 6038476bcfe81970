"""Taking up a run whose Snakemake was killed: nothing runs twice, nothing is lost."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import pytest

from .base import ConformanceBase
from .chaos import left_by
from .harness import Process, Workflow, wait_for

_HELD = "until [ -e go.{rule} ]; do sleep 0.05; done; "
"""Bash that keeps a job running until the test lets it end."""

FOUR_RULES = f"""
    rule all:
        input: "last"
    rule done:
        output: "done"
        shell: "echo done >> effects; touch {{output}}"
    rule ended:
        input: "done"
        output: "ended"
        shell: "echo ended >> effects; echo half > {{output}}; {_HELD}echo whole > {{output}}"
    rule running:
        input: "done"
        output: "running"
        shell: "echo running >> effects; echo half > {{output}}; {_HELD}echo whole > {{output}}"
    rule last:
        input: "ended", "running"
        output: "last"
        shell: "echo last >> effects; cat {{input}} > {{output}}"
    """


class Resuming(ConformanceBase):
    """After SIGKILL of Snakemake."""

    def start_and_kill(self, workflow: Workflow, *arguments: str) -> Process:
        """Start a workflow of :data:`FOUR_RULES`, and kill Snakemake while two jobs run."""
        self.needs_shared_files()
        process = workflow.start(*arguments)
        process.wait_for(lambda: len(workflow.lines("effects")) == 3, "the start of two jobs")
        process.kill9()
        return process

    @pytest.mark.parametrize(
        ("execution", "rerun_incomplete"),
        [("direct", True), ("direct", False), ("snakemake", False)],
    )
    def test_jobs_are_taken_up(
        self, workflow: Workflow, execution: str, rerun_incomplete: bool
    ) -> None:
        """One still runs and one ends while nobody looks."""
        workflow.snakefile(FOUR_RULES)
        arguments = self.backend.option("execution", execution)
        self.start_and_kill(workflow, *arguments)
        workflow.file("go.ended")
        wait_for(lambda: workflow.job("ended").rc == 0, "the end of a job")
        assert workflow.processes(), "jobs survive Snakemake"

        locked = workflow.run(*arguments).failed()
        locked.has("--unlock")
        workflow.run("--unlock").ok()

        if rerun_incomplete:
            arguments.append("--rerun-incomplete")
        process = workflow.start(*arguments)
        process.says("taken up again")
        if execution == "direct":  # a second Snakemake has settled everything by itself
            process.says("collected")
        assert workflow.unfinished("running") == "half\n", (
            "the output of a running job is untouched"
        )
        workflow.file("go.running")
        process.wait().ok()
        assert workflow.lines("effects")[0] == "done"
        assert sorted(workflow.lines("effects")) == ["done", "ended", "last", "running"]
        assert workflow.read("last") == "whole\nwhole\n"
        workflow.run(*arguments).ok().has("Nothing to be done")
        workflow.assert_nothing_runs()

        workflow.run("--forceall").ok()
        assert Counter(workflow.lines("effects")) == dict.fromkeys(
            ("done", "ended", "running", "last"), 2
        ), "a forced run is not taken for the one before"

    def test_killed_while_snakemake_wrote_its_markers(self, workflow: Workflow) -> None:
        """What it notes of output under way is cut off; it is no proof that nothing was."""
        workflow.snakefile(FOUR_RULES)
        self.start_and_kill(workflow)
        for marker in (workflow.dir / ".snakemake" / "incomplete").iterdir():
            marker.write_text("")
        workflow.file("go.ended")
        workflow.file("go.running")
        for rule in ("ended", "running"):
            wait_for(lambda rule=rule: workflow.job(rule).rc == 0, f"the end of {rule}")  # type: ignore[misc]
        workflow.run("--unlock").ok()
        workflow.run().ok().has("ended meanwhile; collected")
        assert sorted(workflow.lines("effects")) == ["done", "ended", "last", "running"]

    def test_all_kinds_of_jobs_are_known_again(self, workflow: Workflow) -> None:
        """None is taken for a changed one because the next command line has other options.

        Scripts, shadow directories, benchmarks, groups, and jobs behind a checkpoint, which come
        into the DAG when Snakemake has looked at its markers already.
        """
        self.needs_shared_files()
        workflow.snakefile(
            """
            HERE = workflow.basedir
            rule all:
                input:
                    "python.out", "bash.out", "shadow.out", "bench.out", "group.out", "run.out",
                    "piped.out", "behind.out"
            rule python:
                output: "python.out"
                script: "say.py"
            rule bash:
                output: "bash.out"
                script: "say.sh"
            checkpoint many:
                output: "parts"
                shell: "echo many >> effects; echo 1 > {output}"
            rule part:
                input: "parts"
                output: "part.{n}"
                shell:
                    "echo part >> effects; echo half > {output}; "
                    "until [ -e go ]; do sleep 0.05; done; echo whole > {output}"
            def parts(wildcards):
                with open(checkpoints.many.get().output[0]) as lines:
                    return [f"part.{line.strip()}" for line in lines]
            rule behind:
                input: parts
                output: "behind.out"
                shell: "echo behind >> effects; cat {input} > {output}"
            rule shadow:
                output: "shadow.out"
                params: here=HERE
                shadow: "minimal"
                shell:
                    "echo shadow >> {params.here}/effects; "
                    "until [ -e {params.here}/go ]; do sleep 0.05; done; touch {output}"
            rule bench:
                output: "bench.out"
                benchmark: "bench.tsv"
                shell:
                    "echo bench >> effects; until [ -e go ]; do sleep 0.05; done; touch {output}"
            rule group1:
                output: temp("group.tmp")
                group: "g"
                shell:
                    "echo group1 >> effects; echo half > {output}; "
                    "until [ -e go ]; do sleep 0.05; done; touch {output}"
            rule group2:
                input: "group.tmp"
                output: "group.out"
                group: "g"
                shell: "echo group2 >> effects; touch {output}"
            rule run:
                output: "run.out"
                run:
                    shell("echo run >> effects; until [ -e go ]; do sleep 0.05; done")
                    open(output[0], "w").close()
            rule producer:
                output: pipe("pipe")
                shell: "echo producer >> effects; echo data > {output}"
            rule consumer:
                input: "pipe"
                output: "piped.out"
                shell:
                    "echo consumer >> effects; until [ -e go ]; do sleep 0.05; done; "
                    "cat {input} > {output}"
            """
        )
        workflow.file(
            "say.py",
            """
            import os, time
            with open("effects", "a") as stream:
                print("python", file=stream)
            while not os.path.exists("go"):
                time.sleep(0.05)
            open(snakemake.output[0], "w").close()
            """,
        )
        workflow.file(
            "say.sh", "echo bash >> effects\nuntil [ -e go ]; do sleep 0.05; done\ntouch bash.out\n"
        )
        process = workflow.start(jobs=12)
        under_way = {
            *("python", "bash", "shadow", "bench", "group1", "run", "producer", "consumer"),
            *("many", "part"),
        }
        process.wait_for(lambda: set(workflow.lines("effects")) == under_way, "all starts")
        process.kill9()
        other = ("--nolock", "--printshellcmds", "--latency-wait", "9", "--config", "unused=1")
        process = workflow.start(*other, jobs=11)
        process.says("taken up again", times=8)
        assert not workflow.exists("behind.out"), "half an output is not taken for a whole one"
        workflow.file("go")
        process.wait().ok()
        expected = dict.fromkeys({*under_way, "group2", "behind"}, 1)
        assert Counter(workflow.lines("effects")) == expected
        assert workflow.read("piped.out") == "data\n"
        assert workflow.read("behind.out") == "whole\n"
        assert not list(left_by(workflow))

    def test_changed_rule_is_another_job(self, workflow: Workflow) -> None:
        """The old job is ended and the new one run; one that ended badly is run again too."""
        workflow.snakefile(FOUR_RULES)
        self.start_and_kill(workflow)
        old = {rule: workflow.job(rule).jid for rule in ("ended", "running")}
        workflow.snakefile(FOUR_RULES.replace("echo running >> effects", "echo changed >> effects"))
        workflow.run("--unlock").ok()
        process = workflow.start("--rerun-incomplete")
        process.wait_for(lambda: "changed" in workflow.lines("effects"), "the new job's start")
        mine = [line for line in workflow.processes() if "/running/" in line]
        assert not [line for line in mine if line.split()[0] == old["running"]], mine
        assert workflow.job("running").jid != old["running"]
        assert workflow.job("ended").jid == old["ended"]
        workflow.file("go.ended")
        workflow.file("go.running")
        process.wait().ok()
        assert Counter(workflow.lines("effects")) == {
            "done": 1,
            "ended": 1,
            "running": 1,
            "changed": 1,
            "last": 1,
        }

    def test_job_that_failed_meanwhile_is_run_again(self, workflow: Workflow) -> None:
        workflow.snakefile(
            FOUR_RULES.replace(
                "echo whole", "[ -e ok.{rule} ] || {{ touch ok.{rule}; exit 3; }}; echo whole"
            )
        )
        self.start_and_kill(workflow)
        workflow.file("ok.ended")
        workflow.file("go.ended")
        workflow.file("go.running")
        wait_for(lambda: workflow.job("running").rc == 3, "the failure of a job")
        workflow.run("--unlock").ok()
        workflow.run("--rerun-incomplete").ok()
        assert Counter(workflow.lines("effects")) == {
            "done": 1,
            "ended": 1,
            "running": 2,
            "last": 1,
        }

    def test_cancelled_run_is_not_taken_up(self, workflow: Workflow) -> None:
        """A run that was taken up can be cancelled like any other."""
        workflow.snakefile(FOUR_RULES)
        self.start_and_kill(workflow)
        workflow.run("--unlock").ok()
        process = workflow.start("--rerun-incomplete")
        process.says("taken up again", times=2)
        process.interrupt()
        process.wait().failed()
        workflow.assert_nothing_runs()
        workflow.file("go.ended")
        workflow.file("go.running")
        workflow.run("--rerun-incomplete").ok()
        assert Counter(workflow.lines("effects")) == {
            "done": 1,
            "ended": 2,
            "running": 2,
            "last": 1,
        }

    @pytest.mark.slow
    def test_ten_kills_at_random_moments(self, workflow: Workflow) -> None:
        """Each of 100 jobs leaves its line exactly once."""
        self.needs_shared_files()
        seed = random.randrange(1_000_000)
        print(f"seed {seed}")
        rng = random.Random(seed)
        workflow.snakefile(
            """
            rule all:
                input: expand("out/{n}", n=range(100))
            rule first:
                output: "mid/{n}"
                shell: "echo first.{wildcards.n} >> effects; sleep 0.{wildcards.n}; touch {output}"
            rule second:
                input: "mid/{n}"
                output: "out/{n}"
                shell: "echo second.{wildcards.n} >> effects; sleep 0.1; touch {output}"
            """.replace("range(100)", "range(50)")
        )
        arguments = ("--nolock", "--rerun-incomplete")

        def has_effects(number: int) -> bool:
            return len(workflow.lines("effects")) >= number

        moments = sorted(rng.sample(range(100), 10))
        for moment in moments:
            process = workflow.start(*arguments, jobs=8)
            process.says("Execute ")
            process.wait_for(partial(has_effects, moment), f"side effect {moment}")
            process.kill9()
        workflow.run(*arguments, jobs=8).ok()
        counts = Counter(workflow.lines("effects"))
        again = {name: count for name, count in counts.items() if count != 1}
        assert not again, f"seed {seed}: {again}"
        assert len(counts) == 100
        workflow.dry_run("--nolock").has("Nothing to be done")
        workflow.assert_nothing_runs()
