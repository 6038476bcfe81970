"""``pipen-executors`` from a second terminal, beside runs of pipen-local and on a real Slurm."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipen_executors.history import HISTORY
from pipen_executors.preview import NO_TOKEN

from .commands_support import Said, command, pipen_executors
from .conformance.base import ConformanceBase
from .conformance.harness import Backend, Workflow, wait_for
from .container_support import started
from .services.containers import IMAGE, VOLUMES, Podman, Runtime
from .services.sge import SgeCell
from .services.slurm import SlurmCluster
from .services.ssh import SshHosts
from .sge_support import PLAIN as SGE
from .sge_support import backend_on as on_cell
from .sge_support import cell_or_skip
from .slurm_support import PLAIN, Counted, backend_on, cluster_or_skip
from .ssh_support import hosts_or_skip

GATED = """
rule all:
    input: expand("{i}.out", i=range(3))
rule a:
    output: "{i}.out"
    shell:
        "echo hello {wildcards.i}; echo careful >&2; "
        "until [ -e go ]; do sleep 0.1; done; touch {output}"
"""
FAILING = """
rule all:
    input: "good.out", "bad.out"
rule good:
    output: "good.out"
    resources: mem_mb=50, runtime=60
    shell: "echo fine; touch {output}"
rule bad:
    output: "bad.out"
    shell: "echo '<oh no>' >&2; exit 3"
"""
PLANNED = """
rule all:
    input: "late.out"
rule good:
    output: "good.out"
    resources: mem_mb=50, runtime=60
    shell: "echo fine; touch {output}; echo fine > {output}"
rule late:
    input: "good.out"
    output: "late.out"
    params: n=lambda wildcards, input: open(input[0]).read().strip()
    shell: "echo {params.n}; touch {output}"
