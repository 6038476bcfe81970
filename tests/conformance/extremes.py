"""Sizes and names at the limits."""

from __future__ import annotations

import pytest

from .base import ConformanceBase
from .harness import Workflow
from .kinds import BOTH

NAMES = [
    "two  words, a=b",
    "  it's",
    'say "hi" now',
    "$HOME",
    "$(touch injected)",
    "`touch injected`",
    "semi;touch injected",
    "back\\slash",
    "naïve ☃ 日本",
    "*",
    "-rf",
    "~",
    "#hash",
    "100%d %s",
    "a&b|c>d<e",
    "!bang",
    "".join(f"{n}" for n in range(90)),
]


class Extremes(ConformanceBase):
    """Long commands, hostile names, much output, many jobs."""

    @BOTH
    def test_hostile_names(self, workflow: Workflow, execution: str) -> None:
        """In wildcards and in paths, quoted by the rule with ``:q``."""
        names = NAMES if execution == "direct" else NAMES[:6]
        workflow.snakefile(
            f"""
            NAMES = {names!r}
            rule all:
                input: ["out dir/" + name + "/it.txt" for name in NAMES]
            rule a:
                input: "in dir/{{name}}.txt"
                output: "out dir/{{name}}/it.txt"
                log: "logs/{{name}}.log"
                shell: "cat {{input:q}} > {{output:q}}; echo {{wildcards.name:q}} > {{log:q}}"
            """
        )
        for name in names:
            workflow.file(f"in dir/{name}.txt", f"content of {name}\n")
        workflow.run(*self.backend.option("execution", execution), timeout=180).ok()
        for name in names:
            assert workflow.read(f"out dir/{name}/it.txt") == f"content of {name}\n"
            assert workflow.read(f"logs/{name}.log") == f"{name}\n"
        assert not workflow.exists("injected")
        workflow.dry_run().has("Nothing to be done")

    def test_newlines_in_names(self, workflow: Workflow) -> None:
        """As far as Snakemake itself gets with its local executor."""
        workflow.snakefile(
            """
            rule a:
                output: "first\\nsecond 'x'/{name}.txt"
                shell: "printf %s {wildcards.name:q} > {output:q}"
            """
        )
        target = "first\nsecond 'x'/line 1\nline 2.txt"
        if workflow.run(target, executor="local").rc != 0:
            pytest.skip("Snakemake itself does not run it")
        workflow.path(target).unlink()
        workflow.run(target).ok()
        assert workflow.read(target) == "line 1\nline 2"

    def test_hostile_working_directory(self, workflow: Workflow) -> None:
        folder = 'it\'s $(touch injected) `x` "q" ☃'
        workflow.snakefile(
            f"""
            workdir: {folder!r}
            rule a:
                output: "a.out"
                shell: "pwd > {{output}}"
            """
        )
        workflow.run().ok()
        where = workflow.read(f"{folder}/a.out").rstrip("\n")
        if self.backend.sees_files:
            assert where.endswith(folder)
        assert not list(workflow.dir.rglob("injected"))

    @BOTH
    def test_command_of_200_kB(self, workflow: Workflow, execution: str) -> None:
        workflow.snakefile(
            """
            WORDS = " ".join(f"word{n}" for n in range(22000))
            rule all:
                input: "long.out", "many.out"
            rule long:
                output: "long.out"
                params: words=WORDS
                shell: "cat > {output} << 'END'\\n{params.words}\\nEND\\n"
            rule many:
                input: expand("in/{n}.txt", n=range(1500))
                output: "many.out"
                shell: "printf '%s\\\\n' {input} | wc -l > {output}"
            """
        )
        for number in range(1500):
            workflow.file(f"in/{number}.txt")
        workflow.run(*self.backend.option("execution", execution)).ok()
        assert workflow.read("long.out").split() == [f"word{n}" for n in range(22000)]
        assert workflow.read("many.out").strip() == "1500"

    def test_50_MB_on_stdout(self, workflow: Workflow) -> None:
        """Kept whole, not shown, and nothing waits for anybody to read it."""
        workflow.snakefile(
            """
            rule all:
                input: "good.out", "bad.out"
            rule good:
                output: "good.out"
                shell: "head -c 50000000 /dev/zero | tr '\\\\0' x; touch {output}"
            rule bad:
                output: "bad.out"
                shell:
                    "head -c 5000000 /dev/zero | tr '\\\\0' x >&2; "
                    "printf '\\\\nlast\\\\xff words' >&2; exit 3"
            """
        )
        result = workflow.run("--keep-going").failed()
        assert workflow.exists("good.out")
        assert (workflow.job("good").path / "job.stdout").stat().st_size == 50_000_000
        assert "words" in result.failure("bad").text
        assert len(result.text) < 100_000

    @pytest.mark.slow
    def test_2000_jobs(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule all:
                input: expand("out/{n}", n=range(2000))
            rule a:
                output: "out/{n}"
                shell: "echo {wildcards.n} > {output}"
            """
        )
        arguments = ("--max-jobs-per-timespan", "10000/1s", "--scheduler", "greedy", "--quiet")
        workflow.run(*arguments, "all", jobs=50, timeout=240).ok()
        assert len(list(workflow.path("out").iterdir())) == 2000
        assert workflow.read("out/1999") == "1999\n"
        workflow.dry_run().has("Nothing to be done")
