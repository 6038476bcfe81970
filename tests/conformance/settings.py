"""Settings, good and bad, and how a job is run."""

from __future__ import annotations

import os

import pytest

from .base import ConformanceBase
from .harness import Result, Workflow

ONE_RULE = """
rule a:
    output: "a.out"
    shell: "echo x >> ran; touch {output}"
"""


def is_refused(workflow: Workflow, result: Result, *texts: str) -> str:
    """Check that a run was refused before any job, and return the line that says why."""
    line = result.failed().line(*texts)
    assert not workflow.exists("ran"), "a job has been started"
    assert not workflow.exists("a.out")
    return line


class BadSettings(ConformanceBase):
    """One line names the setting, the value, and what would be right."""

    def test_switches_of_a_profile(self, workflow: Workflow) -> None:
        """YAML's words for a switch; what is empty or null is the default."""
        workflow.snakefile(ONE_RULE)
        lines = {"history": "no", "efficiency-report": "off", "timeout": "null"}
        prefix = self.backend.flag("").lstrip("-")
        text = "".join(f"{prefix}{name}: {value}\n" for name, value in lines.items())
        workflow.file("profile/config.yaml", text)
        workflow.run("--profile", "profile").ok()
        assert workflow.exists("a.out")
        assert not workflow.glob(".snakemake/pipen/*/history.jsonl")

    @pytest.mark.parametrize(
        ("name", "value", "right"),
        [
            ("execution", "sideways", "auto, direct, snakemake"),
            ("forks", "0", "a whole number, 1 or more"),
            ("forks", "many", "a whole number, 1 or more"),
            ("error_strategy", "give-up", "ignore, retry, halt"),
            ("num_retries", "-1", "a whole number, 0 or more"),
            ("num_retries", "1.5", "a whole number, 0 or more"),
            ("timeout", "soon", "a time such as 90, 30m, 2h"),
            ("timeout", "-5", "a time such as 90, 30m, 2h"),
            ("submission_batch", "-1", "a whole number, 0 or more"),
            ("submit_rate", "fast", "a number and a time such as 50/1min"),
            ("recheck_interval", "0", "a whole number, 1 or more"),
            ("options", "=nokey", "KEY=VALUE"),
        ],
    )
    def test_bad_value(self, workflow: Workflow, name: str, value: str, right: str) -> None:
        workflow.snakefile(ONE_RULE)
        flag = self.backend.flag(name)
        result = workflow.run(f"{flag}={value}")
        line = is_refused(workflow, result, flag)
        assert value in line
        assert right in line

    def test_unknown_option(self, workflow: Workflow) -> None:
        workflow.snakefile(ONE_RULE)
        flag = self.backend.flag("no-such-setting")
        is_refused(workflow, workflow.run(flag, "1"), flag, "unrecognized arguments")

    def test_unusable_directories(self, workflow: Workflow) -> None:
        """The job directory cannot be made; the working directory is not there."""
        workflow.snakefile(ONE_RULE)
        workflow.file("file", "not a directory")
        path = str(workflow.path("file") / "below")
        result = workflow.run(*self.backend.option("workdir", path))
        line = is_refused(workflow, result, self.backend.flag("workdir"))
        assert path in line
        if os.geteuid() != 0 or self.backend.user is not None:
            workflow.file("locked/x").parent.chmod(0o555)
            path = str(workflow.path("locked") / "below")
            result = workflow.run(*self.backend.option("workdir", path))
            assert "Permission" in is_refused(workflow, result, self.backend.flag("workdir"))

    @pytest.mark.parametrize(
        ("name", "value", "right"),
        [
            ("pipen_timeout", "'soon'", "a time such as 90, 30m, 2h"),
            ("pipen_execution", "'sideways'", "auto, direct, snakemake"),
            ("pipen_error_strategy", "'nope'", "ignore, retry, halt"),
            ("pipen_num_retries", "-3", "a whole number, 0 or more"),
            ("pipen_tiemout", "5", "pipen_timeout"),
            ("pipen_options", "'=x'", "KEY=VALUE"),
        ],
    )
    def test_bad_resource_of_a_rule(
        self, workflow: Workflow, name: str, value: str, right: str
    ) -> None:
        """Found before the first job of any rule."""
        workflow.snakefile(
            f"""
            rule all:
                input: "a.out", "b.out"
            {ONE_RULE.replace(chr(10), chr(10) + " " * 12)}
            rule b:
                input: "a.out"
                output: "b.out"
                resources: {name}={value}
                shell: "touch {{output}}"
            """
        )
        line = is_refused(workflow, workflow.run(), name)
        assert "rule b" in line
        assert right in line
        if name != "pipen_tiemout":
            assert value.strip("'") in line

    def test_bad_resource_that_is_computed(self, workflow: Workflow) -> None:
        """As soon as it can be known; at the latest that job fails, and the rule is named."""
        workflow.snakefile(
            """
            rule all:
                input: "a.out", "bad.out"
            rule good:
                output: "a.out"
                resources: pipen_timeout=lambda wildcards: "1h"
                shell: "touch {output}"
            rule bad:
                output: "bad.out"
                retries: 1
                resources:
                    pipen_timeout=lambda wildcards, attempt: ["1h", "whenever"][attempt - FIRST]
                shell: "exit 3"
            """
        )
        text = workflow.read("Snakefile")
        workflow.snakefile("FIRST = 0\n" + text)
        line = is_refused(workflow, workflow.run(), "pipen_timeout", "whenever")
        assert "rule bad" in line
        assert "a time such as" in line

        workflow.snakefile("FIRST = 1\n" + text)
        result = workflow.run("--keep-going").failed()
        result.line("pipen_timeout", "whenever", "rule bad")
        assert workflow.exists("a.out")
        assert not workflow.exists("bad.out")


