"""How jobs end, and what the user is told of it."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from .base import ConformanceBase
from .harness import Workflow


class Success(ConformanceBase):
    """The command is run as it stands."""

    def test_text_of_the_command_is_run_as_it_stands(self, workflow: Workflow) -> None:
        workflow.snakefile(
            r'''
            rule all:
                input: "a.out", "b.out", "c.out"
            rule a:
                output: "a.out"
                shell:
                    r"""
                    x=inner
                    echo "$x" '$x' `echo tick` "$(echo sub)" \$x "dq \"in\" dq" 'sq' > {output}
                    printf '%s\n' "a  b" '\n' "\\" "#no comment" '*' '~' '!x' >> {output}
                    """
            rule b:  # the shell and its options are Snakemake's: pipefail and nounset are on
                output: "b.out"
                shell:
                    "set -o | grep -E 'errexit|nounset|pipefail' > {output}\n"
                    "echo $BASH >> {output}\n"
                    "cat >> {output} << 'EOF'\n$x `x` $(x) \"x\" 'x'\nEOF\n"
            rule c:
                input: "a.out"
                output: "c.out"
                threads: 2
                shell:
                    "pwd > {output}; echo {threads} $OMP_NUM_THREADS >> {output}; "
                    "cat {input} >> {output}"
            '''
        )
        result = (
            workflow.run(jobs=2).ok().has("3 of 4 steps (75%) done", "4 of 4 steps (100%) done")
        )
        assert workflow.lines("a.out") == [
            'inner $x tick sub $x dq "in" dq sq',
            "a  b",
            r"\n",
            "\\",
            "#no comment",
            "*",
            "~",
            "!x",
        ]
        modes = dict(line.split() for line in workflow.lines("b.out")[:3])
        assert modes == {"errexit": "on", "nounset": "on", "pipefail": "on"}
        assert workflow.lines("b.out")[3].endswith("/bash")
        assert workflow.lines("b.out")[4:] == ["""$x `x` $(x) "x" 'x'"""]
        where, threads, *rest = workflow.lines("c.out")
        assert threads == "2 2"
        assert rest == workflow.lines("a.out")
        if self.backend.sees_files:
            assert where == str(workflow.dir)
        result.lacks("Error", "Warning", "Traceback")
        job = workflow.job("a")
        assert job.rc == 0
        assert job.jid
        assert job.read("job.status").strip() == "6"
        workflow.assert_nothing_runs()

    def test_output_of_a_job_is_kept_in_its_directory(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell: "echo out-line; echo err-line >&2; touch {output}"
            """
        )
        workflow.run().ok()
        job = workflow.job("a")
        assert job.read("job.stdout") == "out-line\n"
        assert job.read("job.stderr") == "err-line\n"


