"""Error strategies of pipen beside Snakemake's own: retry, halt, ``retries:``, keep-going."""

from __future__ import annotations

import pytest

from .base import ConformanceBase
from .harness import Workflow


class Retries(ConformanceBase):
    """Two kinds of retry that know nothing of each other."""

    def test_error_strategy_retry(self, workflow: Workflow) -> None:
        """Earlier attempts are kept, and to Snakemake it is one attempt."""
        self.needs_shared_files()
        workflow.snakefile(
            """
            rule all:
                input: "flaky.out", "always.out", "once.out"
            rule flaky:
                output: "flaky.out"
                resources: which=lambda wildcards, attempt: attempt
                shell:
                    "if [ -e {output} ]; then echo left >> left; fi; "
                    "echo {resources.which} >> flaky.log; touch {output}; "
                    "echo this is $(wc -l < flaky.log) >&2; "
                    "[ $(wc -l < flaky.log) -ge 3 ]"
            rule always:
                output: "always.out"
                resources: pipen_num_retries=1
                shell: "echo x >> always.log; echo this is $(wc -l < always.log) >&2; exit 7"
            rule once:
                output: "once.out"
                resources: pipen_error_strategy="ignore"
                shell: "echo x >> once.log; exit 5"
            """
        )
        result = workflow.run(
            "--keep-going",
            *self.backend.option("error_strategy", "retry"),
            *self.backend.option("num_retries", 2),
        ).failed()
        assert workflow.lines("flaky.log") == ["1", "1", "1"]
        assert workflow.exists("flaky.out")
        assert not workflow.exists("left"), "outputs of an attempt are there in the next one"
        flaky = workflow.job("flaky")
        assert flaky.attempts == ["1", "2"]
        assert [flaky.read(f"job.retry/{n}/job.stderr") for n in (1, 2)] == [
            "this is 1\n",
            "this is 2\n",
        ]
        assert flaky.read("job.retry/1/job.rc").strip() == "1"
        assert flaky.rc == 0
        assert len(workflow.lines("always.log")) == 2
        assert workflow.job("always").attempts == ["1"]
        assert len(workflow.lines("once.log")) == 1
        assert {failure.rule for failure in result.failures()} == {"always", "once"}
        assert "exit status 7" in result.failure("always").message
        assert "this is 2" in result.failure("always").text
        result.has("retry 1 of 2", "retry 2 of 2", "retry 1 of 1")
        result.lacks("Trying to restart job")

    def test_retry_begins_anew(self, workflow: Workflow) -> None:
        """What an attempt has made of its outputs is taken back before the next one."""
        self.needs_shared_files()
        workflow.snakefile(
            """
            rule all:
                input: "dir", "logged"
            rule into_directory:
                output: directory("dir")
                shell:
                    "mkdir {output}; echo x >> dir.log; touch {output}/$(wc -l < dir.log); "
                    "[ $(wc -l < dir.log) = 2 ]"
            rule logged:
                output: "logged"
                log: "logged.log"
                shell:
                    "echo x >> logged.count; echo run >> {log}; touch {output}; "
                    "[ $(wc -l < logged.count) = 2 ]"
            """
        )
        workflow.run(*self.backend.option("error_strategy", "retry")).ok()
        assert [path.name for path in workflow.path("dir").glob("[0-9]")] == ["2"]
        assert workflow.read("logged.log") == "run\n"

    def test_retry_has_a_fresh_shadow_directory(self, workflow: Workflow) -> None:
        self.needs_shared_files()
        workflow.snakefile(
            """
            rule shadowed:
                output: "shadowed"
                params: tally=workflow.basedir + "/shadowed.log"
                shadow: "minimal"
                shell:
                    "echo x >> {params.tally}; ls -A > {output}; touch junk; "
                    "[ $(wc -l < {params.tally}) = 2 ]"
            """
        )
        workflow.run(*self.backend.option("error_strategy", "retry")).ok()
        assert workflow.read("shadowed") == "shadowed\n"

    def test_retry_updates_the_file_of_before(self, workflow: Workflow) -> None:
        self.needs_shared_files()
        workflow.snakefile(
            """
            rule updates:
                output: update("updated")
                shell:
                    "echo more >> {output}; echo x >> updates.log; "
                    "[ $(wc -l < updates.log) = 2 ]"
            """
        )
        workflow.file("updated", "first\n")
        workflow.run("--forcerun", "updates", *self.backend.option("error_strategy", "retry")).ok()
        assert workflow.read("updated") == "first\nmore\n"

    @pytest.mark.parametrize("execution", ["direct", "snakemake"])
    def test_retries_of_snakemake(self, workflow: Workflow, execution: str) -> None:
        """Exactly as many attempts as the rule says, each with its own resources."""
        self.needs_shared_files()
        workflow.snakefile(
            """
            rule all:
                input: "good.out", "bad.out"
            rule good:
                output: "good.out"
                retries: 2
                resources: mem_mb=lambda wildcards, attempt: 10 * attempt
                shell:
                    "echo {resources.mem_mb} >> good.log; touch {output}; "
                    "[ $(wc -l < good.log) -ge 3 ]"
            rule bad:
                output: "bad.out"
                retries: 1
                shell: "echo x >> bad.log; exit 6"
            """
        )
        result = workflow.run("--keep-going", *self.backend.option("execution", execution)).failed()
        assert workflow.lines("good.log") == ["10", "20", "30"]
        assert workflow.exists("good.out")
        assert len(workflow.lines("bad.log")) == 2
        result.has("Trying to restart job")