class GoodSettings(ConformanceBase):
    """Settings that are right do what they say."""

    def test_variables_of_a_pipen_profile(self, workflow: Workflow) -> None:
        """``envs`` in ``scheduler_opts`` are variables for all jobs, also of a rule's options."""
        workflow.file(
            ".pipen.toml",
            """
            [p.scheduler_opts.envs]
            GREETING = "it's $HOME, and more"
            """,
        )
        workflow.snakefile(
            """
            rule a:
                output: "a"
                shell: 'printf "%s\\n" "$GREETING" > {output}'
            """
        )
        workflow.run(*self.backend.option("profile", "p")).ok()
        assert workflow.read("a") == "it's $HOME, and more\n"

    def test_forks_workdir_and_profile(self, workflow: Workflow) -> None:
        """Given by a profile too; the environment variables in a path are read."""
        self.needs_shared_files()
        workflow.snakefile(
            """
            rule all:
                input: expand("{n}.out", n=range(4))
            rule a:
                output: "{n}.out"
                shell:
                    "mkdir lock; sleep 0.2; rmdir lock; touch {output}"
            """
        )
        prefix = self.backend.executor
        workflow.file(
            "profile/config.yaml",
            f"""
            {prefix}-forks: 1
            {prefix}-workdir: $WHERE/jobs
            {prefix}-timeout: 1h
            {prefix}-submit-rate: 20/1s
            {prefix}-recheck-interval: 5
            """,
        )
        workflow.run("--profile", "profile", env={"WHERE": str(workflow.path("elsewhere"))}).ok()
        assert len(list(workflow.path("elsewhere/jobs/a").iterdir())) == 4
        assert not workflow.jobs("a")


class Execution(ConformanceBase):
    """Direct, respawned, or as it is right."""

    def test_direct_refuses_what_cannot_be_direct(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule all:
                input: "a.out", "b.out"
            rule plain:
                output: "a.out"
                shell: "touch {output}"
            rule python:
                output: "b.out"
                run:
                    open(output[0], "w").close()
            """
        )
        result = workflow.run("--keep-going", *self.backend.option("execution", "direct")).failed()
        line = result.line("python", "run:")
        assert self.backend.flag("execution") in line
        assert not workflow.exists("b.out")

    def test_auto_says_why_and_snakemake_is_always_respawned(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule all:
                input: "a.out", "b.out", "c.out"
            rule plain:
                output: "a.out"
                shell: "touch {output}"
            rule python:
                output: "b.out"
                run:
                    open(output[0], "w").close()
            rule asked:
                output: "c.out"
                resources: pipen_execution="snakemake"
                shell: "touch {output}"
            """
        )
        result = workflow.run().ok()
        line = result.line("run by a second Snakemake")  # not of what has been asked for
        assert line.startswith("Rule python is")
        assert "a script: in Python would run directly" in line
        assert "snakemake" not in workflow.job("plain").read("job.script")
        assert "snakemake" in workflow.job("asked").read("job.script")

        result = workflow.run("--forceall", *self.backend.option("execution", "snakemake")).ok()
        assert "snakemake" in workflow.job("plain").read("job.script")
        result.lacks("run by a second Snakemake")


class Metadata(ConformanceBase):
    """Snakemake's records are those that its local executor writes."""

    def test_nothing_to_be_done_and_the_same_reasons(self, workflow: Workflow) -> None:
        text = """
            rule all:
                input: "shell.out", "script.out", "plain.out", "run.out"
            rule shell_rule:
                input: "in.txt"
                output: "shell.out"
                params: value={value}
                shell: "echo {{params.value}} {word} > {{output}}"
            rule script_rule:
                input: "in.txt"
                output: "script.out"
                params: value=lambda wildcards, threads: {value} + threads
                script: "say.py"
            rule plain_rule:
                output: "plain.out"
                shell: "echo plain > {{output}}"
            rule run_rule:
                output: "run.out"
                run:
                    open(output[0], "w").write("{word}")
            """
        script = "open(snakemake.output[0], 'w').write('{word}')\n"

        def write(value: int, word: str) -> None:
            workflow.snakefile(text.format(value=value, word=word))
            workflow.file("say.py", script.format(word=word))

        def reasons() -> list[str]:
            lines = workflow.dry_run().text.splitlines()
            rules = [
                line.split()[1]
                for line in lines
                if line.startswith(("rule ", "localrule ")) and not line.endswith("all:")
            ]
            why = [line.strip() for line in lines if line.strip().startswith("reason:")]
            return sorted(f"{rule} {reason}" for rule, reason in zip(rules, why, strict=False))

        seen: dict[str, list[list[str]]] = {}
        for executor in ("local", self.backend.executor):
            write(1, "one")
            workflow.file("in.txt", "1")
            workflow.run("--forceall", executor=executor).ok()
            workflow.dry_run().has("Nothing to be done")
            seen[executor] = []
            for value, word in ((2, "one"), (1, "two")):
                write(value, word)
                seen[executor].append(reasons())
        assert seen[self.backend.executor] == seen["local"]
        assert any("Params" in reason for reason in seen["local"][0])
        assert any("Code" in reason for reason in seen["local"][1])
        workflow.run("--forceall").ok()
        workflow.run().ok().has("Nothing to be done")
