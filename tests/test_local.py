"""pipen-local: the conformance suite, and what is special to processes of this machine."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from .conformance.base import ConformanceBase
from .conformance.harness import Backend, Workflow, wait_for
from .conformance.suite import ExecutorConformance

BACKEND = Backend("pipen-local", local=True)


class TestLocal(ExecutorConformance):
    __test__ = True
    backend = BACKEND


def deepest(lines: list[str]) -> int:
    """Return how many jobs ran at once, given a line ``+`` and a line ``-`` of each."""
    depth = most = 0
    for line in lines:
        depth += 1 if line == "+" else -1
        most = max(most, depth)
    return most


class TestLimits(ConformanceBase):
    """What Snakemake was given is never exceeded, and is made use of."""

    __test__ = True
    backend = BACKEND

    @pytest.mark.parametrize(
        ("asked", "arguments"),
        [
            ("threads: 2", ("--set-threads", "none=1")),
            ("resources: mem_mb=400", ("--resources", "mem_mb=1000")),
        ],
    )
    def test_two_at_a_time(
        self, workflow: Workflow, asked: str, arguments: tuple[str, ...]
    ) -> None:
        workflow.snakefile(
            f"""
            rule all:
                input: expand("{{n}}.out", n=range(6))
            rule none:
                output: "none"
                shell: "touch {{output}}"
            rule a:
                output: "{{n}}.out"
                {asked}
                shell: "echo + >> log; sleep 0.3; echo - >> log; touch {{output}}"
            """
        )
        workflow.run(*arguments, jobs=4).ok()
        assert deepest(workflow.lines("log")) == 2

    def test_threads_are_cut_to_the_cores(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                threads: 16
                shell: "echo {threads} $OMP_NUM_THREADS > {output}"
            """
        )
        workflow.run(jobs=3).ok()
        assert workflow.read("a.out") == "3 3\n"


class TestProcesses(ConformanceBase):
    """Ends of processes."""

    __test__ = True
    backend = BACKEND

    def test_directories_by_another_path(self, workflow: Workflow) -> None:
        """xqute's ``mounted_workdir``: jobs see and write their directories by it."""
        workflow.path("seen").symlink_to(workflow.job_root)
        workflow.file(
            ".pipen.toml", f'[p.scheduler_opts]\nmounted_workdir = "{workflow.path("seen")}"\n'
        )
        workflow.snakefile(
            """
            rule a:
                output: "a"
                shell: 'echo "$XQUTE_JOB_METADIR" > {output}'
            """
        )
        workflow.run("--pipen-local-profile", "p").ok()
        assert workflow.read("a").startswith(f"{workflow.path('seen')}/a/")
        assert workflow.job("a").rc == 0

    def test_kill_after_term(self, workflow: Workflow) -> None:
        """A job that ignores TERM has the grace time and no more; one that cleans up can."""
        workflow.snakefile(
            """
            rule all:
                input: "deaf.out", "tidy.out"
            rule deaf:
                output: "deaf.out"
                shell: "trap '' TERM INT; touch deaf.started; sleep 60; sleep 60"
            rule tidy:
                output: "tidy.out"
                shell:
                    "trap 'sleep 0.2; echo cleaned > cleaned; exit 0' TERM; touch tidy.started; "
                    "sleep 60 & wait; touch {output}"
            """
        )
        process = workflow.start("--pipen-local-kill-grace", "1.5")
        process.wait_for(
            lambda: workflow.exists("deaf.started") and workflow.exists("tidy.started"),
            "the start of both jobs",
        )
        started = time.monotonic()
        process.interrupt()
        process.wait(30)
        assert time.monotonic() - started >= 1.5
        workflow.assert_nothing_runs()
        assert workflow.read("cleaned") == "cleaned\n"
        assert not workflow.exists("tidy.out")

    def test_killed_wrapper_leaves_nothing(self, workflow: Workflow) -> None:
        """A command whose wrapper is gone would write outputs that nobody waits for."""
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell: "echo $PPID > wrapper; sleep 60; touch {output}"
            """
        )
        process = workflow.start()
        process.wait_for(lambda: workflow.lines("wrapper"), "the job's start")
        os.kill(int(workflow.read("wrapper")), signal.SIGKILL)
        assert "SIGKILL" in process.wait(30).failed().failure("a").message
        workflow.assert_nothing_runs()

    @pytest.mark.parametrize("ending", ["cancel", "timeout"])
    def test_whole_session_is_ended(self, workflow: Workflow, ending: str) -> None:
        """Grandchildren, and processes that made a process group of their own."""
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell: "bash tree.sh; touch {output}"
            """
        )
        workflow.file(
            "tree.sh",
            """
            (sleep 61 & sleep 62 & wait) &
            bash -c 'set -m; sleep 63 & sleep 64 & echo > grouped; wait' &
            nohup sleep 65 > /dev/null 2>&1 &
            touch started
            wait
            """,
        )
        arguments = ("--pipen-local-timeout", "3") if ending == "timeout" else ()
        process = workflow.start("--pipen-local-kill-grace", "1", *arguments)
        process.wait_for(
            lambda: workflow.exists("started") and workflow.exists("grouped"), "the whole tree"
        )
        if ending == "cancel":
            process.interrupt()
        process.wait(30).failed()
        workflow.assert_nothing_runs()

    def test_process_left_in_the_background_holds_nothing_up(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell: "sleep 60 & touch {output}"
            """
        )
        workflow.run().ok()
        assert workflow.processes(), "it goes on when the run has ended"

    def test_jobs_survive_kill_and_hang_up(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell: "echo x >> effects; until [ -e go ]; do sleep 0.05; done; touch {output}"
            """
        )
        for end in ("hang_up", "kill9"):
            process = workflow.start("--nolock", "--rerun-incomplete")
            said = "Execute 1 jobs" if end == "hang_up" else "taken up again"
            process.says(said)
            process.wait_for(partial(workflow.exists, "effects"), "the job")
            getattr(process, end)()
            with pytest.raises(AssertionError, match="exit status -"):
                process.wait().failed()
            assert workflow.processes()
        workflow.file("go")
        workflow.run("--nolock", "--rerun-incomplete").ok()
        assert workflow.lines("effects") == ["x"]

    def test_a_long_command_in_the_container_of_a_rule(self, workflow: Workflow) -> None:
        """It is one argument of the command that starts the container, and too long for one."""
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                container: "image.sif"
                params: long="x" * 140000
                resources: tmpdir="tmp dir", pipen_execution="direct"
                shell: "echo {params.long} {resources.tmpdir:q} | wc -c > {output}"
            """
        )
        workflow.file("image.sif")
        workflow.file(
            "bin/apptainer",
            """\
            #!/bin/bash
            if [ "$1" = --version ]; then echo "apptainer version 1.3.4"; exit 0; fi
            exec bash -c "${!#}"
            """,
            mode=0o755,
        )
        path = f"{workflow.dir}/bin:{os.environ['PATH']}"
        workflow.run("--sdm", "apptainer", env={"PATH": path}).ok()
        assert workflow.read("a.out").strip() == str(140000 + len(" tmp dir\n"))
        assert not workflow.glob(".snakemake/shell_tmp.*")

    def test_jobs_have_no_terminal_and_no_input(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell:
                    "wc -c > {output}; ps -o tty= -p $$ >> {output}; "
                    "[ $(ps -o sid= -p $$) != $(cat sid) ] && echo own-session >> {output}"
            """
        )
        workflow.file("sid", f"{os.getsid(0)}\n")
        workflow.run(timeout=30).ok()
        assert [line.strip() for line in workflow.lines("a.out")] == ["0", "?", "own-session"]