class KeepGoing(ConformanceBase):
    """What a failure means for the other jobs."""

    def test_without_and_with_keep_going(self, workflow: Workflow) -> None:
        self.needs_shared_files()
        workflow.snakefile(
            """
            rule all:
                input: "after_bad.out", "after_good.out"
            rule bad:
                output: "bad.out"
                shell: "until [ -e good.started ]; do sleep 0.05; done; exit 1"
            rule after_bad:
                input: "bad.out"
                output: "after_bad.out"
                shell: "touch {output}"
            rule good:  # ends after the failure has been told
                output: "good.out"
                shell:
                    "touch good.started; until [ -e go ]; do sleep 0.05; done; touch {output}"
            rule after_good:
                input: "good.out"
                output: "after_good.out"
                shell: "touch {output}"
            """
        )
        process = workflow.start(jobs=2)
        process.wait_for(lambda: "Error in rule bad" in process.text, "the failure's message")
        assert not workflow.exists("good.out")
        workflow.file("go")
        process.wait().failed()
        assert workflow.exists("good.out"), "jobs that ran have been let go on"
        assert not workflow.exists("after_good.out"), "nothing new is started after a failure"

        workflow.run("--keep-going", jobs=2).failed()
        assert workflow.exists("after_good.out")
        assert not workflow.exists("after_bad.out")


class Halt(ConformanceBase):
    """Error strategy ``halt``."""

    @pytest.mark.parametrize("where", ["setting", "rule"])
    def test_halt(self, workflow: Workflow, where: str) -> None:
        """All other jobs are cancelled at once, whatever --keep-going says."""
        self.needs_shared_files()
        own = 'resources: pipen_error_strategy="halt"' if where == "rule" else ""
        workflow.snakefile(
            f"""
            rule all:
                input: "bad.out", expand("long.{{n}}", n=range(4))
            rule bad:
                output: "bad.out"
                {own}
                priority: 10
                shell:
                    "until [ -e started.0 ] || [ -e started.1 ] || [ -e started.2 ] || "
                    "[ -e started.3 ]; do sleep 0.05; done; echo the-cause >&2; exit 9"
            rule long:
                output: "long.{{n}}"
                shell: "touch started.{{wildcards.n}}; sleep 60; touch {{output}}"
            """
        )
        arguments = self.backend.option("error_strategy", "halt") if where == "setting" else []
        result = workflow.run("--keep-going", *arguments, jobs=3).failed()
        assert result.seconds < 30 * self.backend.slowness
        workflow.assert_nothing_runs()
        line = result.line("'halt'")
        assert "bad" in line
        assert "exit status 9" in line
        assert "the-cause" in result.text
        for number in range(4):
            assert not workflow.exists(f"long.{number}")
        started = [number for number in range(4) if workflow.exists(f"started.{number}")]
        assert len(started) <= 2, "no job may be started after the one that ended the run"
