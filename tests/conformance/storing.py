"""Files in storage, copied to the node and back by direct jobs (``--shared-fs-usage``)."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from .base import ConformanceBase
from .harness import Result, Workflow

LISTED = ("persistence", "software-deployment", "sources", "source-cache")
"""What the documentation of snakemake-executor-plugin-slurm lists as shared."""
ALL = (*LISTED, "input-output", "storage-local-copies")
RESPAWNED = "run by a second Snakemake"


class Storage(ConformanceBase):
    """The ``fs`` storage provider, with and without a disk of the node's own."""

    @pytest.fixture
    def needs_jobs_elsewhere(self) -> None:
        """Skip where Snakemake takes everything for shared, whatever is said.

        Not for all tests of a class: the suite of a backend inherits them all.
        """
        self.needs_shared_files()
        if self.backend.local:
            pytest.skip("for local execution Snakemake assumes unrestricted sharing")

    def run_apart(
        self, workflow: Workflow, *arguments: str, shared: Sequence[str] = LISTED
    ) -> Result:
        """Run a workflow with a profile's options, of which some say what is shared."""
        local = workflow.home / "local"
        local.mkdir(mode=0o777, exist_ok=True)
        local.chmod(0o777)
        search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return workflow.run(
            *("--default-storage-provider", "fs", "--local-storage-prefix", f"{local}/$USER"),
            *("--shared-fs-usage", *shared),
            *arguments,
            env={"USER": "somebody", "PATH": search},
        )

    def lacks_copies(self, workflow: Workflow) -> None:
        """Fail if a copy of a file is left on the node."""
        for place in (workflow.home / "local", workflow.dir):
            assert not list(place.rglob("pipen-*"))
            assert not list(place.rglob(".pipen-*"))

    @pytest.mark.usefixtures("needs_jobs_elsewhere")
    def test_all_kinds_of_files(self, workflow: Workflow) -> None:
        """Inputs and outputs of every kind are the same as without copies."""
        workflow.file("data/in.txt", "1\n")
        workflow.file("data/tree/x", "x\n")
        workflow.path("data/tree/link").symlink_to("x")
        workflow.file(
            "script.py",
            """
            import json
            with open(snakemake.log[0], "w") as log:
                print("logged", file=log)
            same = snakemake.params.path == snakemake.output[0]
            found = {"input": open(snakemake.input[0]).read(), "same": same}
            with open(snakemake.output[0], "w") as out:
                json.dump(found, out)
            """,
        )
        workflow.snakefile(
            """
            rule all:
                input: "r/agg.txt", "r/script.json", "r/protected.txt", "r/params.txt", "r/g2.txt"
            rule tree:
                input: tree="data/tree"
                output: directory("r/tree")
                shell: "mkdir {output}; cp -P {input.tree}/* {output}; ln -s x {output}/own"
            rule made:
                input: "data/in.txt"
                output: temp("r/{i}.temp"), touch("r/{i}.touched")
                params: path=lambda wildcards, output: output[0]
                log: "logs/{i} it's.log"
                shell: "cat {input} > {params.path}; echo $PWD > {log:q}"
            rule script:
                input: "data/in.txt"
                output: "r/script.json"
                params: path=lambda wildcards, output: output[0]
                log: "logs/script.log"
                script: "script.py"
            rule protected:
                output: protected(ensure("r/protected.txt", non_empty=True))
                shell: "echo protected > {output}"
            checkpoint cut:
                input: "data/in.txt"
                output: directory("r/cut")
                shell: "mkdir {output}; for i in a b; do cp {input} {output}/$i; done"
            def parts(wildcards):
                checkpoints.cut.get()
                return ["r/part_a", "r/part_b"]
            rule part:
                input: "r/cut"
                output: "r/part_{i}"
                shadow: "minimal"
                shell: "echo junk > junk; cp {input}/{wildcards.i} {output}"
            rule params:
                input: "data/in.txt"
                output: "r/params.txt"
                params: text=lambda wildcards, input: open(input[0]).read().strip()
                shell: "echo {params.text} > {output}"
            rule g1:
                input: "data/in.txt"
                output: temp("r/g1.txt")
                group: "g"
                shell: "cp {input} {output}"
            rule g2:
                input: "r/g1.txt"
                output: "r/g2.txt"
                group: "g"
                shell: "cp {input} {output}"
            rule agg:
                input: "r/tree", parts, expand("r/{i}.{kind}", i=[1, 2], kind=["temp", "touched"])
                output: "r/agg.txt"
                benchmark: "bench/agg.tsv"
                shell: "ls {input[0]} > {output}; cat {input[1]} {input[3]} >> {output}"
            """
        )
        result = self.run_apart(workflow).ok()
        result.lacks(RESPAWNED)
        for rule in ("tree", "made", "script", "protected", "cut", "part", "params", "agg"):
            assert all(
                "snakemake --snakefile" not in j.read("job.script") for j in workflow.jobs(rule)
            )
        assert workflow.lines("r/agg.txt") == ["link", "own", "x", "1", "1"]
        assert not workflow.path("r/tree/own").is_symlink()  # as rsync --copy-links has it
        assert json.loads(workflow.read("r/script.json")) == {"input": "1\n", "same": True}
        assert workflow.read("r/params.txt") == workflow.read("r/g2.txt") == "1\n"
        assert stat.S_IMODE(workflow.path("r/protected.txt").stat().st_mode) & 0o222 == 0
        assert workflow.lines("logs/1 it's.log") == [str(workflow.dir)]
        assert workflow.lines("logs/script.log") == ["logged"]
        assert workflow.lines("bench/agg.tsv")[0].startswith("s\th:m:s\tmax_rss")
        assert not workflow.glob("r/*.temp") and not workflow.exists("r/g1.txt")
        assert not list(workflow.path(".snakemake/shadow").glob("*"))
        self.lacks_copies(workflow)
        self.run_apart(workflow, "-n").ok().has("Nothing to be done")
        workflow.dry_run().has("Nothing to be done")

    @pytest.mark.usefixtures("needs_jobs_elsewhere")
    def test_failures(self, workflow: Workflow) -> None:
        """What a failed job made does not get into storage; its log does."""
        workflow.snakefile(
            """
            rule all:
                input: "fails", "lacks", "empty", "sum", "late"
            rule fails:
                output: "fails"
                log: "fails.log"
                shell: "echo half > {output}; echo why > {log}; exit 3"
            rule lacks:
                output: "lacks", "has"
                shell: "echo half > {output[1]}"
            rule empty:
                output: ensure("empty", non_empty=True)
                shell: "touch {output}"
            rule sum:
                output: ensure("sum", sha256="0123")
                shell: "echo text > {output}"
            rule late:
                output: "late"
                log: "late.log"
                resources: pipen_timeout="2s"
                shell: "echo half > {output}; echo late > {log}; sleep 100"
            """
        )
        result = self.run_apart(workflow, "-k", "--latency-wait", "1").failed()
        assert result.failure("fails").message == "the command failed, exit status 3"
        assert "output missing" in result.failure("lacks").message
        assert "ran longer than allowed" in result.failure("late").message
        for rule in ("empty", "sum"):
            assert "ensure()" in result.failure(rule).message
        assert workflow.lines("fails.log") == ["why"]
        assert workflow.lines("late.log") == ["late"]
        for name in ("fails", "lacks", "has", "empty", "sum", "late"):
            assert not workflow.exists(name)
        self.lacks_copies(workflow)

    @pytest.mark.usefixtures("needs_jobs_elsewhere")
    def test_prefix_that_only_the_node_knows(self, workflow: Workflow) -> None:
        """A variable in ``--remote-job-local-storage-prefix`` is the node's; one must be set."""
        workflow.file("in.txt", "1\n")
        workflow.snakefile(
            """
            rule all:
                input: "a b.txt"
            rule a:
                input: "in.txt"
                output: "a b.txt"
                params: name=lambda wildcards, output: output[0]
                shell: "readlink -f {input} > {params.name:q}; cat {input} >> {output:q}"
            """
        )
        option = "--remote-job-local-storage-prefix"
        place = f"{workflow.home}/local/${{XQUTE_JOB_INDEX}}/it's"
        self.run_apart(workflow, option, place).ok().lacks(RESPAWNED)
        found, text = workflow.lines("a b.txt")
        assert text == "1"
        assert found.startswith(f"{workflow.home}/local/0/it's/pipen-")
        self.lacks_copies(workflow)
        place = f"{workflow.home}/local/$NOT_SET_ANYWHERE"
        result = self.run_apart(workflow, option, place, "--forceall").failed()
        assert "NOT_SET_ANYWHERE: it is not set on this node" in result.failure("a").text
        assert not list(workflow.home.glob("local/*NOT_SET*"))

    @pytest.mark.usefixtures("needs_jobs_elsewhere")
    def test_copies_that_are_kept(self, workflow: Workflow) -> None:
        """With --keep-storage-local-copies they lie where Snakemake has them, and stay new."""
        workflow.file("in.txt", "1\n")
        workflow.snakefile(
            """
            rule a:
                input: "in.txt"
                output: "a.txt"
                shell: "cp {input} {output}"
            """
        )
        arguments = ("--keep-storage-local-copies", "a.txt")
        self.run_apart(workflow, *arguments).ok().lacks(RESPAWNED)
        copies = {path.name: path for path in (workflow.home / "local").rglob("*.txt")}
        assert set(copies) == {"in.txt", "a.txt"}
        assert all(path.parent.name == "fs" for path in copies.values())
        workflow.file("in.txt", "2\n")
        os.utime(workflow.path("in.txt"), (2e9, 2e9))
        self.run_apart(workflow, *arguments, "--forceall").ok()
        assert workflow.read("a.txt") == copies["in.txt"].read_text() == "2\n"

    @pytest.mark.slow
    @pytest.mark.parametrize("missing", ALL)
    @pytest.mark.usefixtures("needs_jobs_elsewhere")
    def test_one_thing_is_not_shared(self, workflow: Workflow, missing: str) -> None:
        """Each item of --shared-fs-usage left out: direct, or the log says why not."""
        workflow.file("in.txt", "1\n")
        workflow.file("script.py", "open(snakemake.output[0], 'w').write('1\\n')\n")
        workflow.snakefile(
            """
            rule all:
                input: "a.txt", "b.txt", "c.txt"
            rule a:
                input: "in.txt"
                output: "a.txt", touch("a.touched")
                log: "a.log"
                shell: "cp {input} {output[0]}"
            rule b:
                input: "a.txt", "a.touched", "a.log"
                output: "b.txt"
                shell: "cp {input[0]} {output}"
            rule c:
                input: "in.txt"
                output: "c.txt"
                script: "script.py"
            """
        )
        shared = [item for item in ALL if item != missing]
        result = self.run_apart(workflow, shared=shared).ok()
        for name in ("a", "b", "c"):
            assert workflow.read(f"{name}.txt") == "1\n"
        if missing == "software-deployment":
            assert "add software-deployment to --shared-fs-usage" in result.line(RESPAWNED)
            assert "Rule c is" in result.line(RESPAWNED)
        else:
            result.lacks(RESPAWNED)
        workflow.dry_run().has("Nothing to be done")
        self.lacks_copies(workflow)

    @pytest.mark.usefixtures("needs_jobs_elsewhere")
    def test_other_storage_is_said_to_need_a_second_snakemake(self, workflow: Workflow) -> None:
        """What keeps a rule from running directly is said once, without --verbose."""
        workflow.snakefile(
            """
            rule all:
                input: "1.txt", "2.txt", "3.txt"
            localrules: here
            rule here:
                output: "3.txt"
                run:
                    open(output[0], "w").close()
            rule python:
                output: "{i}.txt"
                run:
                    open(output[0], "w").close()
            """
        )
        line = self.run_apart(workflow).ok().line(RESPAWNED)
        assert line.startswith("Rule python is run by a second Snakemake")
        assert "a script: in Python would run directly" in line