"""


def counts(said: Said) -> dict[str, int]:
    """Return the counts of the one run that is not 0."""
    (run,) = said.json["runs"]
    return {state: number for state, number in run["counts"].items() if number}


class Commands(ConformanceBase):
    """What every command shows and does; the backends inherit it."""

    def status(self, workflow: Workflow) -> dict[str, int]:
        return counts(pipen_executors(workflow, "status", "--json"))

    def test_while_it_runs(self, workflow: Workflow) -> None:
        workflow.snakefile(GATED)
        process = workflow.start()
        process.wait_for(
            lambda: workflow.job_root.exists() and len(workflow.jobs("a")) == 3, "three jobs"
        )
        process.wait_for(lambda: self.status(workflow) == {"running": 3}, "that they run")
        shown = pipen_executors(workflow, "status").ok().out
        assert "under way" in shown
        assert "3 running" in shown
        assert "a (i=2)" in shown
        process.wait_for(
            lambda: "careful" in pipen_executors(workflow, "logs", "1.out").ok().out, "its output"
        )
        said = pipen_executors(workflow, "logs", "1.out").ok().out
        assert "hello 1" in said
        assert "hello 2" not in said
        follower = subprocess.Popen(
            command("logs", "a", "-f"),
            cwd=workflow.dir,
            env=workflow.environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        pipen_executors(workflow, "clean", "--older-than", "0").refused("under way")
        workflow.file("go")
        process.wait().ok()
        out, _ = follower.communicate(timeout=60)
        assert follower.returncode == 0
        assert all(f"hello {i}" in out for i in range(3))
        assert self.status(workflow) == {"done": 3}
        assert "ended" in pipen_executors(workflow, "status", str(workflow.dir)).ok().out

    def test_after_a_failure(self, workflow: Workflow) -> None:
        workflow.snakefile(FAILING)
        workflow.run("--keep-going").failed()
        said = pipen_executors(workflow, "status")
        assert said.rc == 1
        assert "the command failed, exit status 3" in said.out
        assert "good" not in said.out
        assert "good" in pipen_executors(workflow, "status", "--all").out
        (run,) = pipen_executors(workflow, "status", "--json").json["runs"]
        assert run["counts"]["failed"] == run["counts"]["done"] == 1
        bad = next(job for job in run["jobs"] if job["rule"] == "bad")
        assert (bad["reason"], bad["rc"], bad["state"]) == ("NONZERO_EXIT", 3, "failed")
        assert "<oh no>" in pipen_executors(workflow, "logs", bad["external_id"]).ok().out
        assert pipen_executors(workflow, "logs", "bad", "-n", "0").ok().out == ""
        (entry,) = pipen_executors(workflow, "logs", "bad", "--json").ok().json
        assert entry["stderr"] == "<oh no>\n"
        script = pipen_executors(workflow, "script", "good.out").ok().out
        assert "echo fine; touch good.out" in script
        wrapper = pipen_executors(workflow, "script", "good", "--wrapper").ok().out
        assert wrapper.startswith("#!/bin/bash")
        (entry,) = pipen_executors(workflow, "script", "good", "--json").ok().json
        assert "echo fine" in entry["script"]
        pipen_executors(workflow, "logs", "nothing").refused("'nothing'", "bad, good")

    def test_what_would_be_submitted(self, workflow: Workflow) -> None:
        """It is told beforehand, letter for letter, and nothing is run for that."""
        workflow.snakefile(PLANNED)
        options = workflow.argv()[2:]
        first = pipen_executors(workflow, "script", "good.out", "--", *options).ok().out
        assert "echo fine; touch good.out" in first
        wrapper = pipen_executors(
            workflow, "script", "good", "--wrapper", "--json", "--", *options
        ).ok()
        (entry,) = wrapper.json
        assert entry["outputs"] == ["good.out"]
        said = pipen_executors(workflow, "script", "late", "--", *options)
        said.refused("late", "files that are not there yet", "params.n")
        pipen_executors(workflow, "script", "nothing", "--", *options).refused(
            "no job", "'nothing'"
        )
        assert sorted(path.name for path in workflow.dir.iterdir()) == [".snakemake", "Snakefile"]
        assert not workflow.jobs("good")
        workflow.run("good").ok()
        assert pipen_executors(workflow, "script", "good").ok().out == first
        pipen_executors(workflow, "script", "late").refused("'late'")
        late = pipen_executors(workflow, "script", "late", "--", *options).ok().out
        assert "echo fine; touch late.out" in late
        was = pipen_executors(workflow, "script", "good", "--wrapper").ok().out
        (token,) = set(re.findall(r"^pipen_token=(\w+)$", was, re.MULTILINE))
        assert was.replace(token, NO_TOKEN) == entry["script"]

    def test_report(self, workflow: Workflow) -> None:
        workflow.snakefile(FAILING)
        workflow.run("--keep-going").failed()
        pipen_executors(workflow, "report").ok()
        page = workflow.read("pipen-report.html")
        assert "&lt;oh no&gt;" in page
        assert page.count("<oh no>") == 0
        assert oct(workflow.path("pipen-report.html").stat().st_mode)[-3:] == "600"
        pipen_executors(workflow, "report", "-o", "jobs.csv").ok()
        rows = {row["rule"]: row for row in csv.DictReader(io.StringIO(workflow.read("jobs.csv")))}
        assert (rows["good"]["state"], rows["bad"]["rc"]) == ("done", "3")
        assert float(rows["good"]["wall"]) < 60
        assert float(rows["good"]["cpu"]) < 60
        assert (rows["good"]["mem_mb"], rows["good"]["runtime"]) == ("50", "60")
        pipen_executors(workflow, "report", "--output", "jobs.parquet", "--all").ok()
        polars = pytest.importorskip("polars")
        assert polars.read_parquet(workflow.path("jobs.parquet")).height == 2
        (row,) = [
            row
            for row in pipen_executors(workflow, "report", "--json").ok().json["rows"]
            if row["rule"] == "good"
        ]
        assert row["submitted"] <= row["started"] + 1 <= row["ended"] + 1
        pipen_executors(workflow, "report", "-o", "jobs.pdf").refused(".html, .csv or .parquet")

    def test_cancel_one_job(self, workflow: Workflow) -> None:
        workflow.snakefile(GATED)
        process = workflow.start("--keep-going")
        process.wait_for(
            lambda: workflow.job_root.exists() and self.status(workflow) == {"running": 3},
            "three running jobs",
        )
        (entry,) = pipen_executors(workflow, "cancel", "1.out", "--json").ok().json
        assert entry["rule"] == "a"
        process.wait_for(lambda: self.status(workflow) == {"running": 2, "cancelled": 1}, "one end")
        workflow.file("go")
        failure = process.wait().failed().failure("a")
        assert failure.message.startswith("cancelled")
        assert workflow.exists("0.out")
        assert not workflow.exists("1.out")

    def test_cancel_the_run(self, workflow: Workflow) -> None:
        workflow.snakefile(GATED)
        process = workflow.start()
        process.wait_for(
            lambda: workflow.job_root.exists() and self.status(workflow) == {"running": 3},
            "three running jobs",
        )
        assert "3 jobs" in pipen_executors(workflow, "cancel").ok().out
        process.wait().failed().has("`pipen-executors cancel` asked")
        workflow.assert_nothing_runs()
        said = pipen_executors(workflow, "status", "--json")
        assert said.rc == 1
        assert counts(said) == {"cancelled": 3}

    def test_killed_run(self, workflow: Workflow) -> None:
        """Its jobs go on, are seen, and can be cancelled without it; the next run begins anew."""
        workflow.snakefile(GATED)
        process = workflow.start()
        process.wait_for(
            lambda: workflow.job_root.exists() and self.status(workflow) == {"running": 3},
            "three running jobs",
        )
        process.kill9()
        # What was not written down yet when it was killed is found all the same.
        history = workflow.job_root / HISTORY
        history.write_text(history.read_text().partition('{"event":"job"')[0])
        assert self.status(workflow) == {"running": 3}
        assert "killed" in pipen_executors(workflow, "status").ok().out
        entries = pipen_executors(workflow, "cancel", "--json").ok().json
        assert len(entries) == 3
        workflow.assert_nothing_runs()
        assert self.status(workflow) == {"cancelled": 3}
        workflow.file("go")
        workflow.run("--nolock", "--rerun-incomplete").ok()
        assert self.status(workflow) == {"done": 3}

    def test_clean(self, workflow: Workflow) -> None:
        workflow.snakefile(FAILING)
        workflow.run("--keep-going").failed()
        assert "0 job" in pipen_executors(workflow, "clean", "--older-than", "1d").ok().out
        said = pipen_executors(workflow, "clean", "--older-than", "0", "--dry-run", "--json").ok()
        assert len(said.json["removed"]) == 2
        assert workflow.jobs("good")
        assert "2 job" in pipen_executors(workflow, "clean", "--older-than", "0").ok().out
        assert not workflow.jobs("good")
        pipen_executors(workflow, "clean", "--older-than", "soon").refused("--older-than", "'soon'")
        pipen_executors(workflow, "status", "/").refused("no run")


class TestLocal(Commands):
    __test__ = True
    backend = Backend("pipen-local", local=True)

    def test_history_is_the_users_only(self, workflow: Workflow) -> None:
        workflow.snakefile(FAILING)
        workflow.run("--keep-going").failed()
        assert oct((workflow.job_root / HISTORY).stat().st_mode)[-3:] == "600"

    def test_what_others_would_submit(self, workflow: Workflow) -> None:
        """Another executor is not ours to speak of, and it is not let loose either."""
        workflow.snakefile(FAILING)
        for options in (["--cores", "1"], ["--executor", "touch", "--cores", "1"]):
            said = pipen_executors(workflow, "script", "good", "--", "snakemake", *options)
            said.refused("not by a pipen executor")
        assert not workflow.exists("good.out")
        broken = ("--executor", "pipen-local", "--snakefile", "nowhere")
        said = pipen_executors(workflow, "script", "good", "--", "snakemake", *broken)
        said.refused("Snakemake cannot run this", "nowhere")

    def test_without_history(self, workflow: Workflow) -> None:
        workflow.snakefile(FAILING)
        workflow.run("--pipen-local-history", "no", "good").ok()
        assert not (workflow.job_root / HISTORY).exists()
        pipen_executors(workflow, "status").refused("no run")
        workflow.run("--pipen-local-history", "maybe").failed().has("'maybe'", "yes or no")

    def test_a_job_taken_up(self, workflow: Workflow) -> None:
        workflow.snakefile(GATED)
        process = workflow.start()
        process.wait_for(
            lambda: workflow.job_root.exists() and self.status(workflow) == {"running": 3},
            "three running jobs",
        )
        process.kill9()
        process = workflow.start("--nolock", "--rerun-incomplete")
        process.says("taken up again", times=3)
        process.wait_for(lambda: self.status(workflow) == {"running": 3}, "its history")
        workflow.file("go")
        process.wait().ok()
        assert self.status(workflow) == {"done": 3}
        rows = pipen_executors(workflow, "report", "--json").ok().json["rows"]
        assert all(row["submitted"] < row["ended"] for row in rows)

    def test_attempts(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell: "echo x >> tries; [ $(wc -l < tries) -gt 2 ] && touch {output}"
            """
        )
        workflow.run("--pipen-local-error-strategy", "retry").ok()
        rows = pipen_executors(workflow, "report", "--json").ok().json["rows"]
        assert [(row["attempt"], row["state"]) for row in rows] == [
            (1, "failed"),
            (2, "failed"),
            (3, "done"),
        ]
        assert self.status(workflow) == {"done": 1}

    def test_peak_of_memory(self, workflow: Workflow) -> None:
        workflow.snakefile(
            """
            rule all:
                input: "much.out", "little.out"
            rule much:
                output: "much.out"
                shell: "python3 -c 'x = b\\"1\\" * (400 << 20)'; touch {output}"
            rule little:
                output: "little.out"
                resources: mem_mb=1000
                shell: "touch {output}"
            """
        )
        result = workflow.run("--pipen-local-efficiency-report").ok()
        rows = pipen_executors(workflow, "report", "--json").ok().json["rows"]
        much = next(row for row in rows if row["rule"] == "much")
        little = next(row for row in rows if row["rule"] == "little")
        assert 400 << 20 < much["memory"] < 500 << 20
        assert much["memory_by"] == "largest process"
        # No more than Snakemake itself, whose child it was: how little cannot be known.
        assert little["memory"] is None
        assert little["memory_below"] > 0
        assert "< " in result.line("Used by little:")

    def test_records_for_logger_plugins(self, workflow: Workflow) -> None:
        """Every change once, in order, to handlers that are not Snakemake's own."""
        workflow.snakefile(FAILING)
        workflow.file(
            "run.py",
            """
            import json, logging, sys
            import snakemake.logging as theirs

            class Handler(logging.Handler):
                def emit(self, record):
                    state = getattr(record, "remote_job_state", None)
                    if state:
                        with open("states", "a") as stream:
                            stream.write(json.dumps(state) + "\\n")

            before = theirs.LoggerManager.setup_logfile
            def after(self, *arguments, **more):
                before(self, *arguments, **more)
                self.logger.addHandler(Handler())
            theirs.LoggerManager.setup_logfile = after
            from snakemake.cli import main
            main(sys.argv[1:])
            """,
        )
        argv = workflow.argv("--keep-going")
        argv[1:3] = ["run.py"]
        done = subprocess.run(
            argv, cwd=workflow.dir, env=workflow.environment(), capture_output=True, text=True
        )
        states = [json.loads(line) for line in workflow.lines("states")]
        assert states, done.stdout + done.stderr
        assert {state["version"] for state in states} == {1}
        of_rule = {
            rule: [s["state"] for s in states if s["rule"] == rule] for rule in ("good", "bad")
        }
        assert of_rule == {
            "good": ["queued", "running", "done"],
            "bad": ["queued", "running", "failed"],
        }
        assert states[-1]["time"] >= states[0]["time"]
        assert "remote_job_state" not in done.stdout + done.stderr
        logs = list(workflow.path(".snakemake/log").iterdir())
        assert not any("not submitted" in log.read_text() for log in logs)

    def test_line_on_a_terminal(self, workflow: Workflow) -> None:
        """It is redrawn below Snakemake's messages, and nothing of it is left at the end."""
        workflow.snakefile(GATED)
        master, slave = os.openpty()
        process = subprocess.Popen(
            workflow.argv(),
            cwd=workflow.dir,
            env={**workflow.environment(), "TERM": "xterm", "COLUMNS": "80"},
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        shown = b""
        try:
            while b"Jobs: 3 running" not in shown:
                shown += os.read(master, 4096)
            workflow.file("go")
            while True:
                try:
                    part = os.read(master, 4096)
                except OSError:  # the other end is closed (pty(7))
                    break
                shown += part
        finally:
            process.wait(60)
            os.close(master)
        assert process.returncode == 0, shown
        after_last = shown.rpartition(b"Jobs: ")[2]
        assert b"\r\x1b[2K" in after_last
        for line in shown.replace(b"\r\n", b"\n").split(b"\n"):
            assert line.rpartition(b"\x1b[2K")[2].count(b"Jobs: ") <= 1


@pytest.fixture(scope="module")
def cell() -> Iterator[SgeCell]:
    with cell_or_skip() as cell:
        yield cell


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with cluster_or_skip() as cluster:
        yield cluster


class OnSlurm(ConformanceBase):
    """The fixture of classes on a cluster."""

    backend: ClassVar[Backend] = PLAIN

    @pytest.fixture(autouse=True)
    def on_cluster(self, cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(self), "backend", backend_on(cluster))


class OnCell(ConformanceBase):
    """The fixture of classes on a cell."""

    backend: ClassVar[Backend] = SGE

    @pytest.fixture(autouse=True)
    def on_cell(self, cell: SgeCell, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(self), "backend", on_cell(cell))


@pytest.mark.slurm
class TestSlurm(OnSlurm, Commands):
    __test__ = True

    def test_calls_and_reasons(self, workflow: Workflow, cluster: SlurmCluster) -> None:
        """What the scheduler was asked, and why a job waits."""
        workflow.snakefile(
            """
            rule a:
                output: "a.out"
                shell: "touch {output}"
            """
        )
        process = workflow.start("--pipen-slurm-options", "begin=now+1hour")
        pending = partial(pipen_executors, workflow, "status")
        process.wait_for(
            lambda: workflow.job_root.exists() and "BeginTime" in pending().out, "the reason"
        )
        assert self.status(workflow) == {"pending": 1}
        pipen_executors(workflow, "cancel").ok()
        process.wait().failed()
        pipen_executors(workflow, "report").ok()
        page = workflow.read("pipen-report.html")
        assert "<code>sbatch</code> 1" in page
        lines = filter(None, (workflow.job_root / HISTORY).read_text().splitlines())
        (over,) = (line for line in map(json.loads, lines) if line["event"] == "over")
        assert over["calls"]["squeue"] >= 1
        wait_for(lambda: not workflow.processes(), "the end of all")


ACCOUNTED = """
rule a:
    output: "a.out"
    resources: mem_mb=1000
    shell:
        "python3 -c 'import time; x = b\\"1\\" * (300 << 20); time.sleep(5)'; touch {output}"
"""


def accounted(workflow: Workflow) -> dict[str, Any]:
    """Return the one row of the report, when accounting has come to know of the job."""

    def known() -> dict[str, Any]:
        said = pipen_executors(workflow, "report", "--json").ok()
        assert not said.err
        (row,) = said.json["rows"]
        return row if row["memory"] is not None else {}

    return wait_for(known, "accounting")


@pytest.mark.slurm
class TestSlurmAccounting(OnSlurm):
    __test__ = True

    def test_memory(self, workflow: Workflow, tmp_path: Path, cluster: SlurmCluster) -> None:
        """What the wrapper could not measure is asked for once, and kept."""
        workflow.snakefile(ACCOUNTED)
        workflow.run().ok()
        row = accounted(workflow)
        assert 300 << 20 < row["memory"] < 400 << 20
        assert row["memory_by"] == "Slurm, sampled"
        calls = Counted(cluster, tmp_path / "shims")
        again = pipen_executors(workflow, "report", "--json", env=calls.environment).ok()
        assert again.json["rows"] == [row]
        assert calls.calls == []
        pipen_executors(workflow, "report").ok()
        assert "(sampled)" in workflow.read("pipen-report.html")

    def test_accounting_out_of_reach(self, workflow: Workflow) -> None:
        workflow.snakefile(FAILING)
        workflow.run("good").ok()
        said = pipen_executors(workflow, "report", "-o", "a.csv", env={"PATH": "/nowhere"}).ok()
        assert "without accounting: " in said.err
        assert workflow.exists("a.csv")


@pytest.mark.sge
class TestSgeAccounting(OnCell):
    __test__ = True

    def test_memory(self, workflow: Workflow) -> None:
        """Virtual memory is what counts where that is limited, and real memory elsewhere."""
        workflow.snakefile(ACCOUNTED)
        workflow.run().ok()
        row = accounted(workflow)
        assert 300 << 20 < row["memory"] < 900 << 20
        assert row["memory_by"] == "Grid Engine, virtual, sampled"
        workflow.run("--forceall", "--pipen-sge-memory", "mem_free").ok()
        row = accounted(workflow)
        assert 300 << 20 < row["memory"] < 330 << 20
        assert row["memory_by"] == "largest process"


class Doctor(ConformanceBase):
    """The check-up of a place, and the profile from it; the backends inherit it."""

    def doctor(self, workflow: Workflow, *arguments: str) -> Said:
        return pipen_executors(workflow, "doctor", self.backend.scheduler, *arguments)

    def test_all_is_well(self, workflow: Workflow) -> None:
        said = self.doctor(workflow)
        assert said.rc == 0, said.out + said.err
        assert "a job of a second ran on" in said.out
        assert "the node sees the files of this directory" in said.out
        assert "agree" in said.out
        assert [path.name for path in workflow.dir.iterdir()] == [".snakemake"]
        assert not list(workflow.path(".snakemake/pipen").iterdir())
        found = self.doctor(workflow, "--no-probe", "--json").ok().json
        levels = {finding["level"] for finding in found[self.backend.scheduler]}
        assert levels <= {"ok", "warning"}

    def test_profile(self, workflow: Workflow) -> None:
        """It is one that Snakemake takes, and a run with it succeeds."""
        workflow.snakefile(FAILING)
        name = self.backend.scheduler
        text = pipen_executors(workflow, "profile", name).ok().out
        assert f"executor: pipen-{name}\n" in text
        pipen_executors(workflow, "profile", name, "-o", "profile").ok()
        assert workflow.read("profile/config.yaml") == text
        pipen_executors(workflow, "profile", name, "-o", "profile").refused("exists already")
        entries = pipen_executors(workflow, "profile", name, "--json").ok().json
        assert entries[0]["value"] == f"pipen-{name}"
        workflow.run("--profile", "profile", "good").ok()


class TestLocalDoctor(Doctor):
    __test__ = True
    backend = Backend("pipen-local", local=True)

    def test_what_cannot_be_asked(self, workflow: Workflow) -> None:
        pipen_executors(workflow, "doctor", "lsf").refused("'lsf'", "slurm")
        self.doctor(workflow, "--set", "color=red").refused("'color=red'", "kill_grace")
        self.doctor(workflow, "--set", "forks=none").refused("forks", "'none'")


@pytest.mark.slurm
class TestSlurmDoctor(OnSlurm, Doctor):
    __test__ = True

    def test_what_is_found(self, workflow: Workflow) -> None:
        out = self.doctor(workflow, "--no-probe").ok().out
        assert "accounting answers" in out
        assert "partition" in out
        assert ", the default" in out
        missing = self.doctor(workflow, "--no-probe", "--set", "sbatch=/nowhere/sbatch")
        assert missing.rc == 1
        assert "--pipen-slurm-sbatch" in missing.out
        waits = self.doctor(workflow, "--patience", "3", "--set", "options=begin=now+1hour")
        assert "has not run within 3 s" in waits.out
        wait_for(lambda: not workflow.processes(), "the end of all")


@pytest.mark.sge
class TestSgeDoctor(OnCell, Doctor):
    __test__ = True

    def test_what_is_found(self, workflow: Workflow, cell: SgeCell) -> None:
        # The accounting file is made when the first job of a cell has ended.
        cell.run("qsub", "-sync", "y", "-b", "y", "-o", "/dev/null", "-e", "/dev/null", "true")
        wait_for(lambda: cell.run("qacct", check=False).returncode == 0, "the accounting file")
        out = self.doctor(workflow, "--no-probe").ok().out
        assert "the master answers" in out
        assert "queue all.q: " in out
        assert "jobs with several threads use smp" in out
        assert "accounting answers" in out
        missing = self.doctor(workflow, "--no-probe", "--set", "qsub=/nowhere/qsub")
        assert missing.rc == 1
        assert "--pipen-sge-qsub" in missing.out
        wrong = self.doctor(workflow, "--no-probe", "--set", "pe=nosuch")
        assert wrong.rc == 1
        assert "there is no nosuch" in wrong.out
        waits = self.doctor(workflow, "--patience", "3", "--set", "options=h=true")
        assert "has not run within 3 s" in waits.out
        wait_for(lambda: not workflow.processes(), "the end of all")
        cell.stop_qmaster()
        try:
            away = self.doctor(workflow)
        finally:
            cell.start_qmaster()
        assert away.rc == 1
        assert "failure" in away.out
        assert "a job of a second" not in away.out


@pytest.mark.container
class TestContainerDoctor(ConformanceBase):
    __test__ = True
    backend = Backend("pipen-container", local=True)

    @pytest.fixture(scope="class")
    def podman(self) -> Iterator[Runtime]:
        with started(Podman()) as runtime:
            yield runtime

    def test_podman(self, workflow: Workflow, podman: Runtime) -> None:
        def doctor(*settings: str) -> Said:
            words = [word for setting in settings for word in ("--set", setting)]
            runtime = ("--set", f"bin={podman.bin}")
            return pipen_executors(
                workflow, "doctor", "container", *runtime, *words, env=podman.env
            )

        volumes = [f"volumes={volume}" for volume in VOLUMES]
        said = doctor(f"image={IMAGE}", "options=network=host", *volumes).ok()
        assert "podman answers, as root" in said.out
        assert f"image {IMAGE} is here" in said.out
        assert "a job of a second ran on" in said.out
        assert "the node sees the files of this directory" in said.out
        assert not podman.containers()
        said = doctor()
        assert said.rc == 1
        assert "no image is named" in said.out
        said = doctor("image=localhost/nosuch:1", "pull=never")
        assert said.rc == 1
        assert "localhost/nosuch:1 is not here" in said.out
        assert "takes only names of images" in doctor("image=ftp://nosuch").out
        nowhere = ("--set", "bin=/nowhere/podman")
        said = pipen_executors(workflow, "doctor", "container", *nowhere)
        assert said.rc == 1
        assert "--pipen-container-bin" in said.out

    def test_profile(self, workflow: Workflow) -> None:
        text = pipen_executors(workflow, "profile", "container", "--set", "bin=podman").ok().out
        assert "pipen-container-bin: podman" in text
        assert "# pipen-container-image: debian:stable" in text


@pytest.mark.ssh
class TestSshDoctor(ConformanceBase):
    __test__ = True
    backend = Backend("pipen-ssh")

    @pytest.fixture(scope="class")
    def hosts(self) -> Iterator[SshHosts]:
        with hosts_or_skip() as hosts:
            yield hosts

    def test_connection(self, workflow: Workflow, hosts: SshHosts) -> None:
        config = ("--set", f"ssh_config={hosts.config}")
        name = next(iter(hosts.machines))
        said = pipen_executors(
            workflow, "doctor", "ssh", "--set", f"servers={name},slots=2", *config
        ).ok()
        assert f"1 machines: {name}" in said.out
        assert "a job of a second ran on" in said.out
        said = pipen_executors(workflow, "doctor", "ssh")
        assert said.rc == 1
        assert "no machine is named" in said.out
        nowhere = ("--set", "servers=nobody.invalid", "--patience", "20")
        said = pipen_executors(workflow, "doctor", "ssh", *nowhere, *config)
        assert said.rc == 1, said.out + said.err
        assert "nobody.invalid" in said.out
