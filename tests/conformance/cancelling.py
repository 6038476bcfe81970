"""Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal

import pytest

from .base import ConformanceBase
from .chaos import left_by
from .harness import Workflow, wait_for


class Cancelling(ConformanceBase):
    """Ends of a run that the user asks for."""

    @pytest.mark.parametrize("execution", ["direct", "snakemake"])
    def test_interrupt(self, workflow: Workflow, execution: str) -> None:
        """Every job is cancelled, what was complete stays, and the next run does the rest."""
        self.needs_shared_files()
        workflow.snakefile(
            """
            rule all:
                input: expand("long.{n}", n=range(3)), "done.out", "second"
            rule done:
                output: "done.out"
                priority: 10
                shell: "echo x >> done.log; touch {output}"
            rule long:
                input: "done.out"
                output: "long.{n}"
                shell:
                    "echo half > {output}; echo $$ > started.{wildcards.n}; "
                    "[ -e quick ] || sleep 60 & wait; "
                    "echo whole > {output}"
            rule first:
                input: "done.out"
                output: "first"
                priority: 5
                group: "both"
                shell:
                    "echo half > {output}; echo $$ > started.first; "
                    "[ -e quick ] || sleep 60 & wait; echo whole > {output}"
            rule second:
                input: "first"
                output: "second"
                group: "both"
                shell: "cat {input} > {output}"
            """
        )
        arguments = self.backend.option("execution", execution)
        process = workflow.start(*arguments, jobs=2)
        process.wait_for(lambda: len(workflow.glob("started.*")) == 2, "the start of two jobs")
        process.interrupt()
        process.says("Terminating processes on user request")
        process.interrupt()  # once more, as people do
        result = process.wait(30 * self.backend.slowness).failed()
        workflow.assert_nothing_runs()
        assert workflow.exists("done.out")
        assert len(workflow.glob("started.*")) == 2
        result.lacks("Traceback", "Error in rule done")

        workflow.file("quick")
        workflow.run(*arguments, jobs=2).ok()  # the same command
        made = [workflow.read(name) for name in ("long.0", "long.1", "long.2", "second")]
        assert made == ["whole\n"] * 4
        assert workflow.lines("done.log") == ["x"]
        assert not list(left_by(workflow))

    def test_interrupt_before_anything_is_submitted_is_heard(self, workflow: Workflow) -> None:
        """Jobs that wait for a place (forks) end too, without having run."""
        self.needs_shared_files()
        workflow.snakefile(
            """
            rule all:
                input: expand("long.{n}", n=range(20))
            rule long:
                output: "long.{n}"
                shell: "touch started.{wildcards.n}; sleep 60"
            """
        )
        process = workflow.start(*self.backend.option("forks", 1), jobs=20)
        process.wait_for(lambda: workflow.glob("started.*"), "the start of a job")
        process.interrupt()
        process.wait(30 * self.backend.slowness).failed()
        workflow.assert_nothing_runs()
        assert len(workflow.glob("started.*")) == 1, "forks is 1"

    def test_terminate_waits_for_running_jobs(self, workflow: Workflow) -> None:
        """SIGTERM is Snakemake's own: running jobs go on, nothing new is started."""
        self.needs_shared_files()
        workflow.snakefile(
            """
            rule all:
                input: "next.out"
            rule running:
                output: "running.out"
                shell: "touch started; until [ -e go ]; do sleep 0.05; done; touch {output}"
            rule next:
                input: "running.out"
                output: "next.out"
                shell: "touch {output}"
            """
        )
        process = workflow.start()
        process.wait_for(lambda: workflow.exists("started"), "the start of a job")
        process.terminate()
        process.wait_for(lambda: "Will exit after finishing" in process.text, "the announcement")
        assert workflow.processes(), "the job goes on"
        workflow.file("go")
        process.wait()
        assert workflow.exists("running.out")
        assert not workflow.exists("next.out")
        workflow.assert_nothing_runs()
        workflow.run().ok()

    def test_signals_that_end_or_stop_snakemake_alone(self, workflow: Workflow) -> None:
        """After SIGHUP to its terminal's processes and after SIGQUIT jobs go on and are taken up.

        While Snakemake is stopped they go on too, and it takes in what has ended meanwhile.
        """
        self.needs_shared_files()
        workflow.snakefile(
            """
            rule all:
                input: "out"
            rule held:
                output: "out"
                shell:
                    "echo held >> effects; echo half > {output}; "
                    "until [ -e go ]; do sleep 0.05; done; echo whole > {output}"
            """
        )
        process = workflow.start()
        process.wait_for(lambda: workflow.lines("effects"), "the start of a job")
        process.hang_up()
        assert process.wait().rc == -signal.SIGHUP
        assert workflow.processes(), "the job goes on"
        workflow.run("--unlock").ok()

        process = workflow.start()
        process.says("taken up again")
        process.signal(signal.SIGQUIT)
        assert process.wait().rc == -signal.SIGQUIT
        assert workflow.processes(), "the job goes on"
        workflow.run("--unlock").ok()

        process = workflow.start()
        process.says("taken up again")
        process.signal(signal.SIGSTOP)
        workflow.file("go")
        wait_for(lambda: workflow.job("held").rc == 0, "the end of the job")
        process.signal(signal.SIGCONT)
        process.wait().ok()
        assert workflow.lines("effects") == ["held"]
        assert not list(left_by(workflow))