class TestOutOfMemory(ConformanceBase):
    __test__ = True
    backend = BACKEND

    def test_kernel_says_out_of_memory(self, workflow: Workflow, small_cgroup: Path) -> None:
        if "oom_kill " not in Path("/proc/vmstat").read_text():
            pytest.skip("this kernel does not count what its out-of-memory killer does")
        workflow.snakefile(
            f"""
            rule a:
                output: "a.out"
                shell:
                    "echo $$ > {small_cgroup}/cgroup.procs; "
                    "python3 -c 'x = bytearray(1 << 30); print(len(x))' > {{output}}"
            """
        )
        failure = workflow.run(timeout=60).failed().failure("a")
        assert failure.message.startswith("out of memory, exit status 137"), failure.message


class TestTakingCare(ConformanceBase):
    """What a run does not wait for, and what it leaves alone."""

    __test__ = True
    backend = BACKEND

    def test_third_interrupt_ends_the_waiting(self, workflow: Workflow) -> None:
        """Jobs that do not end at SIGTERM are named, and dealt with by the next run."""
        workflow.snakefile(
            """
            rule held:
                output: "out"
                shell:
                    "trap 'touch told' TERM; echo held >> effects; echo half > {output}; "
                    "until [ -e go ]; do sleep 0.05; done; echo whole > {output}"
            """
        )
        arguments = self.backend.option("kill_grace", 600)
        process = workflow.start(*arguments)
        process.wait_for(lambda: workflow.lines("effects"), "the start of the job")
        process.interrupt()
        process.wait_for(lambda: workflow.exists("told"), "the cancellation")
        process.interrupt()
        process.says("Another Ctrl-C ends Snakemake without waiting")
        process.interrupt()
        result = process.wait().failed()
        result.line("1 jobs may still be there", workflow.job("held").jid)
        workflow.file("go")
        wait_for(lambda: not workflow.processes(), "the end of the job")
        workflow.run(*arguments).ok()
        assert workflow.read("out") == "whole\n"

    def test_two_workflows_with_one_workdir(self, workflow: Workflow, tmp_path: Path) -> None:
        """As one in a profile: neither takes the other's jobs for its own."""
        other = Workflow(tmp_path / "other", self.backend)
        arguments = self.backend.option("workdir", tmp_path / "jobs")
        for one in (workflow, other):
            one.snakefile(
                """
                rule held:
                    output: "out"
                    shell:
                        "echo held >> effects; until [ -e go ]; do sleep 0.05; done; pwd > {output}"
                """
            )
        first = workflow.start(*arguments)
        first.wait_for(lambda: workflow.lines("effects"), "the start of the first job")
        second = other.start(*arguments)
        second.wait_for(lambda: other.lines("effects"), "the start of the second job")
        for one in (workflow, other):
            one.file("go")
        first.wait().ok()
        second.wait().ok().lacks("earlier run")
        for one in (workflow, other):
            assert one.read("out") == f"{one.dir}\n"
            assert one.lines("effects") == ["held"]