class Failures(ConformanceBase):
    """A failed job never counts as a success, and the message says all that is known."""

    def test_failure_says_why_and_where(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule all:
                input: "nonzero.out", "missing.out", "notfound.out", "pipefail.out"
            rule nonzero:
                output: "nonzero.out"
                shell:
                    "for i in $(seq 30); do "
                    "printf '\\\\033[31mline-%s\\\\033[0m\\\\n' $i >&2; done; "
                    "touch {output}; exit 42"
            rule missing:
                output: "missing.out"
                shell: "echo forgot >&2"
            rule notfound:
                output: "notfound.out"
                shell: "no-such-command-xyz > {output}"
            rule pipefail:
                output: "pipefail.out"
                shell: "false | cat > {output}"
            """
        )
        result = workflow.run("--keep-going", "--latency-wait", "1").failed()
        failure = result.failure("nonzero")
        assert failure.message == "the command failed, exit status 42"
        assert failure.facts[f"{self.backend.scheduler} job"] == workflow.job("nonzero").jid
        assert Path(workflow.dir, failure.facts["directory"]) == workflow.job("nonzero").path
        assert failure.facts["node"]
        assert "line-30" in failure.text
        assert "\x1b" not in failure.text, "colours of a job are for its own log"
        assert "\x1b[31mline-30\x1b[0m\n" in workflow.job("nonzero").read("job.stderr")
        assert "line-20\n" not in failure.text, "only the tail of stderr belongs into a message"
        assert not workflow.exists("nonzero.out"), "Snakemake removes outputs of failed jobs"
        job = workflow.job("nonzero")
        assert job.rc == 42
        assert job.read("job.status").strip() == "7"

        missing = result.failure("missing")
        assert missing.message.startswith("output missing")
        assert "missing.out" in missing.message

        notfound = result.failure("notfound")
        assert "exit status 127" in notfound.message
        assert "command not found" in notfound.message
        assert "no-such-command-xyz" in notfound.text

        assert "exit status 1" in result.failure("pipefail").message
        assert {failure.rule for failure in result.failures()} == {
            "nonzero",
            "missing",
            "notfound",
            "pipefail",
        }

    def test_signal_is_a_failure(self, workflow: Workflow) -> None:
        """Whatever signal ends the command, and whoever is left to write it down."""
        workflow.snakefile(
            """
            rule all:
                input: "kill.out", "term.out", "segv.out", "child.out", "trapped.out"
            rule kill:
                output: "kill.out"
                shell: "touch {output}; kill -9 $$"
            rule term:
                output: "term.out"
                shell: "touch {output}; kill -TERM $$"
            rule segv:
                output: "segv.out"
                shell: "touch {output}; kill -SEGV $$"
            rule child:
                output: "child.out"
                shell: "touch {output}; bash -c 'kill -9 $$'"
            rule trapped:  # what a command makes of a signal that it sends itself is its own
                output: "trapped.out"
                shell: "trap 'echo caught > {output}; exit 0' TERM; kill -TERM $$; exit 1"
            """
        )
        result = workflow.run("--keep-going").failed()
        expected = {"kill": "SIGKILL", "term": "SIGTERM", "segv": "SIGSEGV", "child": "SIGKILL"}
        assert {failure.rule for failure in result.failures()} == set(expected)
        for rule, name in expected.items():
            number = 128 + signal.Signals[name]
            message = result.failure(rule).message
            assert name in message, message
            assert f"exit status {number}" in message, message
            assert not workflow.exists(f"{rule}.out")
            assert workflow.job(rule).rc == number
        assert workflow.read("trapped.out") == "caught\n"

    def test_wrapper_killed_from_outside(self, workflow: Workflow) -> None:
        """Nobody is left to write an exit status: the second witness notices."""
        self.needs_shared_files()
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell: "touch {output}; echo $$ > pid; echo $PPID > wrapper; exec sleep 60"
            """
        )
        process = workflow.start()
        process.wait_for(lambda: workflow.lines("wrapper"), "the job's start")
        self.kill_wrapper(workflow)
        failure = process.wait().failed().failure("a")
        assert "SIGKILL" in failure.message or "lost" in failure.message, failure.message
        assert failure.facts["directory"]
        assert not workflow.exists("a.out")

    def kill_wrapper(self, workflow: Workflow) -> None:
        """Send SIGKILL to the wrapper of the job of rule ``a``, and end what it leaves."""
        os.kill(int(workflow.read("wrapper")), signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):  # ended by the wrapper's guard
            os.kill(int(workflow.read("pid")), signal.SIGKILL)

    def test_no_space_to_write_results(self, workflow: Workflow) -> None:
        """Files that a job removes from its own directory do not turn failure into success."""
        self.needs_shared_files()
        workflow.snakefile(
            """
            rule all:
                input: "good.out", "bad.out"
            rule good:
                output: "good.out"
                shell: "touch {output}; rm -r $XQUTE_JOB_METADIR/*"
            rule bad:
                output: "bad.out"
                shell: "touch {output}; rm -r $XQUTE_JOB_METADIR/*; exit 3"
            """
        )
        result = workflow.run("--keep-going").failed()
        assert [failure.rule for failure in result.failures()] == ["bad"]
        assert workflow.exists("good.out")


class Timeouts(ConformanceBase):
    """The setting and the resource ``pipen_timeout``."""

    @pytest.mark.parametrize("execution", ["direct", "snakemake"])
    def test_timeout(self, workflow: Workflow, execution: str) -> None:
        workflow.snakefile(
            """
            rule all:
                input: "default.out", "shorter.out", "longer.out", "never.out"
            rule default:
                output: "default.out"
                shell: "touch {output}; sleep 61"
            rule shorter:
                output: "shorter.out"
                resources: pipen_timeout="1s"
                shell: "touch {output}; echo before >&2; sleep 62 & wait"
            rule longer:
                output: "longer.out"
                resources: pipen_timeout="2h"
                shell: "sleep 0.1; touch {output}"
            rule never:
                output: "never.out"
                resources: pipen_timeout=0
                shell: "sleep 0.1; touch {output}"
            """
        )
        # The second Snakemake needs more than a second to start.
        limit = {"direct": "2", "snakemake": "0.1min"}[execution]
        result = workflow.run(
            "--keep-going",
            *self.backend.option("timeout", limit),
            *self.backend.option("execution", execution),
        ).failed()
        shorter = result.failure("shorter")
        assert shorter.message.startswith("ran longer than allowed, exit status 124")
        assert "1 s" in shorter.message
        if execution == "direct":
            assert "before" in shorter.text
        default = result.failure("default")
        assert default.message.startswith("ran longer than allowed")
        assert "2 s" in default.message or "6 s" in default.message
        assert workflow.exists("longer.out")
        assert workflow.exists("never.out")
        assert not workflow.exists("default.out")
        assert not workflow.exists("shorter.out")
        workflow.assert_nothing_runs()
